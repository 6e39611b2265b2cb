-- Every price of a kind with limits on the whole table, with its alternatives; one row for a kind
-- without limits.
WITH limits AS (
  SELECT kind, max_moved_share, max_mean_change, min_volume, max_revenue_risk
  FROM policy
  WHERE scope = '*' AND coalesce(max_moved_share, max_mean_change, min_volume, max_revenue_risk) IS
    NOT NULL
),
misplaced AS (
  SELECT kind, min(scope) AS scope
  FROM policy
  WHERE scope <> '*' AND coalesce(max_moved_share, max_mean_change, min_volume, max_revenue_risk) IS
    NOT NULL
  GROUP BY kind
),
priced AS (
  SELECT
    'bundle' AS kind, b.segment || '/' || b.location || '/' || b.product AS unit_key,
    b.segment || '/' || b.location || '/' || coalesce(p.ladder, p.product) AS chain,
      coalesce(p.rung, 1) AS position,
    coalesce(p.volume_mb, 1e0) AS volume_mb, 1e9 AS max_cliff, p.price_tick,
    a.price, b.current_price, b.reference_price, b.unit_cost, b.usage_value, a.opportunity_cost,
      a.neighbour_effect,
    b.elasticity, b.se, b.volume, b.centre_price, 1e18 AS capacity, a.lowest, a.highest, b.z,
      b.explore_flag, b.draw, a.ladder_bound AS group_bound
  FROM bundles AS b
  JOIN ladder AS a ON a.segment = b.segment AND a.location = b.location AND a.product = b.product
  JOIN product_catalog AS p ON p.product = b.product
  UNION ALL
  SELECT
    'voice' AS kind, v.cell || '/' || lpad(CAST(v.hour AS VARCHAR), 2, '0') || '/' ||
      v.day_type AS unit_key,
    v.cell || '/' || v.day_type AS chain, v.hour AS position,
    1e0 AS volume_mb, coalesce(own.max_cliff, every.max_cliff, 0.2e0) *
      v.reference_price AS max_cliff, p.price_tick,
    a.price, v.current_price, v.reference_price, v.unit_cost, v.usage_value, a.opportunity_cost,
      0e0 AS neighbour_effect,
    v.elasticity, v.se, v.volume, v.centre_price, v.capacity, v.lowest, v.highest, v.z,
      v.explore_flag, v.draw, a.day_bound AS group_bound
  FROM voice AS v
  JOIN voice_day AS a ON a.cell = v.cell AND a.hour = v.hour AND a.day_type = v.day_type
  JOIN cell_load AS c ON c.cell = v.cell AND c.hour = v.hour
  JOIN locations AS l ON l.location = c.location
  JOIN product_catalog AS p ON p.family = 'VOICE'
  LEFT JOIN policy AS own ON own.kind = 'voice' AND own.scope = l.region
  LEFT JOIN policy AS every ON every.kind = 'voice' AND every.scope = '*'
)
SELECT d.*, q.max_moved_share, q.max_mean_change, q.min_volume, q.max_revenue_risk,
  m.scope AS misplaced
FROM priced AS d
JOIN (SELECT kind, min(unit_key) AS unit_key FROM priced GROUP BY kind) AS one ON one.kind = d.kind
LEFT JOIN limits AS q ON q.kind = d.kind
LEFT JOIN misplaced AS m ON m.kind = d.kind
WHERE q.kind IS NOT NULL OR d.unit_key = one.unit_key
