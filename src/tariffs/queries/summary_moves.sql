-- The five moves with the largest expected gains of margin, and the five with the largest losses.
WITH moves AS (
  SELECT
    *, row_number() OVER (ORDER BY expected_margin_delta DESC, unit_key) AS best,
    row_number() OVER (ORDER BY expected_margin_delta, unit_key) AS worst
  FROM price_table
  WHERE price <> current_price
)
SELECT
  unit_key AS unit,
  current_price AS now,
  price AS new,
  100 * (price / current_price - 1) AS "%",
  expected_margin_delta AS margin,
  expected_revenue_delta AS revenue,
  CASE WHEN p_gain > 0.99 THEN '>0.99' WHEN p_gain < 0.01 THEN '<0.01'
    ELSE '0.' || lpad(CAST(CAST(round(100 * p_gain) AS BIGINT) AS VARCHAR), 2, '0') END AS p_gain,
  CASE WHEN reason_code LIKE constraint_bound || '%' THEN reason_code
    ELSE reason_code || coalesce(' (' || constraint_bound || ')', '') END AS reason
FROM moves
WHERE (best <= 5 AND expected_margin_delta > 0) OR (worst <= 5 AND expected_margin_delta < 0)
ORDER BY expected_margin_delta DESC, unit_key
