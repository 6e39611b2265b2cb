"""The functions on AWS: `step` does a stage of a run, `work` does messages, `bury` writes down what
nobody could do.

Each may be called again with what it was called with before, and may be cut off at any moment: what
is done is found, and not done again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

from ...data.manifest import Manifest
from ...errors import HundredfoldError, NoSuchRun, PublishRefused, StateError, WorkerError
from ...job import Job, Layout, Model
from ...pipeline.enqueue import enqueue, plan_attempt
from ...pipeline.publish import describe_run
from ...pipeline.runner import StageRunner, prepared_counts
from ...pipeline.stages import stages
from ...pipeline.validate import refuse_changed, validate
from ...ports.interfaces import Record
from ...ports.run_states import Event, State
from ...runs.job_loader import load_job
from ...runs.start import with_limits
from ...sql.queries import naming_query
from ..adapters.athena import AthenaWarehouse, QueryPending, QueryReply
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.prefetch import PrefetchingStore
from ..adapters.s3_store import S3Store
from ..adapters.session import StackResources
from ..adapters.sqs_queue import SqsQueue
from ..runs import begin_upload, refuse_other_code
from .messages import FIRST_ATTEMPT, SqsMessage, notice_key
from .prepare import prepare
from .worker import Invocation, log
from .worker import bury as bury_letter

SCRATCH = Path(tempfile.gettempdir()) / "hundredfold"  # the one place that a function may write to
SOONEST, LATEST = 3, 60  # seconds between looks at how far the workers are
PATIENCE = (
    2  # looks without progress and with an empty queue after which what is missing is sent again
)
SWEEPS = 5  # so often in a row; then it is no message that was lost
COPIERS = 16  # threads: 3,000 copies of some 30 ms
WORDS = 20_000  # characters of a reason that a state machine is told

metrics = Metrics(namespace="Hundredfold")


def step(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """One stage of a run, or as much of it as can be done before a query has run; what is to happen
    next.
    """
    _begin_log(context, run=event["run"], step=event["step"], model=event["model"])
    said = {"token": "", **_step(event)}
    log.info("step", do=said["do"])
    return said


def _step(event: dict[str, Any]) -> dict[str, Any]:
    place = StackResources.of_environment()
    store, ledger = S3Store(place.bucket), DynamoLedger(place.table)
    try:
        job = load_job(place.job)
        record = _record(event, ledger, job)
        if record.state is State.NEW:
            record = ledger.move(record.id, Event.START)
        if record.state is not State.RUNNING:
            return _over(record)
        refuse_other_code(record, place.code)
        name = f"{event['step']} {event['model']}".strip()
        if record.step != name:
            record = ledger.note(record.id, step=name)
        shutil.rmtree(SCRATCH / "step", ignore_errors=True)
        return _do(
            event,
            StageContext(place, store, ledger, with_limits(job, record), record, _heard(event)),
        )
    except QueryPending as asked:
        # a query that failed may be tried again by another execution
        once = f"{asked.token[:32]}-{event['execution'][-90:]}"
        return {
            "do": "query",
            "query": asked.sql,
            "token": asked.token,
            "once": once,
            "output": asked.output,
        }
    except PublishRefused as refusal:
        return _ended(event["run"], Event.HOLD, refusal, ledger)
    except HundredfoldError as error:
        return _ended(event["run"], Event.FAIL, error, ledger)


def _ended(run: str, event: Event, error: HundredfoldError, ledger: DynamoLedger) -> dict[str, Any]:
    """Record why the run ends here, unless it has ended otherwise meanwhile: cancelled, say."""
    try:
        if error.hint:
            ledger.note(
                run, options={"hint": [str(error), error.hint]}
            )  # for those who watch; it is good for this reason alone
        return _over(ledger.move(run, event, reason=str(error)))
    except StateError:
        return _over(ledger.read(run))
    except NoSuchRun:
        raise error from None


def _over(record: Record) -> dict[str, Any]:
    """What a step says of a run that is at its end."""
    said = {
        State.DONE: "next",
        State.HELD: "held",
        State.FAILED: "failed",
        State.CANCELLED: "cancelled",
    }
    return {"do": said[record.state], "reason": record.reason[:WORDS]}


class StageContext:
    """All that a stage needs, where it stands on AWS."""

    def __init__(
        self,
        place: StackResources,
        store: S3Store,
        ledger: DynamoLedger,
        job: Job,
        record: Record,
        heard: QueryReply,
    ) -> None:
        self.place, self.store, self.ledger, self.job, self.record, self.heard = (
            place,
            store,
            ledger,
            job,
            record,
            heard,
        )
        self.layout = Layout(record.id)
        self.walk = StageRunner(job, record, store, ledger)

    def warehouse(self, until: Model | None, sources: bool = True) -> AthenaWarehouse:
        """The warehouse, in which the sources and the models before `until` (all of them: None)
        stand under their names.
        """
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")) * 2**20 // 2
        opened = AthenaWarehouse(
            self.store,
            self.layout,
            self.place,
            SCRATCH / "step",
            memory=memory,
            heard=self.heard,
            attempt=self.walk.attempt,
        )
        if sources:
            self.walk.validation_results = validate(
                self.job,
                self.record.source_addresses,
                self.walk.as_of,
                self.layout,
                opened,
                self.store,
            )
            describe_run(self.job, self.layout, self.walk.as_of, None, None, opened)
            for model in self.job.models:
                if model is until:
                    break
                self.walk.expose_results(model, opened)
        return opened


def _do(event: dict[str, Any], stand: StageContext) -> dict[str, Any]:
    model = stand.job.model(event["model"]) if event["model"] else None
    match event["step"], model:
        case "validate", _:
            with closing(stand.warehouse(None, sources=False)) as warehouse:
                if not stand.heard.token:
                    warehouse.stand_again()
                stand.walk.validate(stand.record.source_addresses, warehouse)
        case "prepare", Model():
            _prepare(model, stand)
        case "enqueue", Model():
            _enqueue(model, stand)
        case "work", Model():
            return _look(model, stand)
        case "collect", Model():
            with (
                closing(stand.warehouse(model)) as warehouse,
                PrefetchingStore(stand.store) as store,
            ):
                replace(stand.walk, store=store).collect(model, warehouse)
        case _:
            with closing(stand.warehouse(None)) as warehouse:
                stand.walk.publish(warehouse)
                warehouse.drop_all()
            stand.ledger.move(stand.record.id, Event.FINISH, step="done")
    return {"do": "next"}


def _prepare(model: Model, stand: StageContext) -> None:
    options = stand.record.options
    naming = naming_query("the query of model", model.name)
    with closing(stand.warehouse(model)) as warehouse, stand.walk.naming_damage(warehouse), naming:
        manifest = prepare(
            model,
            stand.job,
            stand.layout,
            warehouse,
            stand.store,
            workers=stand.place.concurrency,
            batch_bytes=int(options.get("batch_bytes") or 2**28),
            batches=int(options.get("batches") or 0),
        )
        refuse_changed(
            stand.walk.validation_results, warehouse
        )  # after the rows were read; validate() compared them before
    stand.walk.note(model.name, prepared_counts(manifest))


def _enqueue(model: Model, stand: StageContext) -> None:
    """A message for each batch, or, where S3 tells the workers of new objects, the batches put
    where it watches.
    """
    manifest = Manifest.read(stand.layout, model.name, stand.store)
    messages, coverage = plan_attempt(manifest, stand.layout, stand.walk.attempt, stand.store)
    stand.walk.note(model.name, {"look": None})
    if stand.place.trigger != "events" or stand.walk.attempt != FIRST_ATTEMPT:
        enqueue(messages, coverage, _queue(stand.place))
        return
    undone = [
        message.batch for message in messages if coverage.missing(message.first, message.last)
    ]
    with ThreadPoolExecutor(
        COPIERS
    ) as pool:  # S3 tells of the first object of each batch: what a worker reads, the manifest says
        for _ in pool.map(
            lambda batch: stand.store.copy(
                manifest.files[batch][0], notice_key(stand.layout.run, model.name, batch)
            ),
            undone,
        ):
            pass  # raises what a thread raised


def _look(model: Model, stand: StageContext) -> dict[str, Any]:
    """How far the workers are: on with the run, or look again later.

    What never arrived is sent again, and not for ever.
    """
    manifest = Manifest.read(stand.layout, model.name, stand.store)
    messages, coverage = plan_attempt(manifest, stand.layout, stand.walk.attempt, stand.store)
    missing = [
        m.part(first, last) for m in messages for first, last in coverage.missing(m.first, m.last)
    ]
    if not missing:
        return {"do": "next"}
    queue, done, now = _queue(stand.place), int(coverage.done.sum()), time.time()
    look = PollState.of(stand.record.models.get(model.name, {}).get("look"), now)
    depth = queue.depth()
    look = look.next(
        done, now, left=sum(m.units for m in missing), busy=bool(depth.waiting or depth.in_flight)
    )
    if look.idle >= PATIENCE:
        if look.swept >= SWEEPS:
            raise WorkerError(
                f"{model.name}: {sum(m.units for m in missing):,} of {manifest.units:,} units "
                f"were sent {SWEEPS} times more, and no worker has done one",
                hint="look at the logs of the function `work`; then resume the run",
            )
        queue.send([str(message) for message in missing])
        look = replace(look, idle=0, swept=look.swept + 1)
    stand.walk.note(model.name, {"look": asdict(look)})
    return {"do": "wait", "seconds": look.pause}


@dataclass(frozen=True, slots=True)
class PollState:
    """One look at how far the workers are: when, what it saw, and when to look again.

    `idle` counts looks in a row that saw neither progress nor a message, `swept` how often what was
    missing has been sent again since there was progress.
    """

    at: float
    done: int = 0
    pause: int = 0
    idle: int = 0
    swept: int = 0

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None, now: float) -> PollState:
        return cls(**kept) if kept else cls(now)

    def next(self, done: int, now: float, *, left: int, busy: bool) -> PollState:
        """Half of the time that is left, as fast as it went lately; without progress twice as long
        as before.
        """
        gained, took = done - self.done, now - self.at
        if gained > 0 and took > 0:
            return PollState(now, done, _bounded(left * took / gained / 2))
        return PollState(
            now, done, _bounded(2 * self.pause), 0 if busy else self.idle + 1, self.swept
        )


def _bounded(seconds: float) -> int:
    return max(SOONEST, min(LATEST, math.ceil(seconds)))


def _record(event: dict[str, Any], ledger: DynamoLedger, job: Job) -> Record:
    """The run's record; that of an upload is made with its first step."""
    try:
        return ledger.read(event["run"])
    except NoSuchRun:
        if event["step"] != str(next(stages(job))) or "sources" not in event["input"]:
            raise
        return begin_upload(
            event["run"], event["input"]["sources"], job, StackResources.of_environment(), ledger
        )


