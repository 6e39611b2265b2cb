"""What a row of each source must look like, what a row of the price table promises, and which dirt is put right on the way in.

A repair must be certain: look-alike letters, blanks and case in keys, a code that lost its zeros or has a new name, a currency in front of
a price, a comma for a point, a price in pesewas where the row's own list price tells so, a discount in percent.  What is not certain is rejected with its reason.  A spike in the units sold passes, for a
contract sees one row and cannot know what is usual for the unit: `tariffs.demand.panel.plausible` sets it aside later.
What becomes of each kind of dirt: docs/tariffs-dirt.md.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

Code = Annotated[str, re.compile(r"[A-Z0-9_]+")]
Money = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Hour = Annotated[int, Ge(0), Le(23)]
DayType = Literal["WEEKDAY", "WEEKEND"]

Segment = Literal[
    "BUSINESS", "FAMILY", "HEAVY", "LIGHT", "SENIOR", "YOUTH"
]  # the SIMs of tests are no customers
FULL_INT32 = 2_147_483_647  # what a counter of 32 bits shows when it can count no further

RENAMED_PRODUCTS = {"DAILY_150": "DAY_150"}  # what the exports of some systems still call them
LATIN = dict(
    zip(
        "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405",
        "ABEKMHOPCTYXIJS",
        strict=True,
    )
)  # Cyrillic capitals that look like these
LATIN |= dict(
    zip(
        "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
        "ABEZHIKMNOPTYX",
        strict=True,
    )
)  # Greek
HYPHENS = dict.fromkeys("-\u2010\u2011\u2012\u2013\u2212", "_")
BLANKS = dict.fromkeys("\u00a0\u202f\t", " ")
UNSEEN = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad"  # marks of direction and of breaks
ACCENTED = "\u00e1\u00e0\u00e2\u00e3\u00e4\u00e9\u00e8\u00ea\u00eb\u00ed\u00ec\u00ee\u00ef\u00f3\u00f2\u00f4\u00f5\u00f6\u00fa\u00f9\u00fb\u00fc\u00e7\u00f1\u00c9"  # of the names of places
APOSTROPHES = "'\u2018\u2019\u02bc"  # a spreadsheet's sign that what follows is text


def translated(expression: str, into: dict[str, str], without: str = "") -> str:
    """SQL that puts single characters in the place of others, and leaves out those of `without`."""
    before, after = ("".join(part).replace("'", "''") for part in ((*into, without), into.values()))
    return f"translate({expression}, '{before}', '{after}')"


def composed(expression: str) -> str:
    """SQL that writes each of ACCENTED as one character (NFC) where it came as a letter and a mark."""
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
  WHEN regexp_full_match({_PLACE}, 'LOC_[0-9]{{1,4}}') THEN 'LOC_' || lpad(substr({_PLACE}, 5), 5, '0')
  ELSE {_PLACE}
END
""".strip()
_NAMES = " ".join(f"WHEN '{former}' THEN '{name}'" for former, name in RENAMED_PRODUCTS.items())
TIDY_PRODUCT = f"CASE {TIDY_CODE.format(column='product')} {_NAMES} ELSE {TIDY_CODE.format(column='product')} END"
TIDY_NAME = f"trim({composed(translated('{column}', BLANKS, UNSEEN))})"

_TEXT = "trim(replace(upper(CAST(price AS VARCHAR)), 'GHS', ''))"
_POINT = f"replace({_TEXT}, ',', '.')"
TIDY_PRICE = f"""
CASE
  WHEN TRY_CAST(list_price AS DOUBLE) IS NULL THEN CAST(price AS VARCHAR)
  WHEN TRY_CAST(price AS DOUBLE) <= 20 * TRY_CAST(list_price AS DOUBLE) THEN CAST(price AS VARCHAR)
  WHEN TRY_CAST(price AS DOUBLE) <= 2000 * TRY_CAST(list_price AS DOUBLE) THEN CAST(TRY_CAST(price AS DOUBLE) / 100 AS VARCHAR)
  WHEN TRY_CAST(price AS DOUBLE) IS NOT NULL THEN 'beyond all prices: ' || CAST(price AS VARCHAR)
  WHEN TRY_CAST({_TEXT} AS DOUBLE) <= 20 * TRY_CAST(list_price AS DOUBLE) THEN {_TEXT}
  WHEN TRY_CAST({_TEXT} AS DOUBLE) <= 2000 * TRY_CAST(list_price AS DOUBLE) THEN CAST(TRY_CAST({_TEXT} AS DOUBLE) / 100 AS VARCHAR)
  WHEN TRY_CAST({_TEXT} AS DOUBLE) IS NOT NULL THEN 'beyond all prices: ' || CAST(price AS VARCHAR)
  WHEN regexp_full_match({_TEXT}, '[0-9]+,[0-9]+')
    AND TRY_CAST({_POINT} AS DOUBLE) BETWEEN TRY_CAST(list_price AS DOUBLE) / 20 AND 20 * TRY_CAST(list_price AS DOUBLE)
  THEN {_POINT}
  ELSE {_TEXT}
END
""".strip()
TIDY_SHARE = """
CASE
  WHEN TRY_CAST({column} AS DOUBLE) > 1 AND TRY_CAST({column} AS DOUBLE) < 100 THEN CAST(TRY_CAST({column} AS DOUBLE) / 100 AS VARCHAR)
  ELSE CAST({column} AS VARCHAR)
END
""".strip()
_ROOM = "CASE WHEN TRY_CAST(capacity_minutes AS DOUBLE) > 0 THEN TRY_CAST(capacity_minutes AS DOUBLE) END"
TIDY_CAPACITY = f"""
CASE
  WHEN TRY_CAST(capacity_minutes AS DOUBLE) > 0 THEN CAST(capacity_minutes AS VARCHAR)
  WHEN min({_ROOM}) OVER (PARTITION BY cell) = max({_ROOM}) OVER (PARTITION BY cell)
  THEN CAST(max({_ROOM}) OVER (PARTITION BY cell) AS VARCHAR)
  ELSE CAST(capacity_minutes AS VARCHAR)
END
""".strip()


