-- The ten moves with the most money in them.
SELECT
  unit_key AS unit,
  current_price AS now,
  price AS new,
  100 * (price / current_price - 1) AS "%",
  expected_revenue_delta AS money,
  p_gain AS p_gain,
  reason_code || coalesce(' (' || constraint_bound || ')', '') AS reason
FROM price_table
WHERE price <> current_price
ORDER BY abs(expected_revenue_delta) DESC, unit_key
LIMIT 10
