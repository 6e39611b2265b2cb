"""The states of a run and their transitions: one total table.

Every state answers every event, with the next state or with the reason why it is refused. Every
ledger calls `after`.
"""

from __future__ import annotations

from enum import StrEnum

from ..errors import StateError


class State(StrEnum):
    NEW = "new"  # recorded; nothing is done yet
    RUNNING = "running"  # a driver executes the steps, or did so when it died
    HELD = "held"  # every unit is accounted for, but a limit holds the release back
    FAILED = "failed"  # a step failed; the record has the reason
    CANCELLED = "cancelled"  # a person ended it
    DONE = "done"  # published, or collected where the job publishes nothing


class Event(StrEnum):
    START = "start"  # a driver starts or resumes the run
    FINISH = "finish"
    HOLD = "hold"
    FAIL = "fail"
    CANCEL = "cancel"
    RETRY = "retry"  # do failed and crashed units again
    RESTORE = "restore"  # compute damaged files of a finished run again


S, E = State, Event

TABLE: dict[tuple[State, Event], State | str] = {
    (S.NEW, E.START): S.RUNNING,
    (S.NEW, E.FINISH): "it has not been started",
    (S.NEW, E.HOLD): "it has not been started",
    (S.NEW, E.FAIL): S.FAILED,
    (S.NEW, E.CANCEL): S.CANCELLED,
    (S.NEW, E.RETRY): "it has not been started: there is nothing to retry",
    (S.RUNNING, E.START): S.RUNNING,  # the driver before this one died
    (S.RUNNING, E.FINISH): S.DONE,
    (S.RUNNING, E.HOLD): S.HELD,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.RETRY): "it has not ended: resume it first",
    (S.HELD, E.START): S.RUNNING,
    (S.HELD, E.FINISH): "it is not running",
    (S.HELD, E.HOLD): "it is not running",
    (S.HELD, E.FAIL): "it is not running",
    (S.HELD, E.CANCEL): S.CANCELLED,
    (S.HELD, E.RETRY): S.RUNNING,
    (S.FAILED, E.START): S.RUNNING,
    (S.FAILED, E.FINISH): "it is not running",
    (S.FAILED, E.HOLD): "it is not running",
    (S.FAILED, E.FAIL): "it is not running",
    (S.FAILED, E.CANCEL): S.CANCELLED,
    (S.FAILED, E.RETRY): S.RUNNING,
    (S.CANCELLED, E.START): "it was cancelled: run the job again",
    (S.CANCELLED, E.FINISH): "it was cancelled",
    (S.CANCELLED, E.HOLD): "it was cancelled",
    (S.CANCELLED, E.FAIL): "it was cancelled",
    (S.CANCELLED, E.CANCEL): "it was cancelled already",
    (S.CANCELLED, E.RETRY): "it was cancelled: run the job again",
    (S.DONE, E.START): "it is done",
    (S.DONE, E.FINISH): "it is done",
    (S.DONE, E.HOLD): "it is done",
    (S.DONE, E.FAIL): "it is done",
    (S.DONE, E.CANCEL): "it is done: use rollback to take its release back",
    (S.NEW, E.RESTORE): "it is not done: resume it",
    (S.RUNNING, E.RESTORE): "it is not done: resume it",
    (S.HELD, E.RESTORE): "it is not done: resume it",
    (S.FAILED, E.RESTORE): "it is not done: resume it",
    (S.CANCELLED, E.RESTORE): "it was cancelled: run the job again",
    (S.DONE, E.RESTORE): S.RUNNING,
    (S.DONE, E.RETRY): S.RUNNING,  # the units that failed within max_failed
}


def after(state: State, event: Event, run: str = "this run") -> State:
    """Return the next state.

    Raises: StateError, with the reason, if the event cannot happen now.
    """
    answer = TABLE[state, event]
    if isinstance(answer, State):
        return answer
    raise StateError(f"run {run} cannot {event.value}: {answer}", hint=f"hundredfold status {run}")
