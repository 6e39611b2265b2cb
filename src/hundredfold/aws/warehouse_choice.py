"""The choice of the warehouse of a run on AWS, by the size of its sources.

Athena reads any amount of data, and takes seconds to begin each statement. DuckDB within one
function begins at once, and has that function's memory, disk and time. Decision 0061
gives the measurements behind the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..job import Job
from .adapters.glue_sources import parse_address
from .adapters.s3_objects import find_objects
from .lambda_platform import MAX_SOURCE_BYTES_PER_MB

AUTO, DUCKDB, ATHENA = "auto", "duckdb", "athena"
WAREHOUSES = (AUTO, DUCKDB, ATHENA)
COMPRESSED = (".gz", ".zst")
EXPANSION = 5  # a common ratio of compressed texts


@dataclass(frozen=True, slots=True)
class WarehouseChoice:
    """The warehouse of a run, and why."""

    warehouse: str
    reason: str


def choose_warehouse(
    wanted: str, job: Job, addresses: Mapping[str, str], memory_mb: int
) -> WarehouseChoice:
    """Return the warehouse for sources at these addresses.

    Raises: SourceError for a source that does not exist.
    """
    if wanted != AUTO:
        return WarehouseChoice(wanted, "as requested")
    limit = memory_mb * MAX_SOURCE_BYTES_PER_MB
    total = 0
    for source in job.sources:
        location = addresses[source.name]
        if parse_address(location):
            return WarehouseChoice(ATHENA, f"{source.name} is a Glue table")
        total += sum(
            o.size * (EXPANSION if o.key.lower().endswith(COMPRESSED) else 1)
            for o in find_objects(source.name, location)
        )
    size = f"the sources have {total / 2**20:,.1f} MiB"
    if total > limit:
        return WarehouseChoice(ATHENA, f"{size}, and one function reads up to {limit >> 20:,} MiB")
    return WarehouseChoice(DUCKDB, f"{size}, of the {limit >> 20:,} MiB that one function reads")
