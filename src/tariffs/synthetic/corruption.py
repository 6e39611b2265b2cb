"""Dirt as in an operator's export, with a ledger of it: row, kind, expected treatment.

REPAIR     the value is corrected, the row stays        REJECT     the row is rejected with a reason
DEDUPE     kept once                                    SUPERSEDE  replaced by a later load
KEEP       unusual and correct                          SET_ASIDE  left out by the estimator only
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.synthetic.bundles import LIST_PRICE, Block
from tariffs.synthetic.calendar import Stream, rng_for
from tariffs.synthetic.sizes import FORMER_NAMES

SHARE = 0.001  # of the rows, for each kind of row; of the units, for each kind of unit
RESTATED_ID, CONFLICT_ID = 600_000, 700_000  # added to row ids: within the block's range
SATURATED = 2_147_483_647
LOOK_ALIKES = {"A": "\u0410", "E": "\u0415", "K": "\u039a", "M": "\u039c", "O": "\u041e"}
RIGHT_TO_LEFT, NO_BREAK_HYPHEN = "\u200f", "\u2011"

LEDGER = pa.schema(
    [
        ("source", pa.string()),
        ("row_id", pa.int64()),
        ("key", pa.string()),
        ("kind", pa.string()),
        ("policy", pa.string()),
    ]
)
NO_LEDGER = LEDGER.empty_table()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of dirty rows: `corrupt` changes the picked rows, `extra` makes rows to append."""

    name: str
    policy: str
    corrupt: Callable[[pa.Table], pa.Table] | None = None
    extra: Callable[[pa.Table], pa.Table] | None = None


@dataclass(frozen=True, slots=True)
class UnitKind:
    """A kind of dirty units.

    corrupt  changes a unit's weeks, given in order, with its true elasticity
    whole    the ledger has all rows that are left, not only the changed ones
    only     this product's units
    """

    name: str
    policy: str
    corrupt: Callable[[pa.Table, float], pa.Table]
    whole: bool = False
    only: str = ""


def textual(sales: pa.Table) -> pa.Table:
    """Return prices, weeks and timestamps as text, as a spreadsheet exports them."""
    for name in ("price", "week", "loaded_at"):
        sales = _set(sales, name, _as_text(sales[name]))
    return sales


def corrupt(made: Block, seed: int, block: int) -> tuple[pa.Table, pa.Table]:
    """Return the block's sales with every kind of dirt, at most one in a row, and the ledger."""
    clean, rng = textual(made.sales), rng_for(seed, Stream.DIRT, block)
    untouched = np.ones(len(clean), dtype=bool)
    parts, ledger = [], []
    for unit_kind, first, last, beta in _units(made, rng):
        weeks = clean.slice(first, last - first)
        spoilt = unit_kind.corrupt(weeks, beta)
        parts.append(spoilt)
        ledger.append(
            _ledger(
                unit_kind,
                spoilt["row_id"].to_numpy() if unit_kind.whole else _changed(weeks, spoilt),
            )
        )
        untouched[first:last] = False
    each = max(1, round(SHARE * len(clean)))
    picked = rng.permutation(np.flatnonzero(untouched))[: each * len(KINDS)].reshape(len(KINDS), -1)
    for kind, rows in zip(KINDS, picked, strict=True):
        chosen = clean.take(pa.array(np.sort(rows)))
        spoilt = kind.corrupt(chosen) if kind.corrupt else chosen
        parts += [spoilt, kind.extra(chosen)] if kind.extra else [spoilt]
        ledger.append(
            _ledger(kind, chosen["row_id"].to_numpy() if kind.extra else _changed(chosen, spoilt))
        )
        untouched[rows] = False
    parts.append(clean.filter(pa.array(untouched)))
    soiled = pa.concat_tables([part.select(clean.column_names) for part in parts])
    order = pc.sort_indices(soiled, [("row_id", "ascending")])
    return soiled.take(order), pa.concat_tables(ledger)


def ledger_of_keys(source: str, keys: list[str], kind: str, policy: str) -> pa.Table:
    """Return ledger entries for rows without an id, by their key."""
    return pa.table(
        [[source] * len(keys), [None] * len(keys), keys, [kind] * len(keys), [policy] * len(keys)],
        schema=LEDGER,
    )


def _units(made: Block, rng: np.random.Generator) -> list[tuple[UnitKind, int, int, float]]:
    """Return units for each kind of unit: their rows, and their elasticity."""
    beta, products = made.truth["beta"].to_numpy(), np.array(made.truth["product"].to_pylist())
    weeks, each = len(made.sales) // len(beta), max(1, round(SHARE * len(beta)))
    free = np.ones(len(beta), dtype=bool)
    found = []
    for kind in UNIT_KINDS:
        there = (
            np.flatnonzero(free & (products == kind.only)) if kind.only else np.flatnonzero(free)
        )
        for unit in rng.permutation(there)[:each]:
            free[unit] = False
            found.append((kind, int(unit) * weeks, int(unit + 1) * weeks, float(beta[unit])))
    return found


