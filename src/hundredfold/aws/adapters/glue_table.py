"""A table of the Glue catalogue, as a query names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...contract import literal

PATH = "$path"  # the column in which Athena says in which object a row lies


NAMED = 10_000  # characters of addresses that a statement names; more of them stand in a table


@dataclass(frozen=True, slots=True)
class GlueTable:
    """A table in the Glue database: objects below a prefix, or (`only`) those of them that are
    named.
    """

    database: str
    name: str
    location: str  # s3://bucket/prefix/
    schema: str  # serialized, in hex: how DuckDB sees its columns
    only: tuple[str, ...] = ()  # s3:// addresses
    paths: bool = False  # whether queries may ask in which object a row lies
    attempt: int = (
        0  # the attempt of the run that it belongs to; 0 where it stays as it is, such as a source
    )
    objects: int = (
        -1
    )  # how many objects it had when it was made; -1 where they are not the run's own
    odd: tuple[
        tuple[str, str], ...
    ] = ()  # columns that Athena cannot read as they are, each with the reason

    @property
    def arrow(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.schema)))

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> GlueTable:
        return cls(
            **{**fields, "only": tuple(fields["only"]), "odd": tuple(map(tuple, fields["odd"]))}
        )


def are_many(addresses: Sequence[str]) -> bool:
    """Whether a statement does not write them out: then Athena opens what else lies beside them,
    too.
    """
    return sum(len(literal(address)) + 2 for address in addresses) > NAMED
