"""The rows of the current release, written to tables of other systems (Publish(to=...)).

A release names its tables in `release.json`, so that a rollback needs no job. The table follows the
pointer: its rows are those of the release that the pointer names. A release has a place in the
order of all moves of the pointer, so that a process which writes an earlier release, and was
stopped for an hour, changes nothing that a later one wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.parquet_in_memory import read_row_group
from ..job import Job
from ..ports.interfaces import Store
from ..ports.release_tables import OpenTable, Stamp, Written
from .releases import Release, read_pointer, release_folder, verify_file

PART_ROWS = 5_000


def tables_of(job: Job) -> dict[str, Mapping[str, Any]]:
    """Return the tables of a job's outputs, as a release names them."""
    return {output.name: output.to.facts for output in job.releases if output.to is not None}


def without_tables(job: Job) -> Job:
    """Return a job that writes to no other system, for pilots and timings."""
    if not tables_of(job):
        return job
    return replace(job, publish=tuple(replace(output, to=None) for output in job.releases))


def check_declared_tables(job: Job, open_table: OpenTable) -> None:
    """Check that the tables of a job exist and have its keys, before any work."""
    for facts in tables_of(job).values():
        open_table(facts).check(())


def check_rows(release: Release, store: Store, open_table: OpenTable) -> None:
    """Raise PublishRefused if a table cannot hold a row of a release."""
    for output, facts in release.tables.items():
        open_table(facts).check(_parts(release, output, store))


def write_tables(
    release: Release,
    store: Store,
    open_table: OpenTable,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Written]:
    """Write the rows of a release to its tables, if it is current.

    tables: in place of those that the release names.
    """
    pointer = read_pointer(release.job, store)
    if pointer.version != release.version:
        return {}

    def is_current() -> bool:
        return read_pointer(release.job, store).order == pointer.order

    found = {}
    for output, facts in (release.tables if tables is None else tables).items():
        stamp = Stamp(f"{release.job}/{output}", pointer.order, release.version, release.run)
        parts = _parts(release, output, store)
        found[output] = open_table(facts).write(parts, stamp, is_current)
    return found


def _parts(release: Release, output: str, store: Store) -> Iterator[pa.Table]:
    """Yield the rows of an output from its Parquet file, which is compared with its SHA-256."""
    key = f"{release_folder(release.job, release.version)}/{output}.parquet"
    verify_file(release, key, store)
    file = pq.ParquetFile(pa.BufferReader(store.get(key)))
    for group in range(file.num_row_groups):
        rows = read_row_group(file, group)
        for first in range(0, rows.num_rows, PART_ROWS):
            yield rows.slice(first, PART_ROWS)
