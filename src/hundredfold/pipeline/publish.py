"""Step 6. Makes a versioned release, and a pointer to it that moves atomically.

A release is complete before the pointer names it. The one before it is kept, and `rollback` moves
the pointer back to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ..contract import Contract, accepts, literal, quote, read_contract
from ..data.checksums import missing_error, put_json
from ..data.numpy_columns import columns_with_infinite_dates, to_python_rows
from ..data.outcomes import describe
from ..data.parquet import ParquetWriter
from ..errors import DamagedFile, PublishRefused, QueryError, StateError
from ..job import Job, Layout, Publish, allowed
from ..ports.interfaces import RunStore, Store, Warehouse
from ..sql.checks import Judged, Rule, check_column
from ..sql.queries import check_names, load_query, naming_query, with_micros
from .collect import Collected
from .releases import (
    Pointer,
    Release,
    claim,
    find_release,
    had_pointer,
    move_pointer,
    pointer_key,
    read_pointer,
    read_release,
    record_first_release,
    release_folder,
    sha256,
    verify_file,
    version_to_make,
    was_current,
)

MAX_RACES = 20  # releases of other runs that may become current while this one is made
MAX_KEY_COLUMNS = 4  # columns that identify a row in an error


def _no_check() -> None: ...


def _unknown_time(_run: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of a run's release, and the facts that are recorded with it.

    `created`        returns when a run was created, by its id: an ISO 8601 time, or "" if unknown
    `replace_newer`  whether the release of a newer run may be replaced
    `code`           as in Release
    `check`          is called between the files and the pointer; raises to prevent the release
    """

    created: Callable[[str], str] = _unknown_time
    replace_newer: bool = False
    code: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    check: Callable[[], None] = _no_check


DEFAULT_TERMS = Terms()


def check_limits(
    job: Job, collected: Sequence[Collected], run: str, max_failed: float | None = None
) -> None:
    """Raise PublishRefused if more units of a model failed than the job allows.

    The run is held back, and nothing is deleted.
    """
    limit = job.max_failed if max_failed is None else max_failed
    over = [c for c in collected if c.bad > allowed(limit, c.units)]
    if over:
        raise PublishRefused(
            f"{job.name} is held back: more units failed than max_failed={limit} allows",
            problems=[
                (
                    f"{c.model}: {c.bad:,} of {c.units:,} units ({c.failed:,} failed, "
                    f"{c.crashed:,} crashed)"
                )
                for c in over
            ],
            hint=f"hundredfold failures {run}   then: hundredfold retry {run} --accept-new-code"
            f"   or: hundredfold publish {run} --max-failed {max(c.bad for c in over)}",
        )


def refuse_all_failed(
    job: Job, collected: Sequence[Collected], run: str, max_failed: float | None = None
) -> None:
    """Hold back a run if a model has no ok unit, also where nothing is published.

    A limit that allows all units of that model lets the other models go on; `refuse_none_ok` then
    decides at their end.
    """
    limit = job.max_failed if max_failed is None else max_failed
    _refuse_failed(
        job, [c for c in collected if c.units and not c.ok and c.bad > allowed(limit, c.units)], run
    )


def refuse_none_ok(job: Job, collected: Sequence[Collected], run: str) -> None:
    """Hold back a run without an ok unit in any model, whatever its limits: it has no result."""
    if not any(c.ok for c in collected):
        _refuse_failed(job, [c for c in collected if c.units], run)


def _refuse_failed(job: Job, failed: Sequence[Collected], run: str) -> None:
    if failed:
        raise PublishRefused(
            f"{job.name} is held back: all {sum(c.units for c in failed):,} units of "
            f"{', '.join(c.model for c in failed)} failed",
            problems=[f"{c.model}: {c.failed:,} failed, {c.crashed:,} crashed" for c in failed],
            hint=f"hundredfold failures {run}   then: hundredfold retry {run} --accept-new-code",
        )


