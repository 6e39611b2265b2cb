"""Sources on AWS: objects in S3, or a table in Glue.

Athena reads Parquet in place. Text, and Parquet files with different columns, first go through the
local reader, which records the place of every row and every malformed line, and become one Parquet
object that Athena can read.

The first listing of a source is stored: a step is called again after each of its queries, and must
not read other objects then.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from ...contract import Column, quote
from ...data.checksums import get_json, put_json
from ...data.parquet_in_memory import read_parquet, read_row_group
from ...errors import HundredfoldError, QueryError, SourceError
from ...job import Source
from ...ports.interfaces import AttachedSource
from ...sql.duckdb import DuckWarehouse
from ...sql.scratch_files import ScratchFiles
from ...sql.sources.files import check_column_names
from ...sql.sources.listing import kind_of_file, partition_folders, partitions
from ...sql.sources.parquet_files import (
    COPY_HINT,
    HEAD_BYTES,
    not_parquet_reason,
    reject_durations,
    reject_finer_times,
)
from .errors import DENIED, error_code
from .glue_sources import attach_glue_table, check_table, parse_address, refuse_csv
from .glue_table import PATH_COLUMN, exceed_inline_limit
from .glue_types import (
    duckdb_schema,
    has_sub_millisecond,
    may_have_sub_millisecond,
    refuse_unsupported_columns,
)
from .s3_objects import (
    READ_PERMISSION_HINT,
    REQUEST_THREADS,
    ObjectFile,
    S3Object,
    find_objects,
    fingerprints,
    may_exceed_one_listing,
    other_objects_in,
    split_address,
)
from .session import client

if TYPE_CHECKING:
    from .athena import AthenaWarehouse

# bytes of text that fit on a function's disk, together with the files made from it
MAX_STAGED_BYTES = 1.5 * 2**30
MAX_LOCAL_BYTES = (
    2**29
)  # bytes of text whose rows are validated locally; Athena validates larger sources
# of a text whose rows Athena validates: each takes some 1,000 bytes of a statement
MAX_REMOTE_COLUMNS = 80
# a text that tells a time finer than a millisecond
SUB_MILLISECOND_TEXT = r":\d\d[.]\d{3}\d*[1-9]"
E = TypeVar("E", bound=HundredfoldError)


def attach(
    warehouse: AthenaWarehouse,
    declared: Source,
    location: str,
    contract_columns: Mapping[str, Column],
    scratch: Path,
    *,
    memory: int,
) -> AttachedSource:
    """Attach the raw rows of a source on AWS; SourceError if they cannot be read."""
    source = declared.name
    name = f"__raw_{source}"
    glue = parse_address(location)
    if glue:
        refuse_csv(declared, location)
        attached = attach_glue_table(warehouse, source, name, glue)
        return replace(
            attached,
            with_row_numbers=lambda: _numbered(warehouse, source, attached.select, attached),
        )
    objects, kind = _objects_found_first(warehouse, source, location)
    folders = folders_of(source, location, objects)
    if kind == "parquet" and name not in warehouse.tables:
        schemas = _schemas(source, objects)
        if (
            not any(folders)
            and not _hidden_to_athena(objects)
            and all(schema.equals(schemas[0]) for schema in schemas)
        ):
            _register(warehouse, source, name, objects, schemas[0])
    if name in warehouse.tables and warehouse.tables[name].only:
        return _attach_in_place(warehouse, source, name, objects)
    return _stage(
        warehouse, declared, name, objects, kind, folders, contract_columns, scratch, memory
    )


def folders_of(source: str, location: str, objects: Sequence[S3Object]) -> list[list[str]]:
    """Return the folders KEY=VALUE that give columns to each object.

    The local reader adds the columns, so they are the same there.
    """
    key = split_address(location)[1]
    pattern = re.search(r"[*?\[]", key)
    base = key[: pattern.start()].rpartition("/")[0] if pattern else key.rstrip("/")
    base = base.rpartition("/")[0] if any(o.key == key for o in objects) else base
    above, names = base.split("/"), [o.key[len(base) :].lstrip("/") for o in objects]
    partitions(source, above, names)
    return [partition_folders(above, name) for name in names]


def _objects_found_first(
    warehouse: AthenaWarehouse, source: str, location: str
) -> tuple[list[S3Object], str]:
    """Return the objects of a source and their kind, as they were found first."""
    kept = f"{warehouse.layout.root}/sources/{source}.objects.json"
    try:
        found = get_json(warehouse.store, kept)
        if found["location"] == location:
            return [S3Object(*fields) for fields in found["objects"]], found["kind"]
    except KeyError:
        pass
    objects, kind = objects_of_a_kind(source, location)
    fields = [[o.bucket, o.key, o.size, o.etag] for o in objects]
    put_json(warehouse.store, kept, {"location": location, "kind": kind, "objects": fields})
    return objects, kind


def objects_of_a_kind(source: str, location: str) -> tuple[list[S3Object], str]:
    objects = find_objects(source, location)
    kinds = sorted({str(kind_of_file(o.key)) for o in objects})
    if len(kinds) > 1:
        raise SourceError(
            f"{source}: expected objects of one kind, found {', '.join(kinds)}",
            hint="name one kind, such as s3://BUCKET/PREFIX/*.parquet",
        )
    if not any(o.size for o in objects):
        raise SourceError(
            f"{source} is empty: all objects at {location} have 0 bytes",
            hint=f"give another location with --source {source}=s3://...",
        )
    return objects, kinds[0]


def check_location(source: str, location: str) -> None:
    """Check, before a run is recorded, that a location exists: an S3 address, or a Glue table.

    A location that the caller's credentials may not see, and one with more objects than one listing
    page, is checked by the run.

    Raises:
        SourceError: there is nothing that can be read.
    """
    glue = parse_address(location)
    if glue:
        check_table(source, glue)
        return
    with suppress(ClientError):
        if not location.startswith("s3://") or not may_exceed_one_listing(location):
            objects_of_a_kind(source, location)


# ---- Parquet, read in place


def _schemas(source: str, objects: Sequence[S3Object]) -> list[pa.Schema]:
    """Return the columns of each Parquet object, in the types of the local reader.

    Raises:
        SourceError: an object cannot be read, or holds times finer than Athena stores.
    """

    def read(o: S3Object) -> pa.Schema:
        try:
            file = pq.ParquetFile(ObjectFile(o.bucket, o.key))
            reject_durations(source, o.address, file.schema_arrow)
            _refuse_sub_millisecond(source, o, file)
            return duckdb_schema(file)
        except PermissionError as error:
            raise SourceError(f"{source}: {error}", hint=READ_PERMISSION_HINT) from error
        except (pa.ArrowException, OSError) as error:
            reason = _describe_non_parquet(o) or str(error)
            raise SourceError(
                f"{source}: {o.address} cannot be read as Parquet: {reason}", hint=COPY_HINT
            ) from error

    with ThreadPoolExecutor(REQUEST_THREADS) as pool:
        return list(pool.map(read, objects))


def _refuse_sub_millisecond(source: str, o: S3Object, file: pq.ParquetFile) -> None:
    """Raise SourceError for times finer than a millisecond.

    Only columns of times are read, one row group after the other.
    """
    old = {
        column.path.split(".")[0]
        for column in map(file.schema.column, range(len(file.schema)))
        if column.physical_type == "INT96"
    }
    reject_finer_times(
        source, o.address, sorted(old), lambda: ObjectFile(o.bucket, o.key), step_ns=1_000_000
    )
    fine = [
        field.name
        for field in file.schema_arrow
        if may_have_sub_millisecond(field.type) and field.name not in old
    ]
    for number in range(file.num_row_groups if fine else 0):
        rows = read_row_group(file, number, fine)
        too_fine = [name for name in fine if has_sub_millisecond(rows.column(name))]
        if too_fine:
            raise SourceError(
                f"{source}: {o.address} holds times finer than a millisecond in "
                f"{', '.join(too_fine)}, which Athena would round",
                hint="write them rounded to the millisecond, or as text or whole numbers",
            )


def _describe_non_parquet(o: S3Object) -> str:
    """Return the kind of an object that is not Parquet, from its ends; "" if it may be Parquet."""
    file = ObjectFile(o.bucket, o.key)
    head = file.read(HEAD_BYTES)
    file.seek(max(o.size - 4, 0))
    return not_parquet_reason(head, file.read(), o.size)


def _hidden_to_athena(objects: Sequence[S3Object]) -> bool:
    """Return whether Athena ignores some of the objects in a table at their folder.

    It ignores names that begin with _ or ., partitions included.
    """
    at = len(_folder_of(objects))
    return any(part.startswith((".", "_")) for o in objects for part in o.key[at:].split("/"))


def _register(
    warehouse: AthenaWarehouse,
    source: str,
    name: str,
    objects: Sequence[S3Object],
    schema: pa.Schema,
) -> None:
    check_column_names(source, schema.names)
    refuse_unsupported_columns(source, schema)
    folder = f"s3://{objects[0].bucket}/{_folder_of(objects)}"
    if exceed_inline_limit([o.address for o in objects]):
        _refuse_others(source, objects)
    warehouse.register_objects(name, folder, schema, only=[o.address for o in objects], paths=True)


def _refuse_others(source: str, objects: Sequence[S3Object]) -> None:
    """Raise SourceError for other objects in the folder of a source, which Athena would open as
    Parquet.
    """
    others = other_objects_in(objects, _folder_of(objects))
    if others:
        raise SourceError(
            f"{source}: the folder of its {len(objects):,} objects also holds others, which "
            "Athena would open as Parquet",
            problems=[o.address for o in others],
            hint="move them to another prefix, or rename them to begin with _",
        )


def _attach_in_place(
    warehouse: AthenaWarehouse, source: str, name: str, objects: Sequence[S3Object]
) -> AttachedSource:
    _refuse_changed(source, objects)
    plain = ", ".join(map(quote, warehouse.tables[name].arrow.names))
    select = (
        f"SELECT {plain}, {quote(PATH_COLUMN)} AS __file, CAST(NULL AS BIGINT) AS __row FROM "
        f"{warehouse.with_path(name)}"
    )
    attached = AttachedSource(
        select,
        warehouse.columns(select),
        in_place=True,
        fingerprints=[o.fingerprint for o in objects],
        in_file_order=False,
    )
    return replace(
        attached, with_row_numbers=lambda: _numbered(warehouse, source, select, attached)
    )


def _refuse_changed(source: str, objects: Sequence[S3Object]) -> None:
    """Raise SourceError for an object that has changed since it was found.

    A run reads one state of its sources.
    """
    try:
        now = fingerprints([o.address for o in objects])
    except FileNotFoundError as error:
        raise SourceError(
            f"{source}: {error.filename} existed when the run began, and is gone",
            hint="run the job again",
        ) from error
    changed = [o.address for o, then in zip(objects, now, strict=True) if o.fingerprint != then]
    if changed:
        raise SourceError(
            f"{source} changed while it was validated", problems=changed, hint="run the job again"
        )


def _numbered(
    warehouse: AthenaWarehouse, source: str, select: str, raw: AttachedSource
) -> AttachedSource:
    """Return the rows with a number each.

    Parquet files have no row order in Athena: the numbers are arbitrary, and are stored.
    """
    name = f"__numbered_{source}"
    warehouse.materialize(
        name,
        f"SELECT * REPLACE (row_number() OVER (PARTITION BY __file) AS __row) FROM ({select}) AS r",
    )
    return replace(raw, select=f"SELECT * FROM {quote(name)}")


def _folder_of(objects: Sequence[S3Object]) -> str:
    """Return the deepest folder that holds all objects; "" for the whole bucket."""
    folders = [o.key.rpartition("/")[0].split("/") for o in objects]
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join(common) + "/" if any(common) else ""


# ---- a Glue table


# ---- text, and Parquet with different columns


def _stage(
    warehouse: AthenaWarehouse,
    declared: Source,
    name: str,
    objects: Sequence[S3Object],
    kind: str,
    folders: Sequence[Sequence[str]],
    contract_columns: Mapping[str, Column],
    scratch: Path,
    memory: int,
) -> AttachedSource:
    """Read objects with the local DuckDB, and store the rows as one Parquet object."""
    source = declared.name
    folder = f"processing/{warehouse.layout.run}/staged/{source}"
    malformed_key = f"processing/{warehouse.layout.run}/malformed/{source}.parquet"
    csv = f"processing/{warehouse.layout.run}/csv/{source}.json"
    total = sum(o.size for o in objects)
    if name not in warehouse.tables:
        _refuse_too_large(source, kind, total, parted=any(folders))
        with DuckWarehouse(
            ScratchFiles(scratch / "staging"), scratch / "staging-scratch", memory=memory, threads=2
        ) as reader:
            schema, written = _read_locally(
                warehouse,
                reader,
                declared,
                objects,
                folders,
                contract_columns,
                scratch / "staging",
                folder,
                malformed_key,
            )
        # the disk has space for one source at a time
        shutil.rmtree(scratch / "staging", ignore_errors=True)
        put_json(warehouse.store, csv, {"csv": written})
        warehouse.register_objects(name, warehouse.store.where(folder) + "/", schema, objects=1)
    is_local = total <= MAX_LOCAL_BYTES or len(contract_columns) > MAX_REMOTE_COLUMNS
    if is_local:
        warehouse.cache_locally(name, warehouse.store.fetch(f"{folder}/rows.parquet"))
    select = f"SELECT * FROM {quote(name)}"
    return AttachedSource(
        select,
        warehouse.columns(select),
        text=kind != "parquet" and bool(contract_columns),
        malformed=_read_malformed(warehouse, malformed_key),
        csv=get_json(warehouse.store, csv)["csv"],
        find_known=partial(warehouse.find_known, f"__known_{source}") if is_local else None,
    )


def _read_malformed(warehouse: AthenaWarehouse, key: str) -> pa.Table | None:
    """Return the malformed lines of a source, None where it has none."""
    try:
        return read_parquet(warehouse.store.get(key))
    except KeyError:
        return None


def _refuse_too_large(source: str, kind: str, size: int, *, parted: bool) -> None:
    """Raise SourceError for a source that exceeds the disk of one function."""
    if size > MAX_STAGED_BYTES:
        raise SourceError(
            f"{source}: {size / 2**30:.1f} GiB of {kind} exceed the "
            f"{MAX_STAGED_BYTES / 2**30:.1f} GiB that one function can read",
            hint=_too_large_hint(source, kind, parted),
        )


def _too_large_hint(source: str, kind: str, parted: bool) -> str:
    """Return the hint for a source that one function cannot read."""
    table = (
        "create a Glue table of it (with a crawler, or CREATE EXTERNAL TABLE in Athena) and name "
        f"that: --source {source}=glue://DATABASE/TABLE"
    )
    if kind == "parquet" and parted:
        return f"{table}: there, its folders KEY=VALUE are partitions"
    return (
        "write it as Parquet, all files with the same columns: Athena reads that in place; or "
        f"{table}"
    )


def _read_locally(
    warehouse: AthenaWarehouse,
    reader: DuckWarehouse,
    declared: Source,
    objects: Sequence[S3Object],
    folders: Sequence[Sequence[str]],
    contract_columns: Mapping[str, Column],
    root: Path,
    folder: str,
    malformed_key: str,
) -> tuple[pa.Schema, list[dict[str, Any]]]:
    """Fetch the objects, read them locally, and write the rows and the malformed lines.

    Returns the columns of the rows, and the format of the CSV files.
    """
    source = declared.name
    root = root.resolve()
    addresses = download(source, objects, folders, root / "objects")
    with name_addresses_in_errors(
        {
            **addresses,
            str(root / "objects"): f"s3://{objects[0].bucket}/{_folder_of(objects)}".rstrip("/"),
        }
    ):
        return _read_files(
            warehouse, reader, declared, addresses, contract_columns, root, folder, malformed_key
        )


def _read_files(
    warehouse: AthenaWarehouse,
    reader: DuckWarehouse,
    declared: Source,
    addresses: Mapping[str, str],
    contract_columns: Mapping[str, Column],
    root: Path,
    folder: str,
    malformed_key: str,
) -> tuple[pa.Schema, list[dict[str, Any]]]:
    source = declared.name
    found = reader.attach(declared, str(root / "objects"), root, contract_columns, "staged.parquet")
    reader.register(
        "addresses", pa.table({"path": list(addresses), "address": list(addresses.values())})
    )
    rows = (
        f"SELECT r.* REPLACE (a.address AS __file) FROM ({found.select}) AS r JOIN addresses AS a "
        "ON a.path = r.__file"
    )
    columns = reader.columns(rows)
    refuse_unsupported_columns(source, columns)
    _refuse_sub_millisecond_texts(source, reader, rows, columns, contract_columns)
    reader.write(rows, "rows.parquet")
    written = reader.store.path("rows.parquet")
    if found.malformed is not None:
        files = [addresses[path] for path in found.malformed.column("file").to_pylist()]
        with warehouse.store.writing(malformed_key) as path:
            pq.write_table(
                found.malformed.set_column(0, "file", pa.array(files, pa.string())), path
            )
    with warehouse.store.writing(f"{folder}/rows.parquet") as path:
        _as_snappy(written, path)
    return duckdb_schema(pq.ParquetFile(written)), [
        {**facts, "first": addresses[facts["first"]]} for facts in found.csv
    ]


@contextmanager
def name_addresses_in_errors(addresses: Mapping[str, str]) -> Iterator[None]:
    """Replace local paths in errors with the addresses of the objects."""
    try:
        yield
    except (SourceError, QueryError) as error:
        raise named_with_addresses(error, addresses) from error


def named_with_addresses(error: E, addresses: Mapping[str, str]) -> E:
    """Return an error with the addresses of the objects in place of local paths."""

    def named(text: str) -> str:
        for path, address in addresses.items():
            text = text.replace(path, address)
        return text

    return type(error)(
        named(error.message),
        problems=[named(problem) for problem in error.problems],
        hint=named(error.hint) if error.hint else None,
    )


def download(
    source: str, objects: Sequence[S3Object], folders: Sequence[Sequence[str]], root: Path
) -> dict[str, str]:
    """Download each object to a file named by its number, whatever its key.

    Returns the address of each path.
    """
    root.mkdir(parents=True, exist_ok=True)

    def fetch(number: int, o: S3Object) -> str:
        suffixes = re.search(r"\.[A-Za-z0-9]+(\.(gz|zst))?$", o.key, re.I)
        path = (
            root.resolve().joinpath(*folders[number])
            / f"{number:06d}{suffixes[0].lower() if suffixes else ''}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            client("s3").download_file(o.bucket, o.key, str(path))
        except ClientError as error:
            hint = READ_PERMISSION_HINT if error_code(error) in DENIED else "run the job again"
            raise SourceError(
                f"{source}: {o.address} cannot be read: {error}", hint=hint
            ) from error
        return str(path)

    with ThreadPoolExecutor(REQUEST_THREADS) as pool:
        paths = list(pool.map(fetch, range(len(objects)), objects))
    return {path: o.address for path, o in zip(paths, objects, strict=True)}


def _refuse_sub_millisecond_texts(
    source: str,
    reader: DuckWarehouse,
    rows: str,
    columns: pa.Schema,
    contract_columns: Mapping[str, Column],
) -> None:
    """Raise SourceError for times finer than Athena stores, in a column of times or of texts.

    A column of texts counts if the contract converts it to times.
    """
    texts = [
        name
        for name, column in contract_columns.items()
        if name in columns.names
        and pa.types.is_timestamp(column.arrow)
        and pa.types.is_string(columns.field(name).type)
    ]
    tests = {
        name: f"bool_or(regexp_matches({quote(name)}, '{SUB_MILLISECOND_TEXT}'))" for name in texts
    }
    tests |= {
        f.name: f"bool_or(epoch_ns({quote(f.name)}) % 1000000 <> 0)"
        for f in columns
        if pa.types.is_timestamp(f.type)
    }
    if not tests:
        return
    found = reader.query(
        f"SELECT {', '.join(f'{test} AS {quote(name)}' for name, test in tests.items())} FROM "
        f"({rows}) AS r"
    ).to_pylist()[0]
    too_fine = [name for name, is_fine in found.items() if is_fine]
    if too_fine:
        raise SourceError(
            f"{source} holds times finer than a millisecond in {', '.join(too_fine)}, which Athena "
            "would round",
            hint="write them rounded to the millisecond",
        )


def _as_snappy(before: Path, after: Path) -> None:
    """Rewrite a Parquet file with Snappy, the compression that every reader on AWS supports.

    The file is not held in memory.
    """
    file = pq.ParquetFile(before)
    with pq.ParquetWriter(after, file.schema_arrow, compression="snappy") as writer:
        for batch in file.iter_batches(use_threads=False):
            writer.write_batch(batch)
