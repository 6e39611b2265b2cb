"""Checksums of the files of a home: every object carries one, and it is verified whenever the object is read.

Three places hold them, by the kind of file:

- objects in our own binary formats (Arrow streams, the pickled job) end with a trailer: `put_sealed`, `get_sealed`;
- JSON objects have a last field `checksum`, and stay JSON for other readers: `put_json`, `get_json`;
- Parquet files and what a release publishes are read by others too and stay as they are: the object that lists them has
  their checksums (`checksum_of`, `verified`).

A checksum covers the object's key as well, so a whole file in another file's place is noticed.  CRC-32 finds every burst
of up to 32 bits and misses other damage once in 4 * 10^9 times; it protects against faults of disks, and not against forgery.
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

TRAILER = struct.Struct("<8sQI")  # magic, bytes before the trailer, checksum
MAGIC = b"\nhfseal1"
JSON_CHECKSUM = re.compile(rb',\s*"checksum": "([0-9a-f]{8})"\s*}\s*$')
STEP_BYTES = (
    2**24
)  # how much is summed at once, so that Ctrl-C is heard and the lock on Python is given up


def checksum(key: str, data: bytes | pa.Buffer | memoryview) -> int:
    """Return the CRC-32 of a key and its data."""
    return extend(zlib.crc32(key.encode()), data)


def extend(crc: int, data: bytes | pa.Buffer | memoryview) -> int:
    """Return the CRC-32 continued over more data."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), STEP_BYTES):
        crc = zlib.crc32(view[start : start + STEP_BYTES], crc)
    return crc


def trailer(size: int, crc: int) -> bytes:
    """Return what follows `size` bytes whose checksum, begun with the key, is `crc`."""
    return TRAILER.pack(MAGIC, size, crc)


def put_sealed(store: Store, key: str, data: bytes | pa.Buffer) -> None:
    """Write an object with its trailer."""
    store.put(key, sealed(key, data))


def sealed(key: str, data: bytes | pa.Buffer) -> bytes:
    """Return the data with its trailer."""
    return b"".join((data, trailer(len(memoryview(data)), checksum(key, data))))


def get_sealed(store: Store, key: str) -> pa.Buffer:
    """Return an object's data without its trailer.

    Raises: KeyError where there is no object, DamagedFile where it is not what was written.
    """
    return unsealed(store, key, store.get(key))


def unsealed(store: Store, key: str, found: pa.Buffer) -> pa.Buffer:
    """Return the data of a sealed object that was read already; DamagedFile if it is not what was written."""
    size = found.size - TRAILER.size
    if size < 0:
        raise damaged(
            store, key, "is empty" if not found.size else f"is cut: it has {found.size:,} bytes"
        )
    magic, wanted, crc = TRAILER.unpack(found.slice(size))
    if magic != MAGIC or wanted != size:
        raise damaged(
            store,
            key,
            f"has {found.size:,} bytes and no checksum at its end: it is cut, or its end is damaged",
        )
    data = found.slice(0, size)
    if checksum(key, data) != crc:
        raise damaged(store, key, "does not have the checksum with which it was written")
    return data


