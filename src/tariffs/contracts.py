"""Contracts of the sources and of the price table, and the declared repairs of dirty values.

A repair must be certain: look-alike letters, blanks and case in keys, a code that lost its zeros or
was renamed, a currency before a price, a decimal comma, a price in pesewas where the row's own list
price shows it, a discount in percent.  Other faults are rejected with a reason.  A spike in the
units sold passes: a contract sees one row and cannot know the unit's usual level;
`tariffs.demand.panel.plausible` sets it aside later.
The treatment of each kind of dirt: docs/tariffs-dirt.md.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
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

RENAMED_PRODUCTS = {"DAILY_150": "DAY_150"}  # former names in the exports of some systems
LATIN = dict(
    zip(
        "\u0410\u0412\u0415\u041a\u041c\u041d\u041e"
        "\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405",
        "ABEKMHOPCTYXIJS",
        strict=True,
    )
)  # Cyrillic capitals that look like Latin ones
LATIN |= dict(
    zip(
        "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
        "ABEZHIKMNOPTYX",
        strict=True,
    )
)  # Greek
HYPHENS = dict.fromkeys("-\u2010\u2011\u2012\u2013\u2212", "_")
BLANKS = dict.fromkeys("\u00a0\u202f\t", " ")
UNSEEN = (  # marks of direction and of line breaks
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060"
    "\u2066\u2067\u2068\u2069\ufeff\u00ad"
)
ACCENTED = (  # in names of locations
    "\u00e1\u00e0\u00e2\u00e3\u00e4\u00e9\u00e8\u00ea\u00eb\u00ed\u00ec\u00ee\u00ef"
    "\u00f3\u00f2\u00f4\u00f5\u00f6\u00fa\u00f9\u00fb\u00fc\u00e7\u00f1\u00c9"
)
APOSTROPHES = "'\u2018\u2019\u02bc"  # a spreadsheet's mark of a text cell


def translated(expression: str, into: dict[str, str], without: str = "") -> str:
    """Return SQL that replaces single characters and removes those of `without`."""
    before, after = ("".join(part).replace("'", "''") for part in ((*into, without), into.values()))
    return f"translate({expression}, '{before}', '{after}')"


def composed(expression: str) -> str:
    """Return SQL that composes (NFC) each of ACCENTED where it is a letter and a mark."""
    for one in ACCENTED:
        expression = f"replace({expression}, '{unicodedata.normalize('NFD', one)}', '{one}')"
    return expression


_CODE = f"trim({translated('upper({column})', LATIN | HYPHENS | BLANKS, UNSEEN + APOSTROPHES)})"
TIDY_CODE = (
    f"CASE WHEN regexp_full_match({{column}}, '[A-Z0-9_]+') THEN {{column}} ELSE {_CODE} END"
)
_PLACE = _CODE.format(column="location")
TIDY_LOCATION = f"""
CASE
  WHEN regexp_full_match(location, 'LOC_[0-9]{{5}}') THEN location
  WHEN regexp_full_match({_PLACE}, 'LOC_[0-9]{{1,4}}')
  THEN 'LOC_' || lpad(substr({_PLACE}, 5), 5, '0')
  ELSE {_PLACE}
END
""".strip()
_NAMES = " ".join(f"WHEN '{former}' THEN '{name}'" for former, name in RENAMED_PRODUCTS.items())
_PRODUCT = TIDY_CODE.format(column="product")
TIDY_PRODUCT = f"CASE {_PRODUCT} {_NAMES} ELSE {_PRODUCT} END"
TIDY_NAME = f"trim({composed(translated('{column}', BLANKS, UNSEEN))})"

_TEXT = "trim(replace(upper(CAST(price AS VARCHAR)), 'GHS', ''))"
_POINT = f"replace({_TEXT}, ',', '.')"
_LIST = "TRY_CAST(list_price AS DOUBLE)"
_PRICE = "TRY_CAST(price AS DOUBLE)"
_NUMBER = f"TRY_CAST({_TEXT} AS DOUBLE)"
TIDY_PRICE = f"""
CASE
  WHEN {_LIST} IS NULL THEN CAST(price AS VARCHAR)
  WHEN {_PRICE} <= 20 * {_LIST} THEN CAST(price AS VARCHAR)
  WHEN {_PRICE} <= 2000 * {_LIST} THEN CAST({_PRICE} / 100 AS VARCHAR)
  WHEN {_PRICE} IS NOT NULL THEN 'beyond all prices: ' || CAST(price AS VARCHAR)
  WHEN {_NUMBER} <= 20 * {_LIST} THEN {_TEXT}
  WHEN {_NUMBER} <= 2000 * {_LIST} THEN CAST({_NUMBER} / 100 AS VARCHAR)
  WHEN {_NUMBER} IS NOT NULL THEN 'beyond all prices: ' || CAST(price AS VARCHAR)
  WHEN regexp_full_match({_TEXT}, '[0-9]+,[0-9]+')
    AND TRY_CAST({_POINT} AS DOUBLE) BETWEEN {_LIST} / 20 AND 20 * {_LIST}
  THEN {_POINT}
  ELSE {_TEXT}
END
""".strip()
TIDY_SHARE = """
CASE
  WHEN TRY_CAST({column} AS DOUBLE) > 1 AND TRY_CAST({column} AS DOUBLE) < 100
  THEN CAST(TRY_CAST({column} AS DOUBLE) / 100 AS VARCHAR)
  ELSE CAST({column} AS VARCHAR)
END
""".strip()
_MINUTES = "TRY_CAST(capacity_minutes AS DOUBLE)"
_ROOM = f"CASE WHEN {_MINUTES} > 0 THEN {_MINUTES} END"
TIDY_CAPACITY = f"""
CASE
  WHEN TRY_CAST(capacity_minutes AS DOUBLE) > 0 THEN CAST(capacity_minutes AS VARCHAR)
  WHEN min({_ROOM}) OVER (PARTITION BY cell) = max({_ROOM}) OVER (PARTITION BY cell)
  THEN CAST(max({_ROOM}) OVER (PARTITION BY cell) AS VARCHAR)
  ELSE CAST(capacity_minutes AS VARCHAR)
END
""".strip()


# titles of two summaries of the release: that of `pricing.totals`, and that of `portfolio_limits`
TOTALS_TITLE = "Changes a week with their 90 % intervals: revenue, margin (GHS), volume"
LIMITS_TITLE = "Limits on the whole table, and the worth of its prices (GHS a week)"
SCOPE_OF = "CASE WHEN kind = '{kind}' AND scope <> '*' THEN scope END"


def tidy(*columns: str) -> dict[str, str]:
    """Return repairs of key columns: Latin letters, upper case, no stray blanks or marks."""
    return {column: TIDY_CODE.format(column=column) for column in columns}


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
