-- What became of the limits on the whole table: what the prices of a kind are worth a week, and the most that any prices within the limits can be.
SELECT
  kind AS line,
  limits,
  outcome,
  worth,
  worth_bound AS at_most,
  greatest(worth_bound - worth, 0e0) AS gap,
  100 * greatest(worth_bound - worth, 0e0) / worth_bound AS "%"
FROM portfolio
WHERE unit_key = '' AND limits <> ''
ORDER BY kind
