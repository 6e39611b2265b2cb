"""Files that grow piece by piece in a local folder: Arrow streams, and whole files beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from .checksums import checksum, extend_checksum, make_trailer

MAX_OPEN_FILES = 200  # files of batches
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of Arrow's IPC streams


@dataclass
class FolderAppendFiles:
    """The files below `prefix` of a store, as they grow in a folder of this machine.

    The first batch of a stream brings its schema. Each stream ends with the trailer of
    checksums.py, whose checksum is updated while the stream grows. What `sync` does depends on the
    store: a subclass makes the files durable objects.
    """

    folder: Path
    prefix: str
    make: Callable[[Path], None]
    errors: Callable[[], AbstractContextManager[None]]
    _open: dict[str, int] = field(default_factory=dict)
    # bytes written, and their checksum
    _streams: dict[str, tuple[int, int]] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        with self.errors():
            handle = self._open.get(name)
            if handle is None:
                if len(self._open) >= MAX_OPEN_FILES:
                    os.close(self._open.pop(next(iter(self._open))))
                handle = self._open[name] = self._handle(
                    name, os.O_APPEND if name in self._streams else os.O_CREAT | os.O_TRUNC
                )
                if name not in self._streams:
                    self._streams[name] = 0, checksum(f"{self.prefix}/{name}", b"")
                    self._append(name, handle, batch.schema.serialize())
            self._append(name, handle, batch.serialize())

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        with self.errors():
            handle = self._handle(name, os.O_CREAT | os.O_TRUNC)
            self._whole.add(name)
            try:
                _write_all(handle, data)
            finally:
                os.close(handle)

    def end(self) -> None:
        """End every stream: from now on the files can be read."""
        with self.errors():
            for name in self._streams:
                handle = self._open.pop(name, None)
                if handle is None:
                    handle = self._handle(name, os.O_APPEND)
                try:
                    self._append(name, handle, END_OF_STREAM)
                    _write_all(handle, make_trailer(*self._streams[name]))
                finally:
                    os.close(handle)

    def close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def names(self) -> Iterator[str]:
        """Yield the names of all files, sorted."""
        yield from sorted(self._whole.union(self._streams))

    def _append(self, name: str, handle: int, data: bytes | pa.Buffer) -> None:
        size, crc = self._streams[name]
        _write_all(handle, data)
        self._streams[name] = size + len(memoryview(data)), extend_checksum(crc, data)

    def _handle(self, name: str, mode: int) -> int:
        path = self.folder / name
        if mode & os.O_CREAT:
            self.make(path.parent)
        return os.open(path, os.O_WRONLY | mode | getattr(os, "O_BINARY", 0), 0o644)


def _write_all(handle: int, data: bytes | pa.Buffer) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(handle, rest) :]
