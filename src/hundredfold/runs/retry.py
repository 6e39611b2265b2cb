"""Plans the work that a run repeats: failed units, dependent models, and the rest under new
code.
"""

from __future__ import annotations

from ..data.checksums import get_listed, missing_error
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList
from ..data.parquet_in_memory import read_parquet
from ..errors import HundredfoldError, StateError
from ..job import Job, Model
from ..pipeline.collect import read_collected
from ..pipeline.enqueue import plan_attempt, plan_retry, retry_key
from ..pipeline.releases import releases
from ..ports.interfaces import Record, RunHome
from ..ports.run_states import State
from ..sql.duckdb import DuckWarehouse
from ..sql.queries import query_of


def plan_remaining(home: RunHome, record: Record, job: Job) -> bool:
    """Plan the units that are not done for the next attempt; return whether there may be any.

    A run that was published has none.
    """
    layout, attempt = Layout(record.id), record.attempt
    if any((r.run, r.attempt) == (record.id, attempt) for r in releases(record.job, home.store)):
        return False
    for model in job.models:
        try:
            home.store.get(retry_key(layout, model.name, attempt))
            manifest = Manifest.read(layout, model.name, home.store)
        except KeyError:
            continue
        messages, coverage = plan_attempt(manifest, layout, attempt, home.store)
        units = [
            unit
            for m in messages
            for first, last in coverage.missing(m.first, m.last)
            for unit in range(first, last + 1)
        ]
        if units:
            plan_retry(manifest, layout, attempt + 1, units, home.store)
    return True


def discard(home: RunHome, record: Record) -> None:
    """Delete the objects that a retry computes again; if this is interrupted, the next driver
    repeats it.
    """
    keys = record.options.get("keys_to_delete", ())
    for key in keys:
        home.store.delete(key)
    if keys:
        home.ledger.note(record.id, options={"keys_to_delete": []})


def plan_retry_of_run(home: RunHome, record: Record, job: Job) -> None:
    """Plan the failed units for the next attempt, and their dependent models from the start."""
    layout, attempt = Layout(record.id), record.attempt + 1
    bad: dict[str, list[int]] = {}
    for model in job.models:
        try:
            collected = read_collected(layout, model.name, home.store)
        except KeyError:
            if record.state is State.DONE:
                raise missing_error(home.store, layout.collected(model.name)) from None
            continue
        if collected.bad:
            units = UnitList.read(layout, model.name, home.store)
            bad[model.name] = _failed_unit_numbers(units, layout, model, home)
    if not bad:
        raise StateError(
            f"run {record.id} has no failed unit to retry; it is {record.state.value}",
            hint=f"hundredfold resume {record.id}" if record.state is not State.DONE else None,
        )
    anew = _dependent_models(job, set(bad), home, record)
    for name, units_ in bad.items():
        if name not in anew:
            plan_retry(Manifest.read(layout, name, home.store), layout, attempt, units_, home.store)
    keys_to_delete = [
        *map(layout.model, sorted(anew)),
        *(layout.collected(name) for name in bad if name not in anew),
    ]
    # in one write: a retry is planned completely or not at all
    home.ledger.note(record.id, options={"attempt": attempt, "keys_to_delete": keys_to_delete})


def _failed_unit_numbers(units: UnitList, layout: Layout, model: Model, home: RunHome) -> list[int]:
    statuses = get_listed(home.store, layout.accounts(model.name), layout.collected(model.name))
    table = read_parquet(statuses, ["status"])
    if table.num_rows != len(units):
        raise HundredfoldError(
            f"the statuses of {model.name} have {table.num_rows:,} rows for {len(units):,} units"
        )
    return [
        number for number, status in enumerate(table.column("status").to_pylist()) if status != "ok"
    ]


def _dependent_models(job: Job, changed: set[str], home: RunHome, record: Record) -> set[str]:
    """Return the models whose query or inputs use a model with results that may change."""
    warehouse = DuckWarehouse(
        home.store, home.scratch(f"{record.id}-plan"), memory=2**27, threads=1
    )
    try:
        after: set[str] = set()
        for model in job.models:
            reads = warehouse.tables_of(query_of(model, job)) | set(model.inputs or ())
            if reads & (changed | after):
                after.add(model.name)
        return after
    finally:
        warehouse.close()
