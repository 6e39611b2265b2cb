-- The weeks of every (cell, hour, day type). Daily rows are summed as in bundle_weeks.sql;
-- week_share is the part of the week's days of that type that has rows.
-- hours with rows other than weeks ending on a Sunday (days, or weeks named by another day):
-- usually few or all
dated AS (
  SELECT DISTINCT cell, hour FROM voice_usage WHERE isodow(week) <> 7
),
-- the weeks of these hours: three working days are daily rows; without these, a date that is no day
-- of its type names a week
feeds AS (
  SELECT
    s.cell, s.hour, CAST(date_trunc('week', s.week) + INTERVAL '6' DAY AS DATE) AS week,
    sum(CASE WHEN s.day_type = 'WEEKDAY' AND isodow(s.week) < 6 THEN 1 ELSE 0 END) > 2 AS daily,
    max(CASE WHEN (s.day_type = 'WEEKDAY') = (isodow(s.week) > 5) THEN 1 ELSE 0 END) = 1 AS weekly
  FROM voice_usage AS s
  JOIN dated AS d ON d.cell = s.cell AND d.hour = s.hour
  GROUP BY s.cell, s.hour, date_trunc('week', s.week)
),
days AS (
  SELECT
    s.cell, s.hour, s.day_type, s.discount, s.posted_discount, s.minutes, s.attempts, s.blocked,
      s.active_subs,
    CAST(date_trunc('week', s.week) + INTERVAL '6' DAY AS DATE) AS week,
    row_number() OVER (PARTITION BY s.cell, s.hour, s.day_type, date_trunc('week', s.week)
      ORDER BY s.week DESC) AS nth
  FROM {rows} AS s
  JOIN dated AS d ON d.cell = s.cell AND d.hour = s.hour
),
summed AS (  -- sums of whole numbers, which do not depend on the order: discounts in millionths
  SELECT
    cell, hour, day_type, week, count(*) AS days, sum(minutes) AS minutes,
      avg(CAST(active_subs AS DOUBLE)) AS active_subs,
    CASE WHEN count(attempts) = count(*) AND count(blocked) = count(*)
      THEN sum(attempts) END AS attempts,
    CASE WHEN count(attempts) = count(*) AND count(blocked) = count(*)
      THEN sum(blocked) END AS blocked,
    CASE WHEN count(*) = 1 THEN max(discount)
      WHEN sum(minutes) > 0 THEN sum(CAST(round(discount * 1000000) AS BIGINT) * minutes) /
        CAST(sum(minutes) AS DOUBLE) / 1000000
      ELSE sum(CAST(round(discount * 1000000) AS BIGINT) * active_subs) /
        CAST(sum(active_subs) AS DOUBLE) / 1000000 END AS discount,
    max(CASE WHEN nth = 1 THEN posted_discount END) AS posted_discount,
    CASE WHEN count(*) = 1 THEN max(posted_discount) - max(discount)
      ELSE sum(CAST(round((posted_discount - discount) * 1000000) AS BIGINT) * active_subs) /
        CAST(sum(active_subs) AS DOUBLE) / 1000000
    END AS explore_eps
  FROM days
  GROUP BY cell, hour, day_type, week
),
beside AS (
  SELECT
    *, lag(days) OVER (PARTITION BY cell, hour, day_type ORDER BY week) AS before,
    lead(days) OVER (PARTITION BY cell, hour, day_type ORDER BY week) AS after,
    -- of the nearest weeks with other than two or three rows: the date, then the number of rows
    max(CASE WHEN days = 1 OR days > 3 THEN CAST(week AS VARCHAR) || CAST(days AS VARCHAR) END)
      OVER (PARTITION BY cell, hour, day_type ORDER BY week) AS earlier,
    min(CASE WHEN days = 1 OR days > 3 THEN CAST(week AS VARCHAR) || CAST(days AS VARCHAR) END)
      OVER (PARTITION BY cell, hour, day_type ORDER BY week DESC) AS later,
    count(*) OVER (PARTITION BY cell, hour, day_type) AS all_weeks
  FROM summed
),
weeks AS (
  SELECT
    s.cell, s.hour, s.day_type, s.week, CAST(s.minutes AS BIGINT) AS minutes,
      CAST(s.attempts AS BIGINT) AS attempts,
    CAST(s.blocked AS BIGINT) AS blocked, s.discount, s.posted_discount,
      s.posted_discount - s.discount AS explore_eps,
    CAST(s.active_subs AS DOUBLE) AS active_subs, 1e0 AS week_share
  FROM {rows} AS s
  LEFT JOIN dated AS d ON d.cell = s.cell AND d.hour = s.hour
  WHERE d.cell IS NULL
  UNION ALL
  SELECT
    b.cell, b.hour, b.day_type, b.week, CAST(minutes AS BIGINT) AS minutes,
      CAST(attempts AS BIGINT) AS attempts,
    CAST(blocked AS BIGINT) AS blocked, discount, posted_discount, explore_eps, active_subs,
    CASE
      -- days, or weeks, as the dates of both types of day show
      WHEN daily THEN days / CASE WHEN day_type = 'WEEKDAY' THEN 5e0 ELSE 2e0 END
      WHEN weekly THEN CASE WHEN days = 1 THEN 1e0 ELSE -1e0 END
      -- a week
      WHEN days = 1 AND (coalesce(before, 2) = 1 OR coalesce(after, 2) = 1
        OR coalesce(before, after) IS NULL) THEN 1e0
      -- a duplicate week
      WHEN days < 4 AND days > 1 AND coalesce(before, 1) = 1 AND coalesce(after, 1) = 1
        AND coalesce(before, after) = 1 THEN -1e0
      -- several of them in a row; both days of a weekend, where single rows are on both sides
      WHEN days < 4 AND days > 1 AND substr(earlier, 11) = '1' AND substr(later, 11) = '1' THEN -1e0
      WHEN day_type = 'WEEKDAY' AND days < 4 AND days > 1
        AND coalesce(substr(earlier, 11), '1') = '1' AND coalesce(substr(later, 11), '1') = '1'
        AND (coalesce(earlier, later) IS NOT NULL OR all_weeks > 2) THEN -1e0
      ELSE days / CASE WHEN day_type = 'WEEKDAY' THEN 5e0 ELSE 2e0 END END AS week_share
  FROM beside AS b
  JOIN feeds AS f ON f.cell = b.cell AND f.hour = b.hour AND f.week = b.week
)
