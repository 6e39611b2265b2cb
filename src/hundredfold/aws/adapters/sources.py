"""Where a source's rows are on AWS: objects in S3, or a table in Glue.

Parquet is read where it lies. Text, and Parquet files whose columns differ, go through the reader
of this machine first, which keeps every row's place and every line that is none, and become one
Parquet object that Athena can read.

What was found first is kept: a step is called again after each of its queries, and may not read
other objects then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from ...contract import Column, literal, quote
from ...data.checksums import get_json, put_json
from ...errors import QueryError, SourceError
from ...job import Csv, Source
from ...ports.interfaces import AttachedSource
from ...sql.duckdb import DuckWarehouse
from ...sql.scratch_files import ScratchFiles
from ...sql.sources.files import refuse_ours
from ...sql.sources.listing import kind_of_file, partition_folders, partitions
from ...sql.sources.parquet_files import (
    COPY_AGAIN,
    HEAD_BYTES,
    refuse_durations,
    refuse_finer,
    what_is_no_parquet,
)
from .errors import DENIED, code
from .glue_table import PATH, GlueTable, are_many
from .glue_types import arrow_type, has_sub_millisecond, is_fine, plain_schema, refuse_misfits
from .s3_objects import (
    AT_ONCE,
    RIGHT,
    Object,
    ObjectFile,
    beside,
    find_objects,
    fingerprints,
    has_many,
    split_address,
)
from .session import client

if TYPE_CHECKING:
    from .athena import AthenaWarehouse

STAGED_MOST = (
    1.5 * 2**30
)  # bytes of text that fit on a function's disk, together with what is made of them
NEAR_MOST = 2**29  # bytes of text whose rows are checked here; Athena checks more
GLUE = re.compile(r"glue://([A-Za-z0-9_-]{1,255})/([A-Za-z0-9_-]{1,255})")
FINE = r":\d\d[.]\d{3}\d*[1-9]"  # a text that tells a time finer than a millisecond


def attach(
    warehouse: AthenaWarehouse,
    declared: Source,
    place: str,
    contract_columns: Mapping[str, Column],
    scratch: Path,
    *,
    memory: int,
) -> AttachedSource:
    """The raw rows of a source, wherever they are on AWS; SourceError if they cannot be read."""
    source = declared.name
    name = f"__raw_{source}"
    glue = GLUE.fullmatch(place)
    if glue:
        refuse_csv(declared, place)
        return _in_glue(warehouse, source, name, glue[1], glue[2])
    objects, kind = _found(warehouse, source, place)
    folders = _folders(source, place, objects)
    if kind == "parquet" and name not in warehouse.tables:
        schemas = _schemas(source, objects)
        if (
            not any(folders)
            and not _hidden_to_athena(objects)
            and all(schema.equals(schemas[0]) for schema in schemas)
        ):
            _register(warehouse, source, name, objects, schemas[0])
    if name in warehouse.tables and warehouse.tables[name].only:
        return _in_place(warehouse, source, name, objects)
    return _staged(
        warehouse, declared, name, objects, kind, folders, contract_columns, scratch, memory
    )


def _folders(source: str, place: str, objects: Sequence[Object]) -> list[list[str]]:
    """The folders KEY=VALUE that give columns to each object.

    The reader of this machine adds them, so that they are the same there.
    """
    wanted = split_address(place)[1]
    pattern = re.search(r"[*?\[]", wanted)
    base = wanted[: pattern.start()].rpartition("/")[0] if pattern else wanted.rstrip("/")
    base = base.rpartition("/")[0] if any(o.key == wanted for o in objects) else base
    above, names = base.split("/"), [o.key[len(base) :].lstrip("/") for o in objects]
    partitions(source, above, names)
    return [partition_folders(above, name) for name in names]


def _found(warehouse: AthenaWarehouse, source: str, place: str) -> tuple[list[Object], str]:
    """The objects of a source and their kind: those that were found first."""
    kept = f"{warehouse.layout.root}/sources/{source}.objects.json"
    try:
        found = get_json(warehouse.store, kept)
        if found["place"] == place:
            return [Object(*fields) for fields in found["objects"]], found["kind"]
    except KeyError:
        pass
    objects, kind = _objects_of_a_kind(source, place)
    fields = [[o.bucket, o.key, o.size, o.etag] for o in objects]
    put_json(warehouse.store, kept, {"place": place, "kind": kind, "objects": fields})
    return objects, kind


def _objects_of_a_kind(source: str, place: str) -> tuple[list[Object], str]:
    objects = find_objects(source, place)
    kinds = sorted({str(kind_of_file(o.key)) for o in objects})
    if len(kinds) > 1:
        raise SourceError(
            f"{source}: its objects are of several kinds: {', '.join(kinds)}",
            hint="name one kind, such as s3://BUCKET/PREFIX/*.parquet",
        )
    if not any(o.size for o in objects):
        raise SourceError(
            f"{source} is empty: {place} has no byte",
            hint=f"name another place with --source {source}=s3://...",
        )
    return objects, kinds[0]


def check_place(source: str, place: str) -> None:
    """Check, before a run is recorded, that a place is there: an address of S3, or a table of Glue.

    What the caller's credentials may not see, and more objects than one answer of S3 names, are
    left to the run.

    Raises:
        SourceError: nothing is there that can be read.
    """
    try:
        glue = GLUE.fullmatch(place)
        if glue:
            client("glue").get_table(DatabaseName=glue[1], Name=glue[2])
        elif place.startswith("s3://") and not has_many(place):
            _objects_of_a_kind(source, place)
    except ClientError as error:
        if code(error) == "EntityNotFoundException":
            raise _no_table(source, place) from error


def refuse_csv(source: Source, place: str) -> None:
    """Raise SourceError where `csv=` would have no effect: what the files of a table in Glue are
    like, its entry there says.
    """
    if GLUE.fullmatch(place) and source.csv != Csv():
        raise SourceError(
            f"{source.name}: {place} is a table in Glue, whose own entry says how its files are "
            "written, and csv= is declared too",
            hint=(
                f"name the files: --source {source.name}=s3://BUCKET/PREFIX/   or leave csv= out, "
                "and set delimiter and nulls in Glue"
            ),
        )


def _no_table(source: str, place: str) -> SourceError:
    return SourceError(
        f"{source}: there is no table {place.removeprefix('glue://').replace('/', '.')} in Glue",
        hint="name it as glue://DATABASE/TABLE",
    )


# ---- Parquet, where it lies


def _schemas(source: str, objects: Sequence[Object]) -> list[pa.Schema]:
    """The columns of each Parquet object, of the types that this machine would read; SourceError
    for one that cannot be read, and for times that are finer than Athena keeps.
    """

    def read(o: Object) -> pa.Schema:
        try:
            file = pq.ParquetFile(ObjectFile(o.bucket, o.key))
            refuse_durations(source, o.address, file.schema_arrow)
            _refuse_finer(source, o, file)
            return plain_schema(file)
        except PermissionError as error:
            raise SourceError(f"{source}: {error}", hint=RIGHT) from error
        except (pa.ArrowException, OSError) as error:
            words = _what_is(o) or str(error)
            raise SourceError(
                f"{source}: {o.address} cannot be read as Parquet: {words}", hint=COPY_AGAIN
            ) from error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, objects))


def _refuse_finer(source: str, o: Object, file: pq.ParquetFile) -> None:
    """Only the columns of times are read, a row group after the other."""
    old = {
        column.path.split(".")[0]
        for column in map(file.schema.column, range(len(file.schema)))
        if column.physical_type == "INT96"
    }
    refuse_finer(
        source, o.address, sorted(old), lambda: ObjectFile(o.bucket, o.key), step_ns=1_000_000
    )
    fine = [
        field.name for field in file.schema_arrow if is_fine(field.type) and field.name not in old
    ]
    for number in range(file.num_row_groups if fine else 0):
        rows = file.read_row_group(number, columns=fine)
        bad = [name for name in fine if has_sub_millisecond(rows.column(name))]
        if bad:
            raise SourceError(
                f"{source}: {o.address} holds times finer than a millisecond in {', '.join(bad)}, "
                "and Athena would round them",
                hint="write them rounded to the millisecond, or as text or whole numbers",
            )


def _what_is(o: Object) -> str:
    """What an object is that is no Parquet file, from its ends; "" if it may be one."""
    file = ObjectFile(o.bucket, o.key)
    head = file.read(HEAD_BYTES)
    file.seek(max(o.size - 4, 0))
    return what_is_no_parquet(head, file.read(), o.size)


def _hidden_to_athena(objects: Sequence[Object]) -> bool:
    """Whether Athena leaves out objects of a table at their folder: partitions too, if their names
    begin with _ or .
    """
    at = len(_folder_of(objects))
    return any(part.startswith((".", "_")) for o in objects for part in o.key[at:].split("/"))


def _register(
    warehouse: AthenaWarehouse, source: str, name: str, objects: Sequence[Object], schema: pa.Schema
) -> None:
    refuse_ours(source, schema.names)
    refuse_misfits(source, schema)
    folder = f"s3://{objects[0].bucket}/{_folder_of(objects)}"
    if are_many([o.address for o in objects]):
        _refuse_others(source, objects)
    warehouse.register_objects(name, folder, schema, only=[o.address for o in objects], paths=True)


def _refuse_others(source: str, objects: Sequence[Object]) -> None:
    """SourceError for objects among a source's that Athena would open as Parquet, and that are
    none.
    """
    others = beside(objects, _folder_of(objects))
    if others:
        raise SourceError(
            f"{source}: among its {len(objects):,} objects lie others, and Athena would open them "
            "as Parquet",
            problems=[o.address for o in others],
            hint="move them to another place, or let their names begin with _",
        )


def _in_place(
    warehouse: AthenaWarehouse, source: str, name: str, objects: Sequence[Object]
) -> AttachedSource:
    _refuse_changed(source, objects)
    plain = ", ".join(map(quote, warehouse.tables[name].arrow.names))
    select = (
        f"SELECT {plain}, {quote(PATH)} AS __file, CAST(NULL AS BIGINT) AS __row FROM "
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


def _refuse_changed(source: str, objects: Sequence[Object]) -> None:
    """SourceError where an object is not what it was when it was found: a run reads one state of
    its sources.
    """
    try:
        now = fingerprints([o.address for o in objects])
    except FileNotFoundError as error:
        raise SourceError(
            f"{source}: {error.filename} was there when the run began, and is gone",
            hint="run the job again",
        ) from error
    changed = [o.address for o, then in zip(objects, now, strict=True) if o.fingerprint != then]
    if changed:
        raise SourceError(
            f"{source} changed while it was checked", problems=changed, hint="run the job again"
        )


def _numbered(
    warehouse: AthenaWarehouse, source: str, select: str, raw: AttachedSource
) -> AttachedSource:
    """The rows with a number each.

    Parquet files have no order in Athena: the number is any, and is kept.
    """
    name = f"__numbered_{source}"
    warehouse.materialize(
        name,
        f"SELECT * REPLACE (row_number() OVER (PARTITION BY __file) AS __row) FROM ({select}) AS r",
    )
    return replace(raw, select=f"SELECT * FROM {quote(name)}")


def _folder_of(objects: Sequence[Object]) -> str:
    """The deepest folder that holds all of them; "" for the whole bucket."""
    folders = [o.key.rpartition("/")[0].split("/") for o in objects]
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join(common) + "/" if any(common) else ""


# ---- a table of Glue


def _in_glue(
    warehouse: AthenaWarehouse, source: str, name: str, database: str, table: str
) -> AttachedSource:
    if name not in warehouse.tables:
        _stand_for_glue(warehouse, source, name, database, table)
    stands = warehouse.tables[name]
    where = quote(PATH) if stands.paths else literal(f"{database}.{table}")
    plain = ", ".join(map(quote, stands.arrow.names))
    select = (
        f"SELECT {plain}, {where} AS __file, CAST(NULL AS BIGINT) AS __row FROM "
        f"{warehouse.with_path(name) if stands.paths else quote(name)}"
    )
    attached = AttachedSource(select, warehouse.columns(select), in_file_order=False)
    return replace(
        attached, with_row_numbers=lambda: _numbered(warehouse, source, select, attached)
    )


def _stand_for_glue(
    warehouse: AthenaWarehouse, source: str, name: str, database: str, table: str
) -> None:
    try:
        found = client("glue").get_table(DatabaseName=database, Name=table)["Table"]
    except ClientError as error:
        if code(error) == "EntityNotFoundException":
            raise _no_table(source, f"{database}.{table}") from error
        raise SourceError(
            f"{source}: the table {database}.{table} cannot be read: {error}",
            hint=RIGHT if code(error) in DENIED else "name it as glue://DATABASE/TABLE",
        ) from error
    columns = [*found["StorageDescriptor"]["Columns"], *found.get("PartitionKeys", ())]
    fields, bad = [], []
    for column in columns:
        try:
            fields.append(pa.field(column["Name"], arrow_type(column["Type"])))
        except KeyError:
            bad.append(f"{column['Name']}: {column['Type']}")
    if bad:
        raise SourceError(
            f"{source}: the table {database}.{table} has columns of types that are not known here",
            problems=bad,
            hint="give Athena a view without them",
        )
    schema = pa.schema(fields)
    refuse_ours(source, schema.names)
    refuse_misfits(source, schema)
    is_view = found.get("TableType") == "VIRTUAL_VIEW"
    location = found["StorageDescriptor"].get("Location", "")
    warehouse.stand(
        name,
        GlueTable(
            database, table, location, schema.serialize().to_pybytes().hex(), (), not is_view
        ),
    )


# ---- text, and Parquet of several kinds


def _staged(
    warehouse: AthenaWarehouse,
    declared: Source,
    name: str,
    objects: Sequence[Object],
    kind: str,
    folders: Sequence[Sequence[str]],
    wanted: Mapping[str, Column],
    scratch: Path,
    memory: int,
) -> AttachedSource:
    """Objects read by DuckDB here, and put down as one Parquet object."""
    source = declared.name
    folder = f"processing/{warehouse.layout.run}/staged/{source}"
    bad = f"processing/{warehouse.layout.run}/malformed/{source}.parquet"
    csv = f"processing/{warehouse.layout.run}/csv/{source}.json"
    total = sum(o.size for o in objects)
    if name not in warehouse.tables:
        if total > STAGED_MOST:
            raise SourceError(
                f"{source}: {total / 2**30:.1f} GiB of {kind} are too much to be read by one "
                f"function, which takes {STAGED_MOST / 2**30:.1f} GiB",
                hint=_too_much(source, kind, any(folders)),
            )
        with DuckWarehouse(
            ScratchFiles(scratch / "staging"), scratch / "staging-scratch", memory=memory, threads=2
        ) as reader:
            schema, written = _read_here(
                warehouse,
                reader,
                declared,
                objects,
                folders,
                wanted,
                scratch / "staging",
                folder,
                bad,
            )
        put_json(warehouse.store, csv, {"csv": written})
        warehouse.register_objects(name, warehouse.store.where(folder) + "/", schema, objects=1)
    if total <= NEAR_MOST:
        warehouse.stand_near(name, warehouse.store.fetch(f"{folder}/rows.parquet"))
    select = f"SELECT * FROM {quote(name)}"
    try:
        malformed = pq.read_table(pa.BufferReader(warehouse.store.get(bad)))
    except KeyError:
        malformed = None
    return AttachedSource(
        select,
        warehouse.columns(select),
        text=kind != "parquet" and bool(wanted),
        malformed=malformed,
        csv=get_json(warehouse.store, csv)["csv"],
    )


def _too_much(source: str, kind: str, parted: bool) -> str:
    """What to do with a source that one function cannot read."""
    table = (
        "make a table of it in Glue (a crawler, or CREATE EXTERNAL TABLE in Athena) and name "
        f"that: --source {source}=glue://DATABASE/TABLE"
    )
    if kind == "parquet" and parted:
        return f"{table}: there, its folders KEY=VALUE are partitions"
    return (
        "write it as Parquet, all files with the same columns: Athena reads that where it lies; "
        f"or {table}"
    )


def _read_here(
    warehouse: AthenaWarehouse,
    reader: DuckWarehouse,
    declared: Source,
    objects: Sequence[Object],
    folders: Sequence[Sequence[str]],
    wanted: Mapping[str, Column],
    root: Path,
    folder: str,
    bad: str,
) -> tuple[pa.Schema, list[dict[str, Any]]]:
    """Fetch the objects, read them with this machine's reader, and write the rows and the malformed
    lines; the rows' columns, and how CSV files are written.
    """
    source = declared.name
    root = root.resolve()
    addresses = _fetched(source, objects, folders, root / "objects")
    with _naming(
        {
            **addresses,
            str(root / "objects"): f"s3://{objects[0].bucket}/{_folder_of(objects)}".rstrip("/"),
        }
    ):
        return _read_files(warehouse, reader, declared, addresses, wanted, root, folder, bad)


def _read_files(
    warehouse: AthenaWarehouse,
    reader: DuckWarehouse,
    declared: Source,
    addresses: Mapping[str, str],
    wanted: Mapping[str, Column],
    root: Path,
    folder: str,
    bad: str,
) -> tuple[pa.Schema, list[dict[str, Any]]]:
    source = declared.name
    found = reader.attach(declared, str(root / "objects"), root, wanted, "staged.parquet")
    reader.register(
        "addresses", pa.table({"path": list(addresses), "address": list(addresses.values())})
    )
    rows = (
        f"SELECT r.* REPLACE (a.address AS __file) FROM ({found.select}) AS r JOIN addresses AS a "
        "ON a.path = r.__file"
    )
    columns = reader.columns(rows)
    refuse_misfits(source, columns)
    _refuse_finer_texts(source, reader, rows, columns, wanted)
    reader.write(rows, "rows.parquet")
    written = reader.store.path("rows.parquet")
    if found.malformed is not None:
        files = [addresses[path] for path in found.malformed.column("file").to_pylist()]
        with warehouse.store.writing(bad) as path:
            pq.write_table(
                found.malformed.set_column(0, "file", pa.array(files, pa.string())), path
            )
    with warehouse.store.writing(f"{folder}/rows.parquet") as path:
        _as_snappy(written, path)
    return plain_schema(pq.ParquetFile(written)), [
        {**facts, "first": addresses[facts["first"]]} for facts in found.csv
    ]


@contextmanager
def _naming(addresses: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the objects' addresses instead of the files that stand for them."""

    def named(text: str) -> str:
        for path, address in addresses.items():
            text = text.replace(path, address)
        return text

    try:
        yield
    except (SourceError, QueryError) as error:
        hint = named(error.hint) if error.hint else None
        raise type(error)(
            named(error.message), problems=[named(problem) for problem in error.problems], hint=hint
        ) from error


