SELECT retailer, weeks, own, own_se, shrunk, shrunk_sd
FROM elasticities
ORDER BY abs(own - shrunk) DESC, retailer
LIMIT 5
