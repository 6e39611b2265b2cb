SELECT
  count(*) AS retailers,
  min(own) AS own_least, max(own) AS own_greatest, count(CASE WHEN own > 0 THEN 1 END) AS own_above_0,
  min(shrunk) AS shrunk_least, max(shrunk) AS shrunk_greatest, count(CASE WHEN shrunk > 0 THEN 1 END) AS shrunk_above_0
FROM elasticities
