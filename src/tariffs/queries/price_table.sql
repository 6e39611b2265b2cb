-- The price table: bundles after the ladder, and voice.  A price that does not move has no probability of gain.
WITH bundle_cutoff AS (SELECT max(week) AS week FROM bundle_sales),
voice_cutoff AS (SELECT max(week) AS week FROM voice_usage),
priced AS (
  SELECT
    b.segment || '/' || b.location || '/' || b.product AS unit_key, 'bundle' AS kind,
    b.segment, b.location, b.product,
    CAST(NULL AS VARCHAR) AS cell, CAST(NULL AS BIGINT) AS hour, CAST(NULL AS VARCHAR) AS day_type,
    b.product || '@' || b.segment || '/' || b.location AS product_offering_id,
    a.price, p.currency, CAST(NULL AS BIGINT) AS discount_class, t.week AS data_cutoff,
    a.reason_code, coalesce(nullif(a.ladder_bound, ''), nullif(b.constraint_bound, '')) AS constraint_bound,
    b.current_price, a.p_gain, b.elasticity, b.se, b.credible_lo, b.credible_hi, b.support_n, b.shrink_weight,
    b.volume AS expected_volume, a.expected_volume_delta, a.expected_revenue_delta, a.expected_margin_delta,
    p.list_price AS champion_price, l.control AS control_flag
  FROM bundles AS b
  JOIN ladder AS a ON a.segment = b.segment AND a.location = b.location AND a.product = b.product
  JOIN product_catalog AS p ON p.product = b.product
  JOIN locations AS l ON l.location = b.location
  CROSS JOIN bundle_cutoff AS t
  UNION ALL
  SELECT
    v.cell || '/' || lpad(CAST(v.hour AS VARCHAR), 2, '0') || '/' || v.day_type AS unit_key, 'voice' AS kind,
    CAST(NULL AS VARCHAR) AS segment, c.location, p.product,
    v.cell, v.hour, v.day_type,
    p.product || '@' || v.cell AS product_offering_id,
    v.price, p.currency, v.discount_class, t.week AS data_cutoff,
    v.reason_code, nullif(v.constraint_bound, '') AS constraint_bound,
    v.current_price, v.p_gain, v.elasticity, v.se, v.credible_lo, v.credible_hi, v.support_n, v.shrink_weight,
    v.volume AS expected_volume, v.expected_volume_delta, v.expected_revenue_delta, v.expected_margin_delta,
    -- the rule of thumb on load that operators use without a model
    round(p.list_price * CASE
      WHEN v.volume < 0.2 * c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END THEN 0.0
      WHEN v.volume < 0.5 * c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END THEN 0.5
      WHEN v.volume < 0.8 * c.capacity_minutes * CASE WHEN v.day_type = 'WEEKDAY' THEN 5 ELSE 2 END THEN 0.8
      ELSE 1.0
    END, 6) AS champion_price,
    l.control AS control_flag
  FROM voice AS v
  JOIN cell_load AS c ON c.cell = v.cell AND c.hour = v.hour
  JOIN locations AS l ON l.location = c.location
  JOIN product_catalog AS p ON p.family = 'VOICE'
  CROSS JOIN voice_cutoff AS t
)
SELECT
  d.unit_key, d.kind, d.segment, d.location, d.product, d.cell, d.hour, d.day_type, d.product_offering_id,
  d.price, d.currency, d.discount_class,
  date_trunc('day', r.as_of) + INTERVAL '1' DAY AS valid_from,
  date_trunc('day', r.as_of) + INTERVAL '8' DAY AS valid_to,
  r.table_version, r.parent_version, r.run_id, 'tariffs-1' AS model_version, d.data_cutoff, 'draft' AS status,
  d.reason_code, d.constraint_bound, d.current_price,
  CASE WHEN d.price <> d.current_price THEN d.p_gain END AS p_gain,
  d.elasticity, d.se, d.credible_lo, d.credible_hi, d.support_n, d.shrink_weight,
  d.expected_volume, d.expected_volume_delta, d.expected_revenue_delta, d.expected_margin_delta,
  d.champion_price, d.control_flag
FROM priced AS d
CROSS JOIN run AS r
ORDER BY d.kind, d.unit_key
