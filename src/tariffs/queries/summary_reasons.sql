-- The number of prices by reason.
SELECT
  kind AS line, reason_code AS reason, count(*) AS prices,
  sum(expected_revenue_delta) AS revenue_change, sum(expected_margin_delta) AS margin_change
FROM price_table
GROUP BY kind, reason_code
ORDER BY kind, count(*) DESC, reason_code
