-- The priced bundles, with what tells whether the sizes of one ladder are in order.
SELECT
  b.segment, b.location, b.product,
  coalesce(p.ladder, p.product) AS ladder, coalesce(p.rung, 1) AS rung, coalesce(p.volume_mb, 1e0) AS volume_mb, p.price_tick,
  b.price, b.current_price, b.reference_price, b.unit_cost, b.reason_code,
  b.elasticity, b.se, b.volume, b.lowest, b.highest, b.z
FROM bundles AS b
JOIN product_catalog AS p ON p.product = b.product
