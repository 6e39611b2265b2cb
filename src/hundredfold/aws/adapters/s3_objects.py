"""Objects of S3 as sources: their addresses, what is there, and one read in parts like a file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ...errors import SourceError
from ...sql.sources.listing import (
    data_files,
    is_hidden,
    kind_of_file,
    matches,
    parents,
    refuse_tables,
    refuse_unread,
)
from .errors import DENIED, code, in_plain_words
from .session import client

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.S)
FORBIDDEN = re.compile(
    r"[\x00-\x1f\x7f'\"\\`]|(?:^|/)\.\.?(?:/|$)"
)  # what could end a text in SQL, or climb out of a folder
AT_ONCE = 16
AT_MOST = 1000  # names of a folder that are looked at for the mark of a table
RIGHT = (
    "give the stack the right to read it: hundredfold deploy --source-location s3://BUCKET/PREFIX/"
)


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

    @property
    def fingerprint(self) -> list[Any]:
        """Address, size and entity tag: equal prints are taken for equal contents."""
        return [self.address, self.size, self.etag]


def split_address(address: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def find_objects(source: str, place: str) -> list[Object]:
    """The objects that an address names: one, all below a prefix, or those that match a pattern;
    SourceError if there are none. As everywhere on AWS, names and folders that begin with _ or .
    are hidden.
    """
    found = ADDRESS.fullmatch(place)
    if not found or FORBIDDEN.search(found[2] or ""):
        raise SourceError(
            f"{source}: the place is {place!r}, wanted s3://BUCKET/KEY, s3://BUCKET/PREFIX/, s3://BUCKET/PREFIX/*.parquet or glue://DATABASE/TABLE,"
            " without quotes, backslashes, control characters and ..",
            hint=(
                "AWS cannot read this machine's disk; a plain path is uploaded by `hundredfold "
                "run --backend aws`"
            ),
        )
    bucket, wanted = found[1], found[2] or ""
    pattern = re.search(r"[*?\[]", wanted)
    prefix = wanted[: pattern.start()] if pattern else wanted.rstrip("/")
    listed = {o.key: o for o in _listed(source, place, bucket, prefix)}
    if wanted in listed:
        names = [wanted] if kind_of_file(wanted) else []
    elif pattern:
        names = data_files(listed, wanted.split("/"))
    else:
        folder = f"{wanted.rstrip('/')}/" if wanted else ""
        below = [key[len(folder) :] for key in listed if key.startswith(folder)]
        names = [folder + name for name in data_files(below, None)]
    if not names:
        matching = [
            key
            for key in listed
            if wanted == key or (pattern and matches(key.split("/"), wanted.split("/")))
        ]
        raise SourceError(
            f"{source}: there is no Parquet, CSV or JSON-lines object at {place}",
            problems=[f"there is {listed[key].address}" for key in (matching or list(listed))[:5]],
            hint=(
                f"name the place with --source {source}=s3://BUCKET/PREFIX/; names end with "
                ".parquet, .csv, .tsv, .jsonl or .ndjson (or one of the last four with .gz or "
                ".zst)"
            ),
        )
    refuse_tables(source, (f"/{name}" for name in names), _Folders(bucket, prefix, listed).names_in)
    refuse_unread(source, place, names)
    return _with_bytes([listed[name] for name in sorted(names)])


def has_many(address: str) -> bool:
    """Whether more objects may be at an address than one answer names, or these credentials may not
    list them.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        return False
    wanted = found[2] or ""
    pattern = re.search(r"[*?\[]", wanted)
    prefix = wanted[: pattern.start()] if pattern else wanted.rstrip("/")
    try:
        return bool(client("s3").list_objects_v2(Bucket=found[1], Prefix=prefix)["IsTruncated"])
    except ClientError as error:
        return code(error) != "NoSuchBucket"


def _with_bytes(objects: list[Object]) -> list[Object]:
    """The objects without those of text that have no byte, unless all have none: they hold no row.

    A Parquet object has bytes or is damaged.
    """
    return [o for o in objects if o.size or kind_of_file(o.key) == "parquet"] or objects


class _Folders:
    """The folders of a bucket, in which all keys that begin with a prefix were listed."""

    def __init__(self, bucket: str, prefix: str, listed: Iterable[str]) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._there: dict[str, list[str]] = {}
        for key in listed:
            folder, _, name = f"/{key}".rpartition("/")
            self._there.setdefault(f"{folder}/", []).append(name)
            for above in parents(folder):
                self._there.setdefault(above, [])

    def names_in(self, folder: str) -> list[str] | None:
        """The names in a folder `/.../`; None where there is nothing below it, or where it may not
        be listed.
        """
        if folder in self._there or folder[1:].startswith(self._prefix):
            return self._there.get(folder)
        try:
            found = client("s3").list_objects_v2(
                Bucket=self._bucket, Prefix=folder[1:], MaxKeys=AT_MOST
            )
        except ClientError:
            return None
        names = [o["Key"][len(folder) - 1 :] for o in found.get("Contents", ())]
        return names or None


def _listed(source: str, place: str, bucket: str, prefix: str) -> list[Object]:
    with in_plain_words(place, "listed"):
        try:
            pages = (
                client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            )
            found = [
                Object(bucket, o["Key"], int(o["Size"]), o["ETag"])
                for page in pages
                for o in page.get("Contents", ())
            ]
        except ClientError as error:
            if code(error) == "NoSuchBucket":
                raise SourceError(
                    f"{source}: there is no bucket {bucket}",
                    hint=f"name it with --source {source}=s3://BUCKET/PREFIX/",
                ) from error
            if code(error) in DENIED:
                raise SourceError(
                    f"{source}: {place} may not be listed ({code(error)})", hint=RIGHT
                ) from error
            raise
    return [o for o in found if not o.key.endswith("/")]


def beside(objects: Sequence[Object], folder: str) -> list[Object]:
    """What else lies in a folder and is not hidden, and no Parquet object by its name."""
    bucket, taken = objects[0].bucket, {o.key for o in objects}
    listed = _listed("", f"s3://{bucket}/{folder}", bucket, folder)
    return [
        o
        for o in listed
        if o.key not in taken
        and o.size
        and not is_hidden(o.key[len(folder) :].split("/"))
        and kind_of_file(o.key) != "parquet"
    ]


def fingerprints(addresses: Sequence[str]) -> list[list[Any]]:
    """Address, size and entity tag of each object: equal prints are taken for equal contents.

    FileNotFoundError for one that is gone.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_fingerprint, addresses))


def _fingerprint(address: str) -> list[Any]:
    bucket, key = split_address(address)
    try:
        head = client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        raise FileNotFoundError(2, str(error), address) from error
    return [address, int(head["ContentLength"]), head["ETag"]]


class ObjectFile(io.RawIOBase):
    """An object of S3 as a file that can be sought in: only what is read is fetched.

    PermissionError or FileNotFoundError if it cannot be.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self._bucket, self._key, self._at = bucket, key, 0
        self._size = int(self._asked("head_object")["ContentLength"])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = self._asked("get_object", Range=f"bytes={self._at}-{stop - 1}")["Body"].read()
        self._at = stop
        return bytes(data)

    def size(self) -> int:
        return self._size

    def _asked(self, call: str, **more: Any) -> Any:
        try:
            return getattr(client("s3"), call)(Bucket=self._bucket, Key=self._key, **more)
        except ClientError as error:
            kind = PermissionError if code(error) in DENIED else FileNotFoundError
            raise kind(f"s3://{self._bucket}/{self._key} cannot be read: {error}") from error
