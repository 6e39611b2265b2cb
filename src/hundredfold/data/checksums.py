"""Checksums of the files of a home: every object has one, and it is verified whenever the object is
read.

They are stored in three ways, depending on the kind of file:

- objects in our own binary formats (Arrow streams, the pickled job) end with a trailer:
  `put_sealed`, `get_sealed`;
- JSON objects have a last field `checksum`, and remain JSON for other readers:
  `put_json`, `get_json`;
- Parquet files and the files of a release are read by other programs too and remain unchanged: the
  object that lists them has their checksums (`checksum_of`, `get_verified`).

A checksum covers the object's key as well, so that a whole file in the place of another is
detected. CRC-32 detects every burst of up to 32 bits and misses other damage once in 4 * 10^9
times. It protects against faults of disks, not against forgery.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..errors import DamagedFile
from ..ports.interfaces import Store

TRAILER = struct.Struct("<8sQI")  # magic, number of bytes before the trailer, checksum
MAGIC = b"\nhfseal1"
JSON_CHECKSUM = re.compile(rb',\s*"checksum": "([0-9a-f]{8})"\s*}\s*$')
# processed at a time, so that Ctrl-C is handled and the GIL is released in between
CHECKSUM_STEP_BYTES = 2**24


def checksum(key: str, data: bytes | pa.Buffer | memoryview) -> int:
    """Return the CRC-32 of a key and its data."""
    return extend_checksum(zlib.crc32(key.encode()), data)


def extend_checksum(crc: int, data: bytes | pa.Buffer | memoryview) -> int:
    """Return a CRC-32 continued over more data."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), CHECKSUM_STEP_BYTES):
        crc = zlib.crc32(view[start : start + CHECKSUM_STEP_BYTES], crc)
    return crc


def make_trailer(size: int, crc: int) -> bytes:
    """Return the trailer of `size` bytes with the checksum `crc`, which includes the key."""
    return TRAILER.pack(MAGIC, size, crc)


def put_sealed(store: Store, key: str, data: bytes | pa.Buffer) -> None:
    """Write an object with its trailer."""
    store.put(key, seal(key, data))


def seal(key: str, data: bytes | pa.Buffer) -> bytes:
    """Return the data with its trailer."""
    return b"".join((data, make_trailer(len(memoryview(data)), checksum(key, data))))


def get_sealed(store: Store, key: str) -> pa.Buffer:
    """Return an object's data without its trailer.

    Raises:
        KeyError: there is no such object.
        DamagedFile: it is not as it was written.
    """
    return unseal(store, key, store.get(key))


def unseal(store: Store, key: str, found: pa.Buffer) -> pa.Buffer:
    """Return the data of a sealed object that was read already; DamagedFile if it was altered."""
    size = found.size - TRAILER.size
    if size < 0:
        raise damage_error(
            store,
            key,
            "is empty" if not found.size else f"is truncated: it has {found.size:,} bytes",
        )
    magic, wanted, crc = TRAILER.unpack(found.slice(size))
    if magic != MAGIC or wanted != size:
        raise damage_error(
            store,
            key,
            f"has {found.size:,} bytes and no checksum at its end: it is truncated, or its end is"
            " damaged",
        )
    data = found.slice(0, size)
    if checksum(key, data) != crc:
        raise damage_error(store, key, "does not have the checksum with which it was written")
    return data


