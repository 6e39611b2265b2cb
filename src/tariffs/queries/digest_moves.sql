-- The ten moves with the most money in them.
SELECT
  unit_key AS unit,
  current_price AS now,
  price AS new,
  100 * (price / current_price - 1) AS "%",
  expected_revenue_delta AS money,
  CASE WHEN p_gain > 0.99 THEN '>0.99' ELSE CAST(round(p_gain, 2) AS VARCHAR) END AS p_gain,  -- nothing is certain
  reason_code || coalesce(' (' || constraint_bound || ')', '') AS reason
FROM price_table
WHERE price <> current_price
ORDER BY abs(expected_revenue_delta) DESC, unit_key
LIMIT 10
