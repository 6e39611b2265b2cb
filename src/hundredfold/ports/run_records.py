"""The changes that every ledger makes to a record, whatever it stores records in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import NoSuchRun, StateError
from .interfaces import Record
from .run_facts import RunCounts, RunOptions
from .run_states import Event, after

MAX_RUNS_SHOWN = 3  # runs that an error names


def transition(record: Record, event: Event, step: str | None, reason: str, now: float) -> Record:
    """Return the record after an event. Raises: StateError if its state forbids the event."""
    state = after(record.state, event, record.id)
    written = reason.encode("utf-8", "backslashreplace").decode()
    return _next(
        replace(record, state=state, reason=written),
        now,
        step=record.step if step is None else step,
    )


def annotate(
    record: Record,
    step: str | None,
    counts: RunCounts | None,
    options: RunOptions | None,
    now: float,
) -> Record:
    """Return the record with these facts merged into it."""
    merged_counts: RunCounts = {**record.counts, **(counts or {})}
    merged_options: RunOptions = {**record.options, **(options or {})}
    return _next(
        replace(record, counts=merged_counts, options=merged_options),
        now,
        step=record.step if step is None else step,
    )


def _next(record: Record, now: float, *, step: str) -> Record:
    """Return the next version of a record, with its step and time changed."""
    updated = max(timestamp(now), record.updated)  # the clock may have been set back
    return replace(record, step=step, updated=updated, version=record.version + 1)


def timestamp(now: float) -> str:
    """Return a moment as records hold it: ISO 8601, UTC, in milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")


def run_exists_error(run: str) -> StateError:
    return StateError(f"run {run} exists already", hint=f"hundredfold resume {run}")


def no_such_run(run: str, newest: Sequence[str]) -> NoSuchRun:
    """Return the error for an unknown run, which names the newest ones."""
    there = (
        f"the newest are {', '.join(newest[:MAX_RUNS_SHOWN])}" if newest else "there is no run yet"
    )
    return NoSuchRun(
        f"there is no run {run}; {there}",
        hint="hundredfold status --all   lists the runs; a run that was killed before it was "
        f"recorded left nothing: start it again with --run-id {run}",
    )
