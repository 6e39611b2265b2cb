"""The summary of a run: the one JSON value that `--json` prints and that the terminal renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from ..data.manifest import UnitList, key_text
from ..data.numpy_columns import to_python_rows
from ..errors import DamagedFile, NoSuchRun
from ..pipeline import releases
from ..pipeline.budget import amount_text
from ..pipeline.coverage import Coverage
from ..ports.interfaces import Record, RunHome
from ..ports.run_facts import ModelCounts, SourceCounts, Transition
from ..ports.run_states import State
from .efficiency import Efficiency, efficiency_of
from .run import Run

STOPPED = "stopped"  # shown for a run in progress, by its record, that no process drives
MAX_REASONS = 5
MAX_REASON_CHARACTERS = 160


class FailureReason(TypedDict):
    """One reason for which units of a model failed."""

    model: str
    units: int
    first: str  # the key of the first of the units
    reason: str


class ReleaseSummary(TypedDict):
    """The release that a run made."""

    version: int
    parent: int | None
    current: bool
    current_version: int | None
    code: dict[str, dict[str, int]]  # units of each model, by the fingerprint of their code
    rows: dict[str, int]
    files: list[str]  # paths or addresses
    summaries: Mapping[str, Sequence[Mapping[str, Any]]]
    # the rows that were written to tables of other systems, by output
    tables: NotRequired[dict[str, dict[str, Any]]]


class RunState(TypedDict):
    """Where a run is, from its record."""

    run: str
    job: str
    state: str
    step: str
    reason: str
    created: str
    updated: str
    active: bool


class RunSummary(RunState):
    """A run, from its record and its files; from the record alone if the files were deleted."""

    history: list[Transition]
    as_of: str | None
    sources: dict[str, SourceCounts]
    csv: dict[str, list[dict[str, Any]]]
    models: dict[str, ModelCounts]
    reasons: list[FailureReason]
    sample: tuple[str, str] | None  # a model and the key of one of its units, to replay
    warehouse: str  # on AWS: where the queries ran, and why; "" locally
    spent: str  # of its budget; "" without one
    efficiency: Efficiency | None  # of a run that has ended
    workers_replaced: dict[str, int]
    recomputed: list[str]
    units_recomputed: int
    release: ReleaseSummary | None
    replaced_uploads: list[str]  # addresses: of a source, the newest upload counts
    newer_release: int | None  # which prevents that this held run is published
    folder: str | None


class ListedRun(RunState):
    """A run in the list of a home's runs."""

    units: int  # of all models that were prepared
    ok: int
    release: int | None


def list_runs(home: RunHome, job: str | None = None) -> list[ListedRun]:
    """Return the runs of a home or of one job, the newest first, from their records alone."""
    unfinished = (State.NEW, State.RUNNING)  # other runs have no driver to ask about
    return [
        _listed(record, record.state in unfinished and home.is_active(record.id))
        for record in home.ledger.runs(job)
    ]


def _listed(record: Record, active: bool) -> ListedRun:
    models, release = record.models.values(), record.counts.get("release")
    return {
        **_state(record, active),
        "units": sum(model["units"] for model in models),
        "ok": sum(model.get("ok", 0) for model in models),
        "release": int(release["version"]) if release else None,
    }


def _state(record: Record, active: bool) -> RunState:
    return {
        "run": record.id,
        "job": record.job,
        "state": state_shown(record, active),
        "step": record.step,
        "reason": record.reason,
        "created": record.created,
        "updated": record.updated,
        "active": active,
    }


def summarize(run: Run) -> RunSummary:
    """Return the summary of a run."""
    record, there = run.record, run.home.holds(run.id)
    return {
        **_state(record, run.home.is_active(record.id)),
        "history": record.history,
        "as_of": record.options.get("as_of"),
        "sources": record.counts.get("sources", {}),
        "csv": record.counts.get("csv", {}),
        "models": models_of(run) if there else record.models,
        "reasons": failure_reasons(run) if there else [],
        "sample": sample_unit(run) if there else None,
        "warehouse": _warehouse_text(record),
        "spent": _spent_text(record),
        "efficiency": efficiency_of(record),
        "workers_replaced": record.counts.get("workers_replaced", {}),
        "recomputed": record.counts.get("recomputed", []),
        "units_recomputed": record.counts.get("units_recomputed", 0),
        "release": _release_summary(run),
        "replaced_uploads": record.options.get("replaced_uploads", []),
        "newer_release": newer_release(run) if record.state is State.HELD else None,
        "folder": run.location if there else None,
    }


