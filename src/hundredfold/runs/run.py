"""A run as people read it: its record, and its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ..data import checksums
from ..data.checksums import get_listed, get_verified
from ..data.layout import Layout
from ..data.manifest import key_text
from ..data.numpy_columns import to_python_list, to_python_rows
from ..data.outcomes import STATUS_SCHEMA
from ..data.parquet_in_memory import read_parquet
from ..errors import StateError, UsageError
from ..html_tables import html_table
from ..pipeline import releases as releases_of_job
from ..pipeline.releases import Release
from ..pipeline.validation_results import read_validation
from ..ports.interfaces import Record, RunHome
from ..ports.run_facts import HOME_FORMAT, UNMARKED_FORMAT, RunCounts
from ..ports.run_states import State
from ..sql.duckdb import DuckWarehouse
from .names import check_run_id

HTML_ROWS = 20  # rows of a table in a notebook


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a run, as an Arrow table, or as a frame of pandas or Polars."""

    table: pa.Table

    def to_arrow(self) -> pa.Table:
        return self.table

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame (needs the extra `pandas`)."""
        return self.table.to_pandas()

    def to_polars(self) -> Any:
        """Return a polars.DataFrame (needs the extra `polars`)."""
        import polars as pl

        return pl.from_arrow(self.table)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows to a library that takes Arrow data, such as DuckDB or Polars."""
        return self.table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"{self.table.num_rows:,} rows of {', '.join(self.table.column_names)}"

    def _repr_html_(self) -> str:
        """Return the first rows as an HTML table, for a notebook."""
        head = self.table.slice(0, HTML_ROWS)
        columns = [to_python_list(column) for column in head.columns]
        more = self.table.num_rows - head.num_rows
        note = (
            f"the first {head.num_rows:,} of {self.table.num_rows:,} rows"
            if more
            else f"{self.table.num_rows:,} rows"
        )
        return html_table(head.column_names, zip(*columns, strict=True), note)


