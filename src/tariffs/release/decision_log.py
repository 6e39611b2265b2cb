"""The log of decisions: its entries, and what follows from them.  Nothing here reads or writes.

An entry is numbered, says who, when and why, moves releases from state to state, and names what charging uses from then on.  It carries the
SHA-256 of the entry before it, so that a change made afterwards, anywhere in the log, is seen by whoever reads it next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tariffs.release.states import Event, State, after

NO_FALLBACK_AFTER = (Event.KILL, Event.WITHDRAW)  # the kill switch never goes back to what ended so


class BrokenLog(Exception):
    """The log is not what was written; the words say where."""


class EventRefused(Exception):
    """An event cannot happen to a release now; the words say why."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that charging can use: a release's own, or the prices of the rule of thumb for that release's units.

    With a canary it is that table with the rows of another release in some places (locations).

    unchanged  the prices that charging asked at the time, frozen: without the model, and without a move
    step       on the way to the rule's prices, how many steps have been gone; 0 at the end of the way
    after      what charging used where the way began, or what was frozen, if that was not the release's own table
    """

    version: int
    rule: bool = False
    canary: int | None = None
    places: tuple[str, ...] = ()
    unchanged: bool = False
    step: int = 0
    after: str = ""

    @property
    def derived(self) -> bool:
        """Whether the prices are none that the release published."""
        return self.rule or self.unchanged

    @property
    def base(self) -> Table:
        """What charging uses where there is no canary."""
        return replace(self, canary=None, places=())

    def __str__(self) -> str:
        if self.canary is not None:
            return f"{self.base}, with release {self.canary} in {len(self.places):,} location{'s' * (len(self.places) != 1)}"
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
    """What a guard found. `words` is the figure, `limit` what is allowed, `cases` the first few that break it, of `count` in all."""

    code: str
    passed: bool
    words: str
    limit: str = ""
    cases: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who says it, when and why.

    by     the person's name, as given or from the system
    login  the account and machine that it was said from, whatever name was given
    at     ISO 8601, UTC
    mark   by chance: tells this entry from every other, also from one with the same words
    account   what the system has authenticated: the user, by login where that is known, or the IAM principal; "" where there is none
    clock  what counted as now for the guards, "" for the time of day
    """

    by: str
    login: str
    at: str
    reason: str = ""
    mark: str = ""
    account: str = ""
    clock: str = ""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One decision.

    moves     the releases that it moves, each with the event that happens to it
    charging  what charging uses from here on; None before the first activation
    seal      the SHA-256 of the release.json that was looked at: it names the table's files and theirs
    against   the table that the guards compared with
    findings, despite   what the guards found, and which of them were set aside
    limits    the guards' limits that it changes
    before    the SHA-256 of the entry before, "" for the first
    """

    number: int
    verb: str
    said: Attribution
    moves: tuple[tuple[int, Event], ...] = ()
    charging: Table | None = None
    seal: str = ""
    against: Table | None = None
    findings: tuple[Finding, ...] = ()
    despite: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    before: str = ""

    def event(self, version: int) -> Event | None:
        """What it does to a release."""
        return dict(self.moves).get(version)


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """The entries so far, and what follows from them: the state of every release, what charging uses, the guards' limits."""

    entries: tuple[LogEntry, ...] = ()
    states: Mapping[int, State] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    last: str = ""  # the SHA-256 of the last entry

    @property
    def charging(self) -> Table | None:
        return self.entries[-1].charging if self.entries else None

    @property
    def next(self) -> int:
        return len(self.entries) + 1

    def state(self, version: int) -> State:
        return self.states.get(version, State.DRAFT)

    def entries_of(self, version: int) -> list[LogEntry]:
        """The entries that moved a release, oldest first."""
        return [entry for entry in self.entries if entry.event(version)]

    def approval(self, version: int) -> LogEntry | None:
        """The last entry that approved a release."""
        return next((e for e in reversed(self.entries) if e.event(version) is Event.APPROVE), None)

    def was_used(self, version: int) -> bool:
        """Whether charging has ever used the release's own table, if only in some places."""
        return any(
            e.charging is not None
            and (e.charging.base == Table(version) or e.charging.canary == version)
            for e in self.entries
        )

    def fallbacks(self) -> list[int]:
        """The approved releases that the kill switch may go back to, best first: those that charging used, the latest first; then those
        that it never used, the latest approval first.  Never one that was killed, or withdrawn by hand, since it was approved."""
        used = [
            e.charging.version
            for e in reversed(self.entries)
            if e.charging and not e.charging.derived
        ]
        approved = [
            v for e in reversed(self.entries) for v, event in e.moves if event is Event.APPROVE
        ]
        now = self.charging.version if self.charging else None
        return [v for v in dict.fromkeys([*used, *approved]) if v != now and self._may_return(v)]

    def since(self) -> LogEntry | None:
        """The entry since which charging uses what it uses."""
        found = None
        for entry in reversed(self.entries):
            if entry.charging != self.charging:
                break
            found = entry
        return found if self.charging else None

    def moved(self, moves: Iterable[tuple[int, Event]]) -> Mapping[int, State]:
        """The states after these events; Refused with the reason if one cannot happen."""
        states = dict(self.states)
        for version, event in moves:
            answer = after(states.get(version, State.DRAFT), event)
            if not isinstance(answer, State):
                raise EventRefused(f"release {version} cannot be {PAST_TENSE[event]}: {answer}")
            states[version] = answer
        return states

    def entry(self, verb: str, said: Attribution, **facts: Any) -> LogEntry:
        """The next entry, upon what is there; charging stays as it is if nothing else is said."""
        return LogEntry(
            self.next, verb, said, **{"charging": self.charging, **facts}, before=self.last
        )

    def then(self, data: bytes) -> DecisionLog:
        """The book with one more entry; BrokenLog if it does not follow from those before it."""
        entry = decode(data)
        if entry.number != self.next:
            raise BrokenLog(
                f"entry {self.next} is missing: the next one there is entry {entry.number}"
            )
        if entry.before != self.last:
            raise BrokenLog(
                f"entry {self.next - 1} was changed after entry {entry.number} was written upon it"
            )
        try:
            states = self.moved(entry.moves)
        except EventRefused as error:
            raise BrokenLog(f"entry {entry.number} cannot have happened: {error}") from error
        active = {version for version, state in states.items() if state is State.ACTIVE}
        if active != (
            {entry.charging.version} if entry.charging and not entry.charging.derived else set()
        ):
            raise BrokenLog(
                f"entry {entry.number} says that charging uses {entry.charging}, and its moves make active: {sorted(active)}"
            )
        tried = {version for version, state in states.items() if state is State.CANARY}
        if tried != (
            {entry.charging.canary}
            if entry.charging and entry.charging.canary is not None
            else set()
        ):
            raise BrokenLog(
                f"entry {entry.number} says that charging uses {entry.charging}, and its moves make canaries: {sorted(tried)}"
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
    Event.TRY: "tried in some places",
    Event.ACTIVATE: "activated",
    Event.REPLACE: "replaced",
    Event.WITHDRAW: "withdrawn",
    Event.KILL: "killed",
    Event.RESTORE: "restored",
}


def encode(entry: LogEntry) -> bytes:
    """An entry as the bytes that are kept."""
    return json.dumps(asdict(entry), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def decode(data: bytes) -> LogEntry:
    """The entry that these bytes are; BrokenLog if they are none."""
    try:
        facts = json.loads(data)
        read = {
            "said": Attribution(**facts["said"]),
            "moves": tuple((int(version), Event(event)) for version, event in facts["moves"]),
            "charging": facts["charging"] and _table(facts["charging"]),
            "against": facts["against"] and _table(facts["against"]),
            "findings": tuple(
                Finding(**{**f, "cases": tuple(f["cases"])}) for f in facts["findings"]
            ),
            "despite": tuple(facts["despite"]),
        }
        return LogEntry(**{**facts, **read})
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenLog(f"an entry cannot be read: {error}") from error


def _table(facts: Mapping[str, Any]) -> Table:
    return Table(**{**facts, "places": tuple(facts.get("places", ()))})
