"""The rows of a source on this machine: files of a known kind, or a table in memory.

Either way the result is a query whose rows have their columns, `__file` and `__row`.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import literal
from ...data.arrow_columns import is_valid_name
from ...errors import SourceError
from ...paths import expand_user
from .listing import (
    NAMING_HINT,
    Partition,
    data_files,
    kind_of_file,
    matches,
    may_lead,
    own_partitions,
    partitions,
    reject_table_formats,
    reject_unread_files,
)


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one kind, and the partition of each (none if they are in no folders KEY=VALUE).

    `root` is the folder that contains all of them and the folders of their partitions.
    """

    paths: tuple[str, ...]
    kind: str
    partitions: tuple[Partition, ...] = ()
    root: str = ""

    @property
    def sql_list(self) -> str:
        return "[" + ", ".join(map(pattern, self.paths)) + "]"


def find_files(source: str, location: str, folder: Path) -> Files:
    """Return the files that a path, a glob or a folder names.

    Raises:
        SourceError: there are none, they are of several kinds, or they belong to a table of
            Delta Lake, Iceberg or Hudi.
    """
    path = expand_user(location)
    path = path if path.is_absolute() else expand_user(folder / path)
    full = Path(os.path.abspath(path))  # noqa: PTH100  # links are kept: folders name partitions
    try:
        base, names = _list_files(source, full)
        reject_table_formats(source, (f"{base}/{name}" for name in names), _names_in)
        reject_unread_files(source, str(full), names)
    except OSError as error:
        raise SourceError(
            f"{source}: {error.filename} cannot be listed: {error.strerror}",
            hint="name a location that can be read",
        ) from error
    kinds = {name: str(kind_of_file(name)) for name in names}
    if len(set(kinds.values())) > 1:
        raise SourceError(
            f"{source}: its files are of several kinds: {', '.join(sorted(set(kinds.values())))}",
            problems=[f"{base}/{name}" for name in names],
            hint="name one kind, such as DIR/*.parquet",
        )
    unwritable = [
        name
        for name in names
        if not name.isascii() and name != name.encode(errors="replace").decode()
    ]
    if unwritable:
        raise SourceError(
            f"{source}: the names of {len(unwritable)} file(s) are not UTF-8",
            problems=[ascii(name) for name in unwritable],
            hint="rename them",
        )
    above = (base or "/").split("/")[1:]
    names, parted = _without_duplicates(source, base, names, partitions(source, above, names))
    names, parted = _without_empty(base, names, parted, kinds[names[0]])
    return Files(
        tuple(f"{base}/{name}" for name in names),
        kinds[names[0]],
        parted,
        "/" + "/".join(above[: len(above) - own_partitions(above)]),
    )


def _list_files(source: str, full: Path) -> tuple[str, list[str]]:
    """Return a folder and the names of the files below it that a location denotes.

    Raises:
        SourceError: there are none.
    """
    if full.is_dir():
        base, names = full, data_files(_walk(full, None), None)
        if not names:
            raise SourceError(
                f"{source}: there is no Parquet, CSV or JSON-lines file in the folder {full}",
                problems=_hidden_files(full),
                hint=_source_option(source, "DIR/*.parquet"),
            )
    elif full.is_file():  # before it is taken for a pattern: a name may contain [ and *
        base, names = full.parent, [full.name]
        if kind_of_file(full.name) is None:
            raise SourceError(
                f"{source}: the kind of 1 file(s) is not known",
                problems=[str(full)],
                hint=NAMING_HINT,
            )
    elif glob.has_magic(str(full)):
        first = next(n for n, part in enumerate(full.parts) if glob.has_magic(part))
        base, wanted = Path(*full.parts[:first]), full.parts[first:]
        found = list(_walk(base, wanted)) if base.is_dir() else []
        names = data_files(found, wanted)
        if not names:
            matching = [f"{base}/{name}" for name in found if matches(name.split("/"), wanted)]
            if matching:
                raise SourceError(
                    f"{source}: the kind of {len(matching)} file(s) is not known",
                    problems=matching,
                    hint=NAMING_HINT,
                )
            raise SourceError(
                f"{source}: no file matches {full}",
                problems=_nearest_entries(full),
                hint=_source_option(source, "PATH"),
            )
    else:
        raise SourceError(
            f"{source}: there is no file {full}",
            problems=_nearest_entries(full),
            hint=_source_option(source, "PATH"),
        )
    return str(base).rstrip("/"), names


