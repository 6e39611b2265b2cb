"""The port to a table of another system that holds the rows of the current release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from ..errors import StateError


@dataclass(frozen=True, slots=True)
class Stamp:
    """The origin of rows in a table.

    source: job and output, as "job/output". order: of two releases of a job, the one that became
    current later has the higher number, also after a rollback. run: that made the release.
    """

    source: str
    order: int
    version: int
    run: str


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write. removed: rows of earlier releases that are in this one no more.

    superseded: a later release is in the table, or became current, so that not all was written.
    """

    rows: int
    removed: int
    superseded: bool = False


class ReleaseTable(Protocol):
    """A table that holds the rows of the current release of an output."""

    def check(self, parts: Iterable[pa.Table]) -> None:
        """Check the table, and that it can hold the rows; nothing is written.

        Raises: PublishRefused, which names the rows that it cannot hold; JobError for a table with
        another key; HomeError for a table that cannot be reached.
        """

    def write(
        self, parts: Iterable[pa.Table], stamp: Stamp, is_current: Callable[[], bool]
    ) -> Written:
        """Write the rows of a release, then remove those of earlier ones that it has no more.

        A row of a later release of the same source is never replaced. To write the same release
        again changes nothing. Raises: StateError where a row of something else has the key of one
        of these.
        """


OpenTable: TypeAlias = Callable[[Mapping[str, Any]], ReleaseTable]  # of the facts in a release


def no_tables(facts: Mapping[str, Any]) -> ReleaseTable:
    """Raise StateError: nothing was given that opens tables."""
    raise StateError(f"no way is known to write the rows of a release to {dict(facts)}")
