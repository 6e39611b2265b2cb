"""Each row by itself: valid values, and the current price that customers pay."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.contracts import RELEASE_COLUMNS, PriceRow
from tariffs.optimise import reasons
from tariffs.optimise.reasons import BOUNDS, BUNDLE_ONLY, CODES, VOICE_ONLY
from tariffs.release.decision_log import Finding
from tariffs.release.guards.context import (
    GuardContext,
    catalogued,
    is_text,
    row_finding,
    text_equals,
)
from tariffs.release.tables import (
    KEY,
    Bools,
    Floats,
    bools,
    floats,
    is_voice,
    match_rows,
    missing_columns,
)

VALUES, TODAY = "VALUES", "TODAY"
MAX_DISCOUNT_POINTS = 95
PAID_TOLERANCE = 0.002  # relative: a discount of six digits times a tariff
HALF_POINT = 0.5 + 1e-6  # a discount class is a whole number; a held price may be between two

JUDGED_SEPARATELY = frozenset(  # columns of the contract with a check of their own
    (
        "unit_key",
        "kind",
        "location",
        "product_offering_id",
        "hour",
        "day_type",
        "discount_class",
        "price",
        "current_price",
        "champion_price",
        "unit_cost",
        "expected_volume",
        "elasticity",
        "se",
        "expected_volume_delta",
        "expected_revenue_delta",
        "expected_margin_delta",
        "currency",
        "p_gain",
        "data_cutoff",
        "valid_from",
        "valid_to",
        "time_zone",
        "control_flag",
        "table_version",
        "product",
    )
)
ORDERED = (
    ("credible_lo", "elasticity", "credible_hi"),
    *(
        (f"expected_{name}_delta_lo", f"expected_{name}_delta", f"expected_{name}_delta_hi")
        for name in ("volume", "revenue", "margin")
    ),
)
# one value for a whole table; guard VALIDITY judges the times
SINGLE_VALUED = tuple(n for n in RELEASE_COLUMNS if n not in ("valid_from", "valid_to"))
UNAPPROVED_STATUS = "draft"  # the status of every row before approval; later states are in the log
NEED_WEEKS = (
    reasons.INCREASE,
    reasons.DECREASE,
    reasons.HOLD_UNCERTAIN,
    reasons.HOLD_PRICE_POINT,
    reasons.CLIPPED_STEP,
    reasons.EXPLORE,
)
ROUNDING = 1e-6
COMPARISONS = {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}  # of annotated_types


def values(ctx: GuardContext) -> Finding:
    """Every price is a positive number, and every row is of the unit that its key names."""
    allowed = "positive, finite prices; keys that agree with their columns"
    if missing := missing_columns(ctx.table):
        return Finding(
            VALUES,
            False,
            f"the table lacks {len(missing)} column{'s' * (len(missing) != 1)}:"
            f" {', '.join(missing)}",
            "every column of a price table",
        )
    problems = _problems(ctx)
    broken = np.zeros(ctx.table.num_rows, dtype=np.bool_)
    first = np.full(ctx.table.num_rows, "", dtype=object)
    for words, rows in problems.items():
        first[rows & ~broken] = words
        broken |= rows
    counts = [f"{words}: {int(rows.sum()):,}" for words, rows in problems.items() if rows.any()]
    return row_finding(
        VALUES,
        ctx.table,
        broken,
        "; ".join(counts) or "every row is whole",
        allowed,
        lambda row: str(first[row]),
    )


def today(ctx: GuardContext) -> Finding:
    """`current_price` is the last posted price: a step from another price is no step."""
    allowed = "the last posted price; where sales are not recorded, a price of the active table"
    current = floats(ctx.table, "current_price")
    posted = _posted(ctx)
    if posted is not None:
        known = np.isfinite(posted)
        broken = known & ~(np.abs(current - posted) <= PAID_TOLERANCE * posted)
        words = (
            f"of {int(known.sum()):,} units with sales, another price of today than was posted:"
            f" {int(broken.sum()):,}"
        )
        return row_finding(
            TODAY,
            ctx.table,
            broken,
            words,
            allowed,
            lambda row: f"{current[row]:g}, and {posted[row]:g} was posted last",
        )
    if ctx.active is None:
        return Finding(TODAY, True, "neither sales nor an active table to compare with", allowed)
    row = match_rows(ctx.table, ctx.active)
    asked, before = (
        np.append(floats(ctx.active, name), np.nan)[row] for name in ("price", "current_price")
    )
    near = (np.abs(current - asked) <= PAID_TOLERANCE * asked) | (
        np.abs(current - before) <= PAID_TOLERANCE * before
    )
    broken = (row >= 0) & ~near
    words = (
        "units whose price of today is neither the active table's price nor the one before:"
        f" {int(broken.sum()):,}"
    )
    return row_finding(
        TODAY,
        ctx.table,
        broken,
        words,
        allowed,
        lambda at: f"{current[at]:g}, and charging asks {asked[at]:g}",
    )


def _problems(ctx: GuardContext) -> dict[str, Bools]:
    """Return the problems, each with the mask of its rows."""
    return (
        _number_problems(ctx)
        | _identity_problems(ctx)
        | _several_values(ctx)
        | _contract_problems(ctx.table)
        | _out_of_order(ctx.table)
        | _reason_problems(ctx.table)
    )


def _number_problems(ctx: GuardContext) -> dict[str, Bools]:
    """Return columns of numbers with other values."""
    problems = {
        "its kind is neither bundle nor voice": ~(
            is_voice(ctx.table) | is_text(ctx.table, "kind", "bundle")
        )
    }
    for name, positive in (
        ("price", True),
        ("current_price", True),
        ("champion_price", False),
        ("unit_cost", False),
        ("expected_volume", False),
    ):
        numbers = floats(ctx.table, name)
        sound = np.isfinite(numbers) & ((numbers > 0) if positive else (numbers >= 0))
        problems[f"{name} is no {'positive ' if positive else ''}number"] = ~sound
    for name in (
        "elasticity",
        "se",
        "expected_volume_delta",
        "expected_revenue_delta",
        "expected_margin_delta",
    ):
        problems[f"{name} is no number"] = ~np.isfinite(floats(ctx.table, name))
    return problems


def _identity_problems(ctx: GuardContext) -> dict[str, Bools]:
    """Return rows whose unit, offering, hour, class or bound do not agree."""
    voice, hour = is_voice(ctx.table), floats(ctx.table, "hour")
    discount = floats(ctx.table, "discount_class")
    whole = (discount >= 0) & (discount <= MAX_DISCOUNT_POINTS) & (discount == np.round(discount))
    is_hour = (hour >= 0) & (hour <= 23) & (hour == np.round(hour))
    is_day = is_text(ctx.table, "day_type", "WEEKDAY") | is_text(ctx.table, "day_type", "WEEKEND")
    bound = {
        name: is_text(ctx.table, "constraint_bound", name) for name in (*VOICE_ONLY, *BUNDLE_ONLY)
    }
    offering = ctx.table["product_offering_id"]
    return {
        "its discount class is none of 0 to 95": (voice & ~whole)
        | (~voice & np.isfinite(discount)),
        "its discount class is that of another price": voice
        & whole
        & ~_as_its_class(ctx, discount),
        "its key names another unit": ~text_equals(ctx.table[KEY], _keys(ctx.table)),
        "it has no location or no offering": _missing(ctx.table, "location")
        | _missing(ctx.table, "product_offering_id"),
        "its hour or type of day is none": voice & ~(is_hour & is_day),
        "its bound is one of the other kind": (
            ~voice & np.any([bound[n] for n in VOICE_ONLY], axis=0)
        )
        | (voice & np.any([bound[n] for n in BUNDLE_ONLY], axis=0)),
        "its offering names another unit": ~text_equals(offering, _offerings(ctx.table)),
    }


def _several_values(ctx: GuardContext) -> dict[str, Bools]:
    """Return columns with one value for a table that differ, within it or from the release."""
    problems = {}
    for name in SINGLE_VALUED:
        column = ctx.table[name].combine_chunks()
        counts = pc.value_counts(column)
        if len(counts) > 1:
            usual = counts[int(np.argmax(counts.field("counts").to_numpy()))]["values"]
            same = (
                column.is_null()
                if not usual.is_valid
                else pc.fill_null(pc.equal(column, usual), False)
            )
            problems[f"{name} differs from that of other rows"] = ~_as_bools(same)
        if (wanted := ctx.release.get(name)) is not None:
            problems[f"{name} is not that of the release"] = ~_as_bools(
                pc.fill_null(pc.equal(column, wanted), False)
            )
    problems["status is not draft before the approval"] = ~is_text(
        ctx.table, "status", UNAPPROVED_STATUS
    )
    parent, version = floats(ctx.table, "parent_version"), floats(ctx.table, "table_version")
    problems["parent_version is no earlier version"] = np.isfinite(parent) & ~(
        (parent >= 1) & (parent < version)
    )
    return problems


def _reason_problems(table: pa.Table) -> dict[str, Bools]:
    """Return unknown reasons, and those that price, group or weeks of the row contradict."""
    code, bound = table["reason_code"], table["constraint_bound"]
    price, current = floats(table, "price"), floats(table, "current_price")
    trial, drawn = bools(table, "explore_flag"), np.isfinite(floats(table, "explore_draw"))
    is_code = {name: is_text(table, "reason_code", name) for name in CODES}
    held = np.any([rows for name, rows in is_code.items() if name.startswith("HOLD")], axis=0)
    other = (
        (held & (price != current))
        | (is_code[reasons.INCREASE] & ~(price > current))
        | (is_code[reasons.DECREASE] & ~(price < current))
    )
    whole_table = is_code[reasons.PORTFOLIO_LIMIT] | is_code[reasons.HOLD_PORTFOLIO]
    weeks = np.any([is_code[name] for name in NEED_WEEKS], axis=0)
    return {
        "its reason is no known code": _as_bools(pc.is_valid(code))
        & ~np.any(list(is_code.values()), axis=0),
        "its bound is no known code": _as_bools(pc.is_valid(bound))
        & ~np.any([is_text(table, "constraint_bound", name) for name in BOUNDS], axis=0),
        "its reason is that of another price": other,
        "its reason is the control group, and it is not in it": is_code[reasons.HOLD_CONTROL]
        & ~bools(table, "control_flag"),
        "its reason rests on weeks, and support_n is 0": weeks & ~(floats(table, "support_n") >= 1),
        "its reason, explore_flag and explore_draw do not agree": (
            is_code[reasons.EXPLORE] & ~trial
        )
        | (trial & ~is_code[reasons.EXPLORE] & ~whole_table)
        | (trial != drawn),
    }


def _as_bools(values: pa.Array | pa.ChunkedArray) -> Bools:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _contract_problems(table: pa.Table) -> dict[str, Bools]:
    """Return columns with values outside the contract: null, not finite, out of range or list."""
    problems = {}
    for name, declared in get_type_hints(PriceRow, include_extras=True).items():
        if name in JUDGED_SEPARATELY or name not in table.column_names:
            continue
        kinds = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
        [kind] = [one for one in kinds if one is not NoneType]
        empty = np.asarray(pc.is_null(table[name]).to_numpy(zero_copy_only=False), dtype=np.bool_)
        broken = ~empty & _breaks(table, name, kind)
        problems[f"{name} is no value that a price table may have"] = (
            broken if NoneType in kinds else broken | empty
        )
    return problems


def _breaks(table: pa.Table, name: str, kind: Any) -> Bools:
    base, *marks = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(base) is Literal:
        return np.asarray(
            ~np.any([is_text(table, name, text) for text in get_args(base)], axis=0), dtype=np.bool_
        )
    if base not in (int, float):
        return np.zeros(table.num_rows, dtype=np.bool_)
    numbers = floats(table, name)
    broken = ~np.isfinite(numbers)
    for mark in marks:
        for name_of_limit, holds in COMPARISONS.items():
            if hasattr(mark, name_of_limit):
                broken |= ~holds(numbers, getattr(mark, name_of_limit))
    return np.asarray(broken, dtype=np.bool_)


def _out_of_order(table: pa.Table) -> dict[str, Bools]:
    """Return intervals that do not contain their estimate, and volumes lost beyond the sales."""
    problems = {}
    for names in ORDERED:
        if set(names) <= set(table.column_names):
            least, middle, most = (floats(table, name) for name in names)
            slack = ROUNDING * (1.0 + np.abs(middle))
            problems[f"{names[1]} is outside its interval"] = (least > middle + slack) | (
                most < middle - slack
            )
    sold, change = floats(table, "expected_volume"), floats(table, "expected_volume_delta")
    problems["it loses more volume than is sold"] = sold + change < -ROUNDING * (1.0 + np.abs(sold))
    return problems


def _as_its_class(ctx: GuardContext, discount: Floats) -> Bools:
    """Return whether a held price is within half a point of its class, a moved one equal to it."""
    if ctx.catalogue is None:
        return np.ones(ctx.table.num_rows, dtype=np.bool_)
    full = catalogued(ctx.table, ctx.catalogue, "list_price")
    off = np.abs(100.0 * (1.0 - floats(ctx.table, "price") / full) - discount)
    return np.asarray(~np.isfinite(full) | (off <= HALF_POINT))


def _keys(table: pa.Table) -> pa.Array:
    """Return the keys from the rows' own columns."""
    bundle = pc.binary_join_element_wise(
        *(table[name].cast(pa.string()) for name in ("segment", "location", "product")), "/"
    )
    hour = pc.utf8_lpad(table["hour"].cast(pa.string()), 2, "0")
    voice = pc.binary_join_element_wise(
        table["cell"].cast(pa.string()), hour, table["day_type"].cast(pa.string()), "/"
    )
    return pc.if_else(pa.array(is_voice(table)), voice, bundle)


def _offerings(table: pa.Table) -> pa.Array:
    """Return the offerings from the rows' own columns: a cell's offering includes all its hours."""
    product, cell = table["product"].cast(pa.string()), table["cell"].cast(pa.string())
    whom = pc.binary_join_element_wise(
        table["segment"].cast(pa.string()), table["location"].cast(pa.string()), "/"
    )
    return pc.binary_join_element_wise(
        product, pc.if_else(pa.array(is_voice(table)), cell, whom), "@"
    )


def _missing(table: pa.Table, name: str) -> Bools:
    return np.asarray(
        pc.is_null(table[name]).to_numpy(zero_copy_only=False) | is_text(table, name, ""),
        dtype=np.bool_,
    )


def _posted(ctx: GuardContext) -> Floats | None:
    """Return the last posted price, in money; NaN for an unsold unit, None without sales."""
    if ctx.sold is None:
        return None
    posted = np.append(floats(ctx.sold, "posted"), np.nan)[match_rows(ctx.table, ctx.sold)]
    full = np.nan if ctx.catalogue is None else catalogued(ctx.table, ctx.catalogue, "list_price")
    return np.where(is_voice(ctx.table), posted * full, posted)
