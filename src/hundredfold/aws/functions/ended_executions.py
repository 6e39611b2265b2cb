"""Executions that ended before their run: stopped in the console, timed out, or failed in a way
that no state machine can catch, such as a history that is full.

EventBridge reports them to the function `step`. The run is recorded as failed, so that `status`
does not show it as running and `resume` continues it; and its workers are released.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ...errors import HundredfoldError, NoSuchRun, StateError
from ...pipeline.stage_times import StageTimes
from ...ports.run_states import Event
from ..adapters.dynamodb_ledger import DynamoLedger, SupersededError
from ..adapters.session import StackResources
from ..fleets.run_fleets import FleetResources
from ..pollers import ACTIVE, RunPollers
from ..work.json_log import log
from .invocation import emit_tasks

MAX_REASON_CHARACTERS = 20_000


def record_ended_execution(detail: Mapping[str, Any], resources: StackResources) -> None:
    """Record the run of an execution as failed, unless the run has ended or goes on in another.

    `detail`: the execution's, as EventBridge reports it. Raises: HundredfoldError, so that the
    event is delivered again, if the record cannot be read or written.
    """
    run = json.loads(detail.get("input") or "{}").get("run", "")
    if not run:
        log.error("an execution ended whose run is unknown", execution=detail["executionArn"])
        return
    ledger = DynamoLedger(resources.table, execution=detail["executionArn"])
    try:
        record = ledger.move(run, Event.FAIL, reason=_reason(detail))
        ledger.note(run, counts=StageTimes.of(record.counts).end(time.time()).counts)
    except (NoSuchRun, SupersededError, StateError):
        pass  # no run had begun, it goes on in another execution, or it ended before
    release_workers(run, resources)


def _reason(detail: Mapping[str, Any]) -> str:
    """Return the reason for the record."""
    known = ": ".join(str(detail[name]) for name in ("error", "cause") if detail.get(name))
    text = f"the execution of the run ended before the run did: {detail['status']}"
    return (f"{text}: {known}" if known else text)[:MAX_REASON_CHARACTERS]


def release_workers(run: str, resources: StackResources) -> None:
    """Stop the tasks of a run that has ended, and lower the pollers unless another one is active.

    Nothing happens while the run is active.
    """
    pollers, ledger = RunPollers.of(resources), DynamoLedger(resources.table)
    fleets = FleetResources.from_environment()
    if pollers is None and not fleets.fleets:
        return
    try:
        record = ledger.read(run)
        if record.state in ACTIVE:
            return
        if record.options.get("fleets"):
            emit_tasks(dict.fromkeys(fleets.stop(run), 0))
        if pollers is not None:
            pollers.lower_after_run(record, ledger)
    except NoSuchRun:
        pass  # uploads are still expected, or another run has taken them
    except (BotoCoreError, ClientError, HundredfoldError) as error:
        log.error("the pollers were not lowered, and cost money", reason=str(error))
