"""The decision log: its entries, and the states that follow from them.  Nothing here does I/O.

An entry has a number, an author, a time and a reason; it moves releases from state to state, and
names the table that charging uses from then on.  It carries the SHA-256 of the previous entry, so
that any later change in the log is detected by the next reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tariffs.release.states import Event, State, after

NO_FALLBACK_AFTER = (Event.KILL, Event.WITHDRAW)  # the kill switch never returns to such a release


class BrokenLog(Exception):
    """The log is not as it was written; the message says where."""


class EventRefused(Exception):
    """An event cannot happen to a release now; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that charging can use: a release's own, or one derived from it.

    rule       the prices of the rule of thumb for the release's units
    canary     another release, whose rows are used in some locations (places)
    unchanged  the prices of the time, frozen: without the model, and without moves
    step       number of steps taken on the way to the rule's prices; 0 at its end
    after      the table from which the way began, or that was frozen, if not the release's own
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
        """Whether the prices are not those of the release."""
        return self.rule or self.unchanged

    @property
    def base(self) -> Table:
        """The table that charging uses outside of a canary's locations."""
        return replace(self, canary=None, places=())

    def __str__(self) -> str:
        if self.canary is not None:
            plural = "s" * (len(self.places) != 1)
            return (
                f"{self.base}, with release {self.canary} in {len(self.places):,} location{plural}"
            )
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

    words  the figure;  limit  the allowed value
    cases  the first few violations, of `count` in all
    """

    code: str
    passed: bool
    words: str
    limit: str = ""
    cases: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Attribution:
    """The author, time and reason of a decision.

    by       the person's name, as given or from the system
    login    user and machine of the command, whatever name was given
    at       ISO 8601, UTC
    mark     random: distinguishes this entry from one with the same content
    account  as authenticated by the system: the user, by login if known, or the IAM principal;
             "" if there is none
    clock    the time that counted as now for the guards, "" for the time of day
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

    moves     the releases that it moves, each with its event
    charging  the table that charging uses from here on; None before the first activation
    seal      the SHA-256 of the checked release.json, which names the table's files and theirs
    against   the table that the guards compared with
    findings, despite   the findings of the guards, and the codes of those that were set aside
    limits    the guards' limits that it changes
    before    the SHA-256 of the previous entry, "" for the first
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
    def charging(self) -> Table | None:
        return self.entries[-1].charging if self.entries else None

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
            e.charging is not None
            and (e.charging.base == Table(version) or e.charging.canary == version)
            for e in self.entries
        )

    def fallbacks(self) -> list[int]:
        """Return the approved releases to which the kill switch may return, best first.

        First those that charging used, the latest first; then those that it never used, the latest
        approval first.  None that was killed or withdrawn by a person since its approval.
        """
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
        """Return the entry since which charging uses the active table."""
        found = None
        for entry in reversed(self.entries):
            if entry.charging != self.charging:
                break
            found = entry
        return found if self.charging else None

    def moved(self, moves: Iterable[tuple[int, Event]]) -> Mapping[int, State]:
        """Return the states after these events; EventRefused if one cannot happen."""
        states = dict(self.states)
        for version, event in moves:
            answer = after(states.get(version, State.DRAFT), event)
            if not isinstance(answer, State):
                raise EventRefused(f"release {version} cannot be {PAST_TENSE[event]}: {answer}")
            states[version] = answer
        return states

    def entry(self, verb: str, said: Attribution, **facts: Any) -> LogEntry:
        """Return the next entry; the active table stays unless `charging` is given."""
        return LogEntry(
            self.next, verb, said, **{"charging": self.charging, **facts}, before=self.last
        )

    def then(self, data: bytes) -> DecisionLog:
        """Return the log with one more entry; BrokenLog if it does not follow from the others."""
        entry = decode(data)
        if entry.number != self.next:
            raise BrokenLog(
                f"entry {self.next} is missing: the next one there is entry {entry.number}"
            )
        if entry.before != self.last:
            raise BrokenLog(
                f"entry {self.next - 1} was changed after entry {entry.number} was written"
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
                f"entry {entry.number} names {entry.charging} as the active table, and its moves"
                f" make active: {sorted(active)}"
            )
        tried = {version for version, state in states.items() if state is State.CANARY}
        if tried != (
            {entry.charging.canary}
            if entry.charging and entry.charging.canary is not None
            else set()
        ):
            raise BrokenLog(
                f"entry {entry.number} names {entry.charging} as the active table, and its moves"
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
    """Return the entry of these bytes; BrokenLog if they are none."""
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
