"""The driver of this machine: walks the stages of one run, and may be killed at any moment.

It keeps nothing that it could not find again: every step takes what is there already and does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ..crew import Crew, Kit
from ..errors import HomeError, HundredfoldError, PublishRefused, StateError, Stopped
from ..job import Job, Layout, Model
from ..manifest import Manifest, UnitList
from ..pipeline import Stage, stages
from ..ports import Record
from ..query import check_queries
from ..states import Event, State
from ..steps.collect import Collected, collect
from ..steps.enqueue import enqueue, plan_round
from ..steps.prepare import prepare
from ..steps.publish import describe_run, publish, within_limits
from ..steps.validate import Verdict, validate
from ..steps.work import Floor, Progress
from .home import Home
from .limits import Limits
from .queue import SqliteQueue
from .warehouse import DuckWarehouse

VISIBILITY = 60.0  # seconds; leases are extended while their worker lives
LOOKS = 0.5  # seconds between looks at the ledger, to see whether the run was cancelled


class Watcher(Protocol):
    """Who is told how a run goes on."""

    def begun(self, run: str) -> None: ...
    def stage(self, stage: Stage) -> None: ...
    def validated(self, verdicts: list[Verdict]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def collected(self, collected: Collected) -> None: ...


class Quiet:
    """Nobody is told."""

    def begun(self, run: str) -> None: ...
    def stage(self, stage: Stage) -> None: ...
    def validated(self, verdicts: list[Verdict]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def collected(self, collected: Collected) -> None: ...


@dataclass
class Drive:
    """One walk through a run's stages."""

    home: Home
    job: Job
    record: Record
    limits: Limits
    places: Mapping[str, Any]
    watcher: Watcher
    collected: list[Collected] = field(default_factory=list)
    looked: float = 0.0
    hire: Callable[..., Crew] = Crew
    beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    settling: list[Future[None]] = field(default_factory=list)  # what was prepared is on its way to the disk

    def __post_init__(self) -> None:
        self.layout = Layout(self.record.id)
        self.store = self.home.store
        self.round = int(self.record.options.get("round", 1))
        self.as_of = str(self.record.options["as_of"])

    def walk(self) -> Record:
        """All stages, in order; the run's record at its end. Errors are on the record before they are raised."""
        try:
            self._walk()
        except PublishRefused as refusal:
            self._end(Event.HOLD, refusal)
            raise
        except Stopped:
            raise
        except HundredfoldError as error:
            self._end(Event.FAIL, error)
            raise
        self._look(at_once=True)
        return self.home.ledger.move(self.record.id, Event.FINISH, step="done")

    def _end(self, event: Event, error: HundredfoldError) -> None:
        with suppress(HomeError, StateError):  # the disk is full, or it was cancelled meanwhile: the error itself says more
            self.home.ledger.move(self.record.id, event, reason=str(error))

    def _walk(self) -> None:
        crew = self.hire(Kit(self.job, self.layout, self.store), self.limits.workers, self.limits.worker, self.home.logs(self.record.id))
        try:
            crew.start()  # their imports run while the sources are read
            with closing(
                DuckWarehouse(
                    self.store,
                    self.home.scratch(self.record.id),
                    memory=self.limits.warehouse,
                    threads=self.limits.workers,
                    tick=self._look,
                )
            ) as warehouse:
                for stage in stages(self.job):
                    self._look(at_once=True)
                    self.home.ledger.note(self.record.id, step=str(stage))
                    self.watcher.stage(stage)
                    self._do(stage, warehouse, crew)
        finally:
            crew.stop()
            self.beside.shutdown()

    def _do(self, stage: Stage, warehouse: DuckWarehouse, crew: Crew) -> None:
        match stage.step, stage.model:
            case "validate", _:
                self._validate(warehouse)
            case "prepare", Model() as model:
                manifest = prepare(
                    model,
                    self.job,
                    self.layout,
                    warehouse,
                    self.store,
                    workers=self.limits.workers,
                    batch_bytes=self.limits.batch,
                    later=lambda settle: self.settling.append(self.beside.submit(settle)),
                )
                self._note(model.name, units=manifest.units, rows=manifest.rows, batches=len(manifest.batches))
                pa.default_memory_pool().release_unused()  # or this process would hold it while the workers need it
            case "enqueue", Model() as model:
                self._enqueue(model)
            case "work", Model() as model:
                self._work(model, crew)
                while self.settling:
                    self.settling.pop().result()  # raises what the disk said
                if model is self.job.models[-1]:
                    crew.stop()
            case "collect", Model() as model:
                self._collect(model, warehouse)
                pa.default_memory_pool().release_unused()
            case _:
                self._publish(warehouse)

    def _validate(self, warehouse: DuckWarehouse) -> None:
        check_queries(self.job, warehouse.tables_of)
        verdicts = validate(self.job, self.places, self.as_of, self.layout, warehouse, self.store)
        sources = {
            v.source: {"rows": v.rows, "accepted": v.accepted, "rejected": v.rejected, "dropped": v.dropped, "repaired": v.repaired}
            for v in verdicts
        }
        self.home.ledger.note(self.record.id, counts={"sources": sources})
        self.watcher.validated(verdicts)
        describe_run(self.job, self.layout, self.as_of, None, None, warehouse)

    def _enqueue(self, model: Model) -> None:
        """The queue of this model and round, filled anew from the manifest and the outcomes: that a driver died is no fault
        of the messages it held, so their receive counts do not outlive it."""
        manifest = Manifest.read(self.layout, model.name, self.store)
        messages, coverage = plan_round(manifest, self.layout, self.round, self.store)
        queue = SqliteQueue(self._queue_path(model), visibility=VISIBILITY)
        with closing(queue):
            queue.purge()
            enqueue(messages, coverage, queue)

    def _work(self, model: Model, crew: Crew) -> None:
        manifest = Manifest.read(self.layout, model.name, self.store)
        messages, coverage = plan_round(manifest, self.layout, self.round, self.store)
        units = UnitList.read(self.layout, model.name, self.store)
        path = self._queue_path(model)
        try:
            with closing(SqliteQueue(path, visibility=VISIBILITY)) as queue:
                Floor(messages, manifest, units, self.layout, coverage, queue, self.store, crew, self._tell, VISIBILITY).run()
        finally:  # also when it was stopped: that is no message's fault, and whoever goes on fills a new queue from the outcomes
            for leftover in path.parent.glob(path.name + "*"):
                leftover.unlink(missing_ok=True)

    def _queue_path(self, model: Model) -> Path:
        return self.home.scratch(self.record.id).with_name(f"{self.record.id}-{model.name}-{self.round}.queue")

    def _collect(self, model: Model, warehouse: DuckWarehouse) -> None:
        manifest = Manifest.read(self.layout, model.name, self.store)
        collected = collect(model, manifest, self.layout, self.round, warehouse, self.store)
        self.collected.append(collected)
        self._note(model.name, **{k: v for k, v in asdict(collected).items() if k != "model"})
        self.watcher.collected(collected)
        warehouse.define(model.name, f"SELECT * FROM {warehouse.parquet(self.layout.results(model.name))}")
        more = model is not self.job.models[-1] or bool(self.job.releases)
        if more or self.record.options.get("max_failed") is not None:  # a limit given by hand counts though nothing follows
            within_limits(self.job, [collected], self.record.id, self.record.options.get("max_failed"))

    def _publish(self, warehouse: DuckWarehouse) -> None:
        if not self.job.releases:
            return
        with self.home.publishing(self.job.name):
            release = publish(self.job, self.layout, self.round, self.as_of, warehouse, self.store)
        if release is not None:
            self.home.ledger.note(
                self.record.id, counts={"release": {"version": release.version, "rows": dict(release.rows), "files": list(release.files)}}
            )

    def _note(self, model: str, **facts: Any) -> None:
        models = dict(self.home.ledger.read(self.record.id).counts.get("models", {}))
        models[model] = {**models.get(model, {}), **facts}
        self.home.ledger.note(self.record.id, counts={"models": models})

    def _tell(self, progress: Progress) -> None:
        self.watcher.progress(progress)
        self._look()

    def _look(self, at_once: bool = False) -> None:
        """Stop if somebody cancelled the run."""
        now = time.monotonic()
        if at_once or now - self.looked > LOOKS:
            self.looked = now
            if self.home.ledger.read(self.record.id).state is State.CANCELLED:
                raise Stopped(f"run {self.record.id} was cancelled", hint=f"what was done is kept: hundredfold status {self.record.id}")
