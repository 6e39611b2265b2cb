-- Every week of every (cell, hour, day type); capacity is what the cell can carry in that hour over
-- a week's days of that type.
WITH
{weeks}
SELECT
  v.cell, v.hour, v.day_type, v.week,
  -- the demand where blocked calls are counted, otherwise the minutes carried
  v.minutes * CASE WHEN v.blocked < v.attempts
    THEN v.attempts / CAST(v.attempts - v.blocked AS DOUBLE) ELSE 1e0 END AS quantity,
  v.attempts IS NOT NULL AND v.blocked IS NOT NULL AS counted,
  v.active_subs,
  p.list_price * (1 - v.discount) AS price,
  round(p.list_price * (1 - v.posted_discount), 6) AS posted_price,
  v.explore_eps, v.week_share,
  c.cell_class, l.region, l.control,
  CASE WHEN v.hour < 6 THEN 'NIGHT' WHEN v.hour < 12 THEN 'MORNING' WHEN v.hour < 18
    THEN 'AFTERNOON' ELSE 'EVENING' END AS day_part,
  c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END AS capacity,
  p.list_price AS reference_price, p.unit_cost, p.price_tick, p.price_floor, p.price_ceiling,
  coalesce(p.usage_value, 0e0) AS usage_value,
  coalesce(p.competitor_min * coalesce(own.competitor_floor, every.competitor_floor, 1e0),
    0e0) AS regulated_floor,
  coalesce(p.competitor_reference * coalesce(own.competitor_ceiling, every.competitor_ceiling,
    1.1e0), 1e9) AS regulated_ceiling,
  latest.week AS latest_week,
  coalesce(own.z, every.z) AS z,
  coalesce(own.max_step, every.max_step) AS max_step,
  coalesce(own.min_weeks, every.min_weeks) AS min_weeks,
  coalesce(own.min_days, every.min_days, 0) AS min_days,
  coalesce(own.explore_share, every.explore_share, 0e0) AS explore_share,
  coalesce(own.explore_loss, every.explore_loss, 0.05e0) AS explore_loss,
  coalesce(own.load_limit, every.load_limit) AS load_limit
FROM weeks AS v
JOIN cell_load AS c ON c.cell = v.cell AND c.hour = v.hour
CROSS JOIN (SELECT CAST(date_trunc('week', max(week)) + INTERVAL '6' DAY AS DATE) AS week
  FROM voice_usage) AS latest
JOIN locations AS l ON l.location = c.location
JOIN product_catalog AS p ON p.family = 'VOICE'
LEFT JOIN policy AS own ON own.kind = 'voice' AND own.scope = l.region
LEFT JOIN policy AS every ON every.kind = 'voice' AND every.scope = '*'
