"""The Lambda handlers: `step` executes a stage, `work` processes messages, `dead_letter` records
units as crashed after their message was dead-lettered.

Each handler may be called again with the same event, and may be interrupted at any time: it finds
work that is already done, and does not repeat it.
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
from ..adapters.dynamodb_ledger import DynamoLedger, SupersededError
from ..adapters.prefetch import PrefetchingStore
from ..adapters.s3_store import S3Store
from ..adapters.session import StackResources
from ..adapters.sqs_queue import SqsQueue
from ..runs import refuse_other_code
from .messages import FIRST_ATTEMPT, SqsMessage, event_key
from .prepare import prepare
from .uploads import UploadsExpected, start_run_of_uploads
from .worker import Invocation, log, record_crashed_units

# the only folder that a function may write to
SCRATCH_FOLDER = Path(tempfile.gettempdir()) / "hundredfold"
MIN_POLL_S, MAX_POLL_S = 3, 60  # seconds between two polls of the progress of the workers
# polls without progress and with an empty queue, before the missing messages are sent again
MAX_IDLE_POLLS = 2
MAX_RESENDS = 5  # in a row; after that, a lost message is not the cause
COPY_THREADS = 16  # 3,000 copies take some 30 ms each
MAX_REASON_CHARACTERS = 20_000  # of a reason that is passed to the state machine

metrics = Metrics(namespace="Hundredfold")


def step(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Execute one stage of a run, up to its next pending query; return the next action."""
    _set_log_keys(context, run=event["run"], step=event["step"], model=event["model"])
    reply = {"token": "", **_reply_of(event)}
    log.info("step", action=reply["action"])
    return reply


def _reply_of(event: dict[str, Any]) -> dict[str, Any]:
    resources = StackResources.from_environment()
    store = S3Store(resources.bucket)
    ledger = DynamoLedger(resources.table, execution=event["execution"])
    try:
        record = _owned_record(event, ledger, resources)
        job = load_job(resources.job)
        if record.state is State.NEW:
            record = ledger.move(record.id, Event.START)
        if record.state is not State.RUNNING:
            return _final_reply(record)
        refuse_other_code(record, resources.code)
        name = f"{event['step']} {event['model']}".strip()
        if record.step != name:
            record = ledger.note(record.id, step=name)
        shutil.rmtree(SCRATCH_FOLDER / "step", ignore_errors=True)
        return _execute_stage(
            event,
            StageContext(
                resources, store, ledger, with_limits(job, record), record, _query_reply(event)
            ),
        )
    except SupersededError as error:
        return _superseded_reply(error)
    except UploadsExpected as expected:
        return {"action": "wait", "seconds": expected.seconds}
    except QueryPending as pending:
        # another execution may repeat a query that failed
        request_token = f"{pending.token[:32]}-{event['execution'][-90:]}"
        return {
            "action": "query",
            "query": pending.sql,
            "token": pending.token,
            "request_token": request_token,
            "output": pending.output,
        }
    except PublishRefused as refusal:
        return _end_run(event["run"], Event.HOLD, refusal, ledger)
    except HundredfoldError as error:
        return _end_run(event["run"], Event.FAIL, error, ledger)


def _end_run(
    run: str, event: Event, error: HundredfoldError, ledger: DynamoLedger
) -> dict[str, Any]:
    """Record why the run ends, unless it has ended already (it may have been cancelled)."""
    try:
        if error.hint:
            # for `hundredfold status`, and valid for this reason only
            ledger.note(run, options={"hint": [str(error), error.hint]})
        return _final_reply(ledger.move(run, event, reason=str(error)))
    except SupersededError as superseded:
        return _superseded_reply(superseded)
    except StateError:
        return _final_reply(ledger.read(run))
    except NoSuchRun:
        raise error from None


def _superseded_reply(error: SupersededError) -> dict[str, Any]:
    return {"action": "superseded", "reason": str(error)}


def _final_reply(record: Record) -> dict[str, Any]:
    """Return the reply of a step for a run that has ended."""
    actions = {
        State.DONE: "next",
        State.HELD: "held",
        State.FAILED: "failed",
        State.CANCELLED: "cancelled",
    }
    return {"action": actions[record.state], "reason": record.reason[:MAX_REASON_CHARACTERS]}


class StageContext:
    """The arguments of a stage on AWS."""

    def __init__(
        self,
        resources: StackResources,
        store: S3Store,
        ledger: DynamoLedger,
        job: Job,
        record: Record,
        reply: QueryReply,
    ) -> None:
        self.resources, self.store, self.ledger = resources, store, ledger
        self.job, self.record, self.reply = job, record, reply
        self.layout = Layout(record.id)
        self.runner = StageRunner(job, record, store, ledger)

    def warehouse(self, until: Model | None, sources: bool = True) -> AthenaWarehouse:
        """Open the warehouse with the sources, and the results of the models before `until`, as
        tables.

        All models are included if `until` is None.
        """
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")) * 2**20 // 2
        opened = AthenaWarehouse(
            self.store,
            self.layout,
            self.resources,
            SCRATCH_FOLDER / "step",
            memory=memory,
            reply=self.reply,
            attempt=self.runner.attempt,
        )
        if sources:
            self.runner.validation_results = validate(
                self.job,
                self.record.source_addresses,
                self.runner.as_of,
                self.layout,
                opened,
                self.store,
            )
            describe_run(self.job, self.layout, self.runner.as_of, None, None, opened)
            for model in self.job.models:
                if model is until:
                    break
                self.runner.expose_results(model, opened)
        return opened


