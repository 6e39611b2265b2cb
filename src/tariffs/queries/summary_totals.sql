-- Money and volume a week against staying, with 90 % intervals that include the common errors of
-- all units (tariffs.pricing.totals); tau and its standard error; the share of the units' changes
-- of margin that was subtracted as optimism (tariffs.pricing.optimism).
SELECT
  kind AS line,
  revenue, revenue_lo AS "from", revenue_hi AS "to",
  margin, margin_lo AS "margin from", margin_hi AS "margin to",
  volume, volume_lo AS "volume from", volume_hi AS "volume to",
  tau, tau_se, optimism
FROM totals
ORDER BY kind
