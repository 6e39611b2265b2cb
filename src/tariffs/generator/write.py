"""From blocks to files: one block in memory at a time, whatever the size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tariffs.generator import bundles, dirt, voice
from tariffs.generator.calendar import weeks
from tariffs.generator.sizes import (
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
)  # fmt: skip

BLOCKS_PER_FILE = 64
SOURCES = ("bundle_sales", "voice_usage", "cell_load", "product_catalog", "locations", "policy")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the tables are; each source may be several files, in the order of their names."""

    sources: dict[str, list[Path]]
    truth: Path


def generate(size: str, out: Path | str, seed: int = 7, dirt: bool = True) -> Paths:
    """Write the tables of one size ('demo', 'medium', 'large') under `out`, and the truth under `out/truth`."""
    what, root = SIZES[size], Path(out)
    truth = root / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    sources = {
        "bundle_sales": _write_bundles(what, root, truth, seed, dirt),
        "voice_usage": _write_voice(what, root, truth, seed),
        "cell_load": [root / "cell_load.parquet"],
        "product_catalog": [_write_csv(_catalog(), root / "product_catalog.csv")],
        "locations": [_write_csv(_locations(seed, what), root / "locations.csv")],
        "policy": [_write_csv(_policy(), root / "policy.csv")],
    }
    _write_seasons(what, truth, seed)
    return Paths(sources, truth)


def _write_bundles(size: Size, root: Path, truth: Path, seed: int, dirty: bool) -> list[Path]:
    files, folder = [], root / "bundle_sales"
    folder.mkdir(parents=True, exist_ok=True)
    with _Parquet(truth / "bundles.parquet") as units, _Parquet(truth / "dirt.parquet") as ledger:
        for first in range(0, bundles.blocks(size), BLOCKS_PER_FILE):
            last = min(first + BLOCKS_PER_FILE, bundles.blocks(size))
            files.append(folder / f"part-{first // BLOCKS_PER_FILE:04d}.{size.sales_format}")
            _write(_bundle_tables(size, range(first, last), seed, dirty, units, ledger), files[-1], size.sales_format)
    return files


def _bundle_tables(size: Size, which: Iterable[int], seed: int, dirty: bool, units: _Parquet, ledger: _Parquet) -> Iterator[pa.Table]:
    for number in which:
        block = bundles.bundle_block(seed, size, number)
        units.add(block.truth)
        sales, entries = dirt.soil(block.sales, seed, number) if dirty else (block.sales, dirt.NO_LEDGER)
        ledger.add(entries)
        yield sales


def _write_voice(size: Size, root: Path, truth: Path, seed: int) -> list[Path]:
    target = root / "voice_usage.parquet"
    with _Parquet(target) as usage, _Parquet(root / "cell_load.parquet") as cells, _Parquet(truth / "voice.parquet") as units:
        for number in range(voice.blocks(size)):
            block = voice.voice_block(seed, size, number)
            usage.add(block.usage)
            cells.add(block.cells)
            units.add(block.truth)
    return [target]


class _Parquet:
    """A file that grows by tables; it takes its schema from the first."""

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
    return pa.concat_tables([bundles.places(seed, size, block) for block in range(bundles.blocks(size))])


def _catalog() -> pa.Table:
    """The bundles, and the voice tariff as one more product: its tick is five points of discount."""
    rows = [
        {
            "product": b.product, "family": "DATA", "ladder": b.ladder, "rung": b.rung, "volume_mb": b.volume_mb,
            "validity_days": b.validity_days, "list_price": b.list_price, "unit_cost": round(b.volume_mb * COST_PER_MB, 4),
            "price_tick": b.price_tick, "price_floor": _on_tick(b.list_price * FLOOR_SHARE, b.price_tick),
            "price_ceiling": _on_tick(b.list_price * CEILING_SHARE, b.price_tick), "currency": "GHS",
        }
        for b in BUNDLES
    ]  # fmt: skip
    tick = round(VOICE_TARIFF / 20, 6)
    rows.append(
        {
            "product": VOICE_PRODUCT, "family": "VOICE", "ladder": None, "rung": None, "volume_mb": None, "validity_days": None,
            "list_price": VOICE_TARIFF, "unit_cost": VOICE_COST, "price_tick": tick, "price_floor": tick, "price_ceiling": VOICE_TARIFF,
            "currency": "GHS",
        }
    )  # fmt: skip
    return pa.Table.from_pylist(rows)


def _on_tick(price: float, tick: float) -> float:
    return round(round(price / tick) * tick, 2)


def _policy() -> pa.Table:
    """One default row per kind; a row for a segment (or, for voice, a region) goes before it."""
    dial = {"z": 0.84, "max_step": 0.15, "min_weeks": 8, "load_limit": None, "max_cliff": None}
    voice_dial = {"z": 0.84, "max_step": 0.20, "min_weeks": 8, "load_limit": 0.8, "max_cliff": 0.2}
    return pa.Table.from_pylist([{"kind": "bundle", "scope": "*"} | dial, {"kind": "voice", "scope": "*"} | voice_dial])


def _write_seasons(size: Size, truth: Path, seed: int) -> None:
    week = weeks(size.weeks)
    for kind, names, gamma in (
        ("bundle", list(SEGMENTS), bundles.bundle_season(seed, size)),
        ("voice", list(REGIONS), voice.voice_season(seed, size)),
    ):
        table = {"scope": np.repeat(names, len(week)), "week": np.tile(week, len(names)), "gamma": gamma.ravel()}
        pq.write_table(pa.table(table), truth / f"{kind}_season.parquet")
