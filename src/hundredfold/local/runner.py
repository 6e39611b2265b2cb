"""The local driver: executes the stages of one run, and may be killed at any moment.

It has no state that it cannot find again: every step keeps the existing results and does the rest.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ..data.checksums import keys_to_delete
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList
from ..errors import (
    TRACEBACK_HINT,
    BudgetSpent,
    DamagedFile,
    HomeError,
    HundredfoldError,
    NoSuchRun,
    PublishRefused,
    StateError,
    Stopped,
    error_text,
)
from ..job import Job, Model
from ..pipeline.budget import Meter, budget_spent_error, stored_seconds
from ..pipeline.coverage import Coverage
from ..pipeline.enqueue import enqueue, plan_attempt
from ..pipeline.prepare import prepare
from ..pipeline.runner import RunCallbacks, StageRunner
from ..pipeline.stages import Stage, stages
from ..pipeline.work import Progress, WorkDispatcher
from ..ports.interfaces import Record, SourceLocation
from ..ports.run_states import Event, State
from ..runs.pilot_results import reuse_pilot
from ..runs.resources import Resources
from ..sql.duckdb import DuckWarehouse
from ..sql.queries import naming_query
from ..workers.code_snapshot import Snapshot
from ..workers.launcher import system_limit_error
from ..workers.memory import release
from ..workers.pool import WorkerPool
from ..workers.protocol import WorkerContext
from .filesystem import FileStore, home_gone_error
from .home import Home
from .sqlite_queue import AttendedClock, SqliteQueue

MAX_RECOMPUTATIONS = 4  # executions of the stages, if files of models are damaged again and again
VISIBILITY_S = 60.0  # leases are extended while their worker lives
CANCEL_CHECK_S = 0.5  # between looks at the ledger for a cancelled run


def fail(home: Home, run: str, error: Exception) -> None:
    """Record that a run failed, and why.

    The traceback of an unexpected error is kept in the run's logs.
    """
    reason = (
        str(error)
        if isinstance(error, HundredfoldError)
        else f"an unexpected error: {type(error).__name__}: {error_text(error)}".rstrip(": ")
    )
    if not isinstance(error, HundredfoldError):
        with suppress(OSError):
            log = home.logs(run) / "driver.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(traceback.format_exception(error)))
            error.add_note(f"{TRACEBACK_HINT}{log}")
    # the disk is full, or the run was cancelled: the error has more
    with suppress(HomeError, StateError):
        home.ledger.move(run, Event.FAIL, reason=reason)


@dataclass
class LocalRunner:
    """The execution of one run's stages."""

    home: Home
    job: Job
    record: Record
    resources: Resources
    locations: Mapping[str, SourceLocation]
    callbacks: RunCallbacks
    code: Snapshot | None = None
    last_cancel_check: float = 0.0
    pool_factory: Callable[..., WorkerPool] = WorkerPool
    background: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    # prepared batches that are being synced
    pending_commits: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = Layout(self.record.id)
        self.store = self.home.store
        self.attempt = self.record.attempt
        self.steps = StageRunner(
            self.job,
            self.record,
            self.store,
            self.home.ledger,
            self.callbacks,
            lambda: self.home.publishing(self.job.name),
        )
        self.steps.times = self.steps.times.restart()

    def run(self) -> Record:
        """Execute all stages in order, and return the run's final record.

        Errors are recorded before they are raised.
        """
        try:
            self._walk_until_whole()
        except PublishRefused as refusal:
            self._end_stages()
            self._end(Event.HOLD, refusal)
            raise
        except Stopped:
            raise
        except KeyboardInterrupt:
            self._end_stages()
            raise
        except Exception as error:
            if self._has_lost_its_home():
                raise home_gone_error(self.home.folder) from error
            limit = system_limit_error(error)
            self._end_stages()
            fail(self.home, self.record.id, limit or error)
            if limit is not None:
                raise limit from error
            raise
        self._check_cancelled(at_once=True)
        self.steps.end_stages()
        return self.home.ledger.move(self.record.id, Event.FINISH, step="done")

    def _has_lost_its_home(self) -> bool:
        try:
            self.home.ledger.read(self.record.id)
        except NoSuchRun:  # the place has another home now
            return True
        except HomeError:
            return not self.home.folder.is_dir()
        return False

    def _walk_until_whole(self) -> None:
        """Execute the stages; after damage to a model's file, delete its results and start again.

        This is repeated a few times at most.
        """
        for left in reversed(range(MAX_RECOMPUTATIONS)):
            try:
                self._walk()
            except DamagedFile as damage:
                keys = (
                    keys_to_delete(damage.key)
                    if damage.key.startswith(f"{self.layout.root}/")
                    else []
                )
                if not keys or not left:
                    raise
                for key in keys:
                    self.store.delete(key)
                from .restore import note_recomputed

                note_recomputed(self.home.ledger, self.record.id, [damage])
                self.pending_commits.clear()
                self.background = ThreadPoolExecutor(1)
            else:
                return

    def _end_stages(self) -> None:
        # the error that ends the run is more important than its times
        with suppress(HomeError, StateError):
            self.steps.end_stages()

    def _end(self, event: Event, error: HundredfoldError) -> None:
        # the disk is full, or the run was cancelled: the error has more
        with suppress(HomeError, StateError):
            self.home.ledger.move(self.record.id, event, reason=str(error))

    def _walk(self) -> None:
        pool = self.pool_factory(
            WorkerContext(self.job, self.layout, self.store, self.code),
            self.resources.workers,
            self.resources.worker_bytes,
            self.home.logs(self.record.id),
        )
        try:
            pool.start()  # their imports run while the sources are read
            with closing(
                DuckWarehouse(
                    self.store,
                    self.home.scratch(self.record.id),
                    memory=self.resources.warehouse_bytes,
                    threads=self.resources.workers,
                    tick=self._check_cancelled,
                )
            ) as warehouse:
                for stage in stages(self.job):
                    self._check_cancelled(at_once=True)
                    self.steps.begin_stage(stage)
                    self.callbacks.stage_started(stage)
                    self._run_stage(stage, warehouse, pool)
        finally:
            pool.stop()
            self.background.shutdown()

    def _run_stage(self, stage: Stage, warehouse: DuckWarehouse, pool: WorkerPool) -> None:
        match stage.step, stage.model:
            case "validate", _:
                self.steps.validate(self.locations, warehouse)
            case "prepare", Model() as model:
                with (
                    self.steps.unchanged_sources(warehouse),
                    naming_query("the query of model", model.name),
                ):
                    manifest = prepare(
                        model,
                        self.job,
                        self.layout,
                        warehouse,
                        self.store,
                        workers=self.resources.workers,
                        batch_bytes=self.resources.batch_bytes,
                        memory=self.resources.driver_bytes,
                        costs=self.steps.costs_of(model, warehouse),
                        defer=lambda settle: self.pending_commits.append(
                            self.background.submit(settle)
                        ),
                    )
                self.steps.prepared(manifest, self.resources.workers)
                self._release_memory(warehouse)
            case "enqueue", Model() as model:
                self._enqueue(model)
            case "work", Model() as model:
                self._work(model, pool)
                while self.pending_commits:
                    self.pending_commits.pop().result()  # raises the error of the disk
                if model is self.job.models[-1]:
                    pool.stop()
            case "collect", Model() as model:
                self.steps.collect(model, warehouse)
                self._release_memory(warehouse)
            case _:
                self.steps.publish(warehouse)

    def _release_memory(self, warehouse: DuckWarehouse) -> None:
        """Return unused memory to the system: the workers need it."""
        warehouse.release_memory()
        release(pa.default_memory_pool())

    def _enqueue(self, model: Model) -> None:
        """Fill a new queue for this model and attempt, from the manifest and the outcomes.

        The death of a driver is no evidence against the messages that it held, so their receive
        counts do not survive it.
        """
        manifest = Manifest.read(self.layout, model.name, self.store)
        self._reuse_pilot(model, manifest)
        messages, coverage = plan_attempt(manifest, self.layout, self.attempt, self.store)
        self._remove_queue(model)  # a killed driver's queue may be damaged
        queue = SqliteQueue(self._queue_path(model), visibility=VISIBILITY_S)
        with closing(queue):
            enqueue(messages, coverage, queue)

    def _reuse_pilot(self, model: Model, manifest: Manifest) -> None:
        """Take the results of the plan's pilot that are still valid, in the first attempt."""
        folder = self.record.options.get("pilot")
        if folder is None or self.attempt > 1:
            return
        code = self.record.code[-1]["fingerprint"] if self.record.code else ""
        pilot = FileStore(Path(folder))
        refused = reuse_pilot(model, manifest, code, self.layout, self.store, pilot)
        self.steps.note(model.name, {"pilot_refused": refused})

    def _work(self, model: Model, pool: WorkerPool) -> None:
        manifest = Manifest.read(self.layout, model.name, self.store)
        messages, coverage = plan_attempt(manifest, self.layout, self.attempt, self.store)
        units = UnitList.read(self.layout, model.name, self.store)
        meter = self._meter()
        try:
            with closing(
                SqliteQueue(self._queue_path(model), visibility=VISIBILITY_S, clock=AttendedClock())
            ) as queue:
                WorkDispatcher(
                    messages,
                    manifest,
                    units,
                    self.layout,
                    coverage,
                    queue,
                    self.store,
                    pool,
                    self._report_progress,
                    VISIBILITY_S,
                    meter=meter,
                ).run()
        except BudgetSpent:
            raise self._budget_error(model.name, meter, coverage) from None
        # also after a stop, which is no evidence against a message: the next driver fills a new
        # queue
        finally:
            self._remove_queue(model)
            if meter is not None:
                self.home.ledger.note(self.record.id, counts={"spent": round(meter.spent, 3)})
        self._note_replaced(pool)

    def _meter(self) -> Meter | None:
        """Return the meter of a run with a budget: with the seconds of the units that are done."""
        if (budget := self.record.options.get("budget")) is None:
            return None
        return Meter(budget["limit"], stored_seconds(self.job.models, self.layout, self.store))

    def _budget_error(self, model: str, meter: Meter | None, coverage: Coverage) -> BudgetSpent:
        budget = self.record.options.get("budget")
        assert meter is not None
        assert budget is not None
        done, units = int(coverage.done.sum()), len(coverage.done)
        return budget_spent_error(self.record.id, budget, meter.spent, model, done, units)

    def _note_replaced(self, pool: WorkerPool) -> None:
        """Add the numbers of replaced workers, by reason, to those of earlier drivers."""
        if pool.replaced:
            known = Counter(
                self.home.ledger.read(self.record.id).counts.get("workers_replaced", {})
            )
            self.home.ledger.note(
                self.record.id, counts={"workers_replaced": dict(known + pool.replaced)}
            )
            pool.replaced.clear()

    def _remove_queue(self, model: Model) -> None:
        path = self._queue_path(model)
        for leftover in path.parent.glob(path.name + "*"):
            leftover.unlink(missing_ok=True)

    def _queue_path(self, model: Model) -> Path:
        return self.home.scratch(self.record.id).with_name(
            f"{self.record.id}-{model.name}-{self.attempt}.queue"
        )

    def _report_progress(self, progress: Progress) -> None:
        self.callbacks.progress(progress)
        self._check_cancelled()

    def _check_cancelled(self, at_once: bool = False) -> None:
        """Raise Stopped if the run was cancelled."""
        now = time.monotonic()
        if at_once or now - self.last_cancel_check > CANCEL_CHECK_S:
            self.last_cancel_check = now
            if self.home.ledger.read(self.record.id).state is State.CANCELLED:
                raise Stopped(
                    f"run {self.record.id} was cancelled",
                    hint=f"its finished work is kept: hundredfold status {self.record.id}",
                )
