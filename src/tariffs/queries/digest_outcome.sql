-- What the table does, in a line for each product line: prices raised, lowered and held, and money per week.
SELECT
  coalesce(kind, 'all') AS line,
  count(*) AS prices,
  sum(CASE WHEN price > current_price THEN 1 ELSE 0 END) AS raised,
  sum(CASE WHEN price < current_price THEN 1 ELSE 0 END) AS lowered,
  sum(CASE WHEN price = current_price THEN 1 ELSE 0 END) AS held,
  sum(current_price * expected_volume) AS revenue_now,
  sum(expected_revenue_delta) AS expected_change,
  100 * sum(expected_revenue_delta) / sum(current_price * expected_volume) AS "%",
  sum(expected_margin_delta) AS margin_change
FROM price_table
GROUP BY ROLLUP (kind)
ORDER BY kind ASC NULLS LAST
