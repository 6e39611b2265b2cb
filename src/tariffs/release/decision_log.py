"""The decision log: its entries, and the states that follow from them.  Nothing here does I/O.

An entry has a format, a number, an author, a time and a reason; it moves releases from state to
state, and names the table that charging uses from then on.  It carries the SHA-256 of the previous
entry, so that any later change in the log is detected by the next reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tariffs.release.states import Event, State, after

LOG_FORMAT = 2  # of an entry; increased when its keys change
UNMARKED_FORMAT = 1  # the format whose entries do not name it
NO_FALLBACK_AFTER = (Event.KILL, Event.WITHDRAW)  # the kill switch never returns to such a release


class BrokenLog(Exception):
    """The log is not as it was written; the message says where."""


class OtherFormat(Exception):
    """An entry was written in another format; the message names it."""


class EventRefused(Exception):
    """An event cannot happen to a release now; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that charging can use: a release's own, or one derived from it.

    rule       the prices of the rule of thumb for the release's units
    canary     another release, whose rows are used in some `locations`
    unchanged  the prices of the time, frozen: without the model, and without moves
    step       number of steps taken on the way to the rule's prices; 0 at its end
    after      the table from which the way began, or that was frozen, if not the release's own
    """

    version: int
    rule: bool = False
    canary: int | None = None
    locations: tuple[str, ...] = ()
    unchanged: bool = False
    step: int = 0
    after: str = ""

    @property
    def derived(self) -> bool:
        """Whether the prices are not those of the release."""
        return self.rule or self.unchanged

    @property
    def base(self) -> Table:
        """The table that charging uses outside of a canary's locations."""
        return replace(self, canary=None, locations=())

    def __str__(self) -> str:
        if self.canary is not None:
            plural = "s" * (len(self.locations) != 1)
            where = f"{len(self.locations):,} location{plural}"
            return f"{self.base}, with release {self.canary} in {where}"
        if self.unchanged:
            return f"the frozen prices of {self.after or f'release {self.version}'}"
        step = f" (step {self.step} on the way to it)" if self.step else ""
        return (
            f"the rule table of release {self.version}{step}"
            if self.rule
            else f"release {self.version}"
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a guard.

    found     the figure;  limit  the allowed value
    examples  the first few violations, of `count` in all
    """

    code: str
    passed: bool
    found: str
    limit: str = ""
    examples: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Attribution:
    """The author, time and reason of a decision.

    author   the person's name, as given or from the system
    login    user and machine of the command, whatever name was given
    at       ISO 8601, UTC
    nonce    random: distinguishes this entry from one with the same content
    account  as authenticated by the system: the user, by login if known, or the IAM principal;
             "" if there is none
    clock    the time that counted as now for the guards, "" for the time of day
    """

    author: str
    login: str
    at: str
    reason: str = ""
    nonce: str = ""
    account: str = ""
    clock: str = ""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One decision.

    action         approve, activate, kill, ...
    moves          the releases that it moves, each with its event
    active         the table that charging uses from here on; None before the first activation
    digest         the SHA-256 of the checked release.json, which names the table's files and theirs
    compared_with  the table that the guards compared with
    findings, overridden   the findings of the guards, and the codes of those that were set aside
    limits         the guards' limits that it changes
    previous       the SHA-256 of the previous entry, "" for the first
    format         LOG_FORMAT of the program that wrote it
    """

    number: int
    action: str
    attribution: Attribution
    moves: tuple[tuple[int, Event], ...] = ()
    active: Table | None = None
    digest: str = ""
    compared_with: Table | None = None
    findings: tuple[Finding, ...] = ()
    overridden: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    previous: str = ""
    format: int = LOG_FORMAT

    def event(self, version: int) -> Event | None:
        """Return the event that happens to a release, if any."""
        return dict(self.moves).get(version)


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """The entries, with the state of every release, the active table, and the guards' limits."""

    entries: tuple[LogEntry, ...] = ()
    states: Mapping[int, State] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    last: str = ""  # the SHA-256 of the last entry

    @property
    def active(self) -> Table | None:
        return self.entries[-1].active if self.entries else None

    @property
    def next(self) -> int:
        return len(self.entries) + 1

    def state(self, version: int) -> State:
        return self.states.get(version, State.DRAFT)

    def entries_of(self, version: int) -> list[LogEntry]:
        """Return the entries that moved a release, oldest first."""
        return [entry for entry in self.entries if entry.event(version)]

    def approval(self, version: int) -> LogEntry | None:
        """Return the last entry that approved a release."""
        return next((e for e in reversed(self.entries) if e.event(version) is Event.APPROVE), None)

    def was_used(self, version: int) -> bool:
        """Return whether charging has ever used the release's own table, if only as a canary."""
        return any(
            e.active is not None and (e.active.base == Table(version) or e.active.canary == version)
            for e in self.entries
        )

    def fallbacks(self) -> list[int]:
        """Return the approved releases to which the kill switch may return, best first.

        First those that charging used, the latest first; then those that it never used, the latest
        approval first.  None that was killed or withdrawn by a person since its approval.
        """
        used = [
            e.active.version for e in reversed(self.entries) if e.active and not e.active.derived
        ]
        approved = [
            v for e in reversed(self.entries) for v, event in e.moves if event is Event.APPROVE
        ]
        now = self.active.version if self.active else None
        return [v for v in dict.fromkeys([*used, *approved]) if v != now and self._may_return(v)]

    def since(self) -> LogEntry | None:
        """Return the entry since which charging uses the active table."""
        found = None
        for entry in reversed(self.entries):
            if entry.active != self.active:
                break
            found = entry
        return found if self.active else None

    def moved(self, moves: Iterable[tuple[int, Event]]) -> Mapping[int, State]:
        """Return the states after these events; EventRefused if one cannot happen."""
        states = dict(self.states)
        for version, event in moves:
            answer = after(states.get(version, State.DRAFT), event)
            if not isinstance(answer, State):
                raise EventRefused(f"release {version} cannot be {PAST_TENSE[event]}: {answer}")
            states[version] = answer
        return states

    def entry(self, action: str, attribution: Attribution, **facts: Any) -> LogEntry:
        """Return the next entry; the active table stays unless `active` is given."""
        return LogEntry(
            self.next, action, attribution, **{"active": self.active, **facts}, previous=self.last
        )

    def then(self, data: bytes) -> DecisionLog:
        """Return the log with one more entry; BrokenLog if it does not follow from the others."""
        entry = decode(data)
        if entry.number != self.next:
            raise BrokenLog(
                f"entry {self.next} is missing: the next one there is entry {entry.number}"
            )
        if entry.previous != self.last:
            raise BrokenLog(
                f"entry {self.next - 1} was changed after entry {entry.number} was written"
            )
        try:
            states = self.moved(entry.moves)
        except EventRefused as error:
            raise BrokenLog(f"entry {entry.number} cannot have happened: {error}") from error
        active = {version for version, state in states.items() if state is State.ACTIVE}
        if active != (
            {entry.active.version} if entry.active and not entry.active.derived else set()
        ):
            raise BrokenLog(
                f"entry {entry.number} names {entry.active} as the active table, and its moves"
                f" make active: {sorted(active)}"
            )
        tried = {version for version, state in states.items() if state is State.CANARY}
        if tried != (
            {entry.active.canary} if entry.active and entry.active.canary is not None else set()
        ):
            raise BrokenLog(
                f"entry {entry.number} names {entry.active} as the active table, and its moves"
                f" make canaries: {sorted(tried)}"
            )
        limits = {**self.limits, **entry.limits}
        return DecisionLog((*self.entries, entry), states, limits, hashlib.sha256(data).hexdigest())

    def _may_return(self, version: int) -> bool:
        events = [event for e in self.entries if (event := e.event(version))]
        since = events[
            max(
                (i for i, event in enumerate(events) if event is Event.APPROVE), default=len(events)
            ) :
        ]
        return bool(since) and not set(NO_FALLBACK_AFTER) & set(since)


PAST_TENSE = {
    Event.APPROVE: "approved",
    Event.TRY: "tried in some locations",
    Event.ACTIVATE: "activated",
    Event.REPLACE: "replaced",
    Event.WITHDRAW: "withdrawn",
    Event.KILL: "killed",
    Event.RESTORE: "restored",
}


def encode(entry: LogEntry) -> bytes:
    """Return an entry as bytes for the store."""
    return json.dumps(asdict(entry), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def decode(data: bytes) -> LogEntry:
    """Return the entry of these bytes.

    Raises: BrokenLog if they are none, OtherFormat for the entry of an older or a newer program.
    """
    try:
        facts = json.loads(data)
        _refuse_other_format(facts)
        read = {
            "attribution": Attribution(**facts["attribution"]),
            "moves": tuple((int(version), Event(event)) for version, event in facts["moves"]),
            "active": facts["active"] and _table(facts["active"]),
            "compared_with": facts["compared_with"] and _table(facts["compared_with"]),
            "findings": tuple(
                Finding(**{**f, "examples": tuple(f["examples"])}) for f in facts["findings"]
            ),
            "overridden": tuple(facts["overridden"]),
        }
        return LogEntry(**{**facts, **read})
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenLog(f"an entry cannot be read: {error}") from error


def _refuse_other_format(facts: object) -> None:
    if not isinstance(facts, dict):
        return
    found = facts.get("format", UNMARKED_FORMAT if "said" in facts else LOG_FORMAT)
    if found != LOG_FORMAT:
        raise OtherFormat(f"entry {facts['number']} has format {found}")


def _table(facts: Mapping[str, Any]) -> Table:
    return Table(**{**facts, "locations": tuple(facts["locations"])})
