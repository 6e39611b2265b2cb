-- Every week of every (segment, location, product), with the catalogue's and the policy's values.
WITH
{weeks}
SELECT
  s.segment, s.location, s.product, s.week,
  s.units AS quantity, s.price, s.list_price AS posted_price, s.active_subs,
  s.explore_eps * s.list_price / p.list_price AS explore_eps, s.week_share,
  l.tier, l.control,
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
  coalesce(own.explore_loss, every.explore_loss, 0.05e0) AS explore_loss
FROM weeks AS s
CROSS JOIN (SELECT CAST(date_trunc('week', max(week)) + INTERVAL '6' DAY AS DATE) AS week
  FROM bundle_sales) AS latest
JOIN locations AS l ON l.location = s.location
JOIN product_catalog AS p ON p.product = s.product
LEFT JOIN policy AS own ON own.kind = 'bundle' AND own.scope = s.segment
LEFT JOIN policy AS every ON every.kind = 'bundle' AND every.scope = '*'