def _execute_stage(event: dict[str, Any], stage: StageContext) -> dict[str, Any]:
    model = stage.job.model(event["model"]) if event["model"] else None
    match event["step"], model:
        case "validate", _:
            with closing(stage.warehouse(None, sources=False)) as warehouse:
                if not stage.reply.token:
                    warehouse.restore_tables()
                stage.runner.validate(stage.record.source_addresses, warehouse)
        case "prepare", Model():
            _prepare(model, stage)
        case "enqueue", Model():
            _enqueue(model, stage)
        case "work", Model():
            return _poll_workers(model, stage)
        case "collect", Model():
            with (
                closing(stage.warehouse(model)) as warehouse,
                PrefetchingStore(stage.store) as store,
            ):
                replace(stage.runner, store=store).collect(model, warehouse)
        case _:
            with closing(stage.warehouse(None)) as warehouse:
                stage.runner.publish(warehouse)
                warehouse.drop_tables()
            stage.ledger.move(stage.record.id, Event.FINISH, step="done")
    return {"action": "next"}


def _prepare(model: Model, stage: StageContext) -> None:
    options = stage.record.options
    naming = naming_query("the query of model", model.name)
    with (
        closing(stage.warehouse(model)) as warehouse,
        stage.runner.naming_damage(warehouse),
        naming,
    ):
        manifest = prepare(
            model,
            stage.job,
            stage.layout,
            warehouse,
            stage.store,
            workers=stage.resources.concurrency,
            batch_bytes=int(options.get("batch_bytes") or 2**28),
            batches=int(options.get("batches") or 0),
        )
        # after the rows were read; validate() compared them earlier
        refuse_changed(stage.runner.validation_results, warehouse)
    stage.runner.note(model.name, prepared_counts(manifest))


def _enqueue(model: Model, stage: StageContext) -> None:
    """Send a message for each batch, or copy the batches to keys that trigger S3 events."""
    manifest = Manifest.read(stage.layout, model.name, stage.store)
    messages, coverage = plan_attempt(manifest, stage.layout, stage.runner.attempt, stage.store)
    stage.runner.note(model.name, {"look": None})
    if stage.resources.trigger != "events" or stage.runner.attempt != FIRST_ATTEMPT:
        enqueue(messages, coverage, _queue(stage.resources))
        return
    undone = [
        message.batch for message in messages if coverage.missing(message.first, message.last)
    ]
    # S3 sends an event for the first object of each batch; the manifest lists the others
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        for _ in pool.map(
            lambda batch: stage.store.copy(
                manifest.files[batch][0], event_key(stage.layout.run, model.name, batch)
            ),
            undone,
        ):
            pass  # reraises the error of a thread


def _poll_workers(model: Model, stage: StageContext) -> dict[str, Any]:
    """Return whether the workers are done, or when to poll again.

    Missing messages are sent again, a limited number of times.
    """
    manifest = Manifest.read(stage.layout, model.name, stage.store)
    messages, coverage = plan_attempt(manifest, stage.layout, stage.runner.attempt, stage.store)
    missing = [
        m.part(first, last) for m in messages for first, last in coverage.missing(m.first, m.last)
    ]
    if not missing:
        return {"action": "next"}
    queue, done, now = _queue(stage.resources), int(coverage.done.sum()), time.time()
    poll = PollState.of(stage.record.models.get(model.name, {}).get("look"), now)
    depth = queue.depth()
    poll = poll.next(
        done, now, left=sum(m.units for m in missing), busy=bool(depth.waiting or depth.in_flight)
    )
    if poll.idle >= MAX_IDLE_POLLS:
        if poll.swept >= MAX_RESENDS:
            raise WorkerError(
                f"{model.name}: {sum(m.units for m in missing):,} of {manifest.units:,} units "
                f"were sent {MAX_RESENDS} times more, and no worker has completed one",
                hint="see the logs of the function `work`; then resume the run",
            )
        queue.send([str(message) for message in missing])
        poll = replace(poll, idle=0, swept=poll.swept + 1)
    stage.runner.note(model.name, {"look": asdict(poll)})
    return {"action": "wait", "seconds": poll.pause}