def put_json(store: Store, key: str, fields: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object with a last field `checksum`."""
    store.put(key, make_json(key, fields, indent))


def make_json(key: str, fields: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return the text of a JSON object with a last field `checksum`."""
    text = json.dumps(fields, indent=indent, default=str)
    body = text.removesuffix("}").rstrip()
    return f'{body}, "checksum": "{checksum(key, body.encode()):08x}"}}'.encode()


def get_json(store: Store, key: str) -> dict[str, Any]:
    """Return the fields of a JSON object, without its checksum.

    Raises:
        KeyError: there is no such object.
        DamagedFile: it is not as it was written.
    """
    return parse_json(store, key, store.get(key).to_pybytes())


def parse_json(store: Store, key: str, text: bytes) -> dict[str, Any]:
    """Return the fields of a JSON text that was read already; DamagedFile if it was altered."""
    found = JSON_CHECKSUM.search(text)
    if not found:
        raise damage_error(
            store,
            key,
            "has no checksum at its end: it is truncated, or its end is damaged"
            if text
            else "is empty",
        )
    if f"{checksum(key, text[: found.start()]):08x}".encode() != found[1]:
        raise damage_error(store, key, "does not have the checksum with which it was written")
    fields: dict[str, Any] = json.loads(text)
    del fields["checksum"]
    return fields


def checksum_of(store: Store, key: str) -> str:
    """Return the checksum of an object as text, for the object that lists it; "" if it does not
    exist.
    """
    try:
        return _size_and_checksum(store, key)[1]
    except KeyError:
        return ""


def _size_and_checksum(store: Store, key: str) -> tuple[int, str]:
    """Return an object's size in bytes and its checksum as text, without holding all of it."""
    size, crc = 0, zlib.crc32(key.encode())
    for part in store.parts(key):
        size, crc = size + len(memoryview(part)), extend_checksum(crc, part)
    return size, f"{crc:08x}"


def verify(store: Store, key: str, wanted: str) -> None:
    """Raise the errors of `get_verified`, without holding the whole object."""
    try:
        size, found = _size_and_checksum(store, key)
    except KeyError:
        raise missing_error(store, key) from None
    if not size:
        raise damage_error(store, key, "is empty")
    if wanted and found != wanted:
        raise damage_error(store, key, "does not have the checksum with which it was written")


def verify_listed(store: Store, key: str, lister: str) -> None:
    """Raise the errors of `get_listed`, without holding the whole object."""
    verify(store, key, get_json(store, lister)["checksums"].get(key, ""))


def get_verified(store: Store, key: str, wanted: str) -> pa.Buffer:
    """Return an object's bytes; DamagedFile if it is missing or has not the recorded checksum."""
    data = require(store, key)
    if not data.size:
        raise damage_error(store, key, "is empty")
    if wanted and f"{checksum(key, data):08x}" != wanted:
        raise damage_error(store, key, "does not have the checksum with which it was written")
    return data


def get_listed(store: Store, key: str, lister: str) -> pa.Buffer:
    """Return an object's bytes if they match the checksum in the JSON object `lister`.

    `lister` has the checksums of other objects in its field `checksums`.

    Raises:
        KeyError: `lister` does not exist yet.
        DamagedFile: one of the two is not as it was written.
    """
    return get_verified(store, key, get_json(store, lister)["checksums"].get(key, ""))


def require_listed(store: Store, key: str, lister: str) -> pa.Buffer:
    """Return an object as `get_listed` does, but raise DamagedFile if the lister is missing.

    An object of a store that maps its objects is read in parts first, so that none of the mapped
    bytes is in memory yet.
    """
    try:
        wanted = get_json(store, lister)["checksums"].get(key, "")
    except KeyError:
        raise missing_error(store, lister) from None
    parts = store.parts(key)
    try:
        first = next(parts, b"")
    except KeyError:
        raise missing_error(store, key) from None
    if isinstance(first, pa.Buffer):  # the whole object
        if not first.size or (wanted and f"{checksum(key, first):08x}" != wanted):
            raise damage_error(store, key, "does not have the checksum with which it was written")
        return first
    verify(store, key, wanted)
    return require(store, key)


def require(store: Store, key: str) -> pa.Buffer:
    """Return the bytes of an object that must exist; DamagedFile if it is missing."""
    try:
        return store.get(key)
    except KeyError:
        raise missing_error(store, key) from None


def missing_error(store: Store, key: str) -> DamagedFile:
    """Return the error for an object that must exist and does not."""
    return damage_error(store, key, "is missing")


def damage_error(store: Store, key: str, damage: str) -> DamagedFile:
    """Return the error for a damaged object: its name, the damage, and how to repair it."""
    location = store.where(key) if hasattr(store, "where") else key
    return DamagedFile(f"{location} is damaged: it {damage}", hint=repair_hint(key), key=key)


def keys_to_delete(key: str) -> list[str]:
    """Return the keys to delete, in this order, so that resuming the run restores a damaged object.

    [] if that is impossible. Every step keeps the objects that exist and does the rest: without an
    outcome its units are executed again, without `collected.json` the outcomes are collected again,
    without a manifest the model is prepared and executed again.
    """
    found = re.fullmatch(r"(runs/[^/]+/models/[^/]+)/(.+)", key)
    if not found:
        return []
    model, name = found.groups()
    if outcome := re.fullmatch(r"(outcomes/.+)\.(?:status|results)\.arrow", name):
        # the first is the commit
        return [f"{model}/{outcome[1]}.status.arrow", f"{model}/{outcome[1]}.results.arrow"]
    if name in ("collected.json", "results.parquet", "units.parquet"):
        return [f"{model}/collected.json"]
    if name.startswith("retry-"):
        return [key]  # the failed units remain failed, and can be retried once more
    return [model]


def repair_hint(key: str) -> str:
    """Return how to repair a damaged object, by its key."""
    parts = key.split("/")
    if parts[0] == "runs" and "models" in parts[2:3]:
        return f"hundredfold resume {parts[1]}   restores it"
    if parts[0] == "runs" and parts[2:] == ["job.pickle"]:
        return (
            f'run the job again; or in Python, pass it: hundredfold.resume("{parts[1]}", job=job)'
        )
    if parts[0] == "runs":
        return "run the job again: this run's copy of its sources cannot be restored"
    if parts[0] == "releases" and parts[2:] == ["current.json"]:
        return (
            f"hundredfold rollback {parts[1]} --to VERSION   restores it;"
            " the folders beside it are the versions"
        )
    if parts[0] == "releases":
        return (
            "hundredfold resume RUN, with the run that published it, restores it; or hundredfold"
            f" rollback {parts[1]} --to VERSION"
        )
    return "restore it from a copy, or run the job again"
