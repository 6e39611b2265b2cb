-- The weeks of every (segment, location, product). Daily rows are summed: quantities added, prices
-- weighted by quantity, subscribers averaged; week_share is the part of the week with rows.
-- units with rows other than weeks ending on a Sunday (days, or weeks named by another day):
-- usually few or all
dated AS (
  SELECT DISTINCT segment, location, product FROM bundle_sales WHERE isodow(week) <> 7
),
days AS (
  SELECT
    s.segment, s.location, s.product, s.price, s.list_price, s.units, s.active_subs, s.explore_eps,
    CAST(date_trunc('week', s.week) + INTERVAL '6' DAY AS DATE) AS week,
    row_number() OVER (PARTITION BY s.segment, s.location, s.product, date_trunc('week', s.week)
      ORDER BY s.week DESC) AS nth
  FROM {rows} AS s
  JOIN dated AS d ON d.segment = s.segment AND d.location = s.location AND d.product = s.product
),
-- sums of whole numbers, which do not depend on the order: money in hundredths of a pesewa
summed AS (
  SELECT
    segment, location, product, week, count(*) AS days, sum(units) AS units,
      avg(CAST(active_subs AS DOUBLE)) AS active_subs,
    CASE WHEN count(*) = 1 THEN max(price)
      WHEN sum(units) > 0 THEN sum(CAST(round(price * 10000) AS BIGINT) * units) / CAST(sum(units)
        AS DOUBLE) / 10000
      ELSE sum(CAST(round(price * 10000) AS BIGINT) * active_subs) /
        CAST(sum(active_subs) AS DOUBLE) / 10000 END AS price,
    max(CASE WHEN nth = 1 THEN list_price END) AS list_price,
    CASE WHEN count(*) = 1 THEN max(explore_eps)
      ELSE sum(CAST(round(explore_eps * list_price * 1000000) AS BIGINT) * active_subs) /
        CAST(sum(active_subs) AS DOUBLE) / 1000000
        / max(CASE WHEN nth = 1 THEN list_price END) END AS explore_eps
  FROM days
  GROUP BY segment, location, product, week
),
beside AS (
  SELECT
    *, lag(days) OVER (PARTITION BY segment, location, product ORDER BY week) AS before,
    lead(days) OVER (PARTITION BY segment, location, product ORDER BY week) AS after,
    -- of the nearest weeks with other than two or three rows: the date, then the number of rows
    max(CASE WHEN days = 1 OR days > 3 THEN CAST(week AS VARCHAR) || CAST(days AS VARCHAR) END)
      OVER (PARTITION BY segment, location, product ORDER BY week) AS earlier,
    min(CASE WHEN days = 1 OR days > 3 THEN CAST(week AS VARCHAR) || CAST(days AS VARCHAR) END)
      OVER (PARTITION BY segment, location, product ORDER BY week DESC) AS later,
    count(*) OVER (PARTITION BY segment, location, product) AS all_weeks
  FROM summed
),
weeks AS (
  SELECT
    s.segment, s.location, s.product, s.week, CAST(s.units AS BIGINT) AS units, s.price,
      s.list_price,
    CAST(s.active_subs AS DOUBLE) AS active_subs, s.explore_eps, 1e0 AS week_share
  FROM {rows} AS s
  LEFT JOIN dated AS d ON d.segment = s.segment AND d.location = s.location
    AND d.product = s.product
  WHERE d.segment IS NULL
  UNION ALL
  SELECT
    segment, location, product, week, CAST(units AS BIGINT) AS units, price, list_price,
      active_subs, explore_eps,
    CASE
      -- a week
      WHEN days = 1 AND (coalesce(before, 2) = 1 OR coalesce(after, 2) = 1
        OR coalesce(before, after) IS NULL) THEN 1e0
      -- a duplicate week: the nearest other weeks are single rows, or there are no others
      WHEN days < 4 AND days > 1 AND coalesce(substr(earlier, 11), '1') = '1'
        AND coalesce(substr(later, 11), '1') = '1'
        AND (coalesce(earlier, later) IS NOT NULL OR all_weeks > 2) THEN -1e0
      ELSE days / 7e0 END AS week_share
  FROM beside
)
