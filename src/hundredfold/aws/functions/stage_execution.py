"""The execution of a run's stages by the function `step`.

One call executes the stage that it was asked for, and the following ones up to a query or the
workers: fewer calls, and none of them opens the same data again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from botocore.exceptions import BotoCoreError, ClientError

from ...data.layout import Layout
from ...data.manifest import Manifest
from ...data.messages import Message
from ...errors import StateError, WorkerError
from ...job import Job, Model
from ...pipeline.budget import budget_spent_error
from ...pipeline.coverage import Coverage
from ...pipeline.enqueue import enqueue, plan_attempt
from ...pipeline.prepare import prepare as prepare_with_duckdb
from ...pipeline.release_queries import describe_run
from ...pipeline.runner import StageRunner
from ...pipeline.stages import Stage, stages
from ...pipeline.validate import refuse_changed, validate
from ...ports.interfaces import Record, Warehouse
from ...ports.run_states import Event, State
from ...sql.queries import naming_query
from ..adapters.athena import AthenaWarehouse
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.prefetch import PrefetchingStore
from ..adapters.release_table import open_release_table
from ..adapters.s3_duckdb import S3DuckWarehouse
from ..adapters.s3_store import S3Store
from ..adapters.session import StackResources
from ..adapters.sqs_queue import SqsQueue
from ..adapters.statements import QueriesPending, QueryPending, QueryReply
from ..fleets.giving_up import refuse_without_tasks
from ..fleets.run_fleets import MIN_CHECK_S, FleetResources, RunFleets
from ..lambda_platform import MAX_SOURCE_BYTES_PER_MB, MB_PER_VCPU, function_memory_mb
from ..stage_order import action_to
from ..warehouse_choice import DUCKDB
from ..work.json_log import log
from ..work.messages import FIRST_ATTEMPT, event_key
from .invocation import SCRATCH_FOLDER, emit_tasks
from .poll_state import PollState
from .prepare import prepare as prepare_with_athena
from .starting_workers import DirectStart

# polls without progress and with an empty queue, before the missing messages are sent again
MAX_IDLE_POLLS = 2
MIN_IDLE_S = 9  # and seconds: SQS counts the messages of a queue with a delay
MAX_RESENDS = 5  # in a row; after that, a lost message is not the cause
EVENT_THREADS = 16  # 3,000 objects take some 30 ms each
MIN_TIME_LEFT = 0.5  # of a call, for it to go on to another stage
Reply: TypeAlias = dict[str, Any]


class PendingAt(BaseException):
    """Statements that a stage waits for. `stage`: None for the one that was called."""

    def __init__(self, pending: QueryPending | QueriesPending, stage: Stage | None) -> None:
        super().__init__(str(stage))
        self.pending, self.stage = pending, stage


@dataclass
class StageContext:
    """The arguments of the stages of one call. `time_left`: the fraction of the call's time."""

    resources: StackResources
    store: S3Store
    ledger: DynamoLedger
    job: Job
    record: Record
    reply: QueryReply
    time_left: Callable[[], float] = lambda: 1.0
    direct: DirectStart = field(default_factory=DirectStart)
    of_stack: FleetResources = field(default_factory=lambda: FleetResources({}))
    fleets: RunFleets = field(init=False)
    layout: Layout = field(init=False)
    runner: StageRunner = field(init=False)
    _duckdb: S3DuckWarehouse | None = field(default=None, init=False)
    sources_are_views: bool = field(default=False, init=False)
    _exposed: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.record.id)
        self.runner = StageRunner(
            self.job, self.record, self.store, self.ledger, open_table=open_release_table
        )
        self.fleets = RunFleets.of(self.record, self.of_stack)

    @property
    def queue(self) -> SqsQueue:
        """The queue of the run's messages."""
        return SqsQueue(self.fleets.queue(self.resources.queue), self.resources.dead)

    @property
    def workers(self) -> int:
        """The most workers at a time."""
        functions = self.resources.concurrency if self.fleets.uses_functions else 0
        return functions + self.fleets.tasks

    @property
    def cores(self) -> int:
        """The cores of a worker, of the larger ones if there are several kinds."""
        tasks = [self.of_stack.cores] if self.fleets.requests else []
        functions = [self.resources.cores] if self.fleets.uses_functions else []
        return max(tasks + functions)

    @property
    def uses_duckdb(self) -> bool:
        """Whether this function runs the queries itself."""
        return self.record.options.get("warehouse") == DUCKDB

    @contextmanager
    def warehouse(self, until: Model | None, sources: bool = True) -> Iterator[Warehouse]:
        """Open the warehouse with the sources, and the results of the models before `until`, as
        tables.

        All models are included if `until` is None.
        """
        if self.uses_duckdb:
            if self._duckdb is None:
                memory = function_memory_mb()
                self._duckdb = S3DuckWarehouse(
                    self.store,
                    self.layout,
                    SCRATCH_FOLDER / "step",
                    memory=memory * 2**20 // 2,
                    threads=max(1, round(memory / MB_PER_VCPU)),
                )
            if sources:
                self._expose(until, self._duckdb)
            yield self._duckdb
            return
        with closing(self._open_athena(until)) as opened:
            if sources:
                self.sources_are_views, self._exposed = False, set()  # those of another warehouse
                self._expose(until, opened)
            yield opened

    def close(self) -> None:
        """Close what the stages share."""
        if self._duckdb is not None:
            self._duckdb.close()

    def _open_athena(self, until: Model | None) -> AthenaWarehouse:
        """Return the warehouse; if it has all results, it reads small ones itself."""
        return AthenaWarehouse(
            self.store,
            self.layout,
            self.resources,
            SCRATCH_FOLDER / "step",
            memory=function_memory_mb() * 2**20 // 2,
            reply=self.reply,
            attempt=self.runner.attempt,
            local_bytes=0 if until else function_memory_mb() * MAX_SOURCE_BYTES_PER_MB,
        )

    def _expose(self, until: Model | None, warehouse: Warehouse) -> None:
        """Create the views of the sources, and of the results of the models before `until`."""
        if not self.sources_are_views:
            self.runner.validation_results = validate(
                self.job,
                self.record.source_addresses,
                self.runner.as_of,
                self.layout,
                warehouse,
                self.store,
            )
            describe_run(self.job, self.layout, self.runner.as_of, None, None, warehouse)
            self.sources_are_views = True
        for model in self.job.models:
            if model is until:
                break
            if model.name not in self._exposed:
                self.runner.expose_results(model, warehouse)
                self._exposed.add(model.name)


