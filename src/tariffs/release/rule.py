"""The rule table: prices without the model, and the steps towards them.

The prices are the release's own `champion_price`, for the same units and times, with two
exceptions. A control unit keeps its price.  And where the rule would make voice free (an empty
cell), the largest discount of the billing system is used: charging has no class for a free minute.

The rule's prices may be far from the present ones: `step_to_rule` goes as far as one step may,
within the guards' limits: no bundle beyond its step, no discount beyond its points, no jump between
neighbouring hours beyond the cliff (or today's, if that is steeper), and no more changed prices at
once than allowed; then locations take turns.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from tariffs.contracts import MODEL_COLUMNS
from tariffs.release.guards.context import Limits
from tariffs.release.tables import MONEY_DIGITS, Floats, bools, floats, is_voice, tariff

REASON = "FALLBACK_RULE"
MAX_RULE_DISCOUNT = 95  # percent: the last discount class
TICKS = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
DUST = 1e-9
HOURS = 24


def step_to_rule(table: pa.Table, limits: Limits, version: int) -> tuple[pa.Table, bool]:
    """Return the prices one step nearer to the rule's, and whether that is the last useful step."""
    wanted, _ = _prices(table)
    price = _one_step(table, floats(table, "price"), wanted, limits, version)
    further = _one_step(table, price, wanted, limits, version)
    full, voice = tariff(table), is_voice(table)
    discount = np.where(voice, np.round(100.0 * (1.0 - price / np.where(voice, full, 1.0))), 0.0)
    return _repriced(table, price, discount, "rule", REASON), bool(
        np.all(np.abs(further - price) < DUST)
    )


def frozen_table(table: pa.Table) -> pa.Table:
    """Return the same prices and discounts, without the columns of the model."""
    return _repriced(
        table,
        floats(table, "price"),
        np.nan_to_num(floats(table, "discount_class")),
        "unchanged",
        "HOLD_UNCHANGED",
    )


def _one_step(
    table: pa.Table, price: Floats, wanted: Floats, limits: Limits, version: int
) -> Floats:
    """Return the prices after one step; shape (rows,)."""
    voice, held = is_voice(table), bools(table, "control_flag")
    new = np.where(
        voice, _hours(table, price, wanted, limits), _sizes(table, price, wanted, limits)
    )
    new = np.where(held | ~np.isfinite(new), price, np.round(new, MONEY_DIGITS))
    moved = np.abs(new - price) > DUST
    most = int(limits.share_changed * len(price))
    if moved.sum() <= most:
        return np.asarray(new)
    names, number = np.unique(
        np.asarray(table["location"].to_pylist(), dtype=object).astype(str), return_inverse=True
    )
    turn = sorted(
        range(len(names)), key=lambda n: hashlib.sha256(f"{version}/{names[n]}".encode()).digest()
    )
    counts = np.bincount(number, moved, len(names))[turn]
    first = np.zeros(len(names), dtype=np.bool_)
    first[np.array(turn)[np.cumsum(counts) <= most]] = True
    if not first.any():
        return np.asarray(new)  # a single location exceeds the share that may change
    return np.where(first[number], new, price)


def _sizes(table: pa.Table, price: Floats, wanted: Floats, limits: Limits) -> Floats:
    """Return bundle prices within the step, on a price point; the order of sizes is kept."""
    reached = np.clip(
        wanted, price * (1.0 - limits.bundle_step), price * (1.0 + limits.bundle_step)
    )
    tick = _tick_sizes(table)
    snapped = (
        np.where(reached < price, np.ceil(reached / tick - DUST), np.floor(reached / tick + DUST))
        * tick
    )
    there = np.abs(reached - wanted) < DUST
    return np.asarray(
        np.where(there, wanted, np.where((snapped - price) * (wanted - price) > 0, snapped, price))
    )


def _tick_sizes(table: pa.Table) -> Floats:
    """Return the widest tick of which all prices of a product are multiples; shape (rows,)."""
    products = np.asarray(table["product"].to_pylist(), dtype=object).astype(str)
    tick = np.full(table.num_rows, TICKS[-1])
    for product in np.unique(products):
        rows = products == product
        prices = np.concatenate(
            [floats(table, name)[rows] for name in ("price", "current_price", "champion_price")]
        )
        fits = [t for t in TICKS if np.all(np.abs(prices / t - np.round(prices / t)) * t < 1e-6)]
        tick[rows] = fits[0] if fits else TICKS[-1]
    return tick


