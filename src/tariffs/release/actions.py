"""The decisions on releases, one function each: check, approve, canary, activate, withdraw, kill.

Each function reads the log, decides, and writes one entry under the next number.  If another
process wrote that number first, it reads and decides again: every entry is a decision on all
entries before it, and none is lost.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hundredfold.errors import PublishRefused, StateError, UsageError
from hundredfold.releases import Release, Store
from tariffs.contracts import LIMITS_TITLE, TOTALS_TITLE
from tariffs.release import repository
from tariffs.release.decision_log import (
    Attribution,
    DecisionLog,
    EventRefused,
    Finding,
    LogEntry,
    Table,
)
from tariffs.release.drift import Chart, charts
from tariffs.release.guards import (
    AGAINST_ACTIVE,
    CODES,
    GuardContext,
    Limits,
    limits_with,
    run_guards,
)
from tariffs.release.panel import panel_of
from tariffs.release.preview import Preview, preview
from tariffs.release.repository import PutIfAbsent
from tariffs.release.sales import Sales
from tariffs.release.states import Event, State
from tariffs.release.tables import (
    KEY,
    SUPPORT_COLUMNS,
    floats,
    is_voice,
    match_rows,
    missing_columns,
    tariff,
)

KillTarget = Literal["last-approved", "rule", "unchanged"]
LAST_APPROVED: Final = "last-approved"
RULE: Final = "rule"
UNCHANGED: Final = "unchanged"


@dataclass(frozen=True, slots=True)
class Sources:
    """Functions that return the catalogue, sales and locations of a release's run; None if gone."""

    catalogue: Callable[[Release], pa.Table | None]
    sales: Callable[[Release], Sales | None] = lambda _: None
    locations: Callable[[Release], pa.Table | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Checked:
    """A release with the findings of the guards, and the table that they compared it with.

    limits  the results of the policy's limits on the whole table, a row for each kind that has any
    totals  the expected changes of the whole table with intervals, a row for each kind
    """

    version: int
    digest: str
    compared_with: Table | None
    findings: tuple[Finding, ...]
    limits: tuple[Mapping[str, Any], ...] = ()
    totals: tuple[Mapping[str, Any], ...] = ()

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.passed)


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a decision: its entry, the log that ends with it, and the tables it skipped."""

    entry: LogEntry
    decisions: DecisionLog
    skipped: tuple[str, ...] = ()


def check(
    version: int, decisions: DecisionLog, store: Store, sources: Sources, now: dt.datetime
) -> Checked:
    """Check a release with every guard.

    Raises UsageError for an unknown version, StateError for a damaged release.
    """
    found = repository.load_verified(version, store)
    assert found.release is not None
    base = decisions.active.base if decisions.active else None
    active = base if base != Table(version) else None
    table = repository.read_rows(Table(version), store)
    if missing := missing_columns(table):
        raise StateError(
            f"release {version} is no price table: it lacks {', '.join(missing)}",
            hint="publish every column of tariffs.contracts.PriceRow: correct the query, and run"
            " the job again",
        )
    sales = sources.sales(found.release)
    totals, portfolio = (
        tuple(found.release.summaries.get(title, ())) for title in (TOTALS_TITLE, LIMITS_TITLE)
    )
    subject = GuardContext(
        table,
        _active_rows(active, store) if active else None,
        sources.catalogue(found.release),
        now,
        limits_with(decisions.limits),
        _support(table, sales),
        _drift_charts(decisions, store, sales) if active else None,
        sales.last_posted() if sales else None,
        sources.locations(found.release),
        totals,
        portfolio,
        {"table_version": version, "run_id": found.release.run},
    )
    return Checked(version, found.digest, active, run_guards(subject), portfolio, totals)


def approve(
    version: int,
    attribution: Attribution,
    store: Store,
    log_writer: PutIfAbsent,
    sources: Sources,
    now: dt.datetime,
    overridden: Sequence[str] = (),
) -> Done:
    """Approve a release; PublishRefused if a guard fails that is not named in `overridden`."""
    _require_known_guards(overridden)

    def decide(decisions: DecisionLog) -> LogEntry:
        _require_allowed(decisions, [(version, Event.APPROVE)])
        checked = check(version, decisions, store, sources, now)
        excused = _overridden(checked, overridden, attribution, "approve")
        return decisions.entry(
            "approve",
            attribution,
            moves=((version, Event.APPROVE),),
            digest=checked.digest,
            compared_with=checked.compared_with,
            findings=checked.findings,
            overridden=excused,
        )

    return _append_decision(decide, store, log_writer)


def activate(
    version: int,
    attribution: Attribution,
    store: Store,
    log_writer: PutIfAbsent,
    sources: Sources,
    now: dt.datetime,
    *,
    overridden: Sequence[str] = (),
    same_person: bool = False,
) -> Done:
    """Let charging use an approved release everywhere.

    The release that it used is withdrawn in the same entry, as is the canary of another release.
    The guards run again, since time has passed and another table may be active.  An override of the
    approval holds, unless it was about a comparison with another active table.
    """
    _require_known_guards(overridden)

    def decide(decisions: DecisionLog) -> LogEntry:
        moves = [(version, Event.ACTIVATE), *_replaced_canary(version, decisions)]
        if decisions.active and not decisions.active.derived:
            moves.append((decisions.active.version, Event.REPLACE))
        _require_allowed(decisions, moves)
        checked, excused = _checked_again(
            version, decisions, attribution, store, sources, now, overridden, same_person
        )
        repository.prepare_rule_table(
            version, store, limits_with(decisions.limits)
        )  # prepared in advance, so that the kill switch only has to move the pointer
        return decisions.entry(
            "activate",
            attribution,
            moves=tuple(moves),
            active=Table(version),
            digest=checked.digest,
            compared_with=checked.compared_with,
            findings=checked.findings,
            overridden=excused,
        )

    return _append_decision(decide, store, log_writer)


def start_canary(
    version: int,
    locations: Sequence[str] | float,
    attribution: Attribution,
    store: Store,
    log_writer: PutIfAbsent,
    sources: Sources,
    now: dt.datetime,
    *,
    overridden: Sequence[str] = (),
    same_person: bool = False,
) -> Done:
    """Let charging use an approved release in some locations, and the active table elsewhere.

    locations   the locations; or a share of them, chosen deterministically for a release.  Never a
             control location.
    """
    _require_known_guards(overridden)

    def decide(decisions: DecisionLog) -> LogEntry:
        moves = [(version, Event.TRY), *_replaced_canary(version, decisions)]
        _require_allowed(decisions, moves)
        if decisions.active is None:
            raise StateError(
                "no table is active, so there is none for the other locations",
                hint=f"tariffs activate {version}",
            )
        checked, excused = _checked_again(
            version, decisions, attribution, store, sources, now, overridden, same_person
        )
        chosen = canary_locations(
            version,
            repository.read_rows(Table(version), store, ("location", "control_flag")),
            locations,
        )
        table = replace(decisions.active, canary=version, locations=chosen)
        repository.prepare_canary(table, store)
        return decisions.entry(
            "canary",
            attribution,
            moves=tuple(moves),
            active=table,
            digest=checked.digest,
            compared_with=checked.compared_with,
            findings=checked.findings,
            overridden=excused,
        )

    return _append_decision(decide, store, log_writer)


def canary_locations(
    version: int, rows: pa.Table, wanted: Sequence[str] | float
) -> tuple[str, ...]:
    """Return the locations by name, or a share of them by the hash of version and name.

    The hash chooses other locations for each release.
    """
    held = set(pc.unique(rows["location"].filter(rows["control_flag"])).to_pylist())
    free = sorted(set(pc.unique(rows["location"]).to_pylist()) - held - {None})
    if isinstance(wanted, float):
        if not 0 < wanted < 1:
            raise UsageError(
                f"a share is between 0 % and 100 %, found {wanted:.0%}",
                hint=f"tariffs activate {version} --canary 10%",
            )
        turn = sorted(free, key=lambda name: hashlib.sha256(f"{version}/{name}".encode()).digest())
        return tuple(sorted(turn[: max(1, round(wanted * len(free)))]))
    if unknown := sorted(set(wanted) - set(free)):
        why = "they are control" if set(unknown) <= held else "there are none of these names"
        raise UsageError(
            f"cannot be tried in {', '.join(unknown[:5])}: {why}",
            hint=f"such as {', '.join(free[:3])}",
        )
    if len(set(wanted)) == len(free):
        raise UsageError(
            "these are all locations that are not control", hint=f"tariffs activate {version}"
        )
    return tuple(sorted(set(wanted)))


def withdraw(version: int, attribution: Attribution, store: Store, log_writer: PutIfAbsent) -> Done:
    """Bar a release from use; the kill switch never returns to it."""
    _require_reason(attribution, "withdraw", f"tariffs withdraw {version}")

    def decide(decisions: DecisionLog) -> LogEntry:
        if (
            not any(s.version == version for s in repository.stored_releases(store))
            and version not in decisions.states
        ):
            raise UsageError(
                f"there is no release {version} of the price table", hint="tariffs status"
            )
        _require_allowed(decisions, [(version, Event.WITHDRAW)])
        return decisions.entry("withdraw", attribution, moves=((version, Event.WITHDRAW),))

    return _append_decision(decide, store, log_writer)


def kill(
    to: KillTarget,
    attribution: Attribution,
    store: Store,
    log_writer: PutIfAbsent,
) -> Done:
    """Take the active table away from charging.

    Charging then uses the last approved table, a step towards the rule's prices, or the present
    prices, frozen.  A canary is ended first: the last approved table is then the one that charging
    uses elsewhere.

    It reads the log and the table that it moves to, and nothing else: damage elsewhere does not
    stop it.  The way to the rule's prices keeps the limits on steps, cliffs and the share of prices
    that change at once; each further call takes a further step.
    """
    passed_over: list[str] = []

    def decide(decisions: DecisionLog) -> LogEntry:
        passed_over.clear()
        charging = _active_table(decisions)
        tried = [] if charging.canary is None else [(charging.canary, Event.KILL)]
        out = [*tried, *([] if charging.derived else [(charging.version, Event.KILL)])]
        if (
            to == LAST_APPROVED
            and tried
            and _is_intact(charging.base, decisions, store, passed_over)
        ):
            return decisions.entry("kill", attribution, moves=tuple(tried), active=charging.base)
        if to == LAST_APPROVED:
            version = _fallback(decisions, store, passed_over)
            return decisions.entry(
                "kill", attribution, moves=(*out, (version, Event.RESTORE)), active=Table(version)
            )
        return decisions.entry(
            "kill",
            attribution,
            moves=tuple(out),
            active=_prepare_kill_table(to, charging, decisions, store),
        )

    done = _append_decision(decide, store, log_writer)
    return Done(done.entry, done.decisions, tuple(passed_over))


def preview_kill(to: KillTarget, store: Store) -> Preview:
    """Return the effect of the kill switch on prices; nothing is written."""
    decisions = repository.read_log(store)
    charging = _active_table(decisions)
    if to == RULE:
        if charging.rule and not charging.step and charging.canary is None:
            raise StateError(
                f"{charging} is active already", hint=f"tariffs kill --to {LAST_APPROVED}"
            )
        table, made = repository.next_step(charging, store, limits_with(decisions.limits))
    elif to == UNCHANGED:
        table, made = repository.frozen_prices(charging, store)
    else:
        tried = charging.canary is not None and _is_intact(charging.base, decisions, store, [])
        table = charging.base if tried else Table(_fallback(decisions, store, []))
        made = repository.read_rows(table, store)
    return preview(
        charging,
        table,
        repository.read_rows(charging, store),
        made,
        repository.read_rows(Table(charging.version), store),
    )


def _active_table(decisions: DecisionLog) -> Table:
    if decisions.active is None:
        raise StateError("no table is active, so there is nothing to kill", hint="tariffs status")
    return decisions.active


def set_limits(
    attribution: Attribution, limits: Mapping[str, float], store: Store, log_writer: PutIfAbsent
) -> Done:
    """Change the limits of the guards, from now on and for all releases."""
    _require_reason(attribution, "change limits", "tariffs limits --set NAME=VALUE")
    names = [field.name for field in fields(Limits)]
    if unknown := sorted(set(limits) - set(names)):
        raise UsageError(
            f"there is no limit {', '.join(unknown)}; there is {', '.join(names)}",
            hint="tariffs limits",
        )
    if wrong := [
        f"{name}={value:g}" for name, value in limits.items() if not 0 <= value < float("inf")
    ]:
        raise UsageError(f"a limit is 0 or more: {', '.join(wrong)}", hint="tariffs limits")
    return _append_decision(
        lambda decisions: decisions.entry("limits", attribution, limits=dict(limits)),
        store,
        log_writer,
    )


def active_from(decisions: DecisionLog, table: pa.Table) -> dt.date:
    """Return the first day of the active prices: the later of the decision and `valid_from`."""
    since, begins = decisions.since(), pc.min(table["valid_from"]).as_py()
    decided = dt.datetime.fromisoformat(since.attribution.at).date() if since else dt.date.min
    return max(decided, begins.date()) if begins else decided


def _active_rows(active: Table, store: Store) -> pa.Table:
    """Return the active table; a rule table with its release's expected volume without moves."""
    rows = repository.read_rows(active, store)
    if not active.derived:
        return rows
    try:
        model = repository.read_rows(Table(active.version), store, (KEY, "expected_volume"))
    except StateError:  # the release may be damaged, which is why the rule table is active
        return rows
    known = model["expected_volume"].take(pa.array(match_rows(rows, model)))
    return rows.set_column(rows.schema.get_field_index("expected_volume"), "expected_volume", known)


