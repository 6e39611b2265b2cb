"""Dirt of the other tables.

Discounts in percent, hours that summer time duplicates or skips, missing capacities, names of
places in other forms of Unicode, and files as Windows writes them.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.synthetic.calendar import Stream, rng_for
from tariffs.synthetic.corruption import RIGHT_TO_LEFT, SHARE, ledger_of_keys
from tariffs.synthetic.voice import VoiceBlock

CLOCKS_FORWARD, CLOCKS_BACK = (
    "2026-03-29",
    "2026-04-05",
)  # weeks without, and with two, hours from 2 to 3 on Sunday, in some country
NIGHT_HOUR = 2
BOM = b"\xef\xbb\xbf"


def corrupt_voice(made: VoiceBlock, seed: int, block: int) -> tuple[VoiceBlock, pa.Table]:
    """Return a block of cells with its dirt, and the ledger of it."""
    rng = rng_for(seed, Stream.VOICE_DIRT, block)
    usage, percent = _percent(made.usage, rng)
    cell_names = pc.unique(made.cells["cell"]).to_pylist()
    back, forward, empty, zero = (
        cell_names[i % len(cell_names)] for i in rng.permutation(max(len(cell_names), 4))[:4]
    )
    usage, clocks = _summer_time(usage, back, forward)
    cells, rooms = _capacities(made.cells, empty, zero, int(rng.integers(0, 24)))
    return replace(made, usage=usage, cells=cells), pa.concat_tables([percent, *clocks, *rooms])


def usage_keys(rows: pa.Table) -> list[str]:
    """Return the ledger's keys of rows of voice_usage: cell/hour/day type/week."""
    return [
        f"{r['cell']}/{r['hour']}/{r['day_type']}/{r['week']}"
        for r in rows.select(["cell", "hour", "day_type", "week"]).to_pylist()
    ]


def _percent(usage: pa.Table, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """Return some rows with discounts from 0 to 100 instead of 0 to 1."""
    deep = np.flatnonzero(usage["discount"].to_numpy() > 0)
    rows = np.sort(rng.permutation(deep)[: max(1, round(SHARE * len(usage)))])
    for name in ("discount", "posted_discount"):
        values = usage[name].to_numpy().copy()
        values[rows] = np.round(100 * values[rows])
        usage = _with(usage, name, pa.array(values))
    return usage, ledger_of_keys(
        "voice_usage", usage_keys(usage.take(pa.array(rows))), "percent_discount", "REPAIR"
    )


def _summer_time(usage: pa.Table, back: str, forward: str) -> tuple[pa.Table, list[pa.Table]]:
    """Return rows with the changes of clocks.

    Back: two rows for one hour, which nothing distinguishes; forward: none.
    """
    night = pc.and_(pc.equal(usage["hour"], NIGHT_HOUR), pc.equal(usage["day_type"], "WEEKEND"))
    week = pc.cast(usage["week"], pa.string())
    twice = usage.filter(
        pc.and_(pc.and_(night, pc.equal(week, CLOCKS_BACK)), pc.equal(usage["cell"], back))
    )
    never = pc.and_(
        pc.and_(night, pc.equal(week, CLOCKS_FORWARD)), pc.equal(usage["cell"], forward)
    )
    ledger = [
        ledger_of_keys("voice_usage", usage_keys(twice) * 2, "hour_twice", "REJECT"),
        ledger_of_keys("voice_usage", usage_keys(usage.filter(never)), "hour_left_out", "KEEP"),
    ]
    other = _with(
        twice, "minutes", pc.abs(pc.subtract(twice["minutes"], 1))
    )  # another number, within the cell's capacity
    return pa.concat_tables([usage.filter(pc.invert(never)), other]), ledger


def _capacities(
    cells: pa.Table, empty: str, zero: str, hour: int
) -> tuple[pa.Table, list[pa.Table]]:
    """Remove the capacity of one hour of a cell, and set one of another cell to 0."""
    at_hour = pc.equal(cells["hour"], hour)
    missing, nought = (pc.and_(at_hour, pc.equal(cells["cell"], cell)) for cell in (empty, zero))
    kept = pc.if_else(
        missing, pa.scalar(None, pa.float64()), pc.if_else(nought, 0.0, cells["capacity_minutes"])
    )
    entries = [(empty, "capacity_missing"), (zero, "capacity_zero")]
    ledger = [
        ledger_of_keys("cell_load", [f"{cell}/{hour}"], kind, "REPAIR") for cell, kind in entries
    ]
    return _with(cells, "capacity_minutes", kept), ledger


def corrupt_locations(locations: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return names in decomposed form, and with a mark of direction at the end."""
    names, codes = locations["name"].to_pylist(), locations["location"].to_pylist()
    taken_apart = {
        i: unicodedata.normalize("NFD", name)
        for i, name in enumerate(names)
        if i % 3 == 0 and not name.isascii()
    }
    marked = {
        i: name + RIGHT_TO_LEFT
        for i, name in enumerate(names)
        if i % 10 == 5 and i not in taken_apart
    }
    spoilt = pa.array([(taken_apart | marked).get(i, name) for i, name in enumerate(names)])
    ledger = [
        ledger_of_keys("locations", [codes[i] for i in rows], kind, "REPAIR")
        for kind, rows in (("name_taken_apart", taken_apart), ("name_with_marks", marked))
    ]
    return _with(locations, "name", spoilt), pa.concat_tables(ledger)


def as_windows_writes(text: bytes) -> bytes:
    """Return a CSV file with a byte-order mark, and CR LF at the end of each line."""
    return BOM + text.replace(b"\n", b"\r\n")


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)