def _warehouse_text(record: Record) -> str:
    """Return where the queries of a run on AWS run; "" where that is not decided."""
    reason = record.options.get("warehouse_reason")
    return f"{record.options['warehouse']} ({reason})" if reason else ""


def _spent_text(record: Record) -> str:
    """Return what a run has spent of its budget; "" without one."""
    budget, spent = record.options.get("budget"), record.counts.get("spent")
    if budget is None or spent is None:
        return ""
    return f"{amount_text(budget, spent)} of {amount_text(budget, budget['limit'])}"


def failure_reasons(run: Run) -> list[FailureReason]:
    """Return the most frequent reasons for which units failed."""
    if not sum(m.get("failed", 0) + m.get("crashed", 0) for m in run.record.models.values()):
        return []
    counts: dict[tuple[str, str, str], int] = {}
    firsts: dict[tuple[str, str, str], str] = {}
    for row in to_python_rows(run.failures().to_arrow()):
        lines = (row["message"] or "").strip().splitlines()
        reason = row["model"], row["error"], _cut(lines[0]) if lines else ""
        counts[reason] = counts.get(reason, 0) + 1
        firsts.setdefault(reason, row["unit"])
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_REASONS]
    return [
        {
            "model": model,
            "units": units,
            "first": firsts[model, error, text],
            "reason": f"{error}: {text}",
        }
        for (model, error, text), units in ranked
    ]


def sample_unit(run: Run) -> tuple[str, str] | None:
    """Return the model with the most units (the last of equals) and its first key, to replay."""
    models = run.record.models
    for _, _, name in sorted(
        (-models[name]["units"], -position, name)
        for position, name in enumerate(run.collected_models())
    ):
        units = UnitList.read(run.layout, name, run.home.store)
        if units.keys.num_columns:
            return name, key_text(units.key(0))
    return None


def models_of(run: Run) -> dict[str, ModelCounts]:
    """Return the counts of each model.

    `done` counts the units with an outcome, for a model that is not collected yet.
    """
    models: dict[str, ModelCounts] = {}
    for name, recorded in run.record.models.items():
        counts: ModelCounts = {**recorded}
        if "ok" not in counts:
            coverage = Coverage.read(counts["units"], run.layout, name, None, run.home.store)
            counts["done"] = int(coverage.done.sum())
        models[name] = counts
    return models


def state_shown(record: Record, active: bool) -> str:
    """Return the state of a run for people; "stopped" if it is in progress and no process drives
    it.
    """
    return (
        STOPPED if record.state in (State.NEW, State.RUNNING) and not active else record.state.value
    )


def newer_release(run: Run) -> int | None:
    """Return the version of the current release if a run created after this one made it.

    None if the run may replace it: its release was asked for with `replace_newer`.
    """
    record, home = run.record, run.home
    try:
        version = releases.current_version(record.job, home.store)
        if version is None or record.options.get("replace_newer"):
            return None
        other = releases.read_release(record.job, version, home.store).run
        newer = other != record.id and home.ledger.read(other).created > record.created
    except (DamagedFile, NoSuchRun):
        return None
    return version if newer else None


def _release_summary(run: Run) -> ReleaseSummary | None:
    release = run.release
    if release is None:
        return None
    current = releases.current_version(run.record.job, run.home.store)
    found: ReleaseSummary = {
        "version": release.version,
        "parent": release.parent,
        "current": current == release.version,
        "current_version": current,
        "code": {fingerprint: dict(units) for fingerprint, units in release.code.items()},
        "rows": dict(release.rows),
        "files": [run.home.where(key) for key in release.files],
        "summaries": release.summaries,
    }
    if tables := run.record.counts.get("tables"):
        found["tables"] = tables
    return found


def _cut(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= MAX_REASON_CHARACTERS else f"{text[: MAX_REASON_CHARACTERS - 3]}..."
