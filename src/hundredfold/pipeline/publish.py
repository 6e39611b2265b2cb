"""Step 6. What the system downstream is given: a versioned release, and a pointer that moves at
once or not at all.

A release is whole before the pointer names it; the one before it stays, and `rollback` moves the
pointer back.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ..contract import Contract, accepts, literal, quote, read_contract
from ..data.checksums import damage_error, get_json, missing_error, parse_json, put_json, require
from ..data.numpy_columns import columns_with_infinite_dates, to_python_rows
from ..data.outcomes import describe
from ..data.parquet import ParquetWriter
from ..errors import DamagedFile, PublishRefused, QueryError, StateError
from ..job import Job, Layout, Publish, allowed, releases_of
from ..ports.interfaces import RunStore, Store, Warehouse
from ..ports.run_facts import ReleaseCounts
from ..sql.checks import Judged, Rule, check_column
from ..sql.queries import check_names, load_query, naming_query, with_micros
from .collect import Collected

MAX_KEY_COLUMNS = 4  # columns by which a row is named in an error


@dataclass(frozen=True, slots=True)
class Release:
    """One version of what a job publishes.

    `files` maps each file's key in the store to its SHA-256.
    """

    job: str
    version: int
    parent: int | None
    run: str
    attempt: int
    as_of: str
    rows: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    summaries: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    code: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict
    )  # units of each model by the fingerprint of their code

    @property
    def counts(self) -> ReleaseCounts:
        """The counts of the release, as the run's record holds them."""
        return ReleaseCounts(version=self.version, rows=dict(self.rows), files=list(self.files))


def _no_check() -> None: ...


