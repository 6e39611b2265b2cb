-- The elasticity of each retailer: alone, and in the light of all.
SELECT o.retailer, o.weeks, o.elasticity AS own, o.se AS own_se, s.elasticity AS shrunk, s.sd AS shrunk_sd
FROM own AS o
JOIN shrunk AS s ON s.retailer = o.retailer
ORDER BY o.retailer