def _hours(table: pa.Table, price: Floats, wanted: Floats, limits: Limits) -> Floats:
    """Return voice prices within the points and without new cliffs; NaN elsewhere.

    The discounts d of a day are a ring.  Those that keep every jump |d_h - d_h+1| <= L_h and exceed
    no wanted discount are min over k of (wanted_k + the sum of L on the way from k to h): the lower
    envelope.  Today's discounts keep these limits (L is at least today's jump), so the envelope is
    within the step of them too.  A control hour stays: the wanted discounts are cut to permit it.
    """
    voice = np.flatnonzero(is_voice(table))
    out = np.full(table.num_rows, np.nan)
    if not len(voice):
        return out
    rows = table.take(pa.array(voice))
    full, held = tariff(rows), bools(rows, "control_flag")
    now = np.round(100.0 * (1.0 - price[voice] / full), 6)
    then = np.clip(
        np.round(100.0 * (1.0 - wanted[voice] / full), 6),
        now - limits.voice_step,
        now + limits.voice_step,
    )
    then = np.where(held, now, then)
    day = [
        f"{cell}/{kind}"
        for cell, kind in zip(rows["cell"].to_pylist(), rows["day_type"].to_pylist(), strict=True)
    ]
    days, ring = np.unique(day, return_inverse=True)
    hour = np.asarray(rows["hour"].to_pylist(), dtype=np.int64)
    shape = (len(days), HOURS)

    def laid(values: Floats, missing: float) -> Floats:
        made = np.full(shape, missing)
        made[ring, hour] = values
        return made

    today = laid(now, np.nan)
    jump = np.maximum(np.abs(today - np.roll(today, -1, axis=1)), limits.voice_cliff)
    edge = np.where(np.isfinite(jump), jump, np.inf)
    ceiling = _envelope(laid(np.where(held, now, np.inf), np.inf), edge)
    floor = -_envelope(laid(np.where(held, -now, np.inf), np.inf), edge)
    reached = _envelope(np.clip(laid(then, np.inf), floor, ceiling), edge)[ring, hour]
    grid = 5.0 if np.all(np.abs(now / 5.0 - np.round(now / 5.0)) < 1e-6) else 1.0
    class_ = np.floor(reached / grid + 1e-6) * grid
    out[voice] = np.where(
        np.abs(class_ - now) < 1e-6,
        price[voice],
        np.round(full * (1.0 - class_ / 100.0), MONEY_DIGITS),
    )
    return out


def _envelope(values: Floats, edge: Floats) -> Floats:
    """Return the least value at each hour reachable from any other, around the ring.

    values  shape (days, 24);  edge  from each hour to the next
    """
    for _ in range(HOURS // 2 + 1):
        before, after = np.roll(values + edge, 1, axis=1), np.roll(values, -1, axis=1) + edge
        values = np.minimum(values, np.minimum(before, after))
    return values


def rule_table(table: pa.Table) -> pa.Table:
    """Return the same columns, types and rows, at the rule's prices; model columns are null."""
    return _repriced(table, *_prices(table), "rule", REASON)


def _repriced(
    table: pa.Table, price: Floats, discount: Floats, model: str, reason: str
) -> pa.Table:
    """Return the same rows at these prices, with the model's columns null."""
    new = {
        "price": pa.array(price, pa.float64()),
        "discount_class": pa.array(
            np.where(is_voice(table), discount, 0).astype(np.int64),
            pa.int64(),
            mask=~is_voice(table),
        ),
        "status": pa.array(
            ["approved"] * table.num_rows, pa.string()
        ),  # the status of the release whose prices they replace
        "model_version": pa.array([model] * table.num_rows, pa.string()),
        "reason_code": pa.array([reason] * table.num_rows, pa.string()),
    }
    columns = [_column(table, field, new) for field in table.schema]
    return pa.table(columns, schema=table.schema)


def _prices(table: pa.Table) -> tuple[Floats, Floats]:
    """Return price and discount class of each unit; the class is 0 for a bundle."""
    champion, current, full, voice = (
        floats(table, "champion_price"),
        floats(table, "current_price"),
        tariff(table),
        is_voice(table),
    )
    price = np.where(bools(table, "control_flag"), current, champion)
    discount = np.where(voice, np.round(100.0 * (1.0 - price / np.where(voice, full, 1.0))), 0.0)
    free = voice & (discount > MAX_RULE_DISCOUNT)
    discount = np.where(free, MAX_RULE_DISCOUNT, discount)
    return np.where(
        free, np.round(full * (1.0 - MAX_RULE_DISCOUNT / 100.0), MONEY_DIGITS), price
    ), discount


def _column(table: pa.Table, field: pa.Field, new: dict[str, pa.Array]) -> pa.Array:
    if field.name in new:
        return new[field.name].cast(field.type)
    return (
        pa.nulls(table.num_rows, field.type) if field.name in MODEL_COLUMNS else table[field.name]
    )