def _unknown_time(_run: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What decides whether a run's release may become the current one, and what is recorded with
    it.

    `created`        when a run was created, by its id: an ISO 8601 time, "" where that is not known
    `replace_newer`  whether the release of a newer run may be replaced
    `code`           as in Release
    `check`          called when the files are written, before the pointer moves; raises to prevent that
    """

    created: Callable[[str], str] = _unknown_time
    replace_newer: bool = False
    code: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    check: Callable[[], None] = _no_check


DEFAULT_TERMS = Terms()


def check_limits(
    job: Job, collected: Sequence[Collected], run: str, max_failed: float | None = None
) -> None:
    """PublishRefused if more units of a model failed than the job allows: what follows is held
    back, nothing is thrown away.
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
    """Hold back a run whose model has no unit that is ok, also where nothing is published.

    A limit that allows all units of that model lets the other models go on: see `refuse_none_ok`
    for their end.
    """
    limit = job.max_failed if max_failed is None else max_failed
    _refuse_failed(
        job, [c for c in collected if c.units and not c.ok and c.bad > allowed(limit, c.units)], run
    )


def refuse_none_ok(job: Job, collected: Sequence[Collected], run: str) -> None:
    """Hold back a run that has no unit that is ok in any model, whatever its limits allow: it has
    made nothing.
    """
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
    """Make the release of this run and let the pointer name it, or take the release that is there.
    None if the job publishes nothing.

    A release that was rolled back stays so. Raises: PublishRefused where the current release is
    that of a newer run.
    """
    if not job.releases:
        return None
    pointer = _read_pointer(job.name, store)
    release = _find_release(job.name, layout.run, attempt, store)
    if release is not None:
        _restore_files(release, job, layout, warehouse, store)
    if release is not None and (
        release.version <= pointer.version or release.version in pointer.withdrawn
    ):
        return release
    if not terms.replace_newer:
        _refuse_newer(job.name, layout.run, terms.created, pointer.version, store)
    release = release or _create_release(job, layout, attempt, as_of, warehouse, store, terms)
    terms.check()
    set_current(job.name, release.version, store, pointer.withdrawn)
    return release


def _refuse_newer(
    job: str, run: str, created: Callable[[str], str], version: int, store: Store
) -> None:
    """PublishRefused where the current release was made by a run that was created after this one."""
    newer = next((r for r in releases(job, store) if r.version == version), None)
    if newer is None or newer.run == run or not "" < created(run) < created(newer.run):
        return
    raise PublishRefused(
        f"{job} is held back: release {newer.version} is current, and it was made by a newer run",
        problems=[
            f"this run, {run}, was created at {created(run)}",
            f"run {newer.run} was created at {created(newer.run)}",
        ],
        hint=f"to replace it all the same: hundredfold publish {run} --replace-newer",
    )


def releases(job: str, store: Store) -> list[Release]:
    """Every whole release of a job, oldest first; those whose release.json is damaged are left out."""
    found = []
    for version in versions(job, store):
        with suppress(DamagedFile):
            found.append(read_release(job, version, store))
    return found


def versions(job: str, store: Store) -> list[int]:
    """Return the versions of a job that have a release.json, damaged or not, in order."""
    pattern = re.compile(re.escape(releases_of(job)) + r"/(\d+)/release\.json")
    return sorted(
        int(found[1])
        for key in store.list(releases_of(job) + "/")
        if (found := pattern.fullmatch(key))
    )


def read_release(job: str, version: int, store: Store) -> Release:
    """Return a release of a job; DamagedFile if its release.json is missing, or not what was
    written.
    """
    key = f"{release_folder(job, version)}/release.json"
    return Release(**parse_json(store, key, require(store, key).to_pybytes()))


def verify_file(release: Release, key: str, store: Store) -> None:
    """Raise DamagedFile if a file of a release is missing, or does not have the SHA-256 that the
    release has for it.
    """
    if _sha256(require(store, key)) != release.files[key]:
        raise damage_error(store, key, "does not have the SHA-256 with which it was published")


def _sha256(data: pa.Buffer) -> str:
    return hashlib.sha256(memoryview(data)).hexdigest()


def current_version(job: str, store: Store) -> int | None:
    """The version that the pointer names; None before the first release, DamagedFile if there are
    releases and no pointer.
    """
    return _read_pointer(job, store).version or None


def set_current(job: str, version: int, store: Store, withdrawn: Sequence[int] = ()) -> None:
    """Let the pointer name a version: one object replaced, so a reader sees the old one or the new
    one.
    """
    content: dict[str, Any] = {"version": version, "folder": release_folder(job, version)}
    if withdrawn:
        content["withdrawn"] = sorted(withdrawn)
    put_json(store, _pointer(job), content)


@dataclass(frozen=True, slots=True)
class _Pointer:
    """The current version (0: none yet), and the versions that were rolled back and are not to
    return by themselves.
    """

    version: int = 0
    withdrawn: tuple[int, ...] = ()


def _read_pointer(job: str, store: Store) -> _Pointer:
    try:
        content = get_json(store, _pointer(job))
    except KeyError:
        return _Pointer()
    return _Pointer(int(content["version"]), tuple(content.get("withdrawn", ())))


def rollback(job: str, store: Store, to: int | None = None) -> Release:
    """Move the pointer to the parent of the current release, or to version `to`; StateError if
    there is none.
    """
    known = versions(job, store)
    try:
        now = current_version(job, store)
    except DamagedFile:
        if to is None:
            raise
        now = to  # the pointer is written anew
    if now is None and known and to is None:
        raise missing_error(store, _pointer(job))
    if not known:
        raise StateError(
            f"{job} has no release, so there is nothing to roll back", hint="hundredfold status"
        )
    target = to if to is not None else read_release(job, now or 0, store).parent
    if target is not None and to is None:
        read_release(job, target, store)  # names what is missing of it
    if target is None or target not in known:
        others = ", ".join(str(v) for v in known if v != now) or "no other"
        wanted = f"no version {to}" if to is not None else "no release before it"
        raise StateError(
            f"version {now} of {job} is current, and there is {wanted}; there is {others}",
            hint=f"hundredfold rollback {job} --to VERSION",
        )
    release = read_release(job, target, store)
    withdrawn = {version for version in known if version > target}
    for key in release.files:
        verify_file(release, key, store)
    with suppress(DamagedFile):
        withdrawn = {
            *_read_pointer(job, store).withdrawn,
            *(version for version in known if version > target),
        }
    set_current(job, target, store, sorted(version for version in withdrawn if version > target))
    return release


def release_folder(job: str, version: int) -> str:
    return f"{releases_of(job)}/{version:06d}"


def _pointer(job: str) -> str:
    return f"{releases_of(job)}/current.json"


def _find_release(job: str, run: str, attempt: int, store: Store) -> Release | None:
    return next((r for r in releases(job, store) if (r.run, r.attempt) == (run, attempt)), None)


def _create_release(
    job: Job,
    layout: Layout,
    attempt: int,
    as_of: str,
    warehouse: Warehouse,
    store: RunStore,
    terms: Terms,
) -> Release:
    parent = current_version(job.name, store)
    if parent is None and versions(
        job.name, store
    ):  # which release this one builds upon, only the pointer says
        raise missing_error(store, _pointer(job.name))
    if parent is not None:
        read_release(
            job.name, parent, store
        )  # the current release is never taken for what a killed driver left
    version = max(versions(job.name, store), default=0) + 1
    folder = release_folder(job.name, version)
    store.delete(folder)  # what a driver that was killed here left
    describe_run(job, layout, as_of, version, parent, warehouse)
    rows: dict[str, int] = {}
    files: dict[str, str] = {}
    summaries: dict[str, list[dict[str, Any]]] = {}
    for output in job.releases:
        with naming_query("the query of", output.name):
            select = _checked_query(output, job, warehouse)
            for format in output.formats:
                key = f"{folder}/{output.name}.{format}"
                rows[output.name] = _write(select, key, format, warehouse, store)
                files[key] = _sha256(store.get(key))
            summaries |= _summaries(output, select, job, warehouse)
    release = Release(
        job.name, version, parent, layout.run, attempt, as_of, rows, files, summaries, terms.code
    )
    put_json(store, f"{folder}/release.json", asdict(release), indent=1)
    return release


def _restore_files(
    release: Release, job: Job, layout: Layout, warehouse: Warehouse, store: RunStore
) -> None:
    """Make the files of a release that are damaged anew; DamagedFile where they come out otherwise
    than they were published.
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
    """A query's rows as one file, in its order; how many."""
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
                    f"{key.rpartition('/')[2]} is not published: its query gives dates of "
                    f"infinity in {', '.join(endless)}, which Parquet has not",
                    hint="leave these rows out, or write nullif(...)",
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
    """One row of facts that queries see as the table `run`; the versions are null before there is a
    release.
    """
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
    """The rows of each summary of what is published, which stands under its name."""
    if not output.summaries:
        return {}
    warehouse.create_view(output.name, select)
    tables = {}
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
    """Rows for JSON and for people: a sum that SQL made a decimal is a plain number; NaN and
    infinity, which JSON lacks, are texts.
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
    """The publishing query, if it runs and its rows keep the contract; the rows' names and types
    are the contract's.
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
            f"the query of {output.name} does not give what {contract.name} says",
            problems=problems,
            hint="mend the query or the contract",
        )
    columns = {
        c.name: check_column(c, quote(c.name), schema.field(c.name).type) for c in contract.columns
    }
    _refuse_violations(output, contract, columns, select, job, warehouse)
    casts = ", ".join(
        f"CAST({columns[c.name].value} AS {c.sql_type}) AS {quote(c.name)}"
        for c in contract.columns
    )
    return f"SELECT {casts} FROM ({select}) AS q"


