-- What became of the limits on the whole table: what the prices of a kind are worth a week, and the most that any prices within the limits can be.
SELECT
  kind AS line,
  limits,
  outcome,
  CASE WHEN outcome = 'kept' THEN worth END AS worth,
  CASE WHEN outcome = 'kept' THEN worth_bound END AS at_most,
  CASE WHEN outcome = 'kept' THEN greatest(worth_bound - worth, 0e0) END AS gap,
  CASE WHEN outcome = 'kept' THEN 100 * greatest(worth_bound - worth, 0e0) / worth_bound END AS "%"
FROM portfolio
WHERE unit_key = '' AND limits <> ''
ORDER BY kind