def execute_stages(step: str, model: str, context: StageContext) -> Reply:
    """Execute a stage, and those after it that this call can execute; return the next action.

    "next": the stage after the one that was asked for; "to STAGE": a later one; "wait": poll the
    workers again after some seconds.
    """
    every = list(stages(context.job))
    asked = next(n for n, s in enumerate(every) if (s.step, _model_name(s)) == (step, model))
    try:
        for number, stage in enumerate(every[asked:], asked):
            if number > asked:
                if not _may_go_on(stage, context):
                    return _go_to(every, asked, number)
                context.runner.begin_stage(stage)
            log.info("stage", stage=str(stage))
            try:
                reply = _execute_stage(stage, context)
            except (QueryPending, QueriesPending) as pending:
                raise PendingAt(pending, stage if number > asked else None) from None
            if reply is not None:
                return reply
        return _go_to(every, asked, len(every))
    finally:
        context.close()


def _go_to(every: list[Stage], asked: int, number: int) -> Reply:
    if number == asked + 1:
        return {"action": "next"}
    return {"action": action_to(every[number] if number < len(every) else None)}


def _may_go_on(stage: Stage, context: StageContext) -> bool:
    """Return whether this call can execute one more stage."""
    return stage.step != "work" and context.time_left() > MIN_TIME_LEFT


def _model_name(stage: Stage) -> str:
    return stage.model.name if stage.model else ""


def _execute_stage(stage: Stage, context: StageContext) -> Reply | None:
    """Execute one stage; return None when it is done, else when to call again."""
    match stage.step, stage.model:
        case "validate", _:
            _validate(context)
        case "prepare", Model() as model:
            _prepare(model, context)
        case "enqueue", Model() as model:
            _enqueue(model, context)
        case "work", Model() as model:
            return _poll_workers(model, context)
        case "collect", Model() as model:
            with (
                context.warehouse(model) as warehouse,
                PrefetchingStore(context.store) as store,
            ):
                replace(context.runner, store=store).collect(model, warehouse)
        case _:
            _publish(context)
    return None


def _validate(context: StageContext) -> None:
    with context.warehouse(None, sources=False) as warehouse:
        if isinstance(warehouse, AthenaWarehouse) and context.reply.is_empty:
            warehouse.restore_tables()
        context.runner.validate(context.record.source_addresses, warehouse)
        context.sources_are_views = context.uses_duckdb  # in the warehouse of the whole call