def _support(table: pa.Table, sales: Sales | None) -> pa.Table | None:
    """Return the range of prices paid: from the table itself, or from the sales."""
    if set(SUPPORT_COLUMNS) <= set(table.column_names):
        return table.select([KEY, *SUPPORT_COLUMNS])
    if sales is None:
        return None
    paid = sales.support()
    row = match_rows(table, paid)
    full = np.where(is_voice(table), tariff(table), 1.0)
    lo, hi = (np.append(floats(paid, name), np.nan)[row] * full for name in SUPPORT_COLUMNS)
    return pa.table({KEY: table[KEY], "support_lo": lo, "support_hi": hi})


def _drift_charts(
    decisions: DecisionLog, store: Store, sales: Sales | None
) -> tuple[Chart, ...] | None:
    if decisions.active is None or sales is None:
        return None
    rows = repository.read_rows(decisions.active, store)
    sold = sales.after(
        active_from(decisions, rows) + dt.timedelta(days=5)
    )  # the first week that is wholly after it ends one day later
    return charts(rows, panel_of(rows, sold)) if sold.num_rows else None


def _append_decision(
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


def _require_allowed(decisions: DecisionLog, moves: Sequence[tuple[int, Event]]) -> None:
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


def _require_known_guards(overridden: Sequence[str]) -> None:
    if unknown := [code for code in overridden if code not in CODES]:
        raise UsageError(
            f"there is no guard {', '.join(unknown)}; there is {', '.join(CODES)}",
            hint="tariffs check VERSION",
        )


def _overridden(
    checked: Checked,
    overridden: Sequence[str],
    attribution: Attribution,
    action: str,
    inherited: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the failing guards that are set aside; PublishRefused if any other guard fails."""
    left = [f for f in checked.failed if f.code not in overridden and f.code not in inherited]
    excuses = " ".join(f"--override {f.code}" for f in checked.failed if f.code not in inherited)
    again = f"tariffs {action} {checked.version} {excuses} --reason WHY"
    if left:
        raise PublishRefused(
            f"release {checked.version} is not"
            f" {'approved' if action == 'approve' else 'activated'}:"
            f" {len(left)} of {len(checked.findings)} guards fail",
            problems=[f"{f.code}: {f.found} (allowed: {f.limit}){_first_case(f)}" for f in left],
            hint=f"tariffs check {checked.version}   or, to override them: {again}",
        )
    said_now = [f.code for f in checked.failed if f.code not in inherited]
    if said_now and not attribution.reason:
        raise UsageError(f"{', '.join(said_now)} cannot be set aside without a reason", hint=again)
    return tuple(f.code for f in checked.failed)


def _first_case(finding: Finding) -> str:
    return f"   first: {finding.examples[0]}" if finding.examples else ""


def _require_two_people(
    version: int, approval: LogEntry, attribution: Attribution, same_person: bool
) -> None:
    both = approval.attribution.account and attribution.account
    same_account = both and approval.attribution.account == attribution.account
    if (
        not same_account
        and approval.attribution.author.strip().casefold() != attribution.author.strip().casefold()
    ):
        return
    who = (
        f"{approval.attribution.author} (account {approval.attribution.account})"
        if both
        else approval.attribution.author
    )
    again = f"tariffs activate {version} --same-person --reason WHY"
    if not same_person:
        raise StateError(
            f"release {version} was approved by {who}, who cannot activate it too:"
            " two people examine every table, from two accounts",
            hint=f"let another person run: tariffs activate {version}"
            f"   or, if there is none: {again}",
        )
    if not attribution.reason:
        raise UsageError("one person for both approval and activation needs a reason", hint=again)


def _checked_again(
    version: int,
    decisions: DecisionLog,
    attribution: Attribution,
    store: Store,
    sources: Sources,
    now: dt.datetime,
    overridden: Sequence[str],
    same_person: bool,
) -> tuple[Checked, tuple[str, ...]]:
    """Check a release again before charging uses it: another person, the same files, the guards.

    Return the findings, and the guards that are set aside.
    """
    approval = decisions.approval(version)
    assert approval is not None
    _require_two_people(version, approval, attribution, same_person)
    checked = check(version, decisions, store, sources, now)
    _require_unchanged(checked, approval)
    inherited = [
        code
        for code in approval.overridden
        if code not in AGAINST_ACTIVE or approval.compared_with == checked.compared_with
    ]
    return checked, _overridden(checked, overridden, attribution, "activate", inherited)


def _replaced_canary(version: int, decisions: DecisionLog) -> list[tuple[int, Event]]:
    """Return the event for the canary of another release, which ends."""
    tried = decisions.active.canary if decisions.active else None
    return [] if tried in (None, version) else [(tried, Event.REPLACE)]


def _require_unchanged(checked: Checked, approval: LogEntry) -> None:
    if checked.digest != approval.digest:
        raise StateError(
            f"release {checked.version} is not the one that {approval.attribution.author}"
            f" approved on {approval.attribution.at}: its release.json differs",
            hint=f"tariffs withdraw {checked.version} --reason WHY"
            f"   then examine it again: tariffs approve {checked.version}",
        )


def _require_reason(attribution: Attribution, what: str, command: str) -> None:
    if not attribution.reason:
        raise UsageError(f"to {what} needs a reason", hint=f"{command} --reason WHY")


def _prepare_kill_table(to: str, charging: Table, decisions: DecisionLog, store: Store) -> Table:
    if charging.canary is None and (
        (to == RULE and charging.rule and not charging.step)
        or (to == UNCHANGED and charging.unchanged)
    ):
        raise StateError(f"{charging} is active already", hint=f"tariffs kill --to {LAST_APPROVED}")
    try:
        if to == UNCHANGED:
            return repository.prepare_frozen(charging, store)
        if charging == Table(charging.version):
            return repository.prepare_rule_table(
                charging.version, store, limits_with(decisions.limits)
            )
        return repository.prepare_step(charging, store, limits_with(decisions.limits))
    except StateError as error:
        name = "table with the frozen prices of" if to == UNCHANGED else "rule table of"
        raise StateError(
            f"the {name} release {charging.version} does not exist, and cannot be made:"
            f" {error.message}",
            hint=f"tariffs kill --to {LAST_APPROVED}",
        ) from error


def _fallback(decisions: DecisionLog, store: Store, passed_over: list[str]) -> int:
    """Return the best intact approved release; append the damage of the skipped ones."""
    for version in decisions.fallbacks():
        if _is_intact(Table(version), decisions, store, passed_over):
            return version
    raise StateError(
        f"there is no approved release to return to from {decisions.active}",
        problems=passed_over,
        hint=f"tariffs kill --to {RULE}",
    )


def _is_intact(table: Table, decisions: DecisionLog, store: Store, passed_over: list[str]) -> bool:
    """Return whether a table is complete and as approved; if not, append the damage."""
    if table.derived:
        try:
            repository.read_rows(table, store)
        except StateError as error:
            passed_over.append(f"{table}: {error.message}")
            return False
        return True
    found, approval = repository.verified(table.version, store), decisions.approval(table.version)
    damage = list(found.damage)
    if not damage and approval is not None and found.digest != approval.digest:
        damage.append("it is not what was approved: its release.json differs")
    if damage:
        passed_over.append(f"release {table.version}: {', '.join(damage)}")
    return not damage


def status_facts(decisions: DecisionLog, store: Store) -> dict[str, Any]:
    """Return every release with its state, and the active table, for a program."""
    charging, since = decisions.active, decisions.since()
    return {
        "active": charging
        and since
        and {
            "version": charging.version,
            "rule": charging.rule,
            "unchanged": charging.unchanged,
            "step": charging.step,
            "after": charging.after,
            "canary": charging.canary,
            "locations": list(charging.locations),
            "since": since.attribution.at,
            "author": since.attribution.author,
            "entry": since.number,
        },
        "releases": [
            _release_facts(s, decisions)
            for s in reversed(_with_missing(repository.stored_releases(store), decisions))
        ],
    }


def _with_missing(
    there: list[repository.StoredRelease], decisions: DecisionLog
) -> list[repository.StoredRelease]:
    """Return also the releases that are in the log and no longer in the store."""
    lost = sorted(set(decisions.states) - {s.version for s in there})
    return sorted(
        [
            *there,
            *(repository.StoredRelease(v, None, damage=("its folder is gone",)) for v in lost),
        ],
        key=lambda s: s.version,
    )


def _release_facts(found: repository.StoredRelease, decisions: DecisionLog) -> dict[str, Any]:
    release, entries = found.release, decisions.entries_of(found.version)
    last = entries[-1] if entries else None
    return {
        "version": found.version,
        "state": decisions.state(found.version).value,
        "as_of": release.as_of if release else None,
        "run": release.run if release else None,
        "parent": release.parent if release else None,
        "prices": sum(release.rows.values()) if release else None,
        "event": last and str(last.event(found.version)),
        "author": last and last.attribution.author,
        "at": last and last.attribution.at,
        "reason": last and last.attribution.reason,
        "overridden": list(last.overridden)
        if last and last.event(found.version) in (Event.APPROVE, Event.TRY, Event.ACTIVATE)
        else [],
        "damage": list(found.damage),
    }
