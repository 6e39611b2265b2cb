"""Which libraries a shared library of Linux is linked with, read from its file: it is often for another processor than this one.

The format is told in elf(5): program headers say where the dynamic section lies, and that lists names by their place in a
table of strings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LOAD, DYNAMIC = 1, 2  # kinds of a program header
END, NEEDED, STRINGS = 0, 1, 5  # tags of a dynamic entry


@cache
def linked_with(path: Path) -> tuple[str, ...]:
    """The names of the libraries that it needs; none for what is no 64-bit little-endian ELF file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return ()
    headers = list(_program_headers(data))
    dynamic = next(((offset, size) for kind, offset, _, size in headers if kind == DYNAMIC), None)
    if dynamic is None:
        return ()
    entries = list(_entries(data, *dynamic))
    strings = next((value for tag, value in entries if tag == STRINGS), None)
    if strings is None:
        return ()
    table = next(
        offset + strings - address for kind, offset, address, size in headers if kind == LOAD and address <= strings < address + size
    )
    return tuple(_text(data, table + value) for tag, value in entries if tag == NEEDED)


def _program_headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(kind, offset in the file, address, size in the file)."""
    (start,) = struct.unpack_from("<Q", data, 32)
    each, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, start + number * each)
        yield kind, offset, address, size


def _entries(data: bytes, offset: int, size: int) -> Iterator[tuple[int, int]]:
    for tag, value in struct.iter_unpack("<qQ", data[offset : offset + size - size % 16]):
        if tag == END:
            return
        yield tag, value


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
