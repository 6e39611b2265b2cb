-- Gains and losses of margin separately, since their sum hides the losers.
SELECT
  coalesce(kind, 'all') AS line,
  sum(CASE WHEN expected_margin_delta > 0 THEN 1 ELSE 0 END) AS gain,
  sum(CASE WHEN expected_margin_delta > 0 THEN expected_margin_delta ELSE 0e0 END) AS gains,
  sum(CASE WHEN expected_margin_delta < 0 THEN 1 ELSE 0 END) AS lose,
  sum(CASE WHEN expected_margin_delta < 0 THEN expected_margin_delta ELSE 0e0 END) AS losses,
  sum(CASE WHEN expected_margin_delta_lo < 0 AND price <> current_price THEN 1
    ELSE 0 END) AS may_lose
FROM price_table
GROUP BY ROLLUP (kind)
ORDER BY kind ASC NULLS LAST