class Run:
    """One execution of a job: its record and its files."""

    def __init__(self, home: RunHome, run: str) -> None:
        self.home, self.id, self.layout = home, run, Layout(run)

    @property
    def record(self) -> Record:
        """The ledger's record, read at each access."""
        record: Record = self.home.ledger.read(self.id)
        return record

    @property
    def state(self) -> str:
        return self.record.state.value

    @property
    def counts(self) -> RunCounts:
        """Rows of each source, units of each model, and the release."""
        return self.record.counts

    @property
    def location(self) -> str:
        """The place of the run's files: a folder, or an address in S3."""
        return str(self.home.where(self.layout.root))

    @property
    def folder(self) -> Path:
        """The folder of a local run. Raises: UsageError for a run on AWS."""
        if not hasattr(self.home, "folder"):
            raise UsageError(
                f"run {self.id} has no folder: its files are at {self.location}",
                hint="see run.location; published() downloads a file",
            )
        return Path(self.location)

    def results(self, model: str | None = None) -> Rows:
        """Return the result rows of a model (by default the last one), sorted by the unit's key."""
        name = self._model(model)
        return self._read(
            self.layout.results(name),
            self.layout.collected(name),
            f"model {name} has no results yet",
        )

    def units(self, model: str | None = None) -> Rows:
        """Return every unit of a model with its status, rows, seconds, error and attempt.

        `started_at` (UTC) and `ran_on` are the start of its execution and the worker process: its
        number, after the log stream or the host on AWS. Both are null where no worker completed
        the unit, and for results of a plan's pilot.
        """
        name = self._model(model)
        return self._read(
            self.layout.accounts(name),
            self.layout.collected(name),
            f"model {name} is not collected yet",
        )

    def failures(self, model: str | None = None) -> Rows:
        """Return the units that failed or crashed, with the reason; by default of all models."""
        names = [self._model(model)] if model is not None else self.collected_models()
        tables = []
        for name in names:
            table = self.units(name).table
            bad = table.filter(table.column("error").is_valid())
            keys = [c for c in table.column_names if c not in STATUS_SCHEMA.names]
            key = (
                [key_text([row[k] for k in keys]) for row in to_python_rows(bad.select(keys))]
                if keys
                else [key_text(())] * bad.num_rows
            )
            rest = bad.drop_columns(keys)
            tables.append(
                rest.add_column(0, "unit", pa.array(key, pa.string())).add_column(
                    0, "model", pa.array([name] * bad.num_rows, pa.string())
                )
            )
        return Rows(pa.concat_tables(tables) if tables else pa.table({"model": [], "unit": []}))

    def rejects(self, source: str) -> Rows:
        """Return the rows of a source that were not accepted, as they were read, with
        `__reason`.
        """
        return self._validation_rows(source, self.layout.rejects(source), "__reason")

    def repairs(self, source: str) -> Rows:
        """Return every value of a source that was repaired, also in rows that were rejected.

        The columns are `__column`, `__before`, `__after` and those of the row as it was read.
        `__row` is empty where rows are not numbered (Parquet on AWS without a rejected row).
        """
        return self._validation_rows(
            source, self.layout.repairs(source), "__column", "__before", "__after"
        )

    def _validation_rows(self, source: str, key: str, *columns: str) -> Rows:
        """Return the rows that validation wrote beside the accepted ones; no rows if it wrote
        none.
        """
        try:
            validated = {v.source: v for v in read_validation(self.layout, self.home.store)}
        except KeyError:
            raise StateError(
                f"the sources of run {self.id} are not validated yet; it is {self.state}",
                hint=f"hundredfold status {self.id}",
            ) from None
        if source not in validated:
            raise UsageError(f"run {self.id} has no source {source!r}")
        wanted = validated[source].checksums.get(key)
        if wanted:
            return _read_rows(get_verified(self.home.store, key, wanted))
        fields = [
            ("__file", pa.string()),
            ("__row", pa.int64()),
            *((name, pa.string()) for name in columns),
        ]
        return Rows(pa.schema(fields).empty_table())

    @property
    def release(self) -> Release | None:
        """The release that the run made; None if there is none."""
        record, store = self.record, self.home.store
        published = record.counts.get("release")
        if published:
            return releases_of_job.read_release(record.job, int(published["version"]), store)
        return next(
            (r for r in reversed(releases_of_job.releases(record.job, store)) if r.run == self.id),
            None,
        )

    def published_rows(self, name: str | None = None) -> Rows:
        """Return the rows of a release, in the order in which they were published."""
        path = self.published(name)
        with DuckWarehouse(
            self.home.store, self.home.scratch(f"{self.id}-read"), memory=2**28, threads=1
        ) as warehouse:
            return Rows(warehouse.read(path))

    def published(self, name: str | None = None, format: str | None = None) -> Path:
        """Return the file of a release; by default the first one."""
        release = self.release
        if release is None:
            raise StateError(f"run {self.id} has not published anything; it is {self.state}")
        files = {key: PurePosixPath(key) for key in release.files}
        found = [
            k
            for k, p in files.items()
            if (name is None or p.stem == name) and (format is None or p.suffix == f".{format}")
        ]
        if not found:
            raise UsageError(
                f"run {self.id} published {', '.join(p.name for p in files.values())}, not "
                f"{name or ''}.{format or ''}"
            )
        return fetch_published(self.home, release, found[0])

    def __repr__(self) -> str:
        record = self.record
        models = record.models
        facts = [
            f"{name}: {m.get('ok', 0):,} of {m['units']:,} units ok"
            + (
                f", {m['failed'] + m['crashed']:,} not"
                if m.get("failed", 0) + m.get("crashed", 0)
                else ""
            )
            for name, m in models.items()
        ]
        return (
            f"<Run {self.id} of {record.job}: "
            f"{record.state.value}{'; ' if facts else ''}{'; '.join(facts)}>"
        )

    def _repr_html_(self) -> str:
        """Return the models of the run as an HTML table, for a notebook."""
        record = self.record
        heads = ("model", "units", "ok", "failed", "crashed", "seconds of one core")
        counts = [(name, dict(model)) for name, model in record.models.items()]
        rows = [
            (name, *(f"{m[key]:,}" if key in m else "" for key in heads[1:5]), _seconds(m))
            for name, m in counts
        ]
        release = record.counts.get("release")
        published = f"; release {release['version']}" if release else ""
        reason = f": {record.reason}" if record.reason else ""
        return html_table(
            heads, rows, f"run {self.id} of {record.job} is {record.state.value}{published}{reason}"
        )

    def _model(self, name: str | None) -> str:
        names = list(self.record.models)
        if not names:
            raise StateError(f"run {self.id} has not reached a model yet; it is {self.state}")
        if name is not None and name not in names:
            raise UsageError(f"run {self.id} has no model {name!r}; it has {', '.join(names)}")
        return name or names[-1]

    def collected_models(self) -> list[str]:
        """Return the names of the models that were collected, in the order of the job."""
        return [name for name, m in self.record.models.items() if "ok" in m]

    def _read(self, key: str, lister: str, missing: str) -> Rows:
        try:
            return _read_rows(get_listed(self.home.store, key, lister))
        except KeyError:
            if is_collected(self.record):  # it was collected, so the file is missing
                raise checksums.missing_error(self.home.store, lister) from None
            raise StateError(
                f"{missing}; run {self.id} is {self.state}", hint=f"hundredfold status {self.id}"
            ) from None


def fetch_published(home: RunHome, release: Release, key: str) -> Path:
    """Return a file of a release, which is verified.

    Raises: DamagedFile if it is missing or not as it was published.
    """
    try:
        path = Path(home.fetch(key))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (KeyError, FileNotFoundError):
        raise checksums.missing_error(home.store, key) from None
    if digest != release.files[key]:
        problem = "does not have the SHA-256 with which it was published"
        raise checksums.damage_error(home.store, key, problem)
    return path


def _seconds(counts: Mapping[str, Any]) -> str:
    return f"{counts['seconds']:,.1f}" if "seconds" in counts else ""


def is_collected(record: Record) -> bool:
    """Return whether all models of a run were collected, so that an absent file is a missing
    one.
    """
    return record.state in (State.DONE, State.HELD)


def _read_rows(data: pa.Buffer) -> Rows:
    return Rows(read_parquet(data))


def find_run(home: RunHome, run_id: str | None) -> Record:
    """Return the record of a run, by default of the newest.

    Raises: UsageError for an invalid run id, NoSuchRun, StateError for a run of another format.
    """
    record: Record = newest_run(home) if run_id is None else home.ledger.read(check_run_id(run_id))
    found = record.options.get("format", UNMARKED_FORMAT)
    if found != HOME_FORMAT:
        raise StateError(
            f"run {record.id} has format {found}, and this program reads format {HOME_FORMAT}",
            hint=f"read it with the version of hundredfold that made it, or run the job again: "
            f"hundredfold run {record.ref or 'MODULE:JOB'}",
        )
    return record


def newest_run(home: RunHome) -> Record:
    """Return the run that was started last. Raises: UsageError if there is none."""
    runs: Sequence[Record] = home.ledger.runs()
    if not runs:
        raise UsageError(
            f"there is no run in {home.description}",
            hint="hundredfold run MODULE:JOB   or hundredfold demo",
        )
    return runs[0]
