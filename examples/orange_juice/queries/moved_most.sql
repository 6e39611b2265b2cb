SELECT store, product, weeks, own, own_se, shrunk, shrunk_sd
FROM elasticities
ORDER BY abs(own - shrunk) DESC NULLS LAST, store, product
LIMIT 5
