-- A row for each brand in each store.
WITH brands (brand, product) AS (
  VALUES
    (1, 'Tropicana Premium 64 oz'), (2, 'Tropicana Premium 96 oz'), (3, 'Florida''s Natural 64 oz'), (4, 'Tropicana 64 oz'),
    (5, 'Minute Maid 64 oz'), (6, 'Minute Maid 96 oz'), (7, 'Citrus Hill 64 oz'), (8, 'Tree Fresh 64 oz'),
    (9, 'Florida Gold 64 oz'), (10, 'Dominick''s 64 oz'), (11, 'Dominick''s 128 oz')
)
SELECT e.store, e.brand, b.product, e.weeks, e.pooled, e.own, e.own_se, e.shrunk, e.shrunk_sd
FROM elasticity AS e
JOIN brands AS b ON b.brand = e.brand
ORDER BY e.brand, e.store
