"""What a row of each source must look like, what a row of the price table promises, and which dirt is put right on the way in.

A repair must be certain: blanks and case in keys, a currency in front of a price, a price in pesewas where the row's
own list price tells so. What is not certain is rejected with its reason.  A spike in the units sold passes, for a
contract sees one row and cannot know what is usual for the unit: `tariffs.demand.panel.plausible` sets it aside later.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

Code = Annotated[str, re.compile(r"[A-Z0-9_]+")]
Money = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Hour = Annotated[int, Ge(0), Le(23)]
DayType = Literal["WEEKDAY", "WEEKEND"]

TIDY_CODE = "upper(trim({column}))"
TIDY_PRICE = """
CASE
  WHEN TRY_CAST(price AS DOUBLE) <= 20 * TRY_CAST(list_price AS DOUBLE) THEN CAST(price AS VARCHAR)
  WHEN TRY_CAST(price AS DOUBLE) IS NOT NULL THEN CAST(TRY_CAST(price AS DOUBLE) / 100 AS VARCHAR)
  ELSE trim(replace(upper(CAST(price AS VARCHAR)), 'GHS', ''))
END
""".strip()


def tidy(*columns: str) -> dict[str, str]:
    """Repairs of key columns: no stray blanks, upper case."""
    return {column: TIDY_CODE.format(column=column) for column in columns}


@dataclass(frozen=True)
class BundleSales:
    """One week of one (segment, location, product).  `price` was paid, `list_price` was posted; `explore_eps` is the
    logged trial between."""

    row_id: int
    segment: Code
    location: Code
    product: Code
    week: dt.date
    price: Money
    list_price: Money
    units: Annotated[int, Ge(0)]
    active_subs: Annotated[int, Gt(0)]
    explore_eps: Annotated[float, Ge(-0.5), Le(0.5)]
    loaded_at: dt.datetime


@dataclass(frozen=True)
class VoiceUsage:
    """One week of one (cell, hour, day type); discounts are shares of the tariff: applied, and posted before any trial.

    `minutes` were carried.  Of the call attempts, `blocked` found no free channel: a cell that blocks is full, and what was asked of
    it is about minutes x attempts / (attempts - blocked).  Both are empty where nobody counts them.
    """

    cell: Code
    hour: Hour
    day_type: DayType
    week: dt.date
    discount: Share
    posted_discount: Share
    minutes: Annotated[int, Ge(0)]
    attempts: Annotated[int, Ge(0)] | None
    blocked: Annotated[int, Ge(0)] | None
    active_subs: Annotated[int, Gt(0)]
    loaded_at: dt.datetime


@dataclass(frozen=True)
class CellLoad:
    """Minutes that a cell can carry in one hour."""

    cell: Code
    hour: Hour
    location: Code
    cell_class: Code
    capacity_minutes: Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Product:
    """What may be asked for a product.  Price points are the multiples of `price_tick`; a ladder is the sizes of one bundle, by rung."""

    product: Code
    family: Literal["DATA", "VOICE"]
    ladder: Code | None
    rung: int | None
    volume_mb: Annotated[float, Gt(0)] | None
    validity_days: Annotated[int, Gt(0)] | None
    list_price: Money
    unit_cost: Annotated[float, Ge(0)]
    price_tick: Money
    price_floor: Money
    price_ceiling: Money
    currency: Annotated[str, Len(3, 3), re.compile(r"[A-Z]+")]


@dataclass(frozen=True)
class Location:
    """`control`: prices here are never moved; the others are measured against them."""

    location: Code
    region: Code
    tier: Code
    control: bool


@dataclass(frozen=True)
class Policy:
    """The pricing team's dials: one row per kind for everybody (scope '*'), and one per segment (voice: region) that differs.

    z           how sure a move must be, in standard deviations of the elasticity
    max_step    the largest move: a share of the current price (voice: points of discount, as a share of the tariff)
    min_weeks   fewer weeks than this, and the price is held
    load_limit  voice: the share of a cell's capacity that discounts may fill
    """

    kind: Literal["bundle", "voice"]
    scope: str
    z: Annotated[float, Ge(0), Le(5)]
    max_step: Annotated[float, Ge(0), Le(1)]
    min_weeks: Annotated[int, Ge(1)]
    load_limit: Annotated[float, Gt(0), Le(1)] | None


@dataclass(frozen=True)
class PriceRow:
    """One row of the price table: what the rating system is told, and why.  Money in `currency`; deltas are per week."""

    unit_key: str
    kind: Literal["bundle", "voice"]
    segment: str | None
    location: str | None
    product: str
    cell: str | None
    hour: Hour | None
    day_type: DayType | None
    product_offering_id: str
    price: Money
    currency: str
    discount_class: Annotated[int, Ge(0), Le(95)] | None
    valid_from: dt.datetime
    valid_to: dt.datetime
    table_version: int
    parent_version: int | None
    run_id: str
    model_version: str
    data_cutoff: dt.date
    status: Literal["draft", "approved", "active", "withdrawn"]
    reason_code: Code
    constraint_bound: Code | None
    current_price: Money
    p_gain: Annotated[float, Ge(0), Le(1)] | None
    elasticity: Annotated[float, Lt(0)]
    se: Annotated[float, Gt(0)]
    credible_lo: float
    credible_hi: float
    support_n: Annotated[int, Ge(0)]
    shrink_weight: Annotated[float, Ge(0), Le(1)]
    expected_volume: Annotated[float, Ge(0)]
    expected_volume_delta: float
    expected_revenue_delta: float
    expected_margin_delta: float
    champion_price: Annotated[float, Ge(0)]
    control_flag: bool
