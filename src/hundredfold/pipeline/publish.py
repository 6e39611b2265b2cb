"""Step 6. Makes a versioned release, and a pointer to it that moves atomically.

A release is complete before the pointer names it. The one before it is kept, and `rollback` moves
the pointer back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from ..data.checksums import missing_error, put_json
from ..data.layout import Layout
from ..data.numpy_columns import columns_with_infinite_dates
from ..data.parquet import ParquetWriter
from ..errors import DamagedFile, PublishRefused, StateError
from ..job import Job, allowed
from ..ports.interfaces import RunStore, Store, Warehouse
from ..ports.release_tables import OpenTable, no_tables
from ..sql.queries import naming_query
from .collect import Collected
from .release_queries import checked_query, describe_run, summary_rows
from .release_tables import check_rows, tables_of
from .releases import (
    Claimant,
    Pointer,
    Release,
    claim,
    had_pointer,
    move_pointer,
    pointer_key,
    read_pointer,
    read_release,
    record_first_release,
    release_folder,
    releases_made,
    sha256,
    verify_file,
    version_to_make,
    was_current,
)

MAX_RACES = 20  # releases of other runs that may become current while this one is made


def _no_check() -> None: ...


def _unknown_time(_run: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of a run's release, and the facts that are recorded with it.

    `created`        returns when a run was created, by its id: an ISO 8601 time, or "" if unknown
    `replace_newer`  whether the release of a newer run may be replaced
    `code`           as in Release
    `execution`      on AWS, the ARN of the execution that makes the release
    `check`          is called between the files and the pointer; raises to prevent the release
    `open_table`     opens a table that gets the rows of the release, to check them
    """

    created: Callable[[str], str] = _unknown_time
    replace_newer: bool = False
    code: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    execution: str = ""
    check: Callable[[], None] = _no_check
    open_table: OpenTable = no_tables


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
    maker = Claimant(run, attempt, terms.execution)
    for _ in range(MAX_RACES):
        release, pointer = _made_release(job.name, maker, store)
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
            claimed, selects = _claim(job, maker, layout, as_of, warehouse, store, pointer)
            claimed = replace(claimed, code=terms.code)
            release = _write_release(claimed, selects, job, warehouse, store)
        check_rows(release, store, terms.open_table)
        terms.check()
        if move_pointer(job.name, replace(pointer, version=release.version), store):
            record_first_release(job.name, store)
            return release
    raise StateError(
        f"{job.name} is not published: {MAX_RACES} other releases became current while it was made",
        hint=f"when no other run publishes: hundredfold publish {run}",
    )


def _made_release(job: str, maker: Claimant, store: Store) -> tuple[Release | None, Pointer]:
    """Return the release that an attempt of a run has made, if any, and the pointer.

    Another call may publish the same run meanwhile. So releases that are found are compared with a
    pointer that is read later, and where there is none, the current one by then may be of this run.
    One that is or was current counts, else the newest; those that another call made before are
    deleted.
    """
    made = releases_made(job, maker, store)
    pointer = read_pointer(job, store)
    if not made and pointer.version:
        with suppress(DamagedFile):  # it is reported when the next release is made upon it
            current = read_release(job, pointer.version, store)
            made = [current] if (current.run, current.attempt) == (maker.run, maker.attempt) else []
    published = [r for r in made if was_current(job, r.version, pointer, store)]
    chosen = next(reversed(published or made), None)
    for other in made:
        if other is not chosen and other not in published and _was_overtaken(other, pointer):
            _discard(other, store)
    return chosen, pointer


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


def _claim(
    job: Job,
    maker: Claimant,
    layout: Layout,
    as_of: str,
    warehouse: Warehouse,
    store: RunStore,
    pointer: Pointer,
) -> tuple[Release, dict[str, str]]:
    """Claim a version; return its release without files, and its checked queries by output."""
    parent = pointer.version or None
    if parent is None and had_pointer(job.name, store):
        # only the pointer knows the parent of this release
        raise missing_error(store, pointer_key(job.name))
    if parent is not None:
        read_release(job.name, parent, store)  # raises DamagedFile before anything is written
    maker = replace(maker, parent=parent)
    claimed = False
    while not claimed:
        version = version_to_make(job.name, maker, pointer, store)
        describe_run(job, layout, as_of, version, parent, warehouse)
        selects = {}
        for output in job.releases:
            with naming_query("the query of", output.name):
                selects[output.name] = checked_query(output, job, warehouse)
        claimed = claim(job.name, maker, version, store)
    return Release(job.name, version, parent, maker.run, maker.attempt, as_of), selects


def _write_release(
    claimed: Release,
    selects: Mapping[str, str],
    job: Job,
    warehouse: Warehouse,
    store: RunStore,
) -> Release:
    """Write the files of a release, and the release last.

    They replace those that this run wrote before it was killed. None is deleted: another call may
    have published the same version by now, with the same bytes.
    """
    folder = release_folder(job.name, claimed.version)
    _delete_others(job, folder, store)
    rows: dict[str, int] = {}
    files: dict[str, str] = {}
    summaries: dict[str, list[dict[str, Any]]] = {}
    for output in job.releases:
        with naming_query("the query of", output.name):
            for format in output.formats:
                key = f"{folder}/{output.name}.{format}"
                rows[output.name] = _write(selects[output.name], key, format, warehouse, store)
                files[key] = sha256(store.get(key))
            summaries |= summary_rows(output, selects[output.name], job, warehouse)
    tables = tables_of(job)
    release = replace(claimed, rows=rows, files=files, summaries=summaries, tables=tables)
    facts = asdict(release)
    if not tables:
        del facts["tables"]
    put_json(store, f"{folder}/release.json", facts, indent=1)
    return release


def _delete_others(job: Job, folder: str, store: Store) -> None:
    """Delete files that are not those of the job's release: the run had other queries before."""
    wanted = {f"{folder}/{each.name}.{format}" for each in job.releases for format in each.formats}
    for key in {*store.list(f"{folder}/")} - wanted - {f"{folder}/release.json"}:
        store.delete(key)


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
            select = checked_query(output, job, warehouse)
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
