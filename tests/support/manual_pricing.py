"""Synthetic data priced without the engine: its queries on DuckDB, its functions by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from hundredfold.contract import read_contract
from tariffs.columns import key_offsets
from tariffs.job import SOURCES
from tariffs.pricing import bundles, locations, voice
from tariffs.pricing import hourly as days
from tariffs.pricing import portfolio_limits as table
from tariffs.query_files import query_text
from tariffs.synthetic import AS_OF
from tariffs.synthetic.write import Paths


@dataclass
class UnitRows:
    """Units one after another, as the engine passes a batch."""

    columns: dict[str, np.ndarray]
    key: Sequence[str]
    offsets: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def keys(self) -> Mapping[str, np.ndarray]:
        return {name: self.columns[name][self.offsets[:-1]] for name in self.key}

    def unit(self, number: int) -> dict[str, np.ndarray]:
        return self.part(number, number + 1).columns

    def part(self, first: int, end: int) -> UnitRows:
        start, stop = self.offsets[first], self.offsets[end]
        return UnitRows(
            {n: c[start:stop] for n, c in self.columns.items()},
            self.key,
            self.offsets[first : end + 1] - start,
        )

    def of(self, numbers: Iterable[int]) -> UnitRows:
        """These units, in this order."""
        parts = [self.unit(n) for n in numbers]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in self.columns}
        return UnitRows(
            columns,
            self.key,
            np.concatenate([[0], np.cumsum([len(part["week"]) for part in parts])]),
        )


class ManualRun:
    """The warehouse by hand: the sources as tables, and each model's result as one more."""

    def __init__(self, paths: Paths) -> None:
        self.duck = duckdb.connect()
        self.duck.execute("SET threads = 1")
        self.truth = paths.truth
        for name, files in paths.sources.items():
            read = "read_csv" if files[0].suffix == ".csv" else "read_parquet"
            self.duck.execute(
                f"CREATE TABLE {name} AS SELECT * FROM {read}({[str(f) for f in files]})"
            )
            self.add_optional(name)
        self.duck.execute(
            """CREATE TABLE run AS SELECT 'r1' AS run_id, 'tariffs' AS job, ?::TIMESTAMP AS as_of,
            1::BIGINT AS table_version, NULL::BIGINT AS parent_version""",
            [AS_OF],
        )

    def add_optional(self, name: str) -> None:
        """What the contract lets be missing, as the engine adds it."""
        contract = next(source.contract for source in SOURCES if source.name == name)
        assert contract is not None
        for column in read_contract(contract).columns:
            if column.optional:
                self.duck.execute(
                    f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column.name} {column.sql_type}"
                )
                self.duck.execute(
                    f"ALTER TABLE {name} ALTER COLUMN {column.name} TYPE {column.sql_type}"
                )

    def ask(self, query: str, key: Sequence[str], order_by: Sequence[str]) -> UnitRows:
        text = query_text(query)
        columns = self.columns(
            f"SELECT * FROM ({text}) AS q ORDER BY {', '.join([*key, *order_by])}"
        )
        return UnitRows(columns, key, key_offsets(columns, key))

    def columns(self, sql: str) -> dict[str, np.ndarray]:
        table = self.duck.sql(sql).to_arrow_table()
        return {name: _numpy(table[name]) for name in table.column_names}

    def keep(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        result = pa.table({n: pa.array(c) for n, c in columns.items()})
        self.duck.register("result", result)
        self.duck.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM result")
        self.duck.unregister("result")


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values.astype("datetime64[D]") if pa.types.is_date32(column.type) else values


@dataclass
class PricedRun:
    """A whole run by hand."""

    manual: ManualRun
    prior: Any
    bundles: UnitRows
    bundle_prices: dict[str, np.ndarray]
    voice_prior: Any
    voice: UnitRows
    voice_prices: dict[str, np.ndarray]


def each(
    slab: UnitRows, work: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return a function's results of all units, one after another, with the units' keys."""
    parts = [work(slab.unit(n)) for n in range(len(slab))]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sizes = [len(part["price"]) for part in parts]
    return {name: np.repeat(values, sizes) for name, values in slab.keys.items()} | columns


def price_all(manual: ManualRun) -> PricedRun:
    prior = bundles.fit_prior(manual.ask("prior", bundles.UNIT, ("week",)).columns)
    slab = manual.ask("bundles", bundles.UNIT, ("week",))
    prices = bundles.price_bundles(slab, prior)
    manual.keep("bundles", {**slab.keys, **prices})
    manual.keep(
        "ladder",
        each(
            manual.ask("ladder", ("location",), ("segment", "ladder", "rung")),
            locations.optimise_location,
        ),
    )
    voice_prior = voice.fit_voice_prior(manual.ask("voice_prior", voice.UNIT, ("week",)).columns)
    calls = manual.ask("voice", voice.UNIT, ("week",))
    discounts = voice.price_voices(calls, voice_prior)
    manual.keep("voice", {**calls.keys, **discounts})
    manual.keep(
        "voice_day",
        each(manual.ask("voice_day", ("cell", "day_type"), ("hour",)), days.smooth_day),
    )
    manual.keep(
        "portfolio",
        each(
            manual.ask("portfolio", ("kind",), ("chain", "position")),
            table.apply_portfolio_limits,
        ),
    )
    return PricedRun(manual, prior, slab, prices, voice_prior, calls, discounts)
