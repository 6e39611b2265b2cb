-- One row for each product line: prices raised, lowered and held, and the expected volume.
SELECT
  coalesce(kind, 'all') AS line,
  count(*) AS prices,
  sum(CASE WHEN price > current_price THEN 1 ELSE 0 END) AS raised,
  sum(CASE WHEN price < current_price THEN 1 ELSE 0 END) AS lowered,
  sum(CASE WHEN price = current_price THEN 1 ELSE 0 END) AS held,
  -- bundles and minutes cannot be added
  CASE WHEN kind IS NOT NULL THEN sum(expected_volume) END AS volume_now,
  CASE WHEN kind IS NOT NULL THEN sum(expected_volume_delta) END AS volume_change,
  CASE WHEN kind IS NOT NULL THEN 100 * sum(expected_volume_delta) / sum(expected_volume) END AS "%"
FROM price_table
GROUP BY ROLLUP (kind)
ORDER BY kind ASC NULLS LAST
