"""The states of a release of the price table, and their transitions: one total table.

Every state answers every event, with the next state or with the reason of a refusal.  The log calls
`after` for each entry, when it is written and whenever it is read.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    DRAFT = "draft"  # published by the job, not approved
    APPROVED = "approved"  # by a person; charging does not use it yet
    CANARY = "canary"  # charging uses it in some locations, and another one elsewhere
    ACTIVE = "active"  # charging uses it
    WITHDRAWN = "withdrawn"  # no longer used by charging, or ruled out


class Event(StrEnum):
    APPROVE = "approve"
    TRY = "try"  # charging uses it in some locations first
    ACTIVATE = "activate"
    REPLACE = "replace"  # another release became active
    WITHDRAW = "withdraw"  # a person rules it out
    KILL = "kill"  # the kill switch took it away from charging
    RESTORE = "restore"  # the kill switch returned it to charging


S, E = State, Event

NOT_USED = "charging does not use it"
TABLE: dict[tuple[State, Event], State | str] = {
    (S.DRAFT, E.APPROVE): S.APPROVED,
    (S.DRAFT, E.TRY): "it is a draft: approve it first",
    (S.DRAFT, E.ACTIVATE): "it is a draft: approve it first",
    (S.DRAFT, E.REPLACE): NOT_USED,
    (S.DRAFT, E.WITHDRAW): S.WITHDRAWN,
    (S.DRAFT, E.KILL): NOT_USED,
    (S.DRAFT, E.RESTORE): "it is a draft: it was never approved",
    (S.APPROVED, E.APPROVE): "it is approved already",
    (S.APPROVED, E.TRY): S.CANARY,
    (S.APPROVED, E.ACTIVATE): S.ACTIVE,
    (S.APPROVED, E.REPLACE): NOT_USED,
    (S.APPROVED, E.WITHDRAW): S.WITHDRAWN,
    (S.APPROVED, E.KILL): NOT_USED,
    (S.APPROVED, E.RESTORE): S.ACTIVE,  # approved and never used: better than none
    (S.CANARY, E.APPROVE): "it is approved already, and charging uses it in some locations",
    (S.CANARY, E.TRY): S.CANARY,  # in other locations, or in more
    (S.CANARY, E.ACTIVATE): S.ACTIVE,
    (S.CANARY, E.REPLACE): S.WITHDRAWN,
    (S.CANARY, E.WITHDRAW): "charging uses it in some locations: use the kill switch",
    (S.CANARY, E.KILL): S.WITHDRAWN,
    (S.CANARY, E.RESTORE): "charging uses it in some locations: activate it",
    (S.ACTIVE, E.APPROVE): "it is active already",
    (S.ACTIVE, E.TRY): "it is active already, everywhere",
    (S.ACTIVE, E.ACTIVATE): "it is active already",
    (S.ACTIVE, E.REPLACE): S.WITHDRAWN,
    (S.ACTIVE, E.WITHDRAW): "charging uses it: activate another one, or use the kill switch",
    (S.ACTIVE, E.KILL): S.WITHDRAWN,
    (S.ACTIVE, E.RESTORE): "it is active already",
    (S.WITHDRAWN, E.APPROVE): S.APPROVED,
    (S.WITHDRAWN, E.TRY): "it is withdrawn: approve it again first",
    (S.WITHDRAWN, E.ACTIVATE): "it is withdrawn: approve it again first",
    (S.WITHDRAWN, E.REPLACE): NOT_USED,
    (
        S.WITHDRAWN,
        E.WITHDRAW,
    ): S.WITHDRAWN,  # one that was only replaced: the kill switch will not return to it
    (S.WITHDRAWN, E.KILL): NOT_USED,
    (S.WITHDRAWN, E.RESTORE): S.ACTIVE,
}


def after(state: State, event: Event) -> State | str:
    """Return the next state, or the reason why `event` cannot happen now."""
    return TABLE[state, event]