def _refuse_violations(
    output: Publish,
    contract: Contract,
    columns: Mapping[str, Judged],
    select: str,
    job: Job,
    warehouse: Warehouse,
) -> None:
    """PublishRefused where a value would become another one in the contract's type, is null, or
    breaks a constraint.
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
    counts = warehouse.query(f"SELECT {sums} FROM ({typed}) AS t").to_pylist()[0]
    broken = [(rule, int(counts[f"k{i}"])) for i, rule in enumerate(rules) if counts[f"k{i}"]]
    if broken:
        raise PublishRefused(
            f"{output.name} is not published: its rows break {contract.name}",
            problems=[
                (
                    f"{rule.column} {rule.words}: {rows:,} "
                    f"row{'s' * (rows > 1)}{_first_violation(rule, columns, typed, job, warehouse)}"
                )
                for rule, rows in broken
            ],
            hint="mend the query (round, cast or filter there), the models that it reads, or the "
            "contract",
        )


def _first_violation(
    rule: Rule, columns: Mapping[str, Judged], typed: str, job: Job, warehouse: Warehouse
) -> str:
    """The value of the first row that breaks a rule, and the key of that row: its columns that are
    keys of models.
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
    parts += (
        [
            (
                "where "
                f"{', '.join(f'{name} = {_text(text)}' for name, text in zip(keys, key, strict=True))}"
            )
        ]
        if keys
        else []
    )
    return "; " + ", ".join(parts)


def _text(value: str | None) -> str:
    return "null" if value is None else describe(value)[:80]
