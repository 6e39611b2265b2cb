"""Shared libraries of Linux, read as files, since they are often for another processor.

This module lists the libraries that one is linked with, and makes one smaller. elf(5) documents the
format: program headers list the loaded segments and the dynamic section, which refers to names by
their offset in a string table. The sections and symbols behind them are for linkers and debuggers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
LOAD, DYNAMIC = 1, 2  # kinds of a program header
END, NEEDED, STRINGS = 0, 1, 5  # tags of a dynamic entry


@cache
def linked_libraries(path: Path) -> tuple[str, ...]:
    """Return the names of the libraries that a file needs; none unless it is 64-bit little-endian
    ELF.
    """
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


def strip_unloaded(data: bytes) -> bytes:
    """Return a library without the data that is never loaded.

    That is everything behind the last segment, together with its entries in the header.
    """
    if not data.startswith(MAGIC):
        return data
    end = max(offset + size for _, offset, _, size in _program_headers(data))
    if end >= len(data):
        return data
    stripped = bytearray(data[:end])
    struct.pack_into("<Q", stripped, 40, 0)  # offset of the section headers
    # their number, and the index of the one with their names
    struct.pack_into("<HH", stripped, 60, 0, 0)
    return bytes(stripped)


def _program_headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (kind, offset in the file, address, size in the file) of each program header."""
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