def _publish(context: StageContext) -> None:
    with context.warehouse(None) as warehouse:
        context.runner.publish(warehouse)
        if isinstance(warehouse, AthenaWarehouse):
            warehouse.drop_tables()
    context.runner.end_stages()
    context.ledger.move(context.record.id, Event.FINISH, step="done")


def _prepare(model: Model, context: StageContext) -> None:
    options = context.record.options
    batch_bytes = int(options.get("batch_bytes") or 2**28)
    batches = int(options.get("batches") or 0)
    naming = naming_query("the query of model", model.name)
    with (
        context.warehouse(model) as warehouse,
        context.runner.naming_damage(warehouse),
        naming,
    ):
        if isinstance(warehouse, S3DuckWarehouse):
            manifest = prepare_with_duckdb(
                model,
                context.job,
                context.layout,
                warehouse,
                warehouse.objects,
                workers=context.workers,
                cores=context.cores,
                batch_bytes=batch_bytes,
                memory=function_memory_mb() * 2**20 // 4,
                batches=batches,
                costs=context.runner.costs_of(model, warehouse),
            )
            _refuse_expired_batches(manifest, context)
        else:
            assert isinstance(warehouse, AthenaWarehouse)
            manifest = prepare_with_athena(
                model,
                context.job,
                context.layout,
                warehouse,
                context.store,
                workers=context.workers,
                cores=context.cores,
                batch_bytes=batch_bytes,
                batches=batches,
                costs=context.runner.costs_of(model, warehouse),
            )
        # after the rows were read; validate() compared them earlier
        refuse_changed(context.runner.validation_results, warehouse)
    workers = min(context.workers, len(manifest.batches))
    context.runner.prepared(manifest, workers * context.cores)


def _refuse_expired_batches(manifest: Manifest, context: StageContext) -> None:
    """Raise StateError if batches are gone: they expire, as the tables of Athena do.

    A run that began before there was a choice has batches that Athena wrote.
    """
    if manifest.files:
        return
    folder = context.layout.batch(manifest.model, 0).rpartition("/")[0] + "/"
    found = sum(1 for _ in context.store.list(folder))
    if found < len(manifest.batches):
        raise StateError(
            f"run {context.layout.run} cannot continue: of the {len(manifest.batches)} batches of "
            f"{manifest.model}, found {found}",
            hint=(
                "batches expire: run the job again; the retention is set with hundredfold deploy "
                "--keep-days"
            ),
        )


def _enqueue(model: Model, context: StageContext) -> None:
    """Send a message for each batch, or write an object whose key makes S3 send an event."""
    manifest = Manifest.read(context.layout, model.name, context.store)
    messages, coverage = plan_attempt(
        manifest, context.layout, context.runner.attempt, context.store
    )
    _refuse_spent(model, coverage, context)
    now = time.time()
    poll = replace(PollState.of(None, now), started=now)
    # they wait for the messages, which are sent meanwhile
    undone = [message for message in messages if coverage.missing(message.first, message.last)]
    started, lacking = _start_workers(undone, context)
    poll = replace(poll, workers=started, lacking=lacking, limit=context.direct.workers)
    poll = _start_tasks(len(undone), poll, model, context)
    context.runner.note(model.name, {"polling": asdict(poll)})
    by_events = context.resources.trigger == "events" and context.fleets.uses_functions
    if not by_events or context.runner.attempt != FIRST_ATTEMPT:
        enqueue(messages, coverage, context.queue)
        return
    # S3 sends an event for each; the manifest lists the objects with the rows
    with ThreadPoolExecutor(EVENT_THREADS) as pool:
        for _ in pool.map(
            lambda batch: context.store.put(event_key(context.layout.run, model.name, batch), b""),
            [message.batch for message in undone],
        ):
            pass  # reraises the error of a thread


def _start_workers(
    messages: Sequence[Message], context: StageContext, active: int = 0
) -> tuple[int, int]:
    """Start workers for messages, if the stack starts them directly.

    `active`: workers that this run started before. Returns the number of started workers, and how
    many more the messages could feed, which those of other runs prevented. If the start fails, the
    event source mapping of the queue delivers the messages.
    """
    if not (context.direct.dispatcher and context.fleets.uses_functions):
        return 0, 0
    units = sum(message.units for message in messages)
    active += _workers_of_other_runs(context)
    try:
        return context.direct.start(len(messages), units, context.resources.cores, active)
    except (BotoCoreError, ClientError) as error:
        log.error("no workers were started; the queue delivers the messages", reason=str(error))
        return 0, 0


