"""The public interface to a finished run, for applications that evaluate it.

`Run` has the results, the units with their status, the rejected and the repaired rows. Here is
what else an evaluation needs: the rows that each unit had, the values that its function received
from earlier models, the sources as they were given and as they were accepted, the findings of
validation, and SQL over all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .data.batch import Units
from .data.layout import Layout
from .data.manifest import Manifest, UnitList, open_batch
from .data.parquet_in_memory import read_parquet
from .data.upstream import UpstreamResults
from .errors import HundredfoldError, SourceError
from .job import Job
from .pipeline.validation_results import ValidationResult, read_validation
from .ports.interfaces import Record, RunHome, Warehouse
from .runs.job_loader import job_of
from .runs.run import Run, find_run
from .sql.duckdb import DuckWarehouse
from .sql.sources.files import find_files

__all__ = [
    "Record",
    "Run",
    "RunHome",
    "ValidationResult",
    "Warehouse",
    "accepted_source",
    "find_run",
    "given_source",
    "input_select",
    "input_source",
    "job_of",
    "open_warehouse",
    "staged_source",
    "unit_batches",
    "unit_keys",
    "upstream_value",
    "validation_results",
]


def unit_keys(run: Run, model: str) -> pa.Table:
    """Return the keys of a model's units, in their order: one column for each key column."""
    return UnitList.read(run.layout, model, run.home.store).keys


def unit_batches(run: Run, model: str) -> Iterator[Units]:
    """Yield the rows that a model's units had, a batch at a time, in the order of the keys."""
    layout, store = run.layout, run.home.store
    manifest, units = Manifest.read(layout, model, store), UnitList.read(layout, model, store)
    for batch in manifest.batches:
        opened = open_batch(manifest, units, batch, layout, store)
        yield opened.units("light", 0, batch.last - batch.first)


def upstream_value(run: Run, job: Job, model: str, earlier: str) -> Any:
    """Return the whole result of an earlier model in the form that a model's function receives."""
    later = job.model(model)
    results = UpstreamResults(earlier, later, job.model(earlier), run.layout, run.home.store)
    return results.whole()


def validation_results(run: Run) -> list[ValidationResult]:
    """Return the counts and findings of validation for each source; KeyError before it is done."""
    return read_validation(run.layout, run.home.store)


def accepted_source(home: RunHome, run_id: str, source: str) -> Path | pa.Table | None:
    """Return the accepted rows of a source, if the run has a copy of them.

    A local run that changed or rejected rows has a Parquet file, whose path is returned; a run on
    AWS has objects that expire, whose rows are returned. None if there are none, or no longer.
    """
    key = f"{Layout(run_id).root}/sources/{source}.parquet"
    if (path := Path(str(home.where(key)))).is_file():
        return path
    folder = f"processing/{run_id}/staged/{source}/"
    try:
        names = [name for name in home.store.list(folder) if name.endswith(".parquet")]
        parts = [_read_parquet(home.store.get(name)) for name in names]
    except KeyError:
        return None  # it expired after it was listed
    return pa.concat_tables(parts) if parts else None


def staged_source(home: RunHome, run_id: str, source: str) -> pa.Table | None:
    """Return the copy that a local run made of a source before validation; None without one."""
    try:
        return _read_parquet(home.store.get(Layout(run_id).staged(source)))
    except KeyError:
        return None


def given_source(home: RunHome, run_id: str, source: str) -> Path | pa.Table | None:
    """Return a source as it was given to the run: its path, or the rows of an uploaded file.

    None if the run is not recorded, the source is at an address, or the object is gone.
    """
    try:
        options: Mapping[str, Any] = home.ledger.read(run_id).options
        location = str(options["sources"][source])
        own = str(home.store.where("x")).removesuffix("x")
        if location.startswith(own):
            return _read_parquet(home.store.get(location.removeprefix(own)))
        return None if "://" in location else Path(str(options.get("folder", "."))) / location
    except (HundredfoldError, KeyError, OSError, TypeError, pa.ArrowException):
        return None


def input_source(run: Run, source: str) -> str | pa.Table:
    """Return the value of `sources` that gives the same rows to another run of the job."""
    location = str(run.record.options["sources"][source])
    if Path(location).is_absolute() or "://" in location:
        return location
    staged = run.home.fetch(run.layout.staged(source))
    if staged.is_file():
        added = [name for name in pq.read_schema(staged).names if name.startswith("__")]
        return pq.ParquetFile(staged).read().drop_columns(added)
    return str(Path(run.record.options["folder"]) / location)


def input_select(run: Run, source: str, warehouse: Warehouse) -> str | None:
    """Return a SELECT of a source's rows before validation; None if its files are gone."""
    staged = run.layout.staged(source)
    if _exists(run, staged):
        return f"SELECT * FROM {warehouse.read_parquet(staged)}"
    try:
        options = run.record.options
        folder = Path(str(options.get("folder", ".")))
        files = find_files(source, str(options["sources"][source]), folder)
    except (SourceError, KeyError):
        return None
    return f"SELECT * FROM read_parquet({files.sql_list}, union_by_name = true)"


def open_warehouse(run: Run, name: str, *, memory: int, threads: int = 2) -> DuckWarehouse:
    """Return a DuckDB warehouse over a local run's files, as a context manager.

    name    distinguishes its scratch folder from those of other warehouses of the run
    memory  in bytes
    """
    scratch = run.home.scratch(f"{run.id}-{name}")
    return DuckWarehouse(run.home.store, scratch, memory=memory, threads=threads)


def _exists(run: Run, key: str) -> bool:
    try:
        return run.home.fetch(key).exists()
    except KeyError:
        return False


def _read_parquet(data: pa.Buffer) -> pa.Table:
    return read_parquet(data).replace_schema_metadata(None)
