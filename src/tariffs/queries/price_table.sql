-- The price table: bundles after the ladder, voice after its day, both after the limits on the
-- table as a whole. A price that does not move has no probability of gain.
WITH bundle_cutoff AS (SELECT max(week) AS week FROM bundle_sales),
voice_cutoff AS (SELECT max(week) AS week FROM voice_usage),
priced AS (
  SELECT
    b.segment || '/' || b.location || '/' || b.product AS unit_key, 'bundle' AS kind,
    b.segment, b.location, b.product,
    CAST(NULL AS VARCHAR) AS cell, CAST(NULL AS BIGINT) AS hour, CAST(NULL AS VARCHAR) AS day_type,
    b.product || '@' || b.segment || '/' || b.location AS product_offering_id,
    a.price, p.currency, CAST(NULL AS BIGINT) AS discount_class, t.week AS data_cutoff,
    a.reason_code, coalesce(nullif(a.ladder_bound, ''), nullif(b.constraint_bound,
      '')) AS constraint_bound,
    b.current_price, a.p_gain, b.elasticity, b.se, b.credible_lo, b.credible_hi, b.support_n,
      b.shrink_weight,
    b.volume AS expected_volume, a.expected_volume_delta, a.expected_revenue_delta,
      a.expected_margin_delta,
    CAST(NULL AS DOUBLE) AS expected_blocked_minutes,
      CAST(NULL AS DOUBLE) AS expected_blocked_minutes_delta,
    a.expected_volume_delta_lo, a.expected_volume_delta_hi, a.expected_revenue_delta_lo,
      a.expected_revenue_delta_hi,
    a.expected_margin_delta_lo, a.expected_margin_delta_hi,
    b.unit_cost, b.usage_value, a.opportunity_cost, b.capacity_price, b.explore_flag, b.draw,
    a.valid_from, a.valid_to, a.time_zone, a.valid_from_local, a.valid_to_local,
    p.list_price AS champion_price, l.control AS control_flag
  FROM bundles AS b
  JOIN ladder AS a ON a.segment = b.segment AND a.location = b.location AND a.product = b.product
  JOIN product_catalog AS p ON p.product = b.product
  JOIN locations AS l ON l.location = b.location
  CROSS JOIN bundle_cutoff AS t
  UNION ALL
  SELECT
    v.cell || '/' || lpad(CAST(v.hour AS VARCHAR), 2, '0') || '/' || v.day_type AS unit_key,
      'voice' AS kind,
    CAST(NULL AS VARCHAR) AS segment, c.location, p.product,
    v.cell, v.hour, v.day_type,
    p.product || '@' || v.cell AS product_offering_id,
    a.price, p.currency, a.discount_class, t.week AS data_cutoff,
    a.reason_code,
    -- a limit of law or of the network explains a move beyond the step, and takes precedence over a
    -- cliff
    CASE WHEN v.constraint_bound IN ('CAPACITY', 'REG_FLOOR', 'REG_CEILING') AND a.price = v.price
      THEN v.constraint_bound
      ELSE coalesce(nullif(a.day_bound, ''), nullif(v.constraint_bound,
        '')) END AS constraint_bound,
    v.current_price, a.p_gain, v.elasticity, v.se, v.credible_lo, v.credible_hi, v.support_n,
      v.shrink_weight,
    least(v.volume, v.capacity) AS expected_volume, a.expected_volume_delta,
      a.expected_revenue_delta, a.expected_margin_delta,
    greatest(v.volume - v.capacity, 0e0) AS expected_blocked_minutes,
      a.expected_blocked_delta AS expected_blocked_minutes_delta,
    a.expected_volume_delta_lo, a.expected_volume_delta_hi, a.expected_revenue_delta_lo,
      a.expected_revenue_delta_hi,
    a.expected_margin_delta_lo, a.expected_margin_delta_hi,
    v.unit_cost, v.usage_value, a.opportunity_cost, v.capacity_price, v.explore_flag, v.draw,
    a.valid_from, a.valid_to, a.time_zone, a.valid_from_local, a.valid_to_local,
    -- the rule of thumb on load without a model
    round(p.list_price * CASE
      WHEN v.volume < 0.2 * c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END
        THEN 0.0
      WHEN v.volume < 0.5 * c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END
        THEN 0.5
      WHEN v.volume < 0.8 * c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END
        THEN 0.8
      ELSE 1.0
    END, 6) AS champion_price,
    l.control AS control_flag
  FROM voice AS v
  JOIN voice_day AS a ON a.cell = v.cell AND a.hour = v.hour AND a.day_type = v.day_type
  JOIN cell_load AS c ON c.cell = v.cell AND c.hour = v.hour
  JOIN locations AS l ON l.location = c.location
  JOIN product_catalog AS p ON p.family = 'VOICE'
  CROSS JOIN voice_cutoff AS t
)
SELECT
  d.unit_key, d.kind, d.segment, d.location, d.product, d.cell, d.hour, d.day_type,
    d.product_offering_id,
  -- null if the kind's limits were not applied
  CASE WHEN s.kind IS NOT NULL THEN coalesce(f.price, d.price) END AS price, d.currency,
  CASE WHEN d.discount_class IS NOT NULL THEN coalesce(f.discount_class,
    d.discount_class) END AS discount_class,
  d.valid_from, d.valid_to, d.time_zone, d.valid_from_local, d.valid_to_local,
  r.table_version, r.parent_version, r.run_id, 'tariffs-1' AS model_version, d.data_cutoff,
    'draft' AS status,
  coalesce(f.reason_code, d.reason_code) AS reason_code,
    coalesce(f.portfolio_bound, d.constraint_bound) AS constraint_bound, d.current_price,
  CASE WHEN coalesce(f.price, d.price) <> d.current_price
    THEN coalesce(f.p_gain, d.p_gain) END AS p_gain,
  d.elasticity, d.se, d.credible_lo, d.credible_hi, d.support_n, d.shrink_weight,
  d.expected_volume, d.expected_blocked_minutes,
  CASE WHEN d.kind = 'voice' THEN coalesce(f.expected_blocked_delta,
    d.expected_blocked_minutes_delta) END AS expected_blocked_minutes_delta,
  coalesce(f.expected_volume_delta, d.expected_volume_delta) AS expected_volume_delta,
  coalesce(f.expected_revenue_delta, d.expected_revenue_delta) AS expected_revenue_delta,
  coalesce(f.expected_margin_delta, d.expected_margin_delta) AS expected_margin_delta,
  coalesce(f.expected_volume_delta_lo, d.expected_volume_delta_lo) AS expected_volume_delta_lo,
  coalesce(f.expected_volume_delta_hi, d.expected_volume_delta_hi) AS expected_volume_delta_hi,
  coalesce(f.expected_revenue_delta_lo, d.expected_revenue_delta_lo) AS expected_revenue_delta_lo,
  coalesce(f.expected_revenue_delta_hi, d.expected_revenue_delta_hi) AS expected_revenue_delta_hi,
  coalesce(f.expected_margin_delta_lo, d.expected_margin_delta_lo) AS expected_margin_delta_lo,
  coalesce(f.expected_margin_delta_hi, d.expected_margin_delta_hi) AS expected_margin_delta_hi,
  d.unit_cost, d.usage_value, d.opportunity_cost, d.capacity_price,
  d.champion_price, d.control_flag, d.explore_flag,
    CASE WHEN d.explore_flag THEN d.draw END AS explore_draw
FROM priced AS d
LEFT JOIN portfolio AS f ON f.kind = d.kind AND f.unit_key = d.unit_key
LEFT JOIN portfolio AS s ON s.kind = d.kind AND s.unit_key = ''
CROSS JOIN run AS r
ORDER BY d.kind, d.unit_key
