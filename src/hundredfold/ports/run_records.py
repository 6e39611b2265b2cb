"""The changes that every ledger makes to a record, whatever it stores records in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import NoSuchRun, StateError
from .interfaces import Record
from .run_facts import RunCounts, RunOptions, Transition
from .run_states import Event, after

MAX_RUNS_SHOWN = 3  # runs that an error names
MAX_TRANSITIONS = 500  # in a record: an item of DynamoDB has at most 400 KB


def transition(record: Record, event: Event, step: str | None, reason: str, now: float) -> Record:
    """Return the record after an event. Raises: StateError if its state forbids the event."""
    state = after(record.state, event, record.id)
    written = reason.encode("utf-8", "backslashreplace").decode()
    changed = replace(record, state=state, reason=written)
    return _with_entry(_next(changed, now, record.step if step is None else step))


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
    changed = replace(record, counts=merged_counts, options=merged_options)
    if step is None or step == record.step:
        return _next(changed, now, record.step)
    return _with_entry(_next(changed, now, step))


def _next(record: Record, now: float, step: str) -> Record:
    """Return the next version of a record, with its step and time changed."""
    updated = max(timestamp(now), record.updated)  # the clock may have been set back
    return replace(record, step=step, updated=updated, version=record.version + 1)


def _with_entry(record: Record) -> Record:
    """Return the record with its state and step as the last entry of its history."""
    entry = Transition(at=record.updated, state=record.state.value, step=record.step)
    history = [*record.counts.get("history", []), entry]
    if len(history) > MAX_TRANSITIONS:
        del history[MAX_TRANSITIONS // 2]
    return replace(record, counts={**record.counts, "history": history})


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
        hint="hundredfold list   lists the runs; a run that was killed before it was "
        f"recorded left nothing: start it again with --run-id {run}",
    )