def publish(
    job: Job,
    layout: Layout,
    attempt: int,
    as_of: str,
    warehouse: Warehouse,
    store: RunStore,
    terms: Terms = DEFAULT_TERMS,
) -> Release | None:
    """Make the release of this run and point to it, or return the release that exists.

    Other runs of the job may publish at the same time. A run that finds that another one moved the
    pointer when its own release is complete begins again: its release is refused if the other run
    is newer, and is otherwise made again, with the other's as its parent.

    Returns None if the job publishes nothing. A release that was rolled back is not made current
    again. Raises: PublishRefused where the current release is that of a newer run.
    """
    if not job.releases:
        return None
    run = layout.run
    for _ in range(MAX_RACES):
        pointer = read_pointer(job.name, store)
        release = find_release(job.name, run, attempt, store)
        if release is not None:
            _restore_files(release, job, layout, warehouse, store)
            if was_current(job.name, release.version, pointer, store):
                record_first_release(job.name, store)
                return release
        if not terms.replace_newer and (newer := _newer(job.name, run, terms, pointer, store)):
            _discard(release, store)
            raise newer
        if release is None or _was_overtaken(release, pointer):
            _discard(release, store)
            release = _create_release(job, layout, attempt, as_of, warehouse, store, terms, pointer)
        terms.check()
        if move_pointer(job.name, release.version, pointer.withdrawn, pointer.etag, store):
            record_first_release(job.name, store)
            return release
    raise StateError(
        f"{job.name} is not published: {MAX_RACES} other releases became current while it was made",
        hint=f"when no other run publishes: hundredfold publish {run}",
    )


def _was_overtaken(release: Release, pointer: Pointer) -> bool:
    """Return whether another release became current after this one was made."""
    return pointer.etag is not None and (release.parent or 0) != pointer.version


def _discard(release: Release | None, store: Store) -> None:
    """Delete a release of this run that never became current; its claim is kept."""
    if release is not None:
        store.delete(release_folder(release.job, release.version))


def _newer(
    job: str, run: str, terms: Terms, pointer: Pointer, store: Store
) -> PublishRefused | None:
    """Return the refusal of a run that was created before the run of the current release."""
    if not pointer.version:
        return None
    try:
        found = read_release(job, pointer.version, store)
    except DamagedFile:  # it is reported when the next release is made upon it
        return None
    created = terms.created
    if found.run == run or not "" < created(run) < created(found.run):
        return None
    return PublishRefused(
        f"{job} is held back: release {found.version} is current, and it was made by a newer run",
        problems=[
            f"this run, {run}, was created at {created(run)}",
            f"run {found.run} was created at {created(found.run)}",
        ],
        hint=f"to replace it all the same: hundredfold publish {run} --replace-newer",
    )


def _create_release(
    job: Job,
    layout: Layout,
    attempt: int,
    as_of: str,
    warehouse: Warehouse,
    store: RunStore,
    terms: Terms,
    pointer: Pointer,
) -> Release:
    """Claim a version, and write its files."""
    parent = pointer.version or None
    if parent is None and had_pointer(job.name, store):
        # only the pointer knows the parent of this release
        raise missing_error(store, pointer_key(job.name))
    if parent is not None:
        read_release(job.name, parent, store)  # raises DamagedFile before anything is written
    claimed = False
    while not claimed:
        version = version_to_make(job.name, layout.run, attempt, pointer, store)
        describe_run(job, layout, as_of, version, parent, warehouse)
        selects = {}
        for output in job.releases:
            with naming_query("the query of", output.name):
                selects[output.name] = _checked_query(output, job, warehouse)
        claimed = claim(job.name, layout.run, attempt, version, store)
    folder = release_folder(job.name, version)
    store.delete(folder)  # files that this run wrote before it was killed
    rows: dict[str, int] = {}
    files: dict[str, str] = {}
    summaries: dict[str, list[dict[str, Any]]] = {}
    for output in job.releases:
        with naming_query("the query of", output.name):
            for format in output.formats:
                key = f"{folder}/{output.name}.{format}"
                rows[output.name] = _write(selects[output.name], key, format, warehouse, store)
                files[key] = sha256(store.get(key))
            summaries |= _summaries(output, selects[output.name], job, warehouse)
    release = Release(
        job.name, version, parent, layout.run, attempt, as_of, rows, files, summaries, terms.code
    )
    put_json(store, f"{folder}/release.json", asdict(release), indent=1)
    return release


