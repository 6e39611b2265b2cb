"""Attaches sources to the DuckDB warehouse: one module for each format of files, and frames.

The module of a format is imported when a source has it, so that a run does not pay for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..contract import Column
from ..errors import SourceError
from ..job import Source
from ..ports.interfaces import AttachedSource, SourceLocation
from .sources.engine import Engine, unchanged
from .sources.files import Files, find_files


def attach_source(
    db: Engine,
    source: Source,
    location: SourceLocation,
    folder: Path | None,
    contract_columns: Mapping[str, Column],
    staged: str,
) -> AttachedSource:
    """Return the raw rows of a source; as text where the format has no types and a contract has."""
    name = source.name
    if not isinstance(location, str | Path):
        return _attach_frame(db, name, location, contract_columns, staged)
    files = find_files(name, str(location), folder or Path())
    if files.kind == "parquet":
        from .sources.parquet_reader import attach_parquet

        return attach_parquet(db, name, files, contract_columns, in_place=True)
    if not any(Path(p).stat().st_size for p in files.paths):
        raise SourceError(
            f"{name} is empty: {files.paths[0]} has no bytes",
            hint=f"name another path with --source {name}=PATH",
        )
    if files.kind == "csv":
        from .sources.csv_reader import attach_csv

        return attach_csv(db, source, files, contract_columns, staged)
    from .sources.json_reader import attach_json

    with unchanged(db, name, files):
        return attach_json(db, name, files, contract_columns, staged)


def _attach_frame(
    db: Engine,
    source: str,
    frame: object,
    contract_columns: Mapping[str, Column],
    staged: str,
) -> AttachedSource:
    """Store a table in memory as Parquet, and attach that."""
    import pyarrow.parquet as pq

    from .sources.frames import frame_to_table
    from .sources.parquet_reader import attach_parquet

    with db.store.writing(staged) as path:
        pq.write_table(frame_to_table(source, frame), path)
    stored = Files((str(db.store.path(staged)),), "parquet")
    return attach_parquet(db, source, stored, contract_columns, in_place=False)
