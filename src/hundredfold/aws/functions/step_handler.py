"""The Lambda handler `step`, which executes a stage.

It may be called again with the same event, and may be interrupted at any time: it finds work that
is already done, and does not repeat it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ...errors import HundredfoldError, NoSuchRun, PublishRefused, StateError
from ...job import Job
from ...pipeline.stage_times import StageTimes
from ...pipeline.stages import stages
from ...ports.interfaces import Record
from ...ports.run_states import Event, State
from ...runs.job_loader import load_job
from ...runs.start import with_limits
from ..adapters.dynamodb_ledger import DynamoLedger, SupersededError
from ..adapters.query_failures import failure_of
from ..adapters.s3_store import S3Store
from ..adapters.session import StackResources
from ..adapters.statements import QueriesPending, QueryPause, QueryPending, QueryReply
from ..fleets.requests import LAMBDA
from ..fleets.run_fleets import FleetResources
from ..lambda_platform import function_memory_mb
from ..pollers import RunPollers
from ..runs import refuse_other_code
from ..stage_order import ENDED_EXECUTION, GROUP_TOKEN, RELEASE_STEP, query_action
from ..translation_checks import check_translates
from ..warehouse_choice import ATHENA, AUTO, choose_warehouse
from ..work.json_log import log
from .ended_executions import record_ended_execution, release_workers
from .invocation import SCRATCH_FOLDER, set_log_keys
from .packed import unpack_distributions
from .stage_execution import PendingAt, StageContext, execute_stages
from .starting_workers import DirectStart
from .uploads import UploadsExpected, start_run_of_uploads

MAX_REASON_CHARACTERS = 20_000  # of a reason that is passed to the state machine

unpack_distributions()


def step(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Execute one stage of a run, up to its next pending query, and the stages after it that need
    no other service; return the next action.

    EventBridge calls it too, when an execution has ended before its run.
    """
    if event.get("detail-type") == ENDED_EXECUTION:
        set_log_keys(context)
        record_ended_execution(event["detail"], StackResources.from_environment())
        return {}
    if event["step"] == RELEASE_STEP:  # the execution could not end the run by a stage
        set_log_keys(context, run=event["run"])
        release_workers(event["run"], StackResources.from_environment())
        return {}
    set_log_keys(context, run=event["run"], step=event["step"], model=event["model"])
    reply = {"token": "", **_reply_of(event, context)}
    release_workers(event["run"], StackResources.from_environment())
    log.info("step", action=reply["action"])
    return reply


def _reply_of(event: dict[str, Any], context: Any) -> dict[str, Any]:
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
        if event["step"] == str(next(stages(job))) and not event["token"]:
            _raise_pollers(resources, record)
        name = f"{event['step']} {event['model']}".strip()
        if record.step != name:
            times = StageTimes.of(record.counts).begin(name, time.time())
            record = ledger.note(record.id, step=name, counts=times.counts)
        record = _with_warehouse(record, job, ledger)
        shutil.rmtree(SCRATCH_FOLDER / "step", ignore_errors=True)
        return execute_stages(
            event["step"],
            event["model"],
            StageContext(
                resources,
                store,
                ledger,
                with_limits(job, record),
                record,
                _query_reply(event, resources),
                _time_left(context),
                DirectStart.from_environment(),
                FleetResources.from_environment(),
            ),
        )
    except SupersededError as error:
        return _superseded_reply(error)
    except (UploadsExpected, QueryPause) as pause:
        return {"action": "wait", "seconds": pause.seconds}
    except PendingAt as waiting:
        return _pending_reply(waiting, event)
    except PublishRefused as refusal:
        return _end_run(event["run"], Event.HOLD, refusal, ledger)
    except HundredfoldError as error:
        return _end_run(event["run"], Event.FAIL, error, ledger)


def _raise_pollers(resources: StackResources, record: Record) -> None:
    """Raise the pollers at the begin of an execution, if runs of this stack raise any.

    The tasks of a fleet need none.
    """
    fleets = record.options.get("fleets")
    if fleets and LAMBDA not in [each["name"] for each in fleets]:
        return
    if pollers := RunPollers.of(resources):
        try:
            pollers.raise_for_run()
        except (BotoCoreError, ClientError) as error:
            log.error("the pollers were not raised", reason=str(error))


def _pending_reply(waiting: PendingAt, event: dict[str, Any]) -> dict[str, Any]:
    """Return the reply that has the statements run which a stage waits for."""
    execution = event["execution"][-90:]
    match waiting.pending:
        case QueryPending() as one:
            # another execution may repeat a query that failed, and this one a query that it may
            # repeat
            number = f"-{one.number}" if one.number > 1 else ""
            return {
                "action": query_action("query", waiting.stage),
                "query": one.sql,
                "token": one.token,
                "request_token": f"{one.token[:32]}{number}-{execution}",
                "output": one.output,
            }
        case QueriesPending() as several:
            return {
                "action": query_action("queries", waiting.stage),
                "token": GROUP_TOKEN,
                "queries": [
                    {
                        "query": each.sql,
                        "token": each.token,
                        "request_token": f"{each.token[:32]}-0-{execution}",
                        "output": each.output,
                    }
                    for each in several.statements
                ],
            }


def _with_warehouse(record: Record, job: Job, ledger: DynamoLedger) -> Record:
    """Return the record with the warehouse of the run, which is chosen once."""
    wanted = record.options.get("warehouse") or AUTO
    if "warehouse_reason" in record.options:
        return record
    choice = choose_warehouse(wanted, job, record.source_addresses, function_memory_mb())
    log.info("warehouse", warehouse=choice.warehouse, reason=choice.reason)
    if choice.warehouse == ATHENA and record.options.get("uploaded"):
        check_translates(job)  # no command has, for a run that uploads started
    return ledger.note(
        record.id,
        options={"warehouse": choice.warehouse, "warehouse_reason": choice.reason},
    )


def _time_left(context: Any) -> Callable[[], float]:
    """Return a function that returns which fraction of this call's time is left."""
    if context is None:
        return lambda: 1.0
    at_start = max(1, context.get_remaining_time_in_millis())
    return lambda: float(context.get_remaining_time_in_millis() / at_start)


def _end_run(
    run: str, event: Event, error: HundredfoldError, ledger: DynamoLedger
) -> dict[str, Any]:
    """Record why the run ends, unless it has ended already (it may have been cancelled)."""
    try:
        times = StageTimes.of(ledger.read(run).counts).end(time.time())
        ledger.note(run, counts=times.counts)
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


def _query_reply(event: dict[str, Any], resources: StackResources) -> QueryReply:
    """Return the result of the last pending query, or of those that ran together."""
    result, token = event["query_result"], event["token"]
    if token == GROUP_TOKEN:
        ids = {each["token"]: each["id"] for each in result}
        if len(ids) != len(result) or not all(ids):  # the step would ask for them for ever
            raise StateError("the state machine returned results of queries without their tokens")
        return QueryReply(event["execution"], ids=ids)
    if not token or "Error" not in result:
        return QueryReply(event["execution"], token, str(result.get("id", "")))
    failure = failure_of(result, resources.workgroup)
    return QueryReply(event["execution"], token, "", failure.reason, failure.retryable, failure.id)
