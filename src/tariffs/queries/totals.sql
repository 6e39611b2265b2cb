-- The expected effect of the whole table, per kind of unit (product, segment, tier; voice: cell
-- class, day part, day type), as the sums that its interval needs.
-- A delta's slope in the elasticity at the reference price is taken from the ends of its own
-- interval, so that full cells count in the same way.
-- Up to 2,000 units of a kind are a row each, with what the price rule knows of them, from which the
-- optimism of the sum is measured (tariffs.pricing.optimism).
WITH priced AS (
  SELECT
    'bundle' AS kind, b.product AS first, b.segment AS second, l.tier AS third,
    CASE WHEN s.size <= 2000
      THEN b.segment || '/' || b.location || '/' || b.product ELSE '' END AS unit,
    b.reference_price, b.usage_value, b.centre_price, b.lowest, b.highest, b.z,
      b.volume AS demanded, CAST(NULL AS DOUBLE) AS capacity,
    b.elasticity * b.reference_price / b.current_price AS beta,
      b.se * b.reference_price / b.current_price AS sd, b.shrink_weight AS own,
    coalesce(f.price, a.price) AS price, b.current_price, b.unit_cost,
      1e0 / greatest(b.volume * b.support_n, 1e0) AS scarce,
    coalesce(f.expected_volume_delta, a.expected_volume_delta) AS volume,
    coalesce(f.expected_volume_delta_hi - f.expected_volume_delta_lo,
      a.expected_volume_delta_hi - a.expected_volume_delta_lo) AS volume_width,
    coalesce(f.expected_revenue_delta, a.expected_revenue_delta) AS revenue,
    coalesce(f.expected_revenue_delta_hi - f.expected_revenue_delta_lo,
      a.expected_revenue_delta_hi - a.expected_revenue_delta_lo) AS revenue_width,
    coalesce(f.expected_margin_delta, a.expected_margin_delta) AS margin,
    coalesce(f.expected_margin_delta_hi - f.expected_margin_delta_lo,
      a.expected_margin_delta_hi - a.expected_margin_delta_lo) AS margin_width
  FROM bundles AS b
  CROSS JOIN (SELECT count(*) AS size FROM bundles) AS s
  JOIN ladder AS a ON a.segment = b.segment AND a.location = b.location AND a.product = b.product
  JOIN locations AS l ON l.location = b.location
  LEFT JOIN portfolio AS f ON f.kind = 'bundle'
    AND f.unit_key = b.segment || '/' || b.location || '/' || b.product
  UNION ALL
  SELECT
    'voice' AS kind, c.cell_class AS first,
    CASE WHEN v.hour < 6 THEN 'NIGHT' WHEN v.hour < 12 THEN 'MORNING' WHEN v.hour < 18
      THEN 'AFTERNOON' ELSE 'EVENING' END AS second,
    v.day_type AS third,
    CASE WHEN s.size <= 2000
      THEN v.cell || '/' || lpad(CAST(v.hour AS VARCHAR), 2, '0') || '/' || v.day_type
      ELSE '' END AS unit,
    v.reference_price, v.usage_value, v.centre_price, v.lowest, v.highest, v.z,
      v.volume AS demanded, v.capacity,
    v.elasticity * v.reference_price / v.current_price AS beta,
      v.se * v.reference_price / v.current_price AS sd, v.shrink_weight AS own,
    coalesce(f.price, a.price) AS price, v.current_price, v.unit_cost,
      1e0 / greatest(v.volume * v.support_n, 1e0) AS scarce,
    coalesce(f.expected_volume_delta, a.expected_volume_delta) AS volume,
    coalesce(f.expected_volume_delta_hi - f.expected_volume_delta_lo,
      a.expected_volume_delta_hi - a.expected_volume_delta_lo) AS volume_width,
    coalesce(f.expected_revenue_delta, a.expected_revenue_delta) AS revenue,
    coalesce(f.expected_revenue_delta_hi - f.expected_revenue_delta_lo,
      a.expected_revenue_delta_hi - a.expected_revenue_delta_lo) AS revenue_width,
    coalesce(f.expected_margin_delta, a.expected_margin_delta) AS margin,
    coalesce(f.expected_margin_delta_hi - f.expected_margin_delta_lo,
      a.expected_margin_delta_hi - a.expected_margin_delta_lo) AS margin_width
  FROM voice AS v
  CROSS JOIN (SELECT count(*) AS size FROM voice) AS s
  JOIN voice_day AS a ON a.cell = v.cell AND a.hour = v.hour AND a.day_type = v.day_type
  JOIN cell_load AS c ON c.cell = v.cell AND c.hour = v.hour
  LEFT JOIN portfolio AS f ON f.kind = 'voice'
    AND f.unit_key = v.cell || '/' || lpad(CAST(v.hour AS VARCHAR), 2, '0') || '/' || v.day_type
),
sloped AS (
  SELECT
    kind, first, second, third, unit, beta, own, scarce, volume, revenue, margin,
    current_price, reference_price, unit_cost, usage_value, centre_price, lowest, highest, z,
      demanded, capacity,
    sign(price - current_price) * volume_width / (3.2897072539029444e0 * sd) AS volume_slope,
    sign(price - current_price) * revenue_width / (3.2897072539029444e0 * sd) AS revenue_slope,
    sign(price - current_price) * sign(price - unit_cost) * margin_width / (3.2897072539029444e0 *
      sd) AS margin_slope
  FROM priced
)
SELECT
  kind, first, second, third, unit, count(*) AS units,
  max(current_price) AS current_price, max(reference_price) AS reference_price,
    max(unit_cost) AS unit_cost, max(usage_value) AS usage_value, max(beta) AS beta,
    max(centre_price) AS centre_price, max(lowest) AS lowest,
    max(highest) AS highest, max(z) AS z, max(demanded) AS demanded, max(capacity) AS capacity,
    max(own) AS own,
  sum(abs(volume)) AS volume_size, sum(abs(revenue)) AS revenue_size,
    sum(abs(margin)) AS margin_size,
  sum(volume) AS volume, sum(revenue) AS revenue, sum(margin) AS margin,
  sum(volume_slope) AS volume_h, sum(volume_slope * own) AS volume_hb,
    sum(volume_slope * own * beta) AS volume_hbb,
  sum(volume_slope * volume_slope * own) AS volume_hhb,
    sum(volume * volume * scarce) AS volume_level,
  sum(revenue_slope) AS revenue_h, sum(revenue_slope * own) AS revenue_hb,
    sum(revenue_slope * own * beta) AS revenue_hbb,
  sum(revenue_slope * revenue_slope * own) AS revenue_hhb,
    sum(revenue * revenue * scarce) AS revenue_level,
  sum(margin_slope) AS margin_h, sum(margin_slope * own) AS margin_hb,
    sum(margin_slope * own * beta) AS margin_hbb,
  sum(margin_slope * margin_slope * own) AS margin_hhb,
    sum(margin * margin * scarce) AS margin_level
FROM sloped
GROUP BY kind, first, second, third, unit
