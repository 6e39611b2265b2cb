-- Expected changes of revenue and of margin.
WITH lines AS (
  SELECT
    coalesce(kind, 'all') AS line, kind,
    sum(current_price * expected_volume) AS revenue, sum(expected_revenue_delta) AS revenue_change,
    sum((current_price - unit_cost) * expected_volume) AS margin,
      sum(expected_margin_delta) AS margin_change
  FROM price_table
  GROUP BY ROLLUP (kind)
)
SELECT line, amount, now, change, 100 * change / now AS "%"
FROM (
  SELECT line, kind, 1 AS position, 'revenue' AS amount, revenue AS now,
    revenue_change AS change FROM lines
  UNION ALL
  SELECT line, kind, 2 AS position, 'margin' AS amount, margin AS now,
    margin_change AS change FROM lines
) AS both_of_them
ORDER BY kind ASC NULLS LAST, position
