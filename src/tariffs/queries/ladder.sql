-- The priced bundles of each location, with their connections: the order of sizes, the ratio of
-- segments, and shared sales.
SELECT
  b.segment, b.location, b.product,
  coalesce(p.ladder, p.product) AS ladder, coalesce(p.rung, 1) AS rung,
    coalesce(p.volume_mb, 1e0) AS volume_mb, p.price_tick,
  -- 0: not comparable
  CASE WHEN p.volume_mb IS NULL THEN 0 ELSE coalesce(p.validity_days, 0) END AS validity_days,
  b.price, b.current_price, b.reference_price, b.unit_cost, b.usage_value, b.reason_code,
  b.elasticity, b.se, b.volume, b.centre_price, b.lowest, b.highest, b.z, b.explore_flag, b.draw,
  coalesce(own.cross_effect, every.cross_effect, 0e0) AS cross_effect,
  coalesce(own.diversion, every.diversion, 0e0) AS diversion,
  coalesce(own.max_segment_ratio, every.max_segment_ratio, 1e9) AS max_segment_ratio,
  coalesce(l.time_zone, 'UTC') AS time_zone, r.as_of
FROM bundles AS b
JOIN product_catalog AS p ON p.product = b.product
JOIN locations AS l ON l.location = b.location
CROSS JOIN run AS r
LEFT JOIN policy AS own ON own.kind = 'bundle' AND own.scope = b.segment
LEFT JOIN policy AS every ON every.kind = 'bundle' AND every.scope = '*'
