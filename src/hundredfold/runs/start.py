"""Checks that every backend makes before a run is recorded: arguments, names, times and limits."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Mapping
from typing import Any

from ..data.batch import row_form
from ..data.result_contract import return_type
from ..data.upstream import check_inputs
from ..errors import StateError, UsageError
from ..job import Job, check_limit
from ..ports.interfaces import Record
from ..ports.run_facts import RunOptions
from ..ports.run_states import State
from ..sql.queries import query_of


def check_arguments(
    job: object, sources: object, workers: object, max_rejected: object, max_failed: object
) -> None:
    """Raise UsageError or JobError for arguments of the wrong type or value."""
    if not isinstance(job, str | Job):
        raise UsageError(
            f"the job is {type(job).__name__}, wanted a Job, 'module:attribute' or "
            "'path/to/file.py:attribute'"
        )
    if sources is not None and not isinstance(sources, Mapping):
        raise UsageError(
            f"sources is {type(sources).__name__}, wanted a mapping",
            hint='such as sources={"sales": frame}',
        )
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise UsageError(f"workers is {workers!r}, wanted a whole number")
    if max_rejected is not None and not isinstance(max_rejected, Mapping):
        raise UsageError(
            f"max_rejected is {max_rejected!r}, wanted a mapping",
            hint='such as max_rejected={"sales": 0.01}',
        )
    for name, limit in dict(max_rejected or {}).items():
        check_limit(f"max_rejected of {name}", limit)
    if max_failed is not None:
        check_limit("max_failed", max_failed)


def check_names(job: Job, *named: Mapping[str, Any]) -> None:
    """Raise JobError for a name in the arguments that is not a source of the job."""
    for names in named:
        for name in names:
            job.source(name)


def decided_options(record: Record, max_failed: float | None, replace_newer: bool) -> RunOptions:
    """Return the options for continuing a run that was held back: its own, and those of this
    call.
    """
    return {
        "max_failed": max_failed if max_failed is not None else record.max_failed,
        "replace_newer": replace_newer or record.replace_newer,
    }


def check_held(record: Record, status_command: str) -> None:
    """Raise StateError if a run is not held back by a limit, so that there is nothing to publish.

    status_command: the command that shows the run, for the hint.
    """
    if record.state is not State.HELD:
        raise StateError(
            f"run {record.id} is {record.state.value}, and only a run that is held back can be "
            "published",
            hint=status_command,
        )


def check_adjustable(record: Record, max_failed: float | None) -> None:
    """Raise StateError if a run has ended, and JobError for an invalid limit."""
    if max_failed is not None:
        check_limit("max_failed", max_failed)
    if record.state not in (State.NEW, State.RUNNING):
        publish = record.state is State.HELD and max_failed is not None
        raise StateError(
            f"run {record.id} is {record.state.value}, and only a run in progress can be adjusted",
            hint=f"hundredfold publish {record.id} --max-failed {max_failed}"
            if publish
            else f"hundredfold status {record.id}",
        )


def new_run_id(now: dt.datetime) -> str:
    """Return a run id that sorts by time."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_declared(job: Job) -> None:
    """Raise the errors of a job's queries and functions that need no data."""
    for model in job.models:
        query_of(model, job)
        row_form(model)
        return_type(model)
        check_inputs(model, job)


def parse_as_of(text: dt.date | str) -> str:
    try:
        moment = dt.datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError as error:
        raise UsageError(
            f"as_of is {text!r}, wanted a date or time such as 2026-06-30 or 2026-06-30T12:00",
            hint="ISO 8601, in UTC",
        ) from error
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return moment.isoformat(" ")


def with_limits(job: Job, record: Record) -> Job:
    """Return the job with the limits that this run was started with."""
    limits = record.options.get("max_rejected") or {}
    for name in limits:
        job.source(name)
    sources = tuple(
        dataclasses.replace(s, max_rejected=limits.get(s.name, s.max_rejected)) for s in job.sources
    )
    return dataclasses.replace(job, sources=sources)
