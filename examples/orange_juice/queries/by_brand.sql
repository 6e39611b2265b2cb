SELECT
  product, count(*) AS stores, avg(pooled) AS pooled,
  avg(own) AS own, stddev_samp(own) AS own_sd, avg(shrunk) AS shrunk, stddev_samp(shrunk) AS shrunk_sd
FROM elasticities
GROUP BY brand, product
ORDER BY brand
