"""A finished run: its units' rows, its results, the truth beside its sources, and its job again."""

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
    """A run of the tariffs with a release, and the folder of its truth (None if there is none)."""

    run: hundredfold.Run
    job: Job
    truth: Path | None

    @property
    def home(self) -> RunHome:
        found: RunHome = self.run.home
        return found

    def prices(self) -> pa.Table:
        """Return the price table that the run published."""
        return pq.ParquetFile(self.run.published(TABLE, "parquet")).read()

    def results(self, model: str) -> pa.Table:
        return self.run.results(model).to_arrow()

    def prior(self, line: Line) -> Prior:
        """Return the prior that the line's units received."""
        found: Prior = upstream_value(self.run, self.job, line.model, line.prior)
        return found

    def batches(self, model: str) -> Iterator[Units]:
        """Yield the rows of the model's units, a batch at a time, in the order of the keys."""
        yield from unit_batches(self.run, model)

    def whole(self, model: str) -> Rows:
        """Return all rows of a model whose unit is the whole table."""
        parts = list(self.batches(model))
        return {name: np.concatenate([part[name] for part in parts]) for name in _names(parts[0])}

    def sample(self, line: Line, most: int) -> Rows:
        """Return the rows of at most `most` units of a line, every k-th in the order of keys."""
        units = unit_keys(self.run, line.model).num_rows
        every, first, parts = -(-units // most), 0, []
        for batch in self.batches(line.model):
            mine = (first + np.arange(len(batch))) % every == 0
            rows = np.repeat(mine, np.diff(batch.offsets))
            parts.append({name: batch[name][rows] for name in _names(batch)})
            first += len(batch)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def of_some(self, line: Line, column: str, most: int) -> Rows:
        """Return the rows of at most `most` units: all of every k-th value of a key column."""
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
        """Return each unit's true elasticity and level; UsageError if these are unknown."""
        if self.truth is None or not (self.truth / line.truth).is_file():
            raise UsageError(
                f"the truth about {line.kind} units is not known: there is no {line.truth}"
                f" in {self.truth or 'a folder truth'} beside the run's sources",
                hint="name its folder with --truth, or make data with a known truth:"
                " hundredfold demo",
            )
        return pq.ParquetFile(self.truth / line.truth).read()

    def again(self, policy: pa.Table, home: str) -> FinishedRun:
        """Run the job again on the same sources at the same moment, with another policy.

        home  the folder of the new run
        """
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
        """Return the run's policy as given."""
        return self.table("policy")

    def table(self, source: str) -> pa.Table:
        """Return a small source of the run as given."""
        rows = input_source(self.run, source)
        return (
            rows
            if isinstance(rows, pa.Table)
            else query(f"SELECT * FROM '{str(rows).replace(chr(39), chr(39) * 2)}'")
        )


def open_finished(home: RunHome, run_id: str | None, truth: str | None) -> FinishedRun:
    """Return a run that has published: of that id, or the newest of the tariffs.

    Raises UsageError, StateError, NoSuchRun.
    """
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
            else f"there is no run of tariffs in {home.description}",
            hint="make one: hundredfold demo   or hundredfold run tariffs.job:job",
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
    """Return a folder for temporary runs; on the disk of the home, since they may be large."""
    folder = finished.home.scratch(finished.run.id).parent
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder, prefix="evidence-")


def query(sql: str, **tables: pa.Table) -> pa.Table:
    """Run a query over tables in memory, on one thread, so that sums are reproducible."""
    with duckdb.connect(":memory:", config={"threads": 1}) as duck:
        for name, table in tables.items():
            duck.register(name, table)
        return duck.sql(sql).to_arrow_table()


def columns(table: pa.Table) -> Rows:
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _names(batch: Any) -> Iterator[str]:
    yield from batch  # iterating over the engine's Units yields the names of their columns


def _truth_beside(sources: Mapping[str, Any]) -> Path | None:
    """Return the generator's folder `truth`, beside the sales or above their folder."""
    sales = Path(str(sources.get("bundle_sales", "")))
    return next((up / "truth" for up in list(sales.parents)[:2] if (up / "truth").is_dir()), None)