def _start_tasks(messages: int, poll: PollState, model: Model, context: StageContext) -> PollState:
    """Start the tasks of the run's fleets that are missing for that many messages.

    Raises: WorkerError if no task works for the run, and none will.
    """
    now, fleets = time.time(), context.fleets
    if not (fleets.requests and messages) or now - poll.checked < MIN_CHECK_S:
        return poll
    found = fleets.start(
        messages,
        f"{model.name}/{context.runner.attempt}",
        poll.tasks,
        fleets.queue(context.resources.queue),
        again=poll.checked > 0,
        since=poll.began,
    )
    emit_tasks(found.of_fleets)
    poll = poll.after_start(found, now)
    if not fleets.uses_functions:  # they work on
        refuse_without_tasks(model.name, poll.restarts, found, fleets)
    return poll


def _workers_of_other_runs(context: StageContext) -> int:
    """Return the workers of other runs that are still at work: all take messages of one queue.

    No more are at work than there are messages. Two runs that enqueue within a second may not
    notice one another.
    """
    depth, record = context.queue.depth(), context.record
    messages = depth.waiting + depth.in_flight
    others = context.ledger.runs(record.job) if messages else ()
    started = 0
    for other in others:
        step, _, model = other.step.partition(" ")
        if other.id != record.id and other.state is State.RUNNING and step == "work":
            poll = PollState.of(other.models.get(model, {}).get("polling"), 0.0)
            started += poll.workers * (time.time() - poll.started < context.direct.timeout)
    return min(started, messages)


def _poll_workers(model: Model, context: StageContext) -> Reply | None:
    """Return None when the workers are done, or when to poll again.

    Missing messages are sent again, a limited number of times.
    """
    manifest = Manifest.read(context.layout, model.name, context.store)
    messages, coverage = plan_attempt(
        manifest, context.layout, context.runner.attempt, context.store
    )
    missing = [
        m.part(first, last) for m in messages for first, last in coverage.missing(m.first, m.last)
    ]
    if not missing:
        _note_spent(context)
        return None
    _refuse_spent(model, coverage, context)
    queue, done, now = context.queue, int(coverage.done.sum()), time.time()
    poll = PollState.of(context.record.models.get(model.name, {}).get("polling"), now)
    depth = queue.depth()
    poll = poll.next(
        done, now, left=sum(m.units for m in missing), busy=bool(depth.waiting or depth.in_flight)
    )
    if poll.idle >= MAX_IDLE_POLLS and poll.idle_s >= MIN_IDLE_S:
        if poll.resends >= MAX_RESENDS:
            raise WorkerError(
                f"{model.name}: {sum(m.units for m in missing):,} of {manifest.units:,} units "
                f"were sent {MAX_RESENDS} times more, and no worker has completed one",
                hint="see the logs of the function `work`; then resume the run",
            )
        queue.send([str(message) for message in missing])
        poll = replace(poll, idle=0, idle_s=0.0, resends=poll.resends + 1)
        depth = replace(depth, waiting=len(missing))
    ended = now - poll.started > context.direct.timeout  # the workers that were started
    more = poll.lacking or context.direct.workers > poll.limit  # it was adjusted
    if depth.waiting and (ended or more):  # the mapping has few
        active = 0 if ended else poll.workers
        started, lacking = _start_workers(missing[: depth.waiting], context, active)
        at = now if ended or started else poll.started
        poll = replace(poll, started=at, workers=active + started, lacking=lacking)
        poll = replace(poll, limit=context.direct.workers)
    if depth.waiting:
        poll = _start_tasks(depth.waiting + depth.in_flight, poll, model, context)
    context.runner.note(model.name, {"polling": asdict(poll)})
    return {"action": "wait", "seconds": poll.pause}


def _note_spent(context: StageContext) -> float:
    """Record and return the dollars of a run with a budget."""
    if context.record.options.get("budget") is None:
        return 0.0
    spent = context.ledger.spent(context.record.id)
    context.ledger.note(context.record.id, counts={"spent": spent})
    return spent


def _refuse_spent(model: Model, coverage: Coverage, context: StageContext) -> None:
    """Raise BudgetSpent if units are missing and the budget is spent."""
    budget, spent = context.record.options.get("budget"), _note_spent(context)
    if budget is not None and spent >= budget["limit"] and not coverage.done.all():
        done, units = int(coverage.done.sum()), len(coverage.done)
        raise budget_spent_error(context.record.id, budget, spent, model.name, done, units)
