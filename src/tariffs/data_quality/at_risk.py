"""The money at risk in a row that a run left out: what its unit would plausibly have spent in that row.

A rejected row's own figures can be nonsense (a counter at its limit, 99999999 for a price), so each figure is used only where it is
plausible beside the accepted rows of the same unit, or of its group where the unit has none; elsewhere the unit's median stands in for it.
A row that neither its figures nor its unit can price has no money at risk: it is counted, and not priced.
"""

from __future__ import annotations

from dataclasses import dataclass

from tariffs.demand.panel import SPIKE_ALLOWANCE, SPIKE_RATIO

PRICE_RATIO = 20  # a price within 1/20 to 20 times the reference is one, as in the contracts


@dataclass(frozen=True, slots=True)
class Priced:
    """How the rows of a source are priced.

    unit, group  the key of a unit, and the columns that tell its likes where the unit itself is unknown
    quantity     the column of whole numbers
    price        the column beside it: a price, or a share off the tariff
    spend        SQL of the money of plausible figures q (quantity) and p (price)
    plausible    SQL of whether the row's own p is plausible beside a reference r
    reference    SQL of a group's reference for p, over the means p of its units; NULL where only the unit has one
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
        ("segment", "location", "product"), ("product",), "units", "price", "p * q",
        f"p BETWEEN r / {PRICE_RATIO} AND {PRICE_RATIO} * r", "quantile_disc(p, 0.5)",
    ),
    "voice_usage": Priced(
        ("cell", "hour", "day_type"), ("hour", "day_type"), "minutes", "discount",
        "q * (1 - p) * (SELECT max(list_price) FROM product_catalog WHERE family = 'VOICE')", "p >= 0 AND p < 1", "NULL",
    ),
}  # fmt: skip


def money_at_risk(source: str) -> str:
    """SQL: __file, __row and the money at risk of every row of `rejects`, from `repairs` and the accepted rows; NULL for one not priced."""
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
    return f"""
WITH fixes AS (SELECT __file, __row, {fixes} FROM repairs GROUP BY __file, __row),
came AS (SELECT j.__file, j.__row, {fixed} FROM rejects AS j LEFT JOIN fixes AS f ON f.__file = j.__file AND f.__row = j.__row),
units AS (  -- medians: a unit may have several spikes
  SELECT {unit}, quantile_disc({of.quantity}, 0.5) AS q, quantile_disc({of.price}, 0.5) AS p
  FROM "{source}" AS u WHERE EXISTS (SELECT 1 FROM came AS c WHERE {same}) GROUP BY {unit}
),
means AS (  -- exact sums, so that their order is no matter
  SELECT {unit}, sum({of.quantity}) / count(*) AS q, CAST(sum(TRY_CAST({of.price} AS DECIMAL(38, 6))) AS DOUBLE) / count(*) AS p
  FROM "{source}" GROUP BY {unit}
),
groups AS (SELECT {group}, quantile_disc(q, 0.5) AS q, {of.reference} AS p FROM means GROUP BY {group}),
beside AS (
  SELECT c.__file, c.__row, TRY_CAST(c.{of.quantity} AS DOUBLE) AS q, TRY_CAST(c.{of.price} AS DOUBLE) AS p,
    u.q AS unit_q, u.p AS unit_p, coalesce(u.q, g.q) AS like_q, coalesce(u.p, g.p) AS r
  FROM came AS c
  LEFT JOIN units AS u ON {same}
  LEFT JOIN groups AS g ON {" AND ".join(f"CAST(g.{name} AS VARCHAR) = c.{name}" for name in of.group)}
),
plausible AS (
  SELECT __file, __row,
    CASE WHEN q >= 0 AND q <= {SPIKE_RATIO} * like_q + {SPIKE_ALLOWANCE} THEN q ELSE unit_q END AS q,
    CASE WHEN {of.plausible} THEN p ELSE r END AS p
  FROM beside
)
SELECT __file, __row, TRY_CAST({of.spend} AS DECIMAL(38, 6)) AS money_at_risk FROM plausible"""
