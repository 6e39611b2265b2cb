"""A finished run, opened again: the rows that its units had, what it published, the truth beside its sources, and the job once more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import hundredfold
from hundredfold import Job
from hundredfold.errors import StateError, UsageError
from hundredfold.finished_runs import (
    RunHome,
    find_run,
    input_source,
    job_of,
    unit_batches,
    unit_keys,
    upstream_value,
)
from tariffs.columns import Rows, Units
from tariffs.demand.prior import Prior
from tariffs.evaluation.product_lines import Line

TABLE = "price_table"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run of the tariffs with a release, and where its truth is (None: there is none)."""

    run: hundredfold.Run
    job: Job
    truth: Path | None

    @property
    def home(self) -> RunHome:
        found: RunHome = self.run.home
        return found

    def prices(self) -> pa.Table:
        """The price table that the run published."""
        return pq.read_table(self.run.published(TABLE, "parquet"))

    def results(self, model: str) -> pa.Table:
        return self.run.results(model).arrow()

    def prior(self, line: Line) -> Prior:
        """The prior that the line's units were given."""
        found: Prior = upstream_value(self.run, self.job, line.model, line.prior)
        return found

    def batches(self, model: str) -> Iterator[Units]:
        """The rows that the model's units had, as they were handed over, a batch at a time, in the order of the units' keys."""
        yield from unit_batches(self.run, model)

    def whole(self, model: str) -> Rows:
        """All rows of a model in one piece, for a model whose unit is the whole."""
        parts = list(self.batches(model))
        return {name: np.concatenate([part[name] for part in parts]) for name in _names(parts[0])}

    def sample(self, line: Line, most: int) -> Rows:
        """The rows of up to so many units of a line, every k-th in the order of their keys."""
        units = unit_keys(self.run, line.model).num_rows
        every, first, parts = -(-units // most), 0, []
        for batch in self.batches(line.model):
            mine = (first + np.arange(len(batch))) % every == 0
            rows = np.repeat(mine, np.diff(batch.offsets))
            parts.append({name: batch[name][rows] for name in _names(batch)})
            first += len(batch)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def of_some(self, line: Line, column: str, most: int) -> Rows:
        """The rows of the line's units, whole groups of those that share a key column: of every k-th group, so that there are up to so many units."""
        keys = unit_keys(self.run, line.model)
        every = -(-keys.num_rows // most)
        wanted = np.unique(keys.column(column).to_numpy(zero_copy_only=False).astype(object))[
            ::every
        ]
        parts = []
        for batch in self.batches(line.model):
            mine = np.isin(batch[column].astype(object), wanted)
            parts.append({name: batch[name][mine] for name in _names(batch)})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def known(self, line: Line) -> pa.Table:
        """The true elasticity and level of each unit; UsageError where nobody knows them."""
        if self.truth is None or not (self.truth / line.truth).is_file():
            raise UsageError(
                f"the truth about {line.kind} units is not known: there is no {line.truth} in {self.truth or 'a folder truth'} beside the run's sources",
                hint="name its folder with --truth, or make data with a known truth: hundredfold demo",
            )
        return pq.read_table(self.truth / line.truth)

    def again(self, policy: pa.Table, home: str) -> FinishedRun:
        """The whole job once more on the same sources, as of the same moment, under another policy; kept in the folder `home`."""
        options = self.run.record.options
        inputs = {name: input_source(self.run, name) for name in options["sources"]}
        run = hundredfold.run(
            self.job,
            inputs | {"policy": policy},
            home=home,
            as_of=options["as_of"],
            max_rejected=options.get("max_rejected") or {},
        )
        return FinishedRun(run, self.job, self.truth)

    def policy(self) -> pa.Table:
        """The run's policy, as it was given."""
        return self.table("policy")

    def table(self, source: str) -> pa.Table:
        """A small source of the run, as it was given."""
        place = input_source(self.run, source)
        return (
            place
            if isinstance(place, pa.Table)
            else query(f"SELECT * FROM '{str(place).replace(chr(39), chr(39) * 2)}'")
        )


def open_finished(home: RunHome, run_id: str | None, truth: str | None) -> FinishedRun:
    """The run of that id (the newest of the tariffs, if left out), which must have published.  UsageError, StateError, NoSuchRun."""
    if truth and not Path(truth).is_dir():
        raise UsageError(
            f"--truth {truth} is no folder",
            hint="wanted the folder that the generator wrote beside its tables",
        )
    record = (
        next((r for r in home.ledger.runs() if r.job == "tariffs"), None)
        if run_id is None
        else find_run(home, run_id)
    )
    if record is None or record.job != "tariffs":
        raise UsageError(
            f"run {record.id} is of the job {record.job}, wanted one of tariffs"
            if record
            else f"there is no run of tariffs in {home.words}",
            hint="make one: hundredfold demo, or hundredfold run tariffs.job:job",
        )
    run = hundredfold.Run(home, record.id)
    if run.release is None:
        raise StateError(
            f"run {record.id} has published nothing; it is {run.state}",
            hint=f"hundredfold status {record.id}",
        )
    return FinishedRun(
        run,
        job_of(home, record),
        Path(truth) if truth else _truth_beside(record.options["sources"]),
    )


def scratch_folder(finished: FinishedRun) -> tempfile.TemporaryDirectory[str]:
    """A folder for runs that are looked at once; on the disk of the home, for they may be large."""
    folder = finished.home.scratch(finished.run.id).parent
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder, prefix="evidence-")


def query(sql: str, **tables: pa.Table) -> pa.Table:
    """A query over tables in memory, on one thread, so that sums do not depend on how many there are."""
    with duckdb.connect(":memory:", config={"threads": 1}) as duck:
        for name, table in tables.items():
            duck.register(name, table)
        return duck.sql(sql).to_arrow_table()


def columns(table: pa.Table) -> Rows:
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _names(batch: Any) -> Iterator[str]:
    yield from batch  # the engine's Units go through the names of their columns


def _truth_beside(sources: Mapping[str, Any]) -> Path | None:
    """The generator's folder `truth`, beside the sales or above their folder."""
    sales = Path(str(sources.get("bundle_sales", "")))
    return next((up / "truth" for up in list(sales.parents)[:2] if (up / "truth").is_dir()), None)