def _restore_files(
    release: Release, job: Job, layout: Layout, warehouse: Warehouse, store: RunStore
) -> None:
    """Make the damaged files of a release again.

    Raises: DamagedFile where they differ from those that were published.
    """
    broken = set()
    for key in release.files:
        try:
            verify_file(release, key, store)
        except DamagedFile:
            broken.add(key)
    if broken:
        describe_run(job, layout, release.as_of, release.version, release.parent, warehouse)
    for output in job.releases if broken else ():
        with naming_query("the query of", output.name):
            select = _checked_query(output, job, warehouse)
            for format in output.formats:
                key = f"{release_folder(job.name, release.version)}/{output.name}.{format}"
                if key in broken:
                    _write(select, key, format, warehouse, store)
                    verify_file(release, key, store)


def _write(select: str, key: str, format: str, warehouse: Warehouse, store: RunStore) -> int:
    """Write the rows of a query as one file, in its order, and return their number."""
    if format != "parquet":
        return warehouse.write(select, key, format)
    rows = 0
    with (
        store.writing(key) as path,
        closing(ParquetWriter(path, warehouse.columns(select))) as file,
    ):
        for batch in warehouse.stream(select):
            if endless := columns_with_infinite_dates(batch):
                raise PublishRefused(
                    f"{key.rpartition('/')[2]} is not published: its query returns infinite dates "
                    f"in {', '.join(endless)}, which Parquet cannot hold",
                    hint="filter out these rows, or write nullif(...)",
                )
            file.add(pa.Table.from_batches([batch]))
            rows += batch.num_rows
    return rows


def describe_run(
    job: Job,
    layout: Layout,
    as_of: str,
    version: int | None,
    parent: int | None,
    warehouse: Warehouse,
) -> None:
    """Create the view `run`: one row of facts; its versions are null before there is a release."""
    facts = (
        f"{literal(layout.run)} AS run_id, {literal(job.name)} AS job, CAST({literal(as_of)} AS "
        "TIMESTAMP) AS as_of"
    )
    versions = (
        f"CAST({version or 'NULL'} AS BIGINT) AS table_version, CAST({parent or 'NULL'} AS "
        "BIGINT) AS parent_version"
    )
    warehouse.create_view("run", f"SELECT {facts}, {versions}")


