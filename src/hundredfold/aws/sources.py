"""Where a source's rows are on AWS: objects in S3, or a table in Glue.

Parquet is read where it lies.  Text, and Parquet files whose columns differ, go through the reader of this machine first, which keeps
every row's place and every line that is none, and become one Parquet object that Athena can read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from ..contract import literal, quote
from ..errors import SourceError
from ..local.files import FileStore
from ..local.sources import Files, kind_of_file, refuse_ours
from ..local.warehouse import Attached, DuckWarehouse
from .athena import PATH, AthenaWarehouse, ObjectFile, Table
from .place import client

STAGED_MOST = 1.5 * 2**30  # bytes of text that fit on a function's disk, together with what is made of them
NAMED_MOST = 1_000  # objects that a query can name one by one
GLUE = {"tinyint": pa.int8(), "smallint": pa.int16(), "int": pa.int32(), "integer": pa.int32(), "bigint": pa.int64(), "float": pa.float32(),
        "double": pa.float64(), "boolean": pa.bool_(), "string": pa.string(), "binary": pa.binary(), "date": pa.date32(), "timestamp": pa.timestamp("us")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Object:
    """One object of S3: its address, its size in bytes, and a mark of its content."""

    bucket: str
    key: str
    size: int
    etag: str

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def attach(
    warehouse: AthenaWarehouse, source: str, place: str, contract_columns: Mapping[str, Any], scratch: Path, *, memory: int
) -> Attached:
    """The raw rows of a source, wherever they are on AWS; SourceError if they cannot be read."""
    name = f"__raw_{source}"
    glue = re.fullmatch(r"glue://([^/]+)/([^/]+)", place)
    if glue:
        return _in_glue(warehouse, source, name, glue[1], glue[2])
    objects = find_objects(source, place)
    kinds = {kind_of_file(o.key) for o in objects}
    if len(kinds) > 1:
        raise SourceError(
            f"{source}: its objects are of several kinds: {', '.join(sorted(map(str, kinds)))}",
            hint="name one kind, such as s3://BUCKET/PREFIX/*.parquet",
        )
    if not sum(o.size for o in objects):
        raise SourceError(f"{source} is empty: {place} has no byte", hint=f"name another place with --source {source}=s3://...")
    kind = str(kinds.pop())
    alike = _schema_of_all(source, objects) if kind == "parquet" else None
    if alike is None or (len(objects) > NAMED_MOST and not _is_whole_folder(objects)):
        return _staged(warehouse, source, name, objects, kind, contract_columns, scratch, memory)
    return _in_place(warehouse, source, name, objects, alike)


def find_objects(source: str, place: str) -> list[Object]:
    """The objects that an address names: one, all below a prefix, or those that match a pattern; SourceError if there are none."""
    found = urlsplit(place)
    if found.scheme != "s3" or not found.netloc or any(c in place for c in "?#'\"\\\n"):
        raise SourceError(
            f"{source}: the place is {place!r}, wanted s3://BUCKET/KEY, s3://BUCKET/PREFIX/, s3://BUCKET/PREFIX/*.parquet or glue://DATABASE/TABLE",
            hint="AWS cannot read this machine's disk; a plain path is uploaded by `hundredfold run --on aws`",
        )
    bucket, wanted = found.netloc, found.path.lstrip("/")
    pattern = "*" in wanted or "[" in wanted
    fixed = re.split(r"[*\[]", wanted)[0] if pattern else wanted
    objects = []
    try:
        for page in client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=fixed):
            objects += [Object(bucket, o["Key"], int(o["Size"]), o["ETag"]) for o in page.get("Contents", ())]
    except ClientError as error:
        raise SourceError(
            f"{source}: {place} cannot be listed: {error}",
            hint="give the stack the right to read it: hundredfold deploy --source-location s3://BUCKET/PREFIX/",
        ) from error
    folder = wanted.rstrip("/") + "/" if wanted else ""
    matching = [o for o in objects if (fnmatchcase(o.key, wanted) if pattern else o.key == wanted or o.key.startswith(folder))]
    matching = [
        o for o in matching if not any(part.startswith((".", "_")) for part in o.key.rsplit("/", 1)[-1:]) and not o.key.endswith("/")
    ]
    known = [o for o in matching if kind_of_file(o.key)]
    if not known:
        near = [f"{o.address}" for o in objects[:5]]
        raise SourceError(
            f"{source}: there is no Parquet, CSV or JSON-lines object at {place}",
            problems=near,
            hint=f"name the place with --source {source}=s3://BUCKET/PREFIX/",
        )
    return sorted(known, key=lambda o: o.key)


def prints(addresses: Sequence[str]) -> list[list[Any]]:
    """Address, size and entity tag of each object: equal prints are taken for equal contents. FileNotFoundError for one that is gone."""
    return list(ThreadPoolExecutor(16).map(_print, addresses))


def _print(address: str) -> list[Any]:
    found = urlsplit(address)
    try:
        head = client("s3").head_object(Bucket=found.netloc, Key=found.path.lstrip("/"))
    except ClientError as error:
        raise FileNotFoundError(2, str(error), address) from error
    return [address, int(head["ContentLength"]), head["ETag"]]


def _in_place(warehouse: AthenaWarehouse, source: str, name: str, objects: Sequence[Object], schema: pa.Schema) -> Attached:
    table = warehouse.tables.get(name)
    if table is None:
        whole = _is_whole_folder(objects)
        folder = f"s3://{objects[0].bucket}/{_folder_of(objects)}"
        warehouse.register(name, folder, schema, only=() if whole else [o.address for o in objects], paths=True)
    plain = ", ".join(quote(column) for column in schema.names)
    select = f"SELECT {plain}, {quote(PATH)} AS __file, CAST(NULL AS BIGINT) AS __row FROM {quote(name)}"
    attached = Attached(select, warehouse.columns(select), False, Files(tuple(o.address for o in objects), "parquet"), None)
    attached.exact = False
    attached.numbered = lambda: _numbered(warehouse, source, select, attached)
    return attached


def _numbered(warehouse: AthenaWarehouse, source: str, select: str, raw: Attached) -> Attached:
    """The rows with a number each. Parquet files have no order in Athena: the number is any, and is kept."""
    name = f"__numbered_{source}"
    warehouse.keep(name, f"SELECT * REPLACE (row_number() OVER (PARTITION BY __file) AS __row) FROM ({select}) AS r")
    numbered = Attached(f"SELECT * FROM {quote(name)}", raw.schema, raw.text, raw.files, raw.malformed)
    numbered.exact = False
    return numbered


def _in_glue(warehouse: AthenaWarehouse, source: str, name: str, database: str, table: str) -> Attached:
    if name not in warehouse.tables:
        try:
            found = client("glue").get_table(DatabaseName=database, Name=table)["Table"]
        except ClientError as error:
            raise SourceError(
                f"{source}: the table {database}.{table} cannot be read: {error}", hint="name it as glue://DATABASE/TABLE"
            ) from error
        columns = [*found["StorageDescriptor"]["Columns"], *found.get("PartitionKeys", ())]
        try:
            schema = pa.schema([(c["Name"], _arrow_of(c["Type"])) for c in columns])
        except KeyError as error:
            raise SourceError(
                f"{source}: the table {database}.{table} has a column of the type {error}", hint="give Athena a view without it"
            ) from error
        warehouse.stand(
            name, Table(database, table, found["StorageDescriptor"]["Location"], schema.serialize().to_pybytes().hex(), (), True)
        )
    names = list(warehouse.tables[name].arrow.names)
    refuse_ours(source, names)
    select = f"SELECT {', '.join(map(quote, names))}, {quote(PATH)} AS __file, CAST(NULL AS BIGINT) AS __row FROM {quote(name)}"
    attached = Attached(select, warehouse.columns(select), False, None, None)
    attached.exact = False
    attached.numbered = lambda: _numbered(warehouse, source, select, attached)
    return attached


def _staged(
    warehouse: AthenaWarehouse,
    source: str,
    name: str,
    objects: Sequence[Object],
    kind: str,
    wanted: Mapping[str, Any],
    scratch: Path,
    memory: int,
) -> Attached:
    """Objects read by DuckDB here, and put down as one Parquet object."""
    folder = f"processing/{warehouse.layout.run}/staged/{source}"
    bad = f"processing/{warehouse.layout.run}/malformed/{source}.parquet"
    text = kind != "parquet" and bool(wanted)
    if name not in warehouse.tables:
        total = sum(o.size for o in objects)
        if total > STAGED_MOST:
            raise SourceError(
                f"{source}: {total / 2**30:.1f} GiB of {kind} are too much to be read by one function, which takes {STAGED_MOST / 2**30:.1f} GiB",
                hint="write it as Parquet, all files with the same columns: Athena reads that where it lies",
            )
        local = FileStore(scratch / "staging")
        with DuckWarehouse(local, scratch / "staging-scratch", memory=memory, threads=2) as reader:
            root = scratch / "staging" / "objects"
            for o in objects:
                path = root / o.key
                path.parent.mkdir(parents=True, exist_ok=True)
                client("s3").download_file(o.bucket, o.key, str(path))
            found = reader.attach(source, str(root), root, wanted, "staged.parquet")
            address = f"{literal(f's3://{objects[0].bucket}/')} || substr(__file, {len(str(root.resolve())) + 2})"
            reader.write(f"SELECT * REPLACE ({address} AS __file) FROM ({found.select}) AS f", "rows.parquet")
            if found.malformed is not None:
                root_text = str(root.resolve()) + "/"
                files = [f"s3://{objects[0].bucket}/{f.removeprefix(root_text)}" for f in found.malformed.column("file").to_pylist()]
                lines = found.malformed.set_column(0, "file", pa.array(files, pa.string()))
                with warehouse.store.writing(bad) as path:
                    pq.write_table(lines, path)
            with warehouse.store.writing(f"{folder}/rows.parquet") as path:
                _as_snappy(local.path("rows.parquet"), path)
        schema = pq.read_schema(local.path("rows.parquet")).remove_metadata()
        warehouse.register(name, warehouse.store.where(folder) + "/", schema)
    select = f"SELECT * FROM {quote(name)}"
    try:
        malformed = pq.read_table(pa.BufferReader(warehouse.store.get(bad)))
    except KeyError:
        malformed = None
    return Attached(select, warehouse.columns(select), text, None, malformed)


def _as_snappy(before: Path, after: Path) -> None:
    """The file again, in the compression that every reader on AWS knows, without holding it in memory."""
    file = pq.ParquetFile(before)
    with pq.ParquetWriter(after, file.schema_arrow, compression="snappy") as writer:
        for batch in file.iter_batches():
            writer.write_batch(batch)


def _schema_of_all(source: str, objects: Sequence[Object]) -> pa.Schema | None:
    """The columns that all Parquet objects have; None if they differ."""

    def read(o: Object) -> pa.Schema:
        try:
            return pq.read_schema(ObjectFile(o.bucket, o.key)).remove_metadata()
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{source}: {o.address} cannot be read as Parquet: {error}", hint="is it a Parquet file, whole?") from error

    with ThreadPoolExecutor(16) as pool:
        schemas = list(pool.map(read, objects))
    plain = [pa.schema([f.with_metadata(None).with_nullable(True) for f in schema]) for schema in schemas]
    refuse_ours(source, plain[0].names)
    return plain[0] if all(schema.equals(plain[0]) for schema in plain) else None


def _folder_of(objects: Sequence[Object]) -> str:
    folders = [o.key.rpartition("/")[0].split("/") for o in objects]
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join(common) + "/" if any(common) else ""


def _is_whole_folder(objects: Sequence[Object]) -> bool:
    """Whether these are all objects of their folder that Athena would read."""
    folder, keys = _folder_of(objects), {o.key for o in objects}
    for page in client("s3").get_paginator("list_objects_v2").paginate(Bucket=objects[0].bucket, Prefix=folder):
        for found in page.get("Contents", ()):
            name = found["Key"].rsplit("/", 1)[-1]
            if found["Key"] not in keys and name and not name.startswith((".", "_")):
                return False
    return True


def _arrow_of(hive: str) -> pa.DataType:
    """Glue's type as Arrow's; KeyError if there is none."""
    decimal = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", hive)
    if decimal:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if hive.startswith("array<"):
        return pa.list_(_arrow_of(hive[6:-1]))
    return GLUE["string" if hive.startswith(("varchar", "char")) else hive]
