-- The results of limits on the whole table: the worth of a kind's prices a week, and the bound of
-- any prices within the limits.
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