def _heard(event: dict[str, Any]) -> QueryReply:
    """What came of the statement that was asked last."""
    heard = event["heard"]
    error = _athenas_words(heard) if "Error" in heard else ""
    return QueryReply(event["execution"], event["asked"], str(heard.get("id", "")), error)


def _athenas_words(failure: dict[str, Any]) -> str:
    """Why a query failed, out of what the state machine says of it."""
    cause = str(failure.get("Cause", ""))
    try:
        status = json.loads(cause)["QueryExecution"]["Status"]
        return str(status.get("AthenaError", {}).get("ErrorMessage") or status["StateChangeReason"])
    except (ValueError, KeyError, TypeError):
        return f"{failure.get('Error')}: {cause}"


def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Messages of the queue through the user's function; those that are to come back."""
    _begin_log(context)
    place = StackResources.of_environment()
    store, ledger = S3Store(place.bucket), DynamoLedger(place.table)
    shift = Invocation(
        store,
        ledger,
        _queue(place),
        place.job,
        SCRATCH / "work",
        lambda: context.get_remaining_time_in_millis() / 1000,
        place.code,
    )
    try:
        return _not_done(shift.do(event["Records"]))
    finally:
        tally = shift.tally
        _measure(
            place.job,
            UnitsDone=tally.done,
            UnitsFailed=tally.failed,
            UnitsHandedBack=tally.handed_back,
            MessagesRefused=tally.refused,
        )


