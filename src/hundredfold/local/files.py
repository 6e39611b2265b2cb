"""The store of this machine, for those who need a file and not bytes: DuckDB writes one, and a batch grows in one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from .store import HALF, Folder, _forget, _make, _sync, home_error

OPEN_FILES = 200  # so many batch files are kept open at once


@dataclass(frozen=True, slots=True)
class FileStore(Folder):
    """A Folder that also lets others write its objects."""

    def where(self, key: str) -> str:
        """How a person finds the object of that key."""
        return str(self.path(key))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A path to write to; it becomes the object when the block ends, whole and durable, and nothing if it raises."""
        path = self.path(key)
        half = path.with_name(f"{HALF}{uuid4().hex}")
        try:
            _make(path.parent)
            yield half
            _settle(half)
            half.replace(path)
            _sync(path.parent)
        except OSError as error:
            raise home_error(error, path, "written") from error
        finally:
            _forget(half)

    @contextmanager
    def appending(self, prefix: str) -> Iterator[GrowingFiles]:
        """Arrow files below a prefix that record batches are added to; durable when the block ends. A crash leaves halves
        behind: they are good only once something written after them says so."""
        folder = self.path(prefix)
        files = GrowingFiles(folder)
        try:
            _make(folder)
            yield files
            files.finish()
            _sync(folder)
        except OSError as error:
            raise home_error(error, folder, "written") from error
        finally:
            files.close()


@dataclass
class GrowingFiles:
    """Arrow streams that grow a record batch at a time; the first of a file brings its schema."""

    folder: Path
    _open: dict[str, int] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _syncing: Future[None] | None = None

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        handle = self._open.get(name)
        if handle is None:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            flags = os.O_WRONLY | os.O_APPEND | (0 if name in self._names else os.O_CREAT | os.O_TRUNC) | getattr(os, "O_BINARY", 0)
            handle = self._open[name] = os.open(self.folder / name, flags, 0o644)
            if name not in self._names:
                _write_all(handle, batch.schema.serialize())
                self._names.add(name)
        _write_all(handle, batch.serialize())
        if self._syncing is None or self._syncing.done():  # the disk works while more rows are on their way
            self._heard()
            self._syncing = self._beside.submit(_sync_handles, [os.dup(each) for each in self._open.values()])

    def finish(self) -> None:
        """End every stream, and wait until the disk has it."""
        self._heard()
        for name in self._names:
            handle = self._open.pop(name, None)
            if handle is None:
                handle = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
            _write_all(handle, b"\xff\xff\xff\xff\x00\x00\x00\x00")  # Arrow's end of stream
            os.fsync(handle)
            os.close(handle)

    def _heard(self) -> None:
        if self._syncing is not None:
            self._syncing.result()  # raises what the disk said

    def close(self) -> None:
        self._beside.shutdown()
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


def _write_all(handle: int, data: bytes | pa.Buffer) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_handles(handles: Sequence[int]) -> None:
    """Let the disk have what was written to these files so far; they are closed."""
    try:
        for handle in handles:
            os.fsync(handle)
    finally:
        for handle in handles:
            os.close(handle)


def _settle(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
