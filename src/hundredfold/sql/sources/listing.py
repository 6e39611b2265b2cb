"""The rules that decide which files below a location are a source's data, for a disk and for S3.

Theory of operation. A disk and a bucket differ only in how names are listed. So the rules are
functions of names: a file is its parts (`("sales", "year=2020", "a.csv")`), relative to the
location that the source names. Spark, Hive, Athena and Arrow have the same rules:

- A name that begins with `_` or `.` is hidden, and so is everything below such a folder
  (`_temporary`, `.ipynb_checkpoints`). A folder `key=value` is a partition and never hidden.
  Names that are part of the location itself are not hidden.
- `*`, `?` and `[...]` match within one folder, `**` matches any number of folders, and none of them
  matches hidden names.
- The files of a table of Delta Lake, Iceberg or Hudi are not the table's rows: its log determines
  which of them count.
- The folders `key=value` above a file give its rows the column `key`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import unquote

from ...errors import SourceError

KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
PACKED = (".gz", ".zst")
UNREAD_PACKED = (".bz2", ".xz", ".zip", ".lz4", ".lzo", ".sz", ".snappy", ".br", ".7z", ".deflate")
UNREAD_KINDS = (".orc", ".avro")
NAMING_HINT = (
    "wanted a name that ends with .parquet, .csv, .tsv, .jsonl or .ndjson (or one of the last four"
    " with .gz or .zst)"
)
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"

TABLE_MARKS = {
    "Delta Lake": ("_delta_log", ""),
    "Hudi": (".hoodie", ""),
    "Iceberg": ("metadata", ".metadata.json"),
}
READ_TABLE = {
    "Delta Lake": "deltalake.DeltaTable(PATH).to_pyarrow_table()",
    "Hudi": "a query of Spark or Athena",
    "Iceberg": "pyiceberg: table.scan().to_arrow()",
}
Partition = Mapping[str, str | None]


def kind_of_file(name: str) -> str | None:
    """Return parquet, csv or json, by a file's name; None for any other file."""
    path = PurePosixPath(name)
    if path.suffix.lower() in PACKED:
        inner = KINDS.get(PurePosixPath(path.stem).suffix.lower())
        return inner if inner != "parquet" else None
    return KINDS.get(path.suffix.lower())


def is_unread(name: str) -> bool:
    """Return whether a file is data, by its name, in a format that is not supported."""
    path = PurePosixPath(name)
    inner = PurePosixPath(path.stem).suffix.lower()
    packed = path.suffix.lower() in UNREAD_PACKED and (inner in KINDS or inner in UNREAD_KINDS)
    return (
        packed
        or path.suffix.lower() in UNREAD_KINDS
        or (path.suffix.lower() in PACKED and KINDS.get(inner) == "parquet")
    )


def is_partition(folder: str) -> bool:
    """Return whether a folder is a partition, `key=value`."""
    return folder.find("=") > 0


def is_hidden(parts: Sequence[str]) -> bool:
    """Return whether a file is hidden: its name, or a non-partition folder above it, begins with
    `_` or `.`.
    """
    return any(_is_hidden_folder(part) for part in parts[:-1]) or parts[-1].startswith((".", "_"))


