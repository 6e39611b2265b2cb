"""Contracts of the sources and of the price table.

Values that can be repaired with certainty are repaired first (`tariffs.cleaning`); other faults are
rejected with a reason.  A spike in the units sold passes: a contract sees one row and cannot know
the unit's usual level; `tariffs.demand.panel.plausible` sets it aside later.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from tariffs.columns import EFFECT_COLUMNS, ExpectedChanges

Code = Annotated[str, re.compile(r"[A-Z0-9_]+")]
Money = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Hour = Annotated[int, Ge(0), Le(23)]
DayType = Literal["WEEKDAY", "WEEKEND"]

Segment = Literal[
    "BUSINESS", "FAMILY", "HEAVY", "LIGHT", "SENIOR", "YOUTH"
]  # SIM cards used for tests are not customers
FULL_INT32 = 2_147_483_647  # the value at which a 32-bit counter stops


# titles of two summaries of the release: that of `pricing.totals`, and that of `portfolio_limits`
TOTALS_TITLE = "Changes a week with their 90 % intervals: revenue, margin (GHS), volume"
LIMITS_TITLE = "Limits on the whole table, and the worth of its prices (GHS a week)"


@dataclass(frozen=True)
class BundleSales:
    """Sales of one (segment, location, product) in one week, or on one day of it.

    week         a day of the week; the queries sum the days
    price        the price that was paid;  list_price  the posted one
    explore_eps  the logged random trial between the two, as a share
    """

    row_id: int
    segment: Segment
    location: Code
    product: Code
    week: dt.date
    price: Money
    list_price: Money
    units: Annotated[int, Ge(0), Lt(FULL_INT32)]
    active_subs: Annotated[int, Gt(0)]
    explore_eps: Annotated[float, Ge(-0.5), Le(0.5)]
    loaded_at: dt.datetime


@dataclass(frozen=True)
class VoiceUsage:
    """Voice minutes of one (cell, hour, day type) in one week, or on one day of it.

    discount, posted_discount   shares of the tariff: as applied, and before any trial
    minutes                     carried
    attempts, blocked           call attempts, and those that found no free channel: a cell that
                                blocks is full, and the demand is about
                                minutes x attempts / (attempts - blocked); null where not counted
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
    """The minutes that a cell can carry in one hour."""

    cell: Code
    hour: Hour
    location: Code
    cell_class: Code
    capacity_minutes: Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Product:
    """The prices that are allowed for a product.

    Price points are the multiples of `price_tick`; a ladder is the sizes of one bundle, by rung.

    usage_value           the worth of one more unit sold beyond its price (a customer retained, a
                          habit formed); money, lowers the effective cost
    competitor_min        the cheapest competitor's price; the regulator may forbid going below it
    competitor_reference  the price from which the regulator measures a ceiling
    """

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
    usage_value: Annotated[float, Ge(0)] | None = None
    competitor_min: Money | None = None
    competitor_reference: Money | None = None


@dataclass(frozen=True)
class Location:
    """A location.

    name       as people write it, with accents and apostrophes; no join uses it
    control    its prices are never moved; the other locations are measured against it
    time_zone  an IANA name; null for UTC
    """

    location: Code
    name: Annotated[str, Len(1, 200)]
    region: Code
    tier: Code
    control: bool
    time_zone: str | None = None


