"""The decisions on releases, one function each: check, approve, canary, activate, withdraw, kill.

Each function reads the log, decides, and writes one entry under the next number.  If another
process wrote that number first, it reads and decides again: every entry is a decision on all
entries before it, and none is lost.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import pyarrow as pa
import pyarrow.compute as pc

from hundredfold.errors import PublishRefused, StateError, UsageError
from hundredfold.releases import Store
from tariffs.release import repository
from tariffs.release.checks import Checked, Sources, check
from tariffs.release.decide import Done, append_decision, require_allowed, require_reason
from tariffs.release.decision_log import (
    Attribution,
    DecisionLog,
    Finding,
    LogEntry,
    Table,
)
from tariffs.release.guards import (
    AGAINST_ACTIVE,
    CODES,
    Limits,
    limits_with,
)
from tariffs.release.repository import PutIfAbsent
from tariffs.release.states import Event


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
        require_allowed(decisions, [(version, Event.APPROVE)])
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

    return append_decision(decide, store, log_writer)


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
    waived = _Waived(tuple(overridden), same_person)

    def decide(decisions: DecisionLog) -> LogEntry:
        moves = [(version, Event.ACTIVATE), *_replaced_canary(version, decisions)]
        if decisions.active and not decisions.active.derived:
            moves.append((decisions.active.version, Event.REPLACE))
        require_allowed(decisions, moves)
        checked, excused = _checked_again(
            version, decisions, attribution, store, sources, now, waived
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

    return append_decision(decide, store, log_writer)


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
    waived = _Waived(tuple(overridden), same_person)

    def decide(decisions: DecisionLog) -> LogEntry:
        moves = [(version, Event.TRY), *_replaced_canary(version, decisions)]
        require_allowed(decisions, moves)
        if decisions.active is None:
            raise StateError(
                "no table is active, so there is none for the other locations",
                hint=f"tariffs activate {version}",
            )
        checked, excused = _checked_again(
            version, decisions, attribution, store, sources, now, waived
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

    return append_decision(decide, store, log_writer)


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
    require_reason(attribution, "withdraw", f"tariffs withdraw {version}")

    def decide(decisions: DecisionLog) -> LogEntry:
        if (
            not any(s.version == version for s in repository.stored_releases(store))
            and version not in decisions.states
        ):
            raise UsageError(
                f"there is no release {version} of the price table", hint="tariffs status"
            )
        require_allowed(decisions, [(version, Event.WITHDRAW)])
        return decisions.entry("withdraw", attribution, moves=((version, Event.WITHDRAW),))

    return append_decision(decide, store, log_writer)


def set_limits(
    attribution: Attribution, limits: Mapping[str, float], store: Store, log_writer: PutIfAbsent
) -> Done:
    """Change the limits of the guards, from now on and for all releases."""
    require_reason(attribution, "change limits", "tariffs limits --set NAME=VALUE")
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
    return append_decision(
        lambda decisions: decisions.entry("limits", attribution, limits=dict(limits)),
        store,
        log_writer,
    )


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


@dataclass(frozen=True, slots=True)
class _Waived:
    """Conditions of an activation that are set aside: guards, and that two people examine it."""

    guards: tuple[str, ...]
    two_people: bool


def _checked_again(
    version: int,
    decisions: DecisionLog,
    attribution: Attribution,
    store: Store,
    sources: Sources,
    now: dt.datetime,
    waived: _Waived,
) -> tuple[Checked, tuple[str, ...]]:
    """Check a release again before charging uses it: another person, the same files, the guards.

    Return the findings, and the guards that are set aside.
    """
    approval = decisions.approval(version)
    assert approval is not None
    _require_two_people(version, approval, attribution, waived.two_people)
    checked = check(version, decisions, store, sources, now)
    _require_unchanged(checked, approval)
    inherited = [
        code
        for code in approval.overridden
        if code not in AGAINST_ACTIVE or approval.compared_with == checked.compared_with
    ]
    return checked, _overridden(checked, waived.guards, attribution, "activate", inherited)


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
