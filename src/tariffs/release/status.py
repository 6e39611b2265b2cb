"""The state of all releases and of the active table, for a program."""

from __future__ import annotations

from typing import Any

from hundredfold.releases import Store
from tariffs.release import repository
from tariffs.release.decision_log import (
    DecisionLog,
)
from tariffs.release.states import Event


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