@dataclass(frozen=True)
class Policy:
    """The pricing team's settings: one row per kind for all units (scope '*'), and one for each
    segment (voice: region) that differs.

    A scope that is no segment, and no region of any location, is rejected: it would have no effect.
    `segment` and `region` are derived from the scope for that check; they are no input.

    z           certainty that a move needs, in standard deviations of the elasticity
    max_step    largest move, as a share of the current price (voice: of the tariff)
    min_weeks   with fewer weeks than this, the price is held
    load_limit  voice: the share of a cell's capacity that discounts may fill; null: no limit

    Optional, as a column or as a value; the rule is off without it, unless a default is given:

    min_days            a price that changed fewer days ago than this stays
    cross_effect        bundles: change of log sales for +1 in the relative price of a neighbouring
                        rung (substitutes: > 0)
    diversion           bundles: the share of added sales that the other ladders of the same segment
                        and location lose
    max_cliff           voice: largest step between two hours, a share of the tariff; default 0.20
    time_shift          voice: the share of an hour's added minutes that other hours lose
    patience            voice: (t + 1)^-patience as many customers wait t hours; default 2.0
    explore_share       the share of units whose price is a trial, on a draw of the elasticity
    explore_loss        largest expected loss of a trial, a share of the unit's margin; default 0.05
    competitor_floor    no price below this multiple of the cheapest competitor; default 1.00
    competitor_ceiling  no price above this multiple of the regulator's reference; default 1.10
    max_segment_ratio   bundles: the highest segment's price over the lowest one's, for one product
                        in one location

    Only in the row for all units, over all units of the kind:

    max_moved_share     the share of prices that may move
    max_mean_change     largest distance of the mean of price / current price from 1
    min_volume          the expected volume, as a share of today's
    max_revenue_risk    the expected loss of revenue, summed over units without their gains, as a
                        share of today's revenue
    """

    kind: Literal["bundle", "voice"]
    scope: str
    z: Annotated[float, Ge(0), Le(5)]
    max_step: Annotated[float, Ge(0), Le(1)]
    min_weeks: Annotated[int, Ge(1)]
    load_limit: Annotated[float, Gt(0), Le(1)] | None
    min_days: Annotated[int, Ge(0)] | None = None
    cross_effect: Annotated[float, Ge(0), Le(5)] | None = None
    diversion: Share | None = None
    max_cliff: Annotated[float, Gt(0), Le(1)] | None = None
    time_shift: Share | None = None
    patience: Annotated[float, Ge(0), Le(10)] | None = None
    explore_share: Annotated[float, Ge(0), Le(0.1)] | None = None
    explore_loss: Annotated[float, Ge(0), Le(1)] | None = None
    competitor_floor: Annotated[float, Gt(0)] | None = None
    competitor_ceiling: Annotated[float, Gt(0)] | None = None
    max_segment_ratio: Annotated[float, Ge(1)] | None = None
    max_moved_share: Annotated[float, Ge(0), Le(1)] | None = None
    max_mean_change: Annotated[float, Ge(0)] | None = None
    min_volume: Annotated[float, Ge(0)] | None = None
    max_revenue_risk: Annotated[float, Ge(0)] | None = None
    segment: Segment | None = None
    region: Code | None = None


@dataclass(frozen=True)
class PricesAndEstimates:
    """The first columns of `PriceRow`."""

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
    time_zone: str
    valid_from_local: dt.datetime
    valid_to_local: dt.datetime
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
    expected_blocked_minutes: Annotated[float, Ge(0)] | None
    expected_blocked_minutes_delta: float | None


@dataclass(frozen=True)
class CostsAndTrials:
    """The last columns of `PriceRow`."""

    unit_cost: Annotated[float, Ge(0)]
    usage_value: Annotated[float, Ge(0)]
    opportunity_cost: float
    capacity_price: Annotated[float, Ge(0)]
    champion_price: Annotated[float, Ge(0)]
    control_flag: bool
    explore_flag: bool
    explore_draw: Annotated[float, Lt(0)] | None


# a dataclass has the fields of its bases from the last one to the first
@dataclass(frozen=True)
class PriceRow(CostsAndTrials, ExpectedChanges, PricesAndEstimates):
    """One row of the price table: the price for the rating system, and its reasons.

    Money is in `currency`; deltas are per week.

    valid_from, valid_to     UTC; `..._local` is the time on a clock in the location's `time_zone`
    ..._lo, ..._hi           the deltas at the ends of the elasticity's 90 % interval
    expected_volume          sold per week at the current price; voice: at most the cell's capacity
    expected_blocked_minutes, ..._delta
                             voice: minutes a week demanded beyond the capacity, and the change of
                             them by the new price
    usage_value, opportunity_cost
                             one more unit sold costs unit_cost - usage_value + opportunity_cost,
                             the last being the loss of other products or hours
    capacity_price           the worth of one more unit of capacity in the cell
    explore_draw             the elasticity on which a trial (explore_flag) was priced, else null
    """


PRICE_COLUMNS = tuple(field.name for field in fields(PriceRow))
# for rating and charging; the other columns explain the price
CHARGING_COLUMNS = (
    "unit_key",
    "kind",
    "segment",
    "location",
    "product",
    "cell",
    "hour",
    "day_type",
    "product_offering_id",
    "price",
    "currency",
    "discount_class",
    "valid_from",
    "valid_to",
    "table_version",
)
# equal in all rows of a release; where they differ, tables are compared row by row
RELEASE_COLUMNS = (
    "valid_from",
    "valid_to",
    "table_version",
    "parent_version",
    "run_id",
    "model_version",
    "status",
)
# results of the model; null in a table of other prices
MODEL_COLUMNS = (
    "constraint_bound",
    "elasticity",
    "se",
    "credible_lo",
    "credible_hi",
    "shrink_weight",
    "expected_volume",
    *EFFECT_COLUMNS,
    "expected_blocked_minutes",
    "expected_blocked_minutes_delta",
    "opportunity_cost",
    "capacity_price",
    "explore_flag",
    "explore_draw",
)
