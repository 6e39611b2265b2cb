"""A table of the Glue Data Catalog, as queries refer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...contract import literal

PATH_COLUMN = "$path"  # the hidden column in which Athena gives the object of each row


MAX_INLINE_ADDRESS_CHARACTERS = 10_000  # a longer list of addresses is stored in a table


@dataclass(frozen=True, slots=True)
class GlueTable:
    """A table in the Glue database: the objects below a prefix, or only those listed in `only`."""

    database: str
    name: str
    location: str  # s3://bucket/prefix/
    schema: str  # the columns as DuckDB sees them, serialized, in hex
    only: tuple[str, ...] = ()  # s3:// addresses; empty for all objects below the location
    paths: bool = False  # whether queries may read the object of each row
    attempt: int = (
        # attempt of the run that the table belongs to; 0 if all attempts share it, such as a source
        0
    )
    # number of objects at its creation; -1 if the objects do not belong to the run
    objects: int = -1
    # columns that Athena cannot read as stored, each with the reason
    unreadable_columns: tuple[tuple[str, str], ...] = ()

    @property
    def arrow(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.schema)))

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> GlueTable:
        return cls(
            **{
                **fields,
                "only": tuple(fields["only"]),
                "unreadable_columns": tuple(map(tuple, fields["unreadable_columns"])),
            }
        )


def exceed_inline_limit(addresses: Sequence[str]) -> bool:
    """Return whether a list of addresses is too long for a statement.

    Then Athena also opens the other objects of their folder.
    """
    return sum(len(literal(address)) + 2 for address in addresses) > MAX_INLINE_ADDRESS_CHARACTERS
