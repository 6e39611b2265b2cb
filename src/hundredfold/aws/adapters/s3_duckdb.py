"""The warehouse on AWS for small sources: DuckDB within one function, over objects in S3.

It is the local warehouse. Two things differ: the objects of a source are downloaded before they are
read, and objects that DuckDB reads or writes are files of the function's disk for the duration of
the call. A statement takes milliseconds, where Athena takes seconds to begin.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ...contract import Column, literal, quote
from ...data.append_files import FolderAppendFiles
from ...data.layout import Layout
from ...errors import HomeError, HundredfoldError, QueryError, SourceError
from ...job import Source
from ...ports.interfaces import AttachedSource, Fingerprint, SourceLocation
from ...ports.object_keys import checked_key
from ...sql.duckdb import DuckWarehouse
from ..tags import BATCH_TAG
from .glue_sources import parse_address
from .s3_objects import fingerprints
from .s3_store import S3Store
from .sources import (
    download,
    folders_of,
    name_addresses_in_errors,
    named_with_addresses,
    objects_of_a_kind,
)

UPLOAD_THREADS = 32
ATHENA_HINT = "run the job again with --warehouse athena, which has no such limit"


class LocalObjects:
    """An S3 store whose objects DuckDB can open: files of this machine, for one call.

    `local_prefix`: objects below it are never uploaded, because no later call reads them.
    """

    def __init__(self, store: S3Store, folder: Path, local_prefix: str) -> None:
        self.s3, self.folder, self.local_prefix = store, folder, local_prefix
        self.copies: dict[str, Path] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.s3, name)  # only files differ from the store

    def path(self, key: str) -> Path:
        """Return the object as a file; KeyError if there is none.

        An object that is never uploaded need not exist.
        """
        if key.startswith(self.local_prefix):
            return self.folder / "written" / checked_key(key)
        if key not in self.copies:
            self.copies[key] = self.s3.fetch(key)
        return self.copies[key]

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Return a path to write to, which becomes the object when the block ends."""
        path = self.folder / "written" / checked_key(key)
        with self.disk_errors(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
        if not key.startswith(self.local_prefix):
            self.s3.send(path, key)
        self.copies[key] = path

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write an object, whole or not at all."""
        self.s3.put(key, data)
        self.copies.pop(key, None)

    def get(self, key: str) -> pa.Buffer:
        """Return the bytes of an object, mapped where it is a file already; KeyError if there is
        none.
        """
        if key not in self.copies:
            return self.s3.get(key)
        with pa.memory_map(str(self.copies[key])) as file:
            return file.read_buffer()

    def delete(self, prefix: str) -> None:
        """Delete the object of that key and all objects below `prefix/`."""
        self.s3.delete(prefix)
        for key in [*self.copies]:
            if f"{key}/".startswith(f"{prefix.removesuffix('/')}/"):
                del self.copies[key]

    def append_files(self, prefix: str) -> S3AppendFiles:
        """Return files below a prefix that can be appended to; they are objects after `sync`."""
        return S3AppendFiles(
            self.folder / "appended" / checked_key(prefix),
            prefix,
            lambda folder: folder.mkdir(parents=True, exist_ok=True),
            lambda: self.disk_errors(prefix),
            objects=self,
        )

    def disk_errors(self, key: str) -> AbstractContextManager[None]:
        return self.s3.translate_disk_errors(key)


@dataclass
class S3AppendFiles(FolderAppendFiles):
    """Files that grow on this machine, and are uploaded when they are whole."""

    objects: LocalObjects = field(kw_only=True)

    def end(self) -> None:
        """End every stream: from now on the files can be read, on this machine."""
        super().end()
        for name in self.names():
            self.objects.copies[f"{self.prefix}/{name}"] = self.folder / name

    def sync(self) -> None:
        """Return when every file is an object."""
        with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
            for _ in pool.map(self._upload, self.names()):
                pass  # raises the error of a thread

    def _upload(self, name: str) -> None:
        tag = BATCH_TAG if PurePosixPath(name).parent.name == "batches" else ""
        self.objects.s3.send(self.folder / name, f"{self.prefix}/{name}", tag=tag)


class S3DuckWarehouse(DuckWarehouse):
    """SQL over a run's tables, in one function. `scratch` is an empty folder."""

    def __init__(
        self, store: S3Store, layout: Layout, scratch: Path, *, memory: int, threads: int
    ) -> None:
        self.objects = LocalObjects(store, scratch / "objects", f"{layout.root}/staged/")
        self.sources = scratch / "sources"
        self._addresses: dict[str, str] = {}  # of the downloaded objects, by path
        super().__init__(self.objects, scratch / "duckdb", memory=memory, threads=threads)

    def attach(
        self,
        source: Source,
        location: SourceLocation,
        folder: Path | None,  # noqa: ARG002
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """Download the objects of a source, and return their rows."""
        address = str(location)
        if parse_address(address):
            raise SourceError(
                f"{source.name}: {address} is a Glue table, which only Athena reads",
                hint="leave out --warehouse, or choose --warehouse athena",
            )
        objects, _ = objects_of_a_kind(source.name, address)
        root = self.sources.resolve() / source.name
        addresses = download(source.name, objects, folders_of(source.name, address, objects), root)
        self._addresses |= addresses
        with name_addresses_in_errors({**addresses, str(root): address.rstrip("/")}):
            found = super().attach(source, str(root), root, contract_columns, staged)
        found = replace(found, in_place=False, fingerprints=[o.fingerprint for o in objects])
        return self._with_addresses(source.name, found, addresses)

    def _with_addresses(
        self, source: str, found: AttachedSource, addresses: Mapping[str, str]
    ) -> AttachedSource:
        """Return a source with addresses in place of the paths of its files."""
        malformed = found.malformed
        if malformed is not None:
            files = [addresses[path] for path in malformed.column("file").to_pylist()]
            malformed = malformed.set_column(0, "file", pa.array(files, pa.string()))
        numbered = found.with_row_numbers
        return replace(
            found,
            select=self._select_with_addresses(source, found.select, addresses),
            malformed=malformed,
            csv=[{**facts, "first": addresses[facts["first"]]} for facts in found.csv],
            with_row_numbers=(lambda: self._with_addresses(source, numbered(), addresses))
            if numbered is not None
            else None,
        )

    def _select_with_addresses(self, source: str, select: str, addresses: Mapping[str, str]) -> str:
        if len(addresses) == 1:
            [address] = addresses.values()
            return f"SELECT * REPLACE ({literal(address)} AS __file) FROM ({select}) AS r"
        table = f"__addresses_{source}"
        self.register(
            table, pa.table({"path": list(addresses), "address": list(addresses.values())})
        )
        return (
            f"SELECT r.* REPLACE (a.address AS __file) FROM ({select}) AS r "
            f"JOIN {quote(table)} AS a ON a.path = r.__file"
        )

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """Return address, size and entity tag of objects; for files, the facts of the disk."""
        remote = [path for path in paths if path.startswith("s3://")]
        return fingerprints(remote) if remote else super().fingerprints(paths)

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """Return an error that names the damaged object of a source which made a query fail."""
        local = [path for path, address in self._addresses.items() if address in set(paths)]
        found = super().find_damage(source, local, error)
        return found and named_with_addresses(found, self._addresses)

    def query_error(self, error: Exception, select: str) -> HundredfoldError:
        """Return DuckDB's error as one of this package; Athena has no limits of memory or disk."""
        found = super().query_error(error, select)
        if isinstance(found, HomeError):
            found.hint = ATHENA_HINT
        return found

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.objects.folder, ignore_errors=True)
        shutil.rmtree(self.sources, ignore_errors=True)