def _changed(before: pa.Table, after: pa.Table) -> np.ndarray:
    """Return the ids of the rows that changed; some dirt has no effect on some values."""
    same = np.ones(len(before), dtype=bool)
    for name in before.column_names:
        same &= pc.fill_null(pc.equal(before[name], after[name]), False).to_numpy()
    return np.asarray(before["row_id"].to_numpy()[~same])


def _ledger(kind: Kind | UnitKind, row_ids: np.ndarray) -> pa.Table:
    count = len(row_ids)
    return pa.table(
        [
            ["bundle_sales"] * count,
            row_ids,
            [None] * count,
            [kind.name] * count,
            [kind.policy] * count,
        ],
        schema=LEDGER,
    )


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _as_text(values: pa.ChunkedArray) -> pa.Array:
    return (
        pc.strftime(pc.cast(values, pa.timestamp("s")))
        if pa.types.is_timestamp(values.type)
        else pc.cast(values, pa.string())
    )


# rows


def _constant(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: _set(
        rows, name, pa.array([value] * len(rows), rows.schema.field(name).type)
    )


def _mapped(
    name: str, change: Callable[[pa.ChunkedArray], pa.Array]
) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: _set(rows, name, pc.cast(change(rows[name]), rows.schema.field(name).type))


def _cents(price: pa.ChunkedArray) -> pa.Array:
    return pc.round(pc.multiply(pc.cast(price, pa.float64()), 100.0), 2)


def _stray_blanks(name: pa.ChunkedArray) -> pa.Array:
    return pc.binary_join_element_wise("  ", pc.utf8_lower(name), " ", "")


def _look_alikes(name: pa.ChunkedArray) -> pa.Array:
    for latin, other in LOOK_ALIKES.items():
        name = pc.replace_substring(name, latin, other)
    return name


def _hidden_marks(name: pa.ChunkedArray) -> pa.Array:
    return pc.binary_join_element_wise("\ufeff", name, RIGHT_TO_LEFT, "")


def _without_zeros(name: pa.ChunkedArray) -> pa.Array:
    return pc.replace_substring_regex(name, r"^LOC_0+(\d)", r"LOC_\1")


def _days(text: pa.ChunkedArray, count: int) -> pa.Array:
    day = pc.cast(text, pa.date32())
    return pc.cast(
        pc.cast(pc.cast(pc.add(pc.cast(day, pa.int32()), count), pa.int32()), pa.date32()),
        pa.string(),
    )


def _abroad(stamp: pa.ChunkedArray) -> pa.Array:
    """Return the same time on a clock two hours ahead."""
    return pc.binary_join_element_wise(_later(stamp, 7_200), "+02:00", "")


def _later(stamp: pa.ChunkedArray, seconds: int) -> pa.Array:
    return _as_text(pc.add(pc.cast(stamp, pa.timestamp("s")), pa.scalar(seconds, pa.duration("s"))))


def _again(rows: pa.Table, loaded_later: bool, id_step: int) -> pa.Table:
    """Return the same weeks with other sales, loaded at the same time or a week later."""
    other = _set(rows, "units", pc.add(rows["units"], 1))
    later = _later(rows["loaded_at"], 7 * 86_400 * loaded_later)
    return _set(_set(other, "loaded_at", later), "row_id", pc.add(rows["row_id"], id_step))


KINDS = (
    Kind("null_price", "REJECT", corrupt=_constant("price", None)),
    Kind("null_units", "REJECT", corrupt=_constant("units", None)),
    Kind(
        "negative_units", "REJECT", corrupt=_mapped("units", lambda units: pc.subtract(-1, units))
    ),
    Kind("full_counter", "REJECT", corrupt=_constant("units", SATURATED)),
    Kind("zero_price", "REJECT", corrupt=_constant("price", "0.0")),
    Kind("free_units", "REJECT", corrupt=_constant("price", "FREE")),
    Kind("price_beyond_all", "REJECT", corrupt=_constant("price", "99999999.0")),
    Kind("invalid_week", "REJECT", corrupt=_constant("week", "2026-02-30")),
    Kind("future_week", "REJECT", corrupt=_constant("week", "2031-01-05")),
    Kind("unknown_product", "REJECT", corrupt=_constant("product", "DAY_9999")),
    Kind("unknown_location", "REJECT", corrupt=_constant("location", "LOC_NOWHERE")),
    Kind("test_sim", "REJECT", corrupt=_constant("segment", "TEST_SIM")),
    Kind(
        "conflicting_copy",
        "REJECT",
        extra=lambda rows: _again(rows, loaded_later=False, id_step=CONFLICT_ID),
    ),
    Kind(
        "restated",
        "SUPERSEDE",
        extra=lambda rows: _again(rows, loaded_later=True, id_step=RESTATED_ID),
    ),
    Kind("exact_copy", "DEDUPE", extra=lambda rows: rows),
    Kind("untidy_segment", "REPAIR", corrupt=_mapped("segment", _stray_blanks)),
    Kind("untidy_product", "REPAIR", corrupt=_mapped("product", _stray_blanks)),
    Kind("look_alike_letters", "REPAIR", corrupt=_mapped("product", _look_alikes)),
    Kind("hidden_marks", "REPAIR", corrupt=_mapped("segment", _hidden_marks)),
    Kind(
        "no_break_hyphen",
        "REPAIR",
        corrupt=_mapped("product", lambda name: pc.replace_substring(name, "_", NO_BREAK_HYPHEN)),
    ),
    Kind(
        "apostrophe",
        "REPAIR",
        corrupt=_mapped("location", lambda name: pc.binary_join_element_wise("'", name, "")),
    ),
    Kind("no_leading_zeros", "REPAIR", corrupt=_mapped("location", _without_zeros)),
    Kind(
        "currency_text",
        "REPAIR",
        corrupt=_mapped("price", lambda price: pc.binary_join_element_wise("GHS", price, " ")),
    ),
    Kind(
        "decimal_comma",
        "REPAIR",
        corrupt=_mapped("price", lambda price: pc.replace_substring(price, ".", ",")),
    ),
    Kind("price_in_pesewas", "REPAIR", corrupt=_mapped("price", _cents)),
    Kind("week_by_its_monday", "REPAIR", corrupt=_mapped("week", lambda week: _days(week, -6))),
    Kind("stamp_with_a_zone", "KEEP", corrupt=_mapped("loaded_at", _abroad)),
    Kind(
        "spike",
        "SET_ASIDE",
        corrupt=_mapped("units", lambda units: pc.add(pc.multiply(units, 100), 1000)),
    ),
)


# units


def _earlier(weeks: pa.Table, name: str, change: Callable[[str], str]) -> pa.Table:
    """Return another value in the first half of a unit's weeks."""
    values, half = weeks[name].to_pylist(), len(weeks) // 2
    return _set(
        weeks,
        name,
        pa.array(
            [change(value) if at < half else value for at, value in enumerate(values)], pa.string()
        ),
    )


def _repriced(weeks: pa.Table, ratio: np.ndarray, beta: float) -> pa.Table:
    """Return other prices, in shares of the reference price (weeks,), with plausible sales."""
    reference = LIST_PRICE[
        np.argmin(np.abs(np.median(weeks["list_price"].to_numpy()) / LIST_PRICE - 1))
    ]
    paid = np.round(reference * ratio, 4)
    before = weeks["price"].cast(pa.float64()).to_numpy()
    units = np.rint(weeks["units"].to_numpy() * np.exp(beta * (paid - before) / reference)).astype(
        np.int64
    )
    weeks = _set(
        _set(weeks, "price", pc.cast(pa.array(paid), pa.string())), "units", pa.array(units)
    )
    return _set(
        _set(weeks, "list_price", pa.array(paid)), "explore_eps", pa.array(np.zeros(len(weeks)))
    )


def _mid_week(weeks: pa.Table, beta: float) -> pa.Table:
    """Return prices that change within a week: means of two prices, on no price point."""
    paid = weeks["price"].cast(pa.float64()).to_numpy()
    blended = np.where(np.arange(len(paid)) % 4 == 3, (paid + np.roll(paid, 1)) / 2 + 0.0013, paid)
    mixed = np.rint(
        weeks["units"].to_numpy() * np.exp(beta * (blended - paid) / weeks["list_price"].to_numpy())
    ).astype(np.int64)
    return _set(
        _set(weeks, "price", pc.cast(pa.array(np.round(blended, 4)), pa.string())),
        "units",
        pa.array(mixed),
    )


def _renamed(name: str, former: str) -> UnitKind:
    return UnitKind(
        f"renamed_{name.lower()}",
        "REPAIR",
        lambda weeks, _: _earlier(weeks, "product", lambda _: former),
        only=name,
    )


UNIT_KINDS = (
    UnitKind("one_week_only", "KEEP", lambda weeks, _: weeks.slice(len(weeks) - 1), whole=True),
    UnitKind("never_sold", "KEEP", lambda weeks, _: _constant("units", 0)(weeks), whole=True),
    UnitKind(
        "one_price",
        "KEEP",
        lambda weeks, beta: _repriced(weeks, np.ones(len(weeks)), beta),
        whole=True,
    ),
    UnitKind(
        "price_like_time",
        "KEEP",
        lambda weeks, beta: _repriced(weeks, 0.8 + 0.4 * np.arange(len(weeks)) / len(weeks), beta),
        whole=True,
    ),
    UnitKind("change_within_a_week", "KEEP", _mid_week),
    UnitKind(
        "location_was_split", "KEEP", lambda weeks, _: weeks.slice(len(weeks) // 2), whole=True
    ),
    UnitKind(
        "location_was_merged",
        "REJECT",
        lambda weeks, _: _earlier(weeks, "location", lambda name: name.replace("LOC_", "OLD_")),
    ),
    *(_renamed(name, former) for name, former in FORMER_NAMES.items()),
)
