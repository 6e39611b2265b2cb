"""The way to every decision: read the log, decide, write one entry, move the pointer.

If another process wrote that number first, the decision is made again on the longer log: every
entry is a decision on all entries before it, and none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hundredfold.errors import StateError, UsageError
from hundredfold.releases import Store
from tariffs.release import repository
from tariffs.release.decision_log import (
    Attribution,
    DecisionLog,
    EventRefused,
    LogEntry,
)
from tariffs.release.repository import PutIfAbsent
from tariffs.release.states import Event, State

LAST_APPROVED: Final = "last-approved"


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a decision: its entry, the log that ends with it, and the tables it skipped."""

    entry: LogEntry
    decisions: DecisionLog
    skipped: tuple[str, ...] = ()


def append_decision(
    decide: Callable[[DecisionLog], LogEntry], store: Store, log_writer: PutIfAbsent
) -> Done:
    """Decide on the log as it is, until no other process was faster; then update the pointer."""
    repository.repair_pointer(store)  # an interrupted command may have left it old
    while True:
        decisions = repository.read_log(store)
        entry = decide(decisions)
        if repository.append(entry, log_writer):
            repository.repair_pointer(store)
            return Done(entry, repository.read_log(store))


def require_allowed(decisions: DecisionLog, moves: Sequence[tuple[int, Event]]) -> None:
    try:
        decisions.moved(moves)
    except EventRefused as error:
        raise StateError(
            str(error), hint=_next_command(decisions.state(moves[0][0]), *moves[0])
        ) from None


def _next_command(state: State, version: int, event: Event) -> str:
    if event is Event.ACTIVATE and state in (State.DRAFT, State.WITHDRAWN):
        return f"tariffs approve {version}"
    if event is Event.APPROVE and state is State.APPROVED:
        return f"tariffs activate {version}"
    if event is Event.WITHDRAW and state is State.ACTIVE:
        return f"tariffs kill --to {LAST_APPROVED}"
    return f"tariffs log {version}"


def require_reason(attribution: Attribution, what: str, command: str) -> None:
    if not attribution.reason:
        raise UsageError(f"to {what} needs a reason", hint=f"{command} --reason WHY")
