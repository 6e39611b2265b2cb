"""Shared libraries of Linux as files, for they are often for another processor than this one: which
libraries one is linked with, and how it is made smaller.

The format is told in elf(5): program headers say what is loaded and where the dynamic section lies,
which lists names by their place in a table of strings. Sections and symbols behind all that are for
linkers and debuggers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MAGIC = b"\x7fELF\x02\x01"  # of 64 bits, the low byte first
LOAD, DYNAMIC = 1, 2  # kinds of a program header
END, NEEDED, STRINGS = 0, 1, 5  # tags of a dynamic entry


@cache
def linked_with(path: Path) -> tuple[str, ...]:
    """The names of the libraries that it needs; none for what is no 64-bit little-endian ELF file."""
    data = path.read_bytes()
    if not data.startswith(MAGIC):
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
        offset + strings - address
        for kind, offset, address, size in headers
        if kind == LOAD and address <= strings < address + size
    )
    return tuple(_text(data, table + value) for tag, value in entries if tag == NEEDED)


def as_loaded(data: bytes) -> bytes:
    """The same library without what is never loaded: what follows the last segment, and the
    header's word of it.
    """
    if not data.startswith(MAGIC):
        return data
    end = max(offset + size for _, offset, _, size in _program_headers(data))
    if end >= len(data):
        return data
    kept = bytearray(data[:end])
    struct.pack_into("<Q", kept, 40, 0)  # where the sections' headers lie
    struct.pack_into(
        "<HH", kept, 60, 0, 0
    )  # how many there are, and which of them holds their names
    return bytes(kept)


def _program_headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(kind, offset in the file, address, size in the file)."""
    (start,) = struct.unpack_from("<Q", data, 32)
    each, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", data, start + number * each
        )
        yield kind, offset, address, size


def _entries(data: bytes, offset: int, size: int) -> Iterator[tuple[int, int]]:
    for tag, value in struct.iter_unpack("<qQ", data[offset : offset + size - size % 16]):
        if tag == END:
            return
        yield tag, value


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
