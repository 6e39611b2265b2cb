-- The weeks for the pooled prior of voice: all units up to 400 per (cell class, day part, day
-- type), beyond that every k-th.
WITH units AS (
  SELECT
    u.cell, u.hour, u.day_type, c.cell_class, c.capacity_minutes, l.region,
    CASE WHEN u.hour < 6 THEN 'NIGHT' WHEN u.hour < 12 THEN 'MORNING' WHEN u.hour < 18
      THEN 'AFTERNOON' ELSE 'EVENING' END AS day_part,
    row_number() OVER (PARTITION BY c.cell_class, floor(u.hour / 6.0), u.day_type
      ORDER BY u.cell, u.hour) AS nth,
    count(*) OVER (PARTITION BY c.cell_class, floor(u.hour / 6.0), u.day_type) AS size
  FROM (SELECT DISTINCT cell, hour, day_type FROM voice_usage) AS u
  JOIN cell_load AS c ON c.cell = u.cell AND c.hour = u.hour
  JOIN locations AS l ON l.location = c.location
),
picked AS (SELECT * FROM units WHERE mod(nth, CAST(ceil(size / 400.0) AS BIGINT)) = 0),
{weeks}
SELECT
  v.cell, v.hour, v.day_type, v.week, u.cell_class, u.day_part, u.region,
  -- the demand where blocked calls are counted, otherwise the minutes carried
  v.minutes * CASE WHEN v.blocked < v.attempts
    THEN v.attempts / CAST(v.attempts - v.blocked AS DOUBLE) ELSE 1e0 END AS quantity,
  v.attempts IS NOT NULL AND v.blocked IS NOT NULL AS counted,
  p.list_price * (1 - v.discount) AS price, p.list_price AS reference_price, v.active_subs,
  v.explore_eps, v.week_share,
  u.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END AS capacity
FROM picked AS u
JOIN weeks AS v ON v.cell = u.cell AND v.hour = u.hour AND v.day_type = u.day_type
JOIN product_catalog AS p ON p.family = 'VOICE'
