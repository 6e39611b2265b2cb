"""The first step of a run that uploads start: it waits until no more of them arrive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ...errors import JobError, NoSuchRun, SourceError, StateError
from ...job import Job
from ...ports.interfaces import Clock, Record
from ...ports.run_states import State
from ..adapters.dynamodb_ledger import DynamoLedger, SupersededError, retry_delays
from ..adapters.session import StackResources
from ..adapters.uploads import Upload, UploadTable, WaitingUploads
from ..runs import upload_record


class UploadsExpected(Exception):
    """More uploads may arrive: the step is to be called again, after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = max(1, math.ceil(seconds))


def start_run_of_uploads(
    run: str,
    event: Mapping[str, Any],
    job: Job,
    resources: StackResources,
    ledger: DynamoLedger,
    clock: Clock,
) -> Record:
    """Enter the uploads of an event, or take all that wait; return the record of the run.

    `event`: the input of the execution.

    Raises:
        UploadsExpected: the quiet period is not over.
        SupersededError: another run has taken the upload.
        SourceError: a source of the run has no location; the run is recorded.
        JobError: the job has a source of the run no longer; the run is recorded.
    """
    table = UploadTable(resources.table)
    own = _uploads(event)
    for pause in retry_delays():
        waiting, now = table.read(), clock()
        entered = waiting
        for upload in own:
            entered = entered.add(upload, now)
        left = [each for each in own if each.id not in entered.taken]
        if not left:
            with suppress(NoSuchRun):  # where the reply to the transaction was lost
                return ledger.own(run)
            taken_by = entered.taken[own[0].id][0] if own else "no run"
            raise SupersededError(f"{taken_by} has taken the upload")
        seconds = entered.seconds_left(resources.quiet, now)
        if seconds > 0:
            if entered is waiting or table.write(entered):
                raise UploadsExpected(seconds)
        else:
            record, error = _record_of(run, entered, job, resources, ledger)
            if table.write_with(entered.take(run, now), record):
                if error is not None:
                    raise error
                return record
            with suppress(NoSuchRun):
                return ledger.own(run)
        ledger.sleep(pause)
    raise StateError(
        f"the upload of run {run} cannot be entered: other uploads were entered first, each time",
        hint="start a run with hundredfold run",
    )


def _record_of(
    run: str,
    waiting: WaitingUploads,
    job: Job,
    resources: StackResources,
    ledger: DynamoLedger,
) -> tuple[Record, SourceError | JobError | None]:
    """Return the record of a run of these uploads, and the reason why it fails at once, if any."""
    return upload_record(
        run,
        waiting.newest(),
        job,
        resources,
        known_sources(waiting, job, ledger),
        execution=ledger.execution,
        replaced=waiting.replaced(),
    )


def known_sources(waiting: WaitingUploads, job: Job, ledger: DynamoLedger) -> Mapping[str, str]:
    """Return the locations of the newest run that did not fail.

    The list of runs may miss one that began within the last second, so the latest run of uploads
    is read as well.
    """
    runs = list(ledger.runs(job.name))
    if waiting.latest and all(record.id != waiting.latest for record in runs):
        with suppress(NoSuchRun):
            runs.insert(0, ledger.read(waiting.latest))
    good = (r for r in runs if r.state not in (State.FAILED, State.CANCELLED))
    return next((record.source_addresses for record in good), {})


def _uploads(event: Mapping[str, Any]) -> list[Upload]:
    """Return the uploads of an event; none for folder markers, which hold no data."""
    time, sequencer = str(event.get("time", "")), str(event.get("sequencer", ""))
    return [
        Upload(
            f"{source} {address} {time} {sequencer}" if time else f"{source} {event['run']}",
            source,
            address,
            time,
            sequencer,
        )
        for source, address in event["sources"].items()
        if not address.endswith("/")
    ]