def _summaries(
    output: Publish, select: str, job: Job, warehouse: Warehouse
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each summary.

    Its query reads the published rows under the output's name.
    """
    if not output.summaries:
        return {}
    warehouse.create_view(output.name, select)
    tables = {}
    with suppress(QueryError):  # it is raised again below, with the name of its summary
        texts = [load_query(query, job.folder) for query in output.summaries.values()]
        warehouse.prefetch([with_micros(text, warehouse.columns(text))[0] for text in texts])
    for title, query in output.summaries.items():
        try:
            text = load_query(query, job.folder)
            tables[title] = warehouse.query(with_micros(text, warehouse.columns(text))[0])
        except QueryError as error:
            raise QueryError(
                f"the summary {title!r} of {output.name} cannot run: {error.message}",
                hint=error.hint,
            ) from error
    for title, table in tables.items():
        check_names(f"the summary {title!r} of {output.name}", table.column_names)
    return {title: _json_rows(table) for title, table in tables.items()}


def _json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows for JSON and for people.

    Whole decimals become int, others float; NaN and infinity become text.
    """
    return [
        {name: _json_value(value) for name, value in row.items()} for row in to_python_rows(table)
    ]


def _json_value(value: object) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    if isinstance(value, list):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {name: _json_value(each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _checked_query(output: Publish, job: Job, warehouse: Warehouse) -> str:
    """Return the publishing query, with the names and types of the contract.

    Raises: QueryError if it cannot run or has other columns, PublishRefused if rows violate the
    contract.
    """
    select = load_query(output.query, job.folder)
    try:
        schema = warehouse.columns(select)
    except QueryError as error:
        raise QueryError(
            f"the query of {output.name} cannot run: {error.message}", hint=error.hint
        ) from error
    check_names(f"the query of {output.name}", schema.names)
    select, schema = with_micros(select, schema)
    if output.contract is None:
        return select
    contract = read_contract(output.contract)
    missing = [n for n in contract.names if n not in schema.names]
    extra = [n for n in schema.names if n not in contract.names]
    wrong = [
        f"{c.name}: wanted {c.arrow}, found {schema.field(c.name).type}"
        for c in contract.columns
        if c.name in schema.names
        and not pa.types.is_null(schema.field(c.name).type)
        and not accepts(c.arrow, schema.field(c.name).type)
    ]
    problems = (
        [f"{n}: missing" for n in missing] + [f"{n}: not in the contract" for n in extra] + wrong
    )
    if problems:
        raise QueryError(
            f"the columns of the query of {output.name} are not those of {contract.name}",
            problems=problems,
            hint="correct the query or the contract",
        )
    columns = {
        c.name: check_column(c, quote(c.name), schema.field(c.name).type) for c in contract.columns
    }
    casts = ", ".join(
        f"CAST({columns[c.name].value} AS {c.sql_type}) AS {quote(c.name)}"
        for c in contract.columns
    )
    checked = f"SELECT {casts} FROM ({select}) AS q"
    _refuse_violations(output, contract, columns, select, checked, job, warehouse)
    return checked


def _refuse_violations(
    output: Publish,
    contract: Contract,
    columns: Mapping[str, Judged],
    select: str,
    checked: str,
    job: Job,
    warehouse: Warehouse,
) -> None:
    """Raise PublishRefused where a value changes in the contract's type, is null, or breaks a
    constraint.

    `checked`: the query that is published otherwise, which may run at the same time.
    """
    rules = [rule for judged in columns.values() for rule in judged.rules]
    if not rules:
        return
    typed = (
        f"SELECT {', '.join(value for judged in columns.values() for value in judged.values)} "
        f"FROM ({select}) AS q"
    )
    sums = ", ".join(
        f"coalesce(sum(CASE WHEN {rule.bad} THEN 1 ELSE 0 END), 0) AS k{i}"
        for i, rule in enumerate(rules)
    )
    counting = f"SELECT {sums} FROM ({typed}) AS t"
    warehouse.prefetch([counting, checked])
    counts = warehouse.query(counting).to_pylist()[0]
    broken = [(rule, int(counts[f"k{i}"])) for i, rule in enumerate(rules) if counts[f"k{i}"]]
    if broken:
        raise PublishRefused(
            f"{output.name} is not published: its rows break {contract.name}",
            problems=[
                (
                    f"{rule.column} {rule.message}: {rows:,} "
                    f"row{'s' * (rows > 1)}{_first_violation(rule, columns, typed, job, warehouse)}"
                )
                for rule, rows in broken
            ],
            hint="correct the query (round, cast or filter there), the models that it reads, or "
            "the contract",
        )


def _first_violation(
    rule: Rule, columns: Mapping[str, Judged], typed: str, job: Job, warehouse: Warehouse
) -> str:
    """Describe the first row that violates a rule: its value, and the columns that are keys of
    models.
    """
    units = {name for model in job.models for name in model.unit}
    judged, others = columns[rule.column], [name for name in columns if name != rule.column]
    keys = [name for name in others if name in units][:MAX_KEY_COLUMNS] or others[:1]
    shown = [
        f"t.{quote(rule.column)}",
        judged.raw(rule.column),
        *(columns[name].raw(name) for name in keys),
    ]
    texts = ", ".join(f"CAST({sql} AS VARCHAR) AS c{i}" for i, sql in enumerate(shown))
    order = ", ".join(f"c{i}" for i in [*range(2, len(shown)), 1])
    bad = f"SELECT {texts} FROM ({typed}) AS t WHERE {rule.bad}"
    after, before, *key = (
        warehouse.query(f"SELECT * FROM ({bad}) AS b ORDER BY {order} LIMIT 1")
        .to_pylist()[0]
        .values()
    )
    changed = rule is judged.rules[0] and not judged.same and after not in (None, before)
    parts = [f"the first is {_text(before)}"]
    parts += [f"which would become {_text(after)}"] if changed else []
    if keys:
        named = (f"{name} = {_text(text)}" for name, text in zip(keys, key, strict=True))
        parts.append(f"where {', '.join(named)}")
    return "; " + ", ".join(parts)


def _text(value: str | None) -> str:
    return "null" if value is None else describe(value)[:80]