def _walk(base: Path, wanted: Sequence[str] | None) -> Iterator[str]:
    """Yield the names of the files below a folder, except below hidden folders and outside the
    pattern.

    Links to folders are followed, unless they lead back to a folder above. A broken link is
    yielded, and reported later.
    """
    todo: list[tuple[str, frozenset[str]]] = [("", frozenset([os.path.realpath(base)]))]
    while todo:
        below, around = todo.pop()
        with os.scandir(base / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if not Path(entry.path).is_dir():
                    if entry.is_symlink() or entry.is_file():
                        yield name
                elif may_lead(name.split("/"), wanted):
                    real = os.path.realpath(entry.path)
                    if real not in around:
                        todo.append((f"{name}/", around | {real}))


def _without_duplicates(
    source: str, base: str, names: Sequence[str], parted: tuple[Partition, ...]
) -> tuple[list[str], tuple[Partition, ...]]:
    """Return each file once, although links may give it several names in its partition.

    Raises:
        SourceError: a link leads to no file.
    """
    folders: dict[str, str] = {}
    kept: dict[tuple[Any, ...], int] = {}
    for number, name in enumerate(names):
        path = f"{base}/{name}"
        if not Path(path).is_file():
            raise SourceError(
                f"{source}: {path} is a link to a file that does not exist",
                hint="restore the file, or remove the link",
            )
        folder, _, last = path.rpartition("/")
        real = folders.get(folder) or folders.setdefault(folder, os.path.realpath(folder))
        own = os.path.realpath(path) if Path(path).is_symlink() else f"{real}/{last}"
        key = (own, *(parted[number].items() if parted else ()))
        if key not in kept or f"{base}/{names[number]}" == own:
            kept[key] = number
    numbers = sorted(kept.values())
    return [names[n] for n in numbers], tuple(parted[n] for n in numbers) if parted else ()


def _without_empty(
    base: str, names: list[str], parted: tuple[Partition, ...], kind: str
) -> tuple[list[str], tuple[Partition, ...]]:
    """Return the files without empty text files, unless all are empty.

    They contain no row. An empty Parquet file is damaged instead.
    """
    sized = [
        n
        for n, name in enumerate(names)
        if kind == "parquet" or Path(f"{base}/{name}").stat().st_size
    ]
    if not sized:
        return names, parted
    return [names[n] for n in sized], tuple(parted[n] for n in sized) if parted else ()


def _names_in(folder: str) -> list[str] | None:
    return os.listdir(folder) if Path(folder).is_dir() else None  # noqa: PTH208  # names, not paths


def _hidden_files(folder: Path) -> list[str]:
    """Return a problem about hidden files, if a folder contains nothing else."""
    hidden = sum(kind_of_file(p.name) is not None for p in folder.rglob("*"))
    return (
        [
            f"{hidden} file(s) in it are hidden: their names, or folders above them, begin with _"
            " or ."
        ]
        if hidden
        else []
    )


def check_column_names(source: str, names: Sequence[str]) -> None:
    """Raise SourceError for column names that are duplicate, empty, or begin with __."""
    reject_duplicates(source, names)
    bad = [name for name in names if not is_valid_name(name)]
    if bad:
        raise SourceError(
            f"{source} has {len(bad)} column(s) without a name that SQL can use",
            problems=[f"column {names.index(name) + 1} of {len(names)}: {name!r}" for name in bad],
            hint=(
                "give each column a name (pandas: to_csv(..., index=False),"
                " frame.reset_index(names='name'))"
            ),
        )
    ours = [name for name in names if name.startswith("__")]
    if ours:
        raise SourceError(
            f"{source} has the columns {', '.join(ours)}, and names that begin with __ are"
            " reserved",
            hint="drop or rename them (rejects contain __file, __row and __reason)",
        )


def reject_duplicates(source: str, names: Sequence[str]) -> None:
    counts = Counter(name.lower() for name in names)
    duplicates = sorted({name for name in names if counts[name.lower()] > 1})
    if duplicates:
        raise SourceError(
            f"{source} has several columns named"
            f" {', '.join(name if name.strip() else repr(name) for name in duplicates)}",
            hint='give each column a name of its own; in SQL, "Price" and "price" are one name',
        )


def pattern(path: str) -> str:
    """Return a path as SQL; DuckDB takes every path for a pattern."""
    return literal(glob.escape(path))


def _nearest_entries(full: Path) -> Sequence[str]:
    """Return the nearest existing folder, and some of its entries."""
    folder = full.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(
        p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith(".")
    )
    return [f"{folder} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"]


def _source_option(source: str, location: str) -> str:
    return f"name the location with --source {source}={location}"
