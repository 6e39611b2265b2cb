"""From blocks to files, with one block in memory at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tariffs.synthetic import bundles, voice
from tariffs.synthetic.calendar import weeks
from tariffs.synthetic.corruption import NO_LEDGER, corrupt
from tariffs.synthetic.corruption_voice import as_windows_writes, corrupt_locations, corrupt_voice
from tariffs.synthetic.scenarios import OFF, Switches
from tariffs.synthetic.sizes import (
    BUNDLES,
    CEILING_SHARE,
    COST_PER_MB,
    FLOOR_SHARE,
    REGIONS,
    SEGMENTS,
    SIZES,
    VOICE_COST,
    VOICE_PRODUCT,
    VOICE_TARIFF,
    Format,
    Size,
)

BLOCKS_PER_FILE = 64
SOURCES = ("bundle_sales", "voice_usage", "cell_load", "product_catalog", "locations", "policy")


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of each source, in the order of their names, and the folder of the truth."""

    sources: dict[str, list[Path]]
    truth: Path


def generate(
    size: str | Size,
    out: Path | str,
    seed: int = 7,
    dirt: bool = True,
    switches: Switches = OFF,
    workers: int = 1,
) -> Paths:
    """Write the tables of a size under `out`, and the truth under `out/truth`.

    size     'demo', 'medium', 'large', or a `Size`
    workers  processes; files consist of independent blocks, so the bytes do not depend on it
    """
    what, root = SIZES[size] if isinstance(size, str) else size, Path(out)
    recipe, truth = _Recipe(what, seed, dirt, switches), root / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    with _executor(workers) as each, _Parquet(truth / "dirt.parquet") as ledger:
        ledger.add(NO_LEDGER)
        sources = {
            "bundle_sales": _write_bundles(recipe, root, truth, each, ledger),
            "voice_usage": _write_voice(recipe, root, truth, each, ledger),
            "cell_load": [root / "cell_load.parquet"],
            "product_catalog": [_write_csv(_catalog(), root / "product_catalog.csv")],
            "locations": [
                _write_locations(_locations(seed, what), root / "locations.csv", dirt, ledger)
            ],
            "policy": [_write_csv(_policy(), root / "policy.csv")],
        }
    _write_seasons(what, truth, seed)
    (truth / "switches.json").write_text(json.dumps(switches.facts(), indent=1) + "\n")
    return Paths(sources, truth)


Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]