def bury(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Dead letters: what they ask for is recorded as crashed, so that the run ends.

    Letters that are not ours stay where they are.
    """
    _begin_log(context)
    place = StackResources.of_environment()
    store, ledger = S3Store(place.bucket), DynamoLedger(place.table)
    left, buried = [], 0
    for record in event["Records"]:
        try:
            buried += bury_letter(
                SqsMessage.of(record, place.bucket), _reason_of(record), store, ledger
            )
        except ValueError as error:
            left.append(str(record["messageId"]))
            log.error(
                "a dead letter is not ours", reason=str(error), message_id=record["messageId"]
            )
    _measure(place.job, UnitsDead=buried, LettersLeft=len(left))
    return _not_done(left)


def _reason_of(record: Mapping[str, Any]) -> str:
    """Why a worker refused it; "" where the queue gave it up."""
    return str(record.get("messageAttributes", {}).get("reason", {}).get("stringValue", ""))


def _not_done(ids: Iterable[str]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in ids]}


def _begin_log(context: Any, **keys: str) -> None:
    """Every line of this call has these keys, and the id by which Lambda's own lines name the call."""
    log.clear_state()
    known = {**keys, "function_request_id": getattr(context, "aws_request_id", "")}
    log.append_keys(**{name: value for name, value in known.items() if value})


def _measure(job: str, **counts: int) -> None:
    """Metrics of the function; those that are 0 are not worth a line."""
    if any(counts.values()):
        metrics.add_dimension(name="job", value=job)
        for name, count in counts.items():
            if count:
                metrics.add_metric(name=name, unit=MetricUnit.Count, value=count)
        metrics.flush_metrics()


def _queue(place: StackResources) -> SqsQueue:
    return SqsQueue(place.queue, place.dead)
