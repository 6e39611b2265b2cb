"""The kill switch: charging leaves the active table for another one, step by step."""

from __future__ import annotations

from typing import Final, Literal

from hundredfold.errors import StateError
from hundredfold.releases import Store
from tariffs.release import repository
from tariffs.release.decide import LAST_APPROVED, Done, append_decision
from tariffs.release.decision_log import (
    Attribution,
    DecisionLog,
    LogEntry,
    Table,
)
from tariffs.release.guards import (
    limits_with,
)
from tariffs.release.preview import Preview, preview
from tariffs.release.repository import PutIfAbsent
from tariffs.release.states import Event

KillTarget = Literal["last-approved", "rule", "unchanged"]
RULE: Final = "rule"
UNCHANGED: Final = "unchanged"


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

    done = append_decision(decide, store, log_writer)
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