@contextmanager
def _executor(workers: int) -> Iterator[Each]:
    """Yield a function that calls another in processes, in order, with a bounded queue."""
    if workers == 1:
        yield lambda work, tasks: (work(*task) for task in tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda work, tasks: _in_order(pool, work, tasks, 2 * workers)


def _in_order(
    pool: ProcessPoolExecutor,
    work: Callable[..., Any],
    tasks: Iterable[tuple[Any, ...]],
    ahead: int,
) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, *task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What determines the data: their size and seed, whether they are dirty, and the scenario."""

    size: Size
    seed: int
    dirty: bool
    switches: Switches


def _write_bundles(
    recipe: _Recipe, root: Path, truth: Path, each: Each, ledger: _Parquet
) -> list[Path]:
    size, folder = recipe.size, root / "bundle_sales"
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, bundles.blocks(size), BLOCKS_PER_FILE)
    files = [
        folder / f"part-{first // BLOCKS_PER_FILE:04d}.{size.sales_format}" for first in firsts
    ]
    tasks = (
        (recipe, range(first, min(first + BLOCKS_PER_FILE, bundles.blocks(size))), file)
        for first, file in zip(firsts, files, strict=True)
    )
    with _Parquet(truth / "bundles.parquet") as units:
        for known, entries in each(_write_part, tasks):
            for table in known:
                units.add(table)
            for table in entries:
                ledger.add(table)
    return files


def _write_part(recipe: _Recipe, which: range, file: Path) -> tuple[list[pa.Table], list[pa.Table]]:
    """Write one file of sales; return the truth of its blocks, and their dirt."""
    known: list[pa.Table] = []
    entries: list[pa.Table] = []
    _write(_bundle_tables(recipe, which, known, entries), file, recipe.size.sales_format)
    return known, entries


def _bundle_tables(
    recipe: _Recipe, which: Iterable[int], known: list[pa.Table], entries: list[pa.Table]
) -> Iterator[pa.Table]:
    for number in which:
        block = bundles.bundle_block(recipe.seed, recipe.size, number, recipe.switches)
        known.append(block.truth)
        sales, ledger = (
            corrupt(block, recipe.seed, number) if recipe.dirty else (block.sales, NO_LEDGER)
        )
        entries.append(ledger)
        yield sales


def _write_voice(
    recipe: _Recipe, root: Path, truth: Path, each: Each, ledger: _Parquet
) -> list[Path]:
    target = root / "voice_usage.parquet"
    files = {
        "usage": target,
        "cells": root / "cell_load.parquet",
        "truth": truth / "voice.parquet",
        "offered": truth / "voice_offered.parquet",
        "drawn": truth / "voice_shift.parquet",
    }
    with ExitStack() as stack:
        open_files = {name: stack.enter_context(_Parquet(path)) for name, path in files.items()}
        for block, entries in each(
            _voice_tables,
            ((recipe, number) for number in range(voice.blocks(recipe.size))),
        ):
            ledger.add(entries)
            for name, file in open_files.items():
                if (table := getattr(block, name)) is not None:
                    file.add(table)
    return [target]


def _voice_tables(recipe: _Recipe, number: int) -> tuple[voice.VoiceBlock, pa.Table]:
    block = voice.voice_block(recipe.seed, recipe.size, number, recipe.switches)
    return corrupt_voice(block, recipe.seed, number) if recipe.dirty else (block, NO_LEDGER)


def _write_locations(locations: pa.Table, path: Path, dirty: bool, ledger: _Parquet) -> Path:
    if dirty:
        locations, entries = corrupt_locations(locations)
        ledger.add(entries)
    _write_csv(locations, path)
    if dirty:
        path.write_bytes(as_windows_writes(path.read_bytes()))
    return path


class _Parquet:
    """A Parquet file that grows by tables; the first determines its schema."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Parquet:
        return self

    def add(self, table: pa.Table) -> None:
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()


def _write(tables: Iterator[pa.Table], path: Path, form: Format) -> None:
    if form == "csv":
        _write_csv(pa.concat_tables(list(tables)), path)
        return
    with _Parquet(path) as file:
        for table in tables:
            file.add(table)


def _write_csv(table: pa.Table, path: Path) -> Path:
    pacsv.write_csv(table, path, pacsv.WriteOptions(quoting_style="needed"))
    return path


def _locations(seed: int, size: Size) -> pa.Table:
    return pa.concat_tables(
        [bundles.location_table(seed, size, block) for block in range(bundles.blocks(size))]
    )


def _catalog() -> pa.Table:
    """Return the bundles, and the voice tariff as a product; its tick is five points."""
    rows = [
        {
            "product": b.product,
            "family": "DATA",
            "ladder": b.ladder,
            "rung": b.rung,
            "volume_mb": b.volume_mb,
            "validity_days": b.validity_days,
            "list_price": b.list_price,
            "unit_cost": round(b.volume_mb * COST_PER_MB, 4),
            "price_tick": b.price_tick,
            "price_floor": _on_tick(b.list_price * FLOOR_SHARE, b.price_tick),
            "price_ceiling": _on_tick(b.list_price * CEILING_SHARE, b.price_tick),
            "currency": "GHS",
        }
        for b in BUNDLES
    ]
    tick = round(VOICE_TARIFF / 20, 6)
    rows.append(
        {
            "product": VOICE_PRODUCT,
            "family": "VOICE",
            "ladder": None,
            "rung": None,
            "volume_mb": None,
            "validity_days": None,
            "list_price": VOICE_TARIFF,
            "unit_cost": VOICE_COST,
            "price_tick": tick,
            "price_floor": tick,
            "price_ceiling": VOICE_TARIFF,
            "currency": "GHS",
        }
    )
    return pa.Table.from_pylist(rows)


def _on_tick(price: float, tick: float) -> float:
    return round(round(price / tick) * tick, 2)


def _policy() -> pa.Table:
    """Return one default row per kind, and rows of segments and regions, which precede it."""
    dial = {"z": 0.84, "max_step": 0.15, "min_weeks": 8, "load_limit": None, "max_cliff": None}
    voice_dial = {"z": 0.84, "max_step": 0.20, "min_weeks": 8, "load_limit": 0.8, "max_cliff": 0.2}
    return pa.Table.from_pylist(
        [{"kind": "bundle", "scope": "*"} | dial, {"kind": "voice", "scope": "*"} | voice_dial]
    )


def _write_seasons(size: Size, truth: Path, seed: int) -> None:
    week = weeks(size.weeks)
    for kind, names, gamma in (
        ("bundle", list(SEGMENTS), bundles.bundle_season(seed, size)),
        ("voice", list(REGIONS), voice.voice_season(seed, size)),
    ):
        table = {
            "scope": np.repeat(names, len(week)),
            "week": np.tile(week, len(names)),
            "gamma": gamma.ravel(),
        }
        pq.write_table(pa.table(table), truth / f"{kind}_season.parquet")
