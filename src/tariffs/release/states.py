"""What may happen to a release of the price table: one total table.

Every state answers every event, with the next state or with the sentence that refuses it.  The log calls `after` for each entry, when it is
written and whenever it is read.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    DRAFT = "draft"  # published by the job; nobody has said yes
    APPROVED = "approved"  # somebody has; charging does not use it yet
    CANARY = "canary"  # charging uses it in some places, and another one elsewhere
    ACTIVE = "active"  # charging uses it
    WITHDRAWN = "withdrawn"  # charging uses it no more, or shall never


class Event(StrEnum):
    APPROVE = "approve"
    TRY = "try"  # charging shall use it in some places first
    ACTIVATE = "activate"
    REPLACE = "replace"  # another release became active
    WITHDRAW = "withdraw"  # a person says that it shall not be used
    KILL = "kill"  # the kill switch took it away from charging
    RESTORE = "restore"  # the kill switch gave it back to charging


S, E = State, Event

NOT_USED = "charging does not use it"
TABLE: dict[tuple[State, Event], State | str] = {
    (S.DRAFT, E.APPROVE): S.APPROVED,
    (S.DRAFT, E.TRY): "it is a draft: approve it first",
    (S.DRAFT, E.ACTIVATE): "it is a draft: approve it first",
    (S.DRAFT, E.REPLACE): NOT_USED,
    (S.DRAFT, E.WITHDRAW): S.WITHDRAWN,
    (S.DRAFT, E.KILL): NOT_USED,
    (S.DRAFT, E.RESTORE): "it is a draft: nobody has approved it",
    (S.APPROVED, E.APPROVE): "it is approved already",
    (S.APPROVED, E.TRY): S.CANARY,
    (S.APPROVED, E.ACTIVATE): S.ACTIVE,
    (S.APPROVED, E.REPLACE): NOT_USED,
    (S.APPROVED, E.WITHDRAW): S.WITHDRAWN,
    (S.APPROVED, E.KILL): NOT_USED,
    (S.APPROVED, E.RESTORE): S.ACTIVE,  # approved, and never used: better than nothing
    (S.CANARY, E.APPROVE): "it is approved already, and charging uses it in some places",
    (S.CANARY, E.TRY): S.CANARY,  # in other places, or in more
    (S.CANARY, E.ACTIVATE): S.ACTIVE,
    (S.CANARY, E.REPLACE): S.WITHDRAWN,
    (S.CANARY, E.WITHDRAW): "charging uses it in some places: use the kill switch",
    (S.CANARY, E.KILL): S.WITHDRAWN,
    (S.CANARY, E.RESTORE): "charging uses it in some places: activate it",
    (S.ACTIVE, E.APPROVE): "it is active already",
    (S.ACTIVE, E.TRY): "it is active already, everywhere",
    (S.ACTIVE, E.ACTIVATE): "it is active already",
    (S.ACTIVE, E.REPLACE): S.WITHDRAWN,
    (S.ACTIVE, E.WITHDRAW): "charging uses it: activate another one, or use the kill switch",
    (S.ACTIVE, E.KILL): S.WITHDRAWN,
    (S.ACTIVE, E.RESTORE): "it is active already",
    (S.WITHDRAWN, E.APPROVE): S.APPROVED,
    (S.WITHDRAWN, E.TRY): "it is withdrawn: approve it anew first",
    (S.WITHDRAWN, E.ACTIVATE): "it is withdrawn: approve it anew first",
    (S.WITHDRAWN, E.REPLACE): NOT_USED,
    (
        S.WITHDRAWN,
        E.WITHDRAW,
    ): S.WITHDRAWN,  # one that was only replaced, and that the kill switch shall not go back to
    (S.WITHDRAWN, E.KILL): NOT_USED,
    (S.WITHDRAWN, E.RESTORE): S.ACTIVE,
}


def after(state: State, event: Event) -> State | str:
    """The state that follows, or the reason why `event` cannot happen now."""
    return TABLE[state, event]
