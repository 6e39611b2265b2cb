"""The work of each stage beside its step, the same on every backend.

It writes facts to the run's record, makes results available to later queries, and applies limits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.checksums import get_listed, verify_listed
from ..data.layout import Layout
from ..data.manifest import Manifest
from ..data.parquet_in_memory import read_parquet
from ..errors import NoSuchRun, StateError
from ..job import Job, Model
from ..ports.interfaces import Clock, Ledger, Record, RunStore, SourceLocation, Warehouse
from ..ports.release_tables import OpenTable, no_tables
from ..ports.run_facts import ModelCounts, RunCounts
from ..ports.run_states import State
from ..sql.queries import check_queries
from .collect import Collected, collect, read_collected
from .measured_costs import CostFunction, UnitCosts, earlier_runs, last_costs
from .publish import Terms, check_limits, publish, refuse_all_failed, refuse_none_ok
from .release_queries import describe_run
from .release_tables import check_declared_tables, write_tables
from .stage_times import StageTimes
from .stages import Stage
from .validate import naming_damage, refuse_changed, validate
from .validation_results import ValidationResult
from .work import Progress


class RunCallbacks(Protocol):
    """Functions that are called while a run is executed: run(callbacks=...)."""

    def run_started(self, run: str) -> None: ...
    def stage_started(self, stage: Stage) -> None: ...
    def validated(self, results: list[ValidationResult]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def collected(self, collected: Collected) -> None: ...


class NullCallbacks:
    """Callbacks that do nothing."""

    def run_started(self, run: str) -> None: ...
    def stage_started(self, stage: Stage) -> None: ...
    def validated(self, results: list[ValidationResult]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def collected(self, collected: Collected) -> None: ...


@dataclass
class StageRunner:
    """The stages of one run. `publishing` is a lock that is held while a release is made.

    `open_table` opens the tables of other systems to which the job publishes.
    """

    job: Job
    record: Record
    store: RunStore
    ledger: Ledger
    callbacks: RunCallbacks = field(default_factory=NullCallbacks)
    publishing: Callable[[], AbstractContextManager[None]] = nullcontext
    collected: list[Collected] = field(default_factory=list)
    validation_results: list[ValidationResult] = field(default_factory=list)
    clock: Clock = time.time
    open_table: OpenTable = no_tables
    times: StageTimes = field(init=False)

    def __post_init__(self) -> None:
        self.times = StageTimes.of(self.record.counts)
        self.layout = Layout(self.record.id)
        self.attempt = self.record.attempt
        self.as_of = self.record.as_of

    def validate(self, locations: Mapping[str, SourceLocation], warehouse: Warehouse) -> None:
        """Check the queries and every source; queries read the accepted rows under the source's
        name.
        """
        check_queries(self.job, warehouse.tables_of)
        check_declared_tables(self.job, self.open_table)
        self.validation_results = results = validate(
            self.job, locations, self.as_of, self.layout, warehouse, self.store
        )
        counts: RunCounts = {"sources": {v.source: v.counts for v in results}}
        dialects = {v.source: v.csv for v in results if v.csv}
        if dialects:
            counts["csv"] = dialects
        self.ledger.note(self.record.id, counts=counts)
        self.callbacks.validated(results)
        describe_run(self.job, self.layout, self.as_of, None, None, warehouse)

    @contextmanager
    def unchanged_sources(self, warehouse: Warehouse) -> Iterator[None]:
        """Verify, before and after a block that reads the sources, that they are those that were
        validated.

        Raises: SourceError, also in place of an error that a changed or damaged file caused.
        """
        refuse_changed(self.validation_results, warehouse)
        try:
            with self.naming_damage(warehouse):
                yield
        except Exception:
            refuse_changed(self.validation_results, warehouse)
            raise
        refuse_changed(self.validation_results, warehouse)

    @contextmanager
    def naming_damage(self, warehouse: Warehouse) -> Iterator[None]:
        """Name the file where a query of the block fails because a file of a source is damaged.

        Raises: SourceError in place of the QueryError.
        """
        with ExitStack() as naming:
            for result in self.validation_results:
                naming.enter_context(naming_damage(result.source, result.files, warehouse))
            yield

    def collect(self, model: Model, warehouse: Warehouse) -> None:
        """Collect a model; queries read its results under its name.

        Raises: PublishRefused where too many units failed for the steps that follow.
        """
        manifest = Manifest.read(self.layout, model.name, self.store)
        collected = collect(model, manifest, self.layout, self.attempt, warehouse, self.store)
        self.collected.append(collected)
        self.note(model.name, collected.counts)
        self.callbacks.collected(collected)
        self.expose_results(model, warehouse)
        limit = self.ledger.read(self.record.id).max_failed  # `adjust` may have changed it
        refuse_all_failed(self.job, [collected], self.record.id, limit)
        if model is self.job.models[-1]:
            every = [read_collected(self.layout, each.name, self.store) for each in self.job.models]
            refuse_none_ok(self.job, every, self.record.id)
        more = model is not self.job.models[-1] or bool(self.job.releases)
        if more or limit is not None:  # a limit that was passed applies also where no step follows
            check_limits(self.job, [collected], self.record.id, limit)

    def costs_of(self, model: Model, warehouse: Warehouse) -> CostFunction:
        """Return a function for the costs of a model's units: their seconds in the last run.

        The run that is chosen is recorded: a step that is repeated plans the same batches.
        """

        def costs(keys: pa.Table, rows: NDArray[np.int64]) -> UnitCosts | None:
            chosen = self.ledger.read(self.record.id).models.get(model.name, {}).get("costs_from")
            runs: Iterable[str] = (
                earlier_runs(model.name, self.record, self.ledger)
                if chosen is None
                else [chosen]
                if chosen
                else []
            )
            found = last_costs(model.name, runs, keys, rows, self.store)
            if chosen is None and (found or warehouse.replays):
                source: ModelCounts = {"costs_from": "", "costs_known": 0}
                if found:
                    source = {"costs_from": found.run, "costs_known": found.known}
                self.note(model.name, source)
            return found

        return costs

    def prepared(self, manifest: Manifest, cores: int) -> None:
        """Record a model that was prepared, and the cores that its batches can use."""
        before = self.ledger.read(self.record.id).models.get(manifest.model, {})
        most = max(cores, before.get("cores", 0))
        self.note(manifest.model, {**prepared_counts(manifest), "cores": most})

    def begin_stage(self, stage: Stage) -> None:
        """Record that a stage begins, with the seconds of the one before it."""
        self.times = self.times.begin(str(stage), self.clock())
        self.ledger.note(self.record.id, step=str(stage), counts=self.times.counts)

    def end_stages(self) -> None:
        """Record the seconds of the last stage."""
        if self.times.stage:
            self.times = self.times.end(self.clock())
            self.ledger.note(self.record.id, counts=self.times.counts)

    def expose_results(self, model: Model, warehouse: Warehouse) -> None:
        """Create the view of a collected model's results.

        Raises: DamagedFile if the results are not those that were collected.
        """
        verify_listed(
            self.store, self.layout.results(model.name), self.layout.collected(model.name)
        )
        warehouse.create_view(
            model.name, f"SELECT * FROM {warehouse.read_parquet(self.layout.results(model.name))}"
        )

    def publish(self, warehouse: Warehouse) -> None:
        """Make the release, if the job has one."""
        if not self.job.releases:
            return
        with self.publishing(), self.unchanged_sources(warehouse):
            release = publish(
                self.job,
                self.layout,
                self.attempt,
                self.as_of,
                warehouse,
                self.store,
                self._terms(warehouse),
            )
        if release is not None:
            self.ledger.note(self.record.id, counts={"release": release.counts})
            written = write_tables(release, self.store, self.open_table)
            if written:
                facts = {
                    output: {**release.tables[output], **asdict(each)}
                    for output, each in written.items()
                }
                self.ledger.note(self.record.id, counts={"tables": facts})

    def _terms(self, warehouse: Warehouse) -> Terms:
        """Return the terms of this run's release.

        Their check compares the sources and reads the record once more before the pointer moves.
        """

        def check() -> None:
            refuse_changed(self.validation_results, warehouse)
            self._refuse_ended()

        return Terms(
            self._created_at,
            self.record.replace_newer,
            self._code(),
            self.record.execution,
            check=check,
            open_table=self.open_table,
        )

    def _refuse_ended(self) -> None:
        """Raise StateError if the run was ended while its release was made.

        A call of a function on AWS can outlive its execution. The ledger of an execution that does
        not own the run refuses any note.
        """
        state = self.ledger.note(self.record.id).state
        if state in (State.CANCELLED, State.FAILED):
            raise StateError(
                f"the release of run {self.record.id} is not published: the run is {state} by now",
                hint=f"hundredfold status {self.record.id}",
            )

    def _code(self) -> dict[str, dict[str, int]]:
        """Count the ok units of each model by the fingerprint of the code that did them.

        The code of the release is always among them.
        """
        entries = self.record.code
        found: dict[str, dict[str, int]] = {entry["fingerprint"]: {} for entry in entries[-1:]}
        # each step on AWS is a process of its own, so that others have collected
        every = self.collected or (
            [read_collected(self.layout, model.name, self.store) for model in self.job.models]
            if entries
            else []
        )
        for collected in every:
            for attempt, units in self._units_by_attempt(
                collected, several=len(entries) > 1
            ).items():
                # "" where none was recorded; the code of a pilot is that of the first attempt
                by = max(attempt, 1)
                print_ = next(
                    (e["fingerprint"] for e in reversed(entries) if e["attempt"] <= by), ""
                )
                of_code = found.setdefault(print_, {})
                of_code[collected.model] = of_code.get(collected.model, 0) + units
        return found if entries else {}

    def _units_by_attempt(self, collected: Collected, several: bool) -> dict[int, int]:
        """Count the ok units of a model by the attempt that did them.

        With several versions of the code, the model's unit statuses are read.
        """
        if not several:
            return {collected.attempt: collected.ok} if collected.ok else {}
        data = get_listed(
            self.store,
            self.layout.accounts(collected.model),
            self.layout.collected(collected.model),
        )
        table = read_parquet(data, ["status", "attempt"])
        attempts = Counter(table.column("attempt").to_pylist())
        attempts.subtract(
            r
            for r, status in zip(
                *(table.column(n).to_pylist() for n in ("attempt", "status")), strict=True
            )
            if status != "ok"
        )
        return {attempt: units for attempt, units in sorted(attempts.items()) if units}

    def _created_at(self, run: str) -> str:
        try:
            return self.ledger.read(run).created
        except NoSuchRun:
            return ""

    def note(self, model: str, counts: ModelCounts) -> None:
        """Merge counts of a model into the run's record."""
        models = dict(self.ledger.read(self.record.id).models)
        merged: ModelCounts = {**models.get(model, {}), **counts}
        models[model] = merged
        self.ledger.note(self.record.id, counts={"models": models})


def prepared_counts(manifest: Manifest) -> ModelCounts:
    """Return the counts of a model that was prepared."""
    return {"units": manifest.units, "rows": manifest.rows, "batches": len(manifest.batches)}
