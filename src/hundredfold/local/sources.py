"""Where a source's rows are on this machine: files of a known kind, or a table already in memory.

Whatever it was, what leaves here is a query whose rows have their columns, `__file` and `__row`.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..contract import literal
from ..errors import SourceError

KINDS = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
PACKED = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one kind."""

    paths: tuple[str, ...]
    kind: str

    @property
    def sql_list(self) -> str:
        return "[" + ", ".join(map(literal, self.paths)) + "]"


def find_files(source: str, place: str, folder: Path) -> Files:
    """The files that a path, a glob or a folder names; SourceError if there are none, or of several kinds."""
    path = Path(place).expanduser()
    full = path if path.is_absolute() else folder / path
    if full.is_dir():
        names = sorted(str(p) for p in full.rglob("*") if p.is_file() and not p.name.startswith((".", "_")) and _kind(p.name))
        if not names:
            raise SourceError(
                f"{source}: there is no Parquet, CSV or JSON-lines file in the folder {full}", hint=_pass(source, "DIR/*.parquet")
            )
    elif glob.has_magic(str(full)):
        names = sorted(name for name in glob.glob(str(full), recursive=True) if Path(name).is_file())  # noqa: PTH207  # Path has no glob of an absolute pattern
        if not names:
            raise SourceError(f"{source}: no file matches {full}", problems=_near(full), hint=_pass(source, "PATH"))
    elif full.is_file():
        names = [str(full)]
    else:
        raise SourceError(f"{source}: there is no file {full}", problems=_near(full), hint=_pass(source, "PATH"))
    kinds = {name: _kind(name) for name in names}
    unknown = [name for name, kind in kinds.items() if kind is None]
    if unknown:
        raise SourceError(
            f"{source}: the kind of {len(unknown)} file(s) is not known",
            problems=unknown,
            hint="wanted a name that ends with .parquet, .csv, .tsv, .jsonl or .ndjson (or one of the last four with .gz or .zst)",
        )
    if len(set(kinds.values())) > 1:
        raise SourceError(
            f"{source}: its files are of several kinds: {', '.join(sorted(map(str, set(kinds.values()))))}",
            problems=names,
            hint="name one kind, such as DIR/*.parquet",
        )
    return Files(tuple(str(Path(n).resolve()) for n in names), str(kinds[names[0]]))


def as_table(source: str, frame: Any) -> pa.Table:
    """An Arrow table of a frame in memory: pandas, polars, Arrow, or anything that speaks Arrow's C stream."""
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    module = type(frame).__module__.split(".")[0]
    if module == "pandas":
        unnamed = all(name is None for name in frame.index.names)
        try:
            return pa.Table.from_pandas(frame, preserve_index=not unnamed).replace_schema_metadata(None)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SourceError(
                f"{source}: the frame holds values of several types in one column: {error}",
                hint="give the column one type, as with frame.astype({...})",
            ) from error
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    if isinstance(frame, dict):
        return pa.table(frame)
    raise SourceError(
        f"{source}: {type(frame).__module__}.{type(frame).__qualname__} is no path and no table",
        hint="wanted a path or glob, or a pandas, polars or Arrow table",
    )


def _kind(name: str) -> str | None:
    path = Path(name)
    if path.suffix in PACKED:
        inner = KINDS.get(Path(path.stem).suffix)
        return inner if inner != "parquet" else None
    return KINDS.get(path.suffix.lower())


def _near(full: Path) -> Sequence[str]:
    """What is there instead: the deepest folder that exists, and some of what it holds."""
    folder = full.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    return [f"{folder} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"]


def _pass(source: str, what: str) -> str:
    return f"name the place with --source {source}={what}"
