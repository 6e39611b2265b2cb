"""The record of a run on AWS at its start, and the check of its code."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence

from ..errors import NEW_CODE, JobError, SourceError, StateError
from ..job import Job
from ..ports.interfaces import Record
from ..ports.run_facts import HOME_FORMAT, CodeEntry, RunOptions
from ..ports.run_states import State
from ..runs.names import check_aws_run_id
from .adapters.session import StackResources

MAX_EXECUTION_NAME_CHARACTERS = 80  # of Step Functions


def new_record(
    run: str,
    job: Job,
    ref: str,
    sources: Mapping[str, str],
    options: RunOptions,
    code: str = "",
) -> Record:
    """Return the record of a new run, for the code of that fingerprint.

    Raises:
        UsageError: the run id is invalid.
        SourceError: a source has no location.
    """
    check_aws_run_id(run)
    for name in sources:
        job.source(name)
    locations = {source.name: sources.get(source.name, source.path) for source in job.sources}
    missing = [name for name, location in locations.items() if not location]
    if missing:
        raise SourceError(
            f"the sources {', '.join(missing)} have no location",
            hint=(
                f"give it: --source {missing[0]}=s3://BUCKET/PREFIX/   or a path, which is uploaded"
            ),
        )
    return _record(
        run,
        job,
        ref,
        {name: location for name, location in locations.items() if location},
        options,
        code,
    )


def code_entry(code: str, attempt: int) -> CodeEntry:
    """Return the entry of a record for the code of an attempt and the following ones."""
    return CodeEntry(attempt=attempt, fingerprint=code, commit="")


def refuse_other_code(record: Record, code: str) -> None:
    """Raise StateError if other code has been deployed since the run began."""
    if is_other_code(record, code):
        raise StateError(
            f"other code was deployed while run {record.id} was active: {code} in place of "
            f"{record.code[-1]['fingerprint']}",
            hint=(
                f"continue with it: hundredfold resume {record.id} {NEW_CODE}   or deploy the "
                f"earlier code again, then: hundredfold resume {record.id}"
            ),
        )


def is_other_code(record: Record, code: str) -> bool:
    """Return whether code differs from the last code of a run, if both are known."""
    return bool(code and record.code) and record.code[-1]["fingerprint"] != code


def _record(
    run: str,
    job: Job,
    ref: str,
    locations: Mapping[str, str],
    options: RunOptions,
    code: str,
) -> Record:
    now = dt.datetime.now(dt.UTC)
    as_of = options.get("as_of") or now.replace(tzinfo=None, microsecond=0).isoformat(" ")
    stamp = now.isoformat(timespec="milliseconds")
    recorded: RunOptions = {
        **options,
        "format": HOME_FORMAT,
        "as_of": as_of,
        "sources": dict(locations),
        "attempt": 1,
    }
    if code:
        recorded["code"] = [code_entry(code, 1)]
    return Record(run, job.name, ref, State.NEW, "new", stamp, stamp, options=recorded)


def execution_name(run: str, number: int) -> str:
    """Return the name of the nth execution of a run: unique, in at most 80 characters."""
    name = f"{run}-{number}"
    if len(name) <= MAX_EXECUTION_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(run.encode()).hexdigest()[:12]
    return f"{run[:50]}-{digest}-{number}"


def execution_arn(machine: str, name: str) -> str:
    """Return the ARN of an execution of a state machine."""
    return f"{machine.replace(':stateMachine:', ':execution:', 1)}:{name}"


def upload_record(
    run: str,
    uploaded: Mapping[str, str],
    job: Job,
    resources: StackResources,
    known: Mapping[str, str],
    *,
    execution: str = "",
    replaced: Sequence[str] = (),
) -> tuple[Record, SourceError | JobError | None]:
    """Return the record of a run that uploads start, and the error for its sources.

    The error: one has no location, or the job has it no longer.

    Its other sources are at the `known` locations, those of an earlier run, or at those of the job;
    the earlier run may have had sources that the job has no longer. No user sees the error, so the
    run is recorded in any case. `replaced`: addresses of uploads that newer ones replace.
    """
    declared = {source.name for source in job.sources}
    locations = {name: location for name, location in known.items() if name in declared}
    options: RunOptions = {"uploaded": sorted(uploaded), "execution": execution}
    if replaced:
        options["replaced_uploads"] = list(replaced)
    try:
        return (
            new_record(run, job, resources.job, {**locations, **uploaded}, options, resources.code),
            None,
        )
    except (SourceError, JobError) as error:
        return _record(run, job, resources.job, uploaded, options, resources.code), error
