"""The money at risk in a rejected row: the plausible spend of its unit in that row.

A rejected row's own figures can be nonsense (a counter at its limit, a price of 99999999), so a
figure is used only if it is plausible beside the accepted rows of the same unit, or of its group if
the unit has none; otherwise the unit's median replaces it.  A row that neither its figures nor its
unit can price has no money at risk: it is counted as not priced.
"""

from __future__ import annotations

from dataclasses import dataclass

from tariffs.demand.panel import SPIKE_ALLOWANCE, SPIKE_RATIO

PRICE_RATIO = 20  # plausible prices: from 1/20 to 20 times the reference, as in the contracts


@dataclass(frozen=True, slots=True)
class Priced:
    """The pricing of a source's rows.

    unit, group  the key of a unit, and the columns of similar units for an unknown unit
    quantity     the column of whole numbers
    price        the column beside it: a price, or a share off the tariff
    spend        SQL: the money of plausible figures q (quantity) and p (price)
    plausible    SQL: whether the row's own p is plausible beside a reference r
    reference    SQL: a group's reference for p, over the means p of its units, or NULL
    """

    unit: tuple[str, ...]
    group: tuple[str, ...]
    quantity: str
    price: str
    spend: str
    plausible: str
    reference: str


PRICED = {
    "bundle_sales": Priced(
        ("segment", "location", "product"),
        ("product",),
        "units",
        "price",
        "p * q",
        f"p BETWEEN r / {PRICE_RATIO} AND {PRICE_RATIO} * r",
        "quantile_disc(p, 0.5)",
    ),
    "voice_usage": Priced(
        ("cell", "hour", "day_type"),
        ("hour", "day_type"),
        "minutes",
        "discount",
        "q * (1 - p) * (SELECT max(list_price) FROM product_catalog WHERE family = 'VOICE')",
        "p >= 0 AND p < 1",
        "NULL",
    ),
}


def money_at_risk(source: str) -> str:
    """Return SQL of __file, __row and money at risk of every row of `rejects`; NULL: not priced.

    It reads `repairs` and the accepted rows.
    """
    if source not in PRICED:
        return "SELECT __file, __row, CAST(NULL AS DECIMAL(38, 6)) AS money_at_risk FROM rejects"
    of = PRICED[source]
    needed = (*of.unit, of.quantity, of.price)
    fixes = ", ".join(
        f"max(CASE WHEN __column = '{name}' THEN __after END) AS {name}" for name in needed
    )
    fixed = ", ".join(f"coalesce(f.{name}, CAST(j.{name} AS VARCHAR)) AS {name}" for name in needed)
    unit, group = ", ".join(of.unit), ", ".join(of.group)
    same = " AND ".join(f"CAST(u.{name} AS VARCHAR) = c.{name}" for name in of.unit)
    alike = " AND ".join(f"CAST(g.{name} AS VARCHAR) = c.{name}" for name in of.group)
    return f"""
WITH fixes AS (SELECT __file, __row, {fixes} FROM repairs GROUP BY __file, __row),
came AS (
  SELECT j.__file, j.__row, {fixed} FROM rejects AS j
  LEFT JOIN fixes AS f ON f.__file = j.__file AND f.__row = j.__row
),
units AS (  -- medians: a unit may have several spikes
  SELECT {unit}, quantile_disc({of.quantity}, 0.5) AS q, quantile_disc({of.price}, 0.5) AS p
  FROM "{source}" AS u WHERE EXISTS (SELECT 1 FROM came AS c WHERE {same}) GROUP BY {unit}
),
means AS (  -- exact sums, which do not depend on the order
  SELECT {unit}, sum({of.quantity}) / count(*) AS q,
    CAST(sum(TRY_CAST({of.price} AS DECIMAL(38, 6))) AS DOUBLE) / count(*) AS p
  FROM "{source}" GROUP BY {unit}
),
groups AS (
  SELECT {group}, quantile_disc(q, 0.5) AS q, {of.reference} AS p FROM means GROUP BY {group}
),
beside AS (
  SELECT c.__file, c.__row, TRY_CAST(c.{of.quantity} AS DOUBLE) AS q,
    TRY_CAST(c.{of.price} AS DOUBLE) AS p,
    u.q AS unit_q, u.p AS unit_p, coalesce(u.q, g.q) AS like_q, coalesce(u.p, g.p) AS r
  FROM came AS c
  LEFT JOIN units AS u ON {same}
  LEFT JOIN groups AS g ON {alike}
),
plausible AS (
  SELECT __file, __row,
    CASE WHEN q >= 0 AND q <= {SPIKE_RATIO} * like_q + {SPIKE_ALLOWANCE} THEN q
      ELSE unit_q END AS q,
    CASE WHEN {of.plausible} THEN p ELSE r END AS p
  FROM beside
)
SELECT __file, __row, TRY_CAST({of.spend} AS DECIMAL(38, 6)) AS money_at_risk FROM plausible"""