@dataclass(frozen=True, slots=True)
class PollState:
    """One poll of the progress of the workers: its time, its result, and the pause until the next.

    `idle` counts consecutive polls without progress and without a message in the queue; `swept`
    counts how often the missing messages have been sent again since the last progress.
    """

    at: float
    done: int = 0
    pause: int = 0
    idle: int = 0
    swept: int = 0

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None, now: float) -> PollState:
        return cls(**stored) if stored else cls(now)

    def next(self, done: int, now: float, *, left: int, busy: bool) -> PollState:
        """Return the next poll: after half of the estimated time left, or twice the previous pause.

        The estimate uses the latest rate; the pause doubles while there is no progress.
        """
        gained, elapsed = done - self.done, now - self.at
        if gained > 0 and elapsed > 0:
            return PollState(now, done, _clamp_pause(left * elapsed / gained / 2))
        return PollState(
            now, done, _clamp_pause(2 * self.pause), 0 if busy else self.idle + 1, self.swept
        )


def _clamp_pause(seconds: float) -> int:
    return max(MIN_POLL_S, min(MAX_POLL_S, math.ceil(seconds)))


def _owned_record(event: dict[str, Any], ledger: DynamoLedger, resources: StackResources) -> Record:
    """Return the run's record, which this execution owns from its first step on.

    The first step of an upload creates it, when no more uploads arrive. An event of an upload can
    be delivered twice, and starts an execution each time: one of them creates the record.

    Raises: SupersededError if another execution owns the run, or has taken the upload.
    """
    run = event["run"]
    try:
        return ledger.own(run)
    except NoSuchRun:
        job = load_job(resources.job)
        if event["step"] != str(next(stages(job))) or "sources" not in event["input"]:
            raise
    return start_run_of_uploads(run, event["input"], job, resources, ledger, time.time)


def _query_reply(event: dict[str, Any]) -> QueryReply:
    """Return the result of the last pending query."""
    result = event["query_result"]
    error = _athena_error(result) if "Error" in result else ""
    return QueryReply(event["execution"], event["token"], str(result.get("id", "")), error)


def _athena_error(failure: dict[str, Any]) -> str:
    """Return the reason why a query failed, from the error of the state machine."""
    cause = str(failure.get("Cause", ""))
    try:
        status = json.loads(cause)["QueryExecution"]["Status"]
        return str(status.get("AthenaError", {}).get("ErrorMessage") or status["StateChangeReason"])
    except (ValueError, KeyError, TypeError):
        return f"{failure.get('Error')}: {cause}"


def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Process messages of the queue with the job's function; return those to be delivered again."""
    _set_log_keys(context)
    resources = StackResources.from_environment()
    store, ledger = S3Store(resources.bucket), DynamoLedger(resources.table)
    invocation = Invocation(
        store,
        ledger,
        _queue(resources),
        resources.job,
        SCRATCH_FOLDER / "work",
        lambda: context.get_remaining_time_in_millis() / 1000,
        resources.code,
    )
    try:
        return _batch_item_failures(invocation.process(event["Records"]))
    finally:
        counts = invocation.counts
        _emit_metrics(
            resources.job,
            UnitsDone=counts.done,
            UnitsFailed=counts.failed,
            UnitsRequeued=counts.requeued,
            MessagesDeadLettered=counts.dead_lettered,
        )


def dead_letter(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Record the units of dead-lettered messages as crashed, so that the run can end.

    Messages that this package did not write stay in the dead-letter queue.
    """
    _set_log_keys(context)
    resources = StackResources.from_environment()
    store, ledger = S3Store(resources.bucket), DynamoLedger(resources.table)
    left, crashed_units = [], 0
    for record in event["Records"]:
        try:
            crashed_units += record_crashed_units(
                SqsMessage.parse(record, resources.bucket), _reason_of(record), store, ledger
            )
        except ValueError as error:
            left.append(str(record["messageId"]))
            log.error(
                "invalid dead-lettered message", reason=str(error), message_id=record["messageId"]
            )
    _emit_metrics(resources.job, UnitsCrashed=crashed_units, MessagesLeft=len(left))
    return _batch_item_failures(left)


def _reason_of(record: Mapping[str, Any]) -> str:
    """Return why a worker dead-lettered the message; "" if the queue did."""
    return str(record.get("messageAttributes", {}).get("reason", {}).get("stringValue", ""))


def _batch_item_failures(ids: Iterable[str]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in ids]}


def _set_log_keys(context: Any, **keys: str) -> None:
    """Set the keys of every log line of this call, and the request id of Lambda's own lines."""
    log.clear_state()
    known = {**keys, "function_request_id": getattr(context, "aws_request_id", "")}
    log.append_keys(**{name: value for name, value in known.items() if value})


def _emit_metrics(job: str, **counts: int) -> None:
    """Emit the function's metrics; zeros are left out."""
    if any(counts.values()):
        metrics.add_dimension(name="job", value=job)
        for name, count in counts.items():
            if count:
                metrics.add_metric(name=name, unit=MetricUnit.Count, value=count)
        metrics.flush_metrics()


def _queue(resources: StackResources) -> SqsQueue:
    return SqsQueue(resources.queue, resources.dead)