TOTALS_TITLE = "Changes a week with their 90 % intervals: revenue, margin (GHS), volume"  # of the summary with the totals (`tariffs.pricing.totals`)
LIMITS_TITLE = "Limits on the whole table, and the worth of its prices (GHS a week)"  # of the summary that says what became of them
SCOPE_OF = "CASE WHEN kind = '{kind}' AND scope <> '*' THEN scope END"


def tidy(*columns: str) -> dict[str, str]:
    """Repairs of key columns: Latin letters, upper case, no stray blanks or marks."""
    return {column: TIDY_CODE.format(column=column) for column in columns}


@dataclass(frozen=True)
class BundleSales:
    """One week of one (segment, location, product), or one day: `week` is a day of it, and the queries sum days.  `price` was paid, `list_price` was posted; `explore_eps` is the
    logged trial between."""

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
    """One week of one (cell, hour, day type), or one day; discounts are shares of the tariff: applied, and posted before any trial.

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
    """What may be asked for a product.  Price points are the multiples of `price_tick`; a ladder is the sizes of one bundle, by rung.

    usage_value           what one more unit sold is worth beyond its price (a customer kept, a habit made); money, lowers the effective cost
    competitor_min        the cheapest competitor's price: the regulator may forbid to go below it
    competitor_reference  the price that the regulator measures a ceiling from
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
    """`name` is what people call the place, with its accents and apostrophes; nothing is ever joined by it.  `control`: prices here are
    never moved; the others are measured against them.  `time_zone`: an IANA name, null for UTC."""

    location: Code
    name: Annotated[str, Len(1, 200)]
    region: Code
    tier: Code
    control: bool
    time_zone: str | None = None


@dataclass(frozen=True)
class Policy:
    """The pricing team's dials: one row per kind for everybody (scope '*'), and one per segment (voice: region) that differs.

    A scope that is no segment, or no region of any location, is refused: nobody would notice a dial that turns nothing.  `segment` and
    `region` are made of the scope for that, and nobody writes them.

    z           how sure a move must be, in standard deviations of the elasticity
    max_step    the largest move: a share of the current price (voice: points of discount, as a share of the tariff)
    min_weeks   fewer weeks than this, and the price is held
    load_limit  voice: the share of a cell's capacity that discounts may fill; no limit if it is empty

    What may be left out, as a column or as a value; without it the rule is off, unless a default is named.

    min_days            a price that changed less than so many days ago stays
    cross_effect        bundles: what +1 in a neighbouring rung's relative price adds to the log of sales (substitutes: > 0)
    diversion           bundles: the share of added sales that the other ladders of the same segment and place lose
    max_cliff           voice: the largest step between two hours' discounts, as a share of the tariff; 0.20 if left out
    time_shift          voice: the share of an hour's added minutes that other hours lose; those are waited for
    patience            voice: who waits t hours are (t + 1)^-patience as many; 2.0 if left out
    explore_share       the share of units whose price is a trial, from a draw of their elasticity
    explore_loss        the most that a trial may be expected to lose, as a share of the unit's margin; 0.05 if left out
    competitor_floor    no price below this multiple of the cheapest competitor; 1.00 if left out
    competitor_ceiling  no price above this multiple of the regulator's reference; 1.10 if left out
    max_segment_ratio   bundles: the dearest segment's price over the cheapest's, for one product in one place

    In the row for everybody alone, over all units of the kind:

    max_moved_share     the share of prices that may move
    max_mean_change     how far the mean of price / current price may be from 1
    min_volume          the expected volume, as a share of today's
    max_revenue_risk    the expected loss of revenue, summed over units without their gains, as a share of today's revenue
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
class PriceRow:
    """One row of the price table: what the rating system is told, and why.  Money in `currency`; deltas are per week.

    valid_from, valid_to    UTC; `..._local` is what a clock in the location's `time_zone` shows then
    ..._lo, ..._hi          the deltas at the ends of the elasticity's 90 % interval
    expected_volume         sold per week at the current price: of voice, no more than the cell carries;
    expected_blocked_minutes, ..._delta   voice: minutes a week that are asked for beyond that, now and by how much the new price changes them
    usage_value, opportunity_cost, capacity_price   with unit_cost what one more unit sold costs: unit_cost - usage_value + what
                            other products or hours lose by it; capacity_price is what one more unit of room in the cell would bring
    explore_draw            the elasticity that a trial was priced on (explore_flag), null elsewhere
    """

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
    expected_volume_delta: float
    expected_revenue_delta: float
    expected_margin_delta: float
    expected_volume_delta_lo: float
    expected_volume_delta_hi: float
    expected_revenue_delta_lo: float
    expected_revenue_delta_hi: float
    expected_margin_delta_lo: float
    expected_margin_delta_hi: float
    unit_cost: Annotated[float, Ge(0)]
    usage_value: Annotated[float, Ge(0)]
    opportunity_cost: float
    capacity_price: Annotated[float, Ge(0)]
    champion_price: Annotated[float, Ge(0)]
    control_flag: bool
    explore_flag: bool
    explore_draw: Annotated[float, Lt(0)] | None
