-- The weeks for the pooled prior: all units up to 400 per stratum (segment, product, tier), beyond
-- that every k-th.
-- A prior needs enough units of each kind, not all: 400 determine tau to 4 % per stratum, and to
-- well below 1 % in all.
WITH units AS (
  SELECT
    u.segment, u.location, u.product, l.tier,
    row_number() OVER (PARTITION BY u.segment, u.product, l.tier ORDER BY u.location) AS nth,
    count(*) OVER (PARTITION BY u.segment, u.product, l.tier) AS size
  FROM (SELECT DISTINCT segment, location, product FROM bundle_sales) AS u
  JOIN locations AS l ON l.location = u.location
),
picked AS (
  SELECT segment, location, product, tier FROM units WHERE mod(nth,
    CAST(ceil(size / 400.0) AS BIGINT)) = 0
),
{weeks}
SELECT
  s.segment, s.location, s.product, u.tier, s.week,
  s.units AS quantity, s.price, p.list_price AS reference_price, s.active_subs,
  s.explore_eps * s.list_price / p.list_price AS explore_eps, s.week_share
FROM picked AS u
JOIN weeks AS s ON s.segment = u.segment AND s.location = u.location AND s.product = u.product
JOIN product_catalog AS p ON p.product = s.product
