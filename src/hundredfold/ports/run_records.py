"""What every ledger does to a record: the rules of the door, whatever it is kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import NoSuchRun, StateError
from .interfaces import Record
from .run_facts import RunCounts, RunOptions
from .run_states import Event, after

MAX_RUNS_SHOWN = 3  # so many runs are named where one is not found


def transition(record: Record, event: Event, step: str | None, reason: str, now: float) -> Record:
    """The record after `event`; StateError if its state does not allow it."""
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
    """The record with these facts merged into it."""
    merged_counts: RunCounts = {**record.counts, **(counts or {})}
    merged_options: RunOptions = {**record.options, **(options or {})}
    return _next(
        replace(record, counts=merged_counts, options=merged_options),
        now,
        step=record.step if step is None else step,
    )


def _next(record: Record, now: float, *, step: str) -> Record:
    """Return the record as it is written next: its step, its time and its version changed."""
    updated = max(timestamp(now), record.updated)  # the clock may have been set back
    return replace(record, step=step, updated=updated, version=record.version + 1)


def timestamp(now: float) -> str:
    """A moment as records have it: ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")


def run_exists_error(run: str) -> StateError:
    return StateError(f"run {run} is in the ledger already", hint=f"hundredfold resume {run}")


def no_such_run(run: str, newest: Sequence[str]) -> NoSuchRun:
    """The error that says which runs there are."""
    there = (
        f"the newest here: {', '.join(newest[:MAX_RUNS_SHOWN])}"
        if newest
        else "there are none here yet"
    )
    return NoSuchRun(
        f"there is no run {run}; {there}",
        hint=f"hundredfold status --all   lists them; a run that was killed before it was recorded left nothing: run it again with --run-id {run}",
    )