def put_json(store: Store, key: str, fields: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object with a last field `checksum`."""
    store.put(key, json_text(key, fields, indent))


def json_text(key: str, fields: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return the text of a JSON object with a last field `checksum`."""
    text = json.dumps(fields, indent=indent, default=str)
    body = text.removesuffix("}").rstrip()
    return f'{body}, "checksum": "{checksum(key, body.encode()):08x}"}}'.encode()


def get_json(store: Store, key: str) -> dict[str, Any]:
    """Return the fields of a JSON object, without its checksum.

    Raises: KeyError where there is no object, DamagedFile where it is not what was written.
    """
    return parsed_json(store, key, store.get(key).to_pybytes())


def parsed_json(store: Store, key: str, text: bytes) -> dict[str, Any]:
    """Return the fields of a JSON text that was read already; DamagedFile if it is not what was written."""
    found = JSON_CHECKSUM.search(text)
    if not found:
        raise damaged(
            store,
            key,
            "has no checksum at its end: it is cut, or its end is damaged" if text else "is empty",
        )
    if f"{checksum(key, text[: found.start()]):08x}".encode() != found[1]:
        raise damaged(store, key, "does not have the checksum with which it was written")
    fields: dict[str, Any] = json.loads(text)
    del fields["checksum"]
    return fields


def checksum_of(store: Store, key: str) -> str:
    """Return the checksum of an object, as text, for the object that lists it; "" where there is no such object."""
    try:
        return _summed(store, key)[1]
    except KeyError:
        return ""


def _summed(store: Store, key: str) -> tuple[int, str]:
    """Return how many bytes an object has, and its checksum as text, without holding all of it."""
    size, crc = 0, zlib.crc32(key.encode())
    for part in store.parts(key):
        size, crc = size + len(memoryview(part)), extend(crc, part)
    return size, f"{crc:08x}"


def verify(store: Store, key: str, wanted: str) -> None:
    """Raise what `verified` raises, without holding the whole object."""
    try:
        size, found = _summed(store, key)
    except KeyError:
        raise missing(store, key) from None
    if not size:
        raise damaged(store, key, "is empty")
    if wanted and found != wanted:
        raise damaged(store, key, "does not have the checksum with which it was written")


def verify_listed(store: Store, key: str, lister: str) -> None:
    """Raise what `listed` raises, without holding the whole object."""
    verify(store, key, get_json(store, lister)["checksums"].get(key, ""))


def verified(store: Store, key: str, wanted: str) -> pa.Buffer:
    """Return an object's bytes if they have the checksum that was recorded; DamagedFile if not, or if it is missing."""
    data = needed(store, key)
    if not data.size:
        raise damaged(store, key, "is empty")
    if wanted and f"{checksum(key, data):08x}" != wanted:
        raise damaged(store, key, "does not have the checksum with which it was written")
    return data


def listed(store: Store, key: str, lister: str) -> pa.Buffer:
    """Return an object's bytes if they have the checksum that the JSON object `lister` has for them in its field `checksums`.

    Raises: KeyError where there is no lister yet, DamagedFile where one of the two is not what was written.
    """
    return verified(store, key, get_json(store, lister)["checksums"].get(key, ""))


def listed_needed(store: Store, key: str, lister: str) -> pa.Buffer:
    """Return what `listed` does, where the lister must be there: DamagedFile if it is missing.

    A store that maps its objects is read in parts first, so that none of the mapped bytes is in memory yet.
    """
    try:
        wanted = get_json(store, lister)["checksums"].get(key, "")
    except KeyError:
        raise missing(store, lister) from None
    parts = store.parts(key)
    try:
        first = next(parts, b"")
    except KeyError:
        raise missing(store, key) from None
    if isinstance(first, pa.Buffer):  # all of it
        if not first.size or (wanted and f"{checksum(key, first):08x}" != wanted):
            raise damaged(store, key, "does not have the checksum with which it was written")
        return first
    verify(store, key, wanted)
    return needed(store, key)


def needed(store: Store, key: str) -> pa.Buffer:
    """Return the bytes of an object that must be there; DamagedFile if it is missing."""
    try:
        return store.get(key)
    except KeyError:
        raise missing(store, key) from None


def missing(store: Store, key: str) -> DamagedFile:
    """Return the error for an object that must be there and is not."""
    return damaged(store, key, "is missing")


def damaged(store: Store, key: str, words: str) -> DamagedFile:
    """Return the error that names an object, what is wrong with it and what can be done."""
    place = store.where(key) if hasattr(store, "where") else key
    return DamagedFile(f"{place} is damaged: it {words}", hint=way_out(key), key=key)


def recomputed_from(key: str) -> list[str]:
    """Return what of a run to delete, in this order, so that its next driver makes a damaged object anew; [] where none can.

    Every step takes what is there and does the rest: without an outcome its units are done again, without `collected.json`
    the outcomes are collected again, without a manifest the model is prepared, and done, again.
    """
    found = re.fullmatch(r"(runs/[^/]+/models/[^/]+)/(.+)", key)
    if not found:
        return []
    model, name = found.groups()
    if outcome := re.fullmatch(r"(outcomes/.+)\.(?:ledger|results)\.arrow", name):
        return [
            f"{model}/{outcome[1]}.ledger.arrow",
            f"{model}/{outcome[1]}.results.arrow",
        ]  # the first is the commit
    if name in ("collected.json", "results.parquet", "units.parquet"):
        return [f"{model}/collected.json"]
    if name.startswith("retry-"):
        return [key]  # the failed units keep their failures, and can be retried once more
    return [model]


def way_out(key: str) -> str:
    """Return what can be done about a damaged object, by its key."""
    parts = key.split("/")
    if parts[0] == "runs" and "models" in parts[2:3]:
        return f"hundredfold resume {parts[1]}   makes it anew"
    if parts[0] == "runs" and parts[2:] == ["job.pickle"]:
        return (
            f'run the job again; or in Python, pass it: hundredfold.resume("{parts[1]}", job=job)'
        )
    if parts[0] == "runs":
        return "run the job again: what was read of its sources cannot be made anew for this run"
    if parts[0] == "releases" and parts[2:] == ["current.json"]:
        return f"hundredfold rollback {parts[1]} --to VERSION   writes it anew; the folders beside it are the versions"
    if parts[0] == "releases":
        return f"hundredfold resume RUN, with the run that published it, makes it anew; or hundredfold rollback {parts[1]} --to VERSION"
    return "put it back from a copy, or run the job again"
