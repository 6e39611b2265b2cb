"""The store of this machine, for those who need a file and not bytes: DuckDB writes one, and a batch grows in one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from ..data.checksums import checksum, extend, trailer
from ..ports.object_keys import TEMP_PREFIX
from .filesystem import Folder, _forget, _sync, home_error

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
        half = path.with_name(f"{TEMP_PREFIX}{uuid4().hex}")
        try:
            self.make(path.parent)
            yield half
            _settle(half)
            half.replace(path)
            _sync(path.parent)
        except OSError as error:
            raise home_error(error, path, "written") from error
        finally:
            _forget(half)

    def growing(self, prefix: str) -> GrowingFiles:
        """Files below a prefix that grow, and are durable when they are told to settle. A crash leaves some of them behind: they
        are good only once something written after that says so."""
        return GrowingFiles(self.path(prefix), prefix, self.make)


@dataclass
class GrowingFiles:
    """Arrow streams that grow a record batch at a time (the first of a file brings its schema), and whole files beside them.

    Each stream ends with the trailer of checksums.py; the checksums are carried on while the streams grow.
    """

    folder: Path
    prefix: str
    make: Callable[[Path], None]
    _open: dict[str, int] = field(default_factory=dict)
    _streams: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # bytes written, and their checksum
    _whole: set[str] = field(default_factory=set)

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        with self._in_plain_words():
            handle = self._open.get(name)
            if handle is None:
                if len(self._open) >= OPEN_FILES:
                    os.close(self._open.pop(next(iter(self._open))))
                handle = self._open[name] = self._handle(
                    name, os.O_APPEND if name in self._streams else os.O_CREAT | os.O_TRUNC
                )
                if name not in self._streams:
                    self._streams[name] = 0, checksum(f"{self.prefix}/{name}", b"")
                    self._append(name, handle, batch.schema.serialize())
            self._append(name, handle, batch.serialize())

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        with self._in_plain_words():
            handle = self._handle(name, os.O_CREAT | os.O_TRUNC)
            self._whole.add(name)
            try:
                _write_all(handle, data)
            finally:
                os.close(handle)

    def end(self) -> None:
        """End every stream: from now on the files can be read."""
        with self._in_plain_words():
            for name in self._streams:
                handle = self._open.pop(name, None)
                if handle is None:
                    handle = self._handle(name, os.O_APPEND)
                try:
                    self._append(
                        name, handle, b"\xff\xff\xff\xff\x00\x00\x00\x00"
                    )  # Arrow's end of stream
                    _write_all(handle, trailer(*self._streams[name]))
                finally:
                    os.close(handle)

    def settle(self) -> None:
        """Wait until the disk has all of it."""
        with self._in_plain_words():
            paths = [self.folder / name for name in self._whole.union(self._streams)]
            for path in paths:
                _settle(path)
            for folder in {path.parent for path in paths}:
                _sync(folder)

    def close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def _append(self, name: str, handle: int, data: bytes | pa.Buffer) -> None:
        size, crc = self._streams[name]
        _write_all(handle, data)
        self._streams[name] = size + len(memoryview(data)), extend(crc, data)

    def _handle(self, name: str, mode: int) -> int:
        path = self.folder / name
        if mode & os.O_CREAT:
            self.make(path.parent)
        return os.open(path, os.O_WRONLY | mode | getattr(os, "O_BINARY", 0), 0o644)

    @contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise home_error(error, self.folder, "written") from error


def _write_all(handle: int, data: bytes | pa.Buffer) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(handle, rest) :]


def _settle(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