def _fetched(
    source: str, objects: Sequence[Object], folders: Sequence[Sequence[str]], root: Path
) -> dict[str, str]:
    """Each object as a file named by its number, whatever its key: paths, and the addresses that
    they stand for.
    """
    root.mkdir(parents=True, exist_ok=True)
    addresses = {}
    for number, o in enumerate(objects):
        suffixes = re.search(r"\.[A-Za-z0-9]+(\.(gz|zst))?$", o.key, re.I)
        path = (
            root.resolve().joinpath(*folders[number])
            / f"{number:06d}{suffixes[0].lower() if suffixes else ''}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            client("s3").download_file(o.bucket, o.key, str(path))
        except ClientError as error:
            hint = RIGHT if code(error) in DENIED else "run the job again"
            raise SourceError(
                f"{source}: {o.address} cannot be read: {error}", hint=hint
            ) from error
        addresses[str(path)] = o.address
    return addresses


def _refuse_finer_texts(
    source: str, reader: DuckWarehouse, rows: str, columns: pa.Schema, wanted: Mapping[str, Column]
) -> None:
    """SourceError for times finer than Athena keeps: written as such, or in a column that is to
    become times.
    """
    texts = [
        name
        for name, column in wanted.items()
        if name in columns.names
        and pa.types.is_timestamp(column.arrow)
        and pa.types.is_string(columns.field(name).type)
    ]
    tests = {name: f"bool_or(regexp_matches({quote(name)}, '{FINE}'))" for name in texts}
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
    bad = [name for name, is_so in found.items() if is_so]
    if bad:
        raise SourceError(
            f"{source} holds times finer than a millisecond in {', '.join(bad)}, and Athena would "
            "round them",
            hint="write them rounded to the millisecond",
        )


def _as_snappy(before: Path, after: Path) -> None:
    """The file again, in the compression that every reader on AWS knows, without holding it in
    memory.
    """
    file = pq.ParquetFile(before)
    with pq.ParquetWriter(after, file.schema_arrow, compression="snappy") as writer:
        for batch in file.iter_batches():
            writer.write_batch(batch)
