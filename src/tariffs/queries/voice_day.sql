-- The discounts of each cell's day, with the connections of its hours: cliffs, and minutes that
-- wait.
SELECT
  v.cell, v.day_type, v.hour, p.price_tick,
  v.price, v.current_price, v.reference_price, v.unit_cost, v.usage_value, v.reason_code,
  v.elasticity, v.se, v.volume, v.centre_price, v.capacity, v.lowest, v.highest, v.z,
    v.explore_flag, v.draw,
  coalesce(own.max_cliff, every.max_cliff, 0.2e0) AS max_cliff,
  coalesce(own.time_shift, every.time_shift, 0e0) AS time_shift,
  coalesce(own.patience, every.patience, 2e0) AS patience,
  coalesce(l.time_zone, 'UTC') AS time_zone, r.as_of
FROM voice AS v
JOIN cell_load AS c ON c.cell = v.cell AND c.hour = v.hour
JOIN locations AS l ON l.location = c.location
JOIN product_catalog AS p ON p.family = 'VOICE'
CROSS JOIN run AS r
LEFT JOIN policy AS own ON own.kind = 'voice' AND own.scope = l.region
LEFT JOIN policy AS every ON every.kind = 'voice' AND every.scope = '*'