def _is_hidden_folder(name: str) -> bool:
    return name.startswith((".", "_")) and not is_partition(name)


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a pattern matches a file.

    A pattern that matches a folder named as data (`out.parquet/`, as Spark writes it) matches its
    files.
    """
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return not is_hidden(parts)
        deeper = len(parts) > 1 and not _is_hidden_folder(parts[0]) and matches(parts[1:], pattern)
        return deeper or matches(parts, pattern[1:])
    if not _fits(parts[0], pattern[0], folder=len(parts) > 1):
        return False
    if len(pattern) == 1 and len(parts) > 1:
        return kind_of_file(parts[0]) is not None and not is_hidden(parts[1:])
    return matches(parts[1:], pattern[1:])


def may_lead(folders: Sequence[str], pattern: Sequence[str] | None) -> bool:
    """Return whether a folder may contain data (`pattern` is None), or files that a pattern
    matches.
    """
    if pattern is None:
        return not any(map(_is_hidden_folder, folders))
    if not folders:
        return True
    if pattern[0] == "**":
        return (not _is_hidden_folder(folders[0]) and may_lead(folders[1:], pattern)) or (
            len(pattern) > 1 and may_lead(folders, pattern[1:])
        )
    if not _fits(folders[0], pattern[0], folder=True):
        return False
    if len(pattern) == 1:
        return kind_of_file(folders[0]) is not None and may_lead(folders[1:], None)
    return may_lead(folders[1:], pattern[1:])


def _fits(name: str, pattern: str, *, folder: bool) -> bool:
    hidden = _is_hidden_folder(name) if folder else name.startswith((".", "_"))
    return fnmatchcase(name, pattern) and (not hidden or name[0] == pattern[0])


def data_files(names: Iterable[str], pattern: Sequence[str] | None) -> list[str]:
    """Return the names that are data, or that a pattern matches, sorted; also unsupported data."""
    split = ((name, name.split("/")) for name in names)
    found = (
        name
        for name, parts in split
        if (not is_hidden(parts) if pattern is None else matches(parts, pattern))
    )
    return sorted(name for name in found if kind_of_file(name) or is_unread(name))


def reject_unread_files(source: str, location: str, names: Iterable[str]) -> None:
    """Raise SourceError for data in an unsupported format, which would silently be missing."""
    unread = [name for name in names if is_unread(name)]
    if unread:
        raise SourceError(
            f"{source}: {len(unread)} file(s) at {location} are data that cannot be read",
            problems=unread,
            hint=f"write them in another form, or move them away: {NAMING_HINT}",
        )


def parents(name: str) -> Iterator[str]:
    """Yield every folder above a name, from the nearest to the root.

    They are `a/b/` and `a/` for `a/b/c.csv`; `/` for a name that begins with it.
    """
    at = len(name)
    while (at := name.rfind("/", 0, at)) >= 0:
        yield name[: at + 1]


def reject_table_formats(
    source: str, names: Iterable[str], names_in: Callable[[str], Iterable[str] | None]
) -> None:
    """Raise SourceError for files of a Delta Lake, Iceberg or Hudi table: only its log lists the
    rows.

    names_in: returns the names in a folder `.../`, or None if it does not exist.
    """
    seen: set[str] = set()
    for name in names:
        for folder in parents(name):
            if folder in seen:
                break
            seen.add(folder)
            kind = table_format(folder, names_in)
            if kind:
                raise SourceError(
                    f"{source}: {folder} is a table of {kind}, and its files are not its rows:"
                    " only the table's log determines which of them count",
                    hint=(
                        f"pass the table's rows ({READ_TABLE[kind]}) as a frame or as Parquet"
                        " files of their own; on AWS, name the catalog's table:"
                        " glue://DATABASE/TABLE"
                    ),
                )


def table_format(folder: str, names_in: Callable[[str], Iterable[str] | None]) -> str | None:
    """Return the format of the table in a folder `.../`; None for a plain folder."""
    for kind, (mark, ending) in TABLE_MARKS.items():
        names = names_in(f"{folder}{mark}/")
        if names is not None and (not ending or any(ending in name for name in names)):
            return kind
    return None


def partition_of(folders: Sequence[str]) -> dict[str, str | None]:
    """Return the columns that folders `key=value` give to the rows below them, as text.

    A value is None if it is Hive's name for null.

    Raises:
        ValueError: a key occurs twice, or a folder has no value.
    """
    found: dict[str, str | None] = {}
    for folder in filter(is_partition, folders):
        key, _, value = folder.partition("=")
        key = unquote(key)
        if key.lower() in (other.lower() for other in found):
            raise ValueError(f"two folders give the column {key}: {'/'.join(folders)}/")
        if not value:
            raise ValueError(f"the folder {folder} gives the column {key} no value")
        try:
            found[key] = None if value == NULL_PARTITION else unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise ValueError(f"the folder {folder} holds no UTF-8 text") from None
    return found


def own_partitions(above: Sequence[str]) -> int:
    """Return how many folders above a location, counted from the nearest, are consecutive
    partitions.
    """
    return next(
        (n for n, folder in enumerate(reversed(above)) if not is_partition(folder)), len(above)
    )


def partition_folders(above: Sequence[str], name: str) -> list[str]:
    """Return the folders that give a file its columns: those below a location, and consecutive ones
    above.
    """
    outer = above[len(above) - own_partitions(above) :]
    return [folder for folder in (*outer, *name.split("/")[:-1]) if is_partition(folder)]


def partitions(source: str, above: Sequence[str], names: Sequence[str]) -> tuple[Partition, ...]:
    """Return the partition of each file; `names` are below the folders `above`.

    The result is empty if no file is in a partition.

    Raises:
        SourceError: the files are not in folders of the same keys.
    """
    try:
        found = [partition_of(partition_folders(above, name)) for name in names]
    except ValueError as error:
        raise SourceError(
            f"{source}: {error}", hint="name one value for each column: KEY=VALUE/"
        ) from error
    for name, partition in zip(names, found, strict=True):
        if partition.keys() != found[0].keys():
            shown = [
                f"{n}: {', '.join(p) or 'none'}"
                for n, p in ((names[0], found[0]), (name, partition))
            ]
            raise SourceError(
                f"{source}: its files are not in folders of the same keys",
                problems=shown,
                hint=(
                    "wanted every file below the same folders KEY=VALUE/, or name a folder or a"
                    " pattern that leaves the others out"
                ),
            )
    return tuple(found) if found and found[0] else ()


def partition_types(found: Sequence[Partition]) -> dict[str, str]:
    """Return the SQL type of each partition column.

    It is BIGINT or DATE if every value has the canonical text of that type, else VARCHAR.
    """
    types = {}
    for key in found[0] if found else ():
        values = {partition[key] for partition in found} - {None}
        whole = values and all(
            re.fullmatch(r"0|-?[1-9][0-9]{0,17}", str(value)) for value in values
        )
        types[key] = (
            "BIGINT"
            if whole
            else "DATE"
            if values and all(map(_is_date, map(str, values)))
            else "VARCHAR"
        )
    return types


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
