"""S3 objects as sources: their addresses, their listing, and one object read like a file."""

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
    reject_table_formats,
    reject_unread_files,
)
from .errors import DENIED, error_code, translate_errors
from .session import client

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.S)
# these could end a string in SQL, or leave a folder
FORBIDDEN_IN_KEYS = re.compile(r"[\x00-\x1f\x7f'\"\\`]|(?:^|/)\.\.?(?:/|$)")
REQUEST_THREADS = 16
MAX_FOLDER_KEYS = 1000  # keys of a folder that are searched for the marker of a table format
READ_PERMISSION_HINT = (
    "allow the stack to read it: hundredfold deploy --source-location s3://BUCKET/PREFIX/"
)


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object of S3: its address, its size in bytes, and the entity tag of its content."""

    bucket: str
    key: str
    size: int
    etag: str

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def fingerprint(self) -> list[Any]:
        """Address, size and entity tag: equal values are taken for equal contents."""
        return [self.address, self.size, self.etag]


def split_address(address: str) -> tuple[str, str]:
    """Return bucket and key of s3://bucket/key."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def find_objects(source: str, location: str) -> list[S3Object]:
    """Return the objects of an address: one object, all below a prefix, or the matches of a
    pattern.

    As everywhere on AWS, names and folders that begin with _ or . are hidden.

    Raises:
        SourceError: there are none.
    """
    bucket, address_key = _parse_location(source, location)
    pattern = re.search(r"[*?\[]", address_key)
    prefix = address_key[: pattern.start()] if pattern else address_key.rstrip("/")
    listed = {o.key: o for o in _list_objects(source, location, bucket, prefix)}
    if address_key in listed:
        names = [address_key] if kind_of_file(address_key) else []
    elif pattern:
        names = data_files(listed, address_key.split("/"))
    else:
        folder = f"{address_key.rstrip('/')}/" if address_key else ""
        below = [key[len(folder) :] for key in listed if key.startswith(folder)]
        names = [folder + name for name in data_files(below, None)]
    if not names:
        matching = [
            key
            for key in listed
            if address_key == key or (pattern and matches(key.split("/"), address_key.split("/")))
        ]
        raise SourceError(
            f"{source}: found no Parquet, CSV or JSON-lines object at {location}",
            problems=[f"found {listed[key].address}" for key in (matching or list(listed))[:5]],
            hint=(
                f"give its location with --source {source}=s3://BUCKET/PREFIX/; names end with "
                ".parquet, .csv, .tsv, .jsonl or .ndjson (or one of the last four with .gz or "
                ".zst)"
            ),
        )
    reject_table_formats(
        source, (f"/{name}" for name in names), _Folders(bucket, prefix, listed).names_in
    )
    reject_unread_files(source, location, names)
    return _without_empty_text([listed[name] for name in sorted(names)])


def _parse_location(source: str, location: str) -> tuple[str, str]:
    """Return the bucket and the key, prefix or pattern of an address; "" for a whole bucket."""
    found = ADDRESS.fullmatch(location)
    if not found or FORBIDDEN_IN_KEYS.search(found[2] or ""):
        raise SourceError(
            f"{source}: the location is {location!r}, expected s3://BUCKET/KEY, "
            "s3://BUCKET/PREFIX/, s3://BUCKET/PREFIX/*.parquet or glue://DATABASE/TABLE (and "
            "/COLUMN=VALUE for partitions), without quotes, backslashes, control characters and "
            "..",
            hint=(
                "AWS cannot read the disk of this machine; `hundredfold run --backend aws` "
                "uploads a plain path"
            ),
        )
    return found[1], found[2] or ""


def may_exceed_one_listing(address: str) -> bool:
    """Return whether an address may have more objects than one listing page.

    True as well if these credentials may not list it.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        return False
    address_key = found[2] or ""
    pattern = re.search(r"[*?\[]", address_key)
    prefix = address_key[: pattern.start()] if pattern else address_key.rstrip("/")
    try:
        return bool(client("s3").list_objects_v2(Bucket=found[1], Prefix=prefix)["IsTruncated"])
    except ClientError as error:
        return error_code(error) != "NoSuchBucket"


def _without_empty_text(objects: list[S3Object]) -> list[S3Object]:
    """Leave out empty text objects, which hold no row, unless all objects are empty.

    An empty Parquet object is damaged, and stays in the list.
    """
    return [o for o in objects if o.size or kind_of_file(o.key) == "parquet"] or objects


class _Folders:
    """The folders of a bucket, given a listing of all keys below a prefix."""

    def __init__(self, bucket: str, prefix: str, listed: Iterable[str]) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._names: dict[str, list[str]] = {}
        for key in listed:
            folder, _, name = f"/{key}".rpartition("/")
            self._names.setdefault(f"{folder}/", []).append(name)
            for above in parents(folder):
                self._names.setdefault(above, [])

    def names_in(self, folder: str) -> list[str] | None:
        """Return the names in a folder `/.../`; None if it is empty or may not be listed."""
        if folder in self._names or folder[1:].startswith(self._prefix):
            return self._names.get(folder)
        try:
            found = client("s3").list_objects_v2(
                Bucket=self._bucket, Prefix=folder[1:], MaxKeys=MAX_FOLDER_KEYS
            )
        except ClientError:
            return None
        names = [o["Key"][len(folder) - 1 :] for o in found.get("Contents", ())]
        return names or None


def _list_objects(source: str, location: str, bucket: str, prefix: str) -> list[S3Object]:
    with translate_errors(location, "listed"):
        try:
            pages = (
                client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            )
            found = [
                S3Object(bucket, o["Key"], int(o["Size"]), o["ETag"])
                for page in pages
                for o in page.get("Contents", ())
            ]
        except ClientError as error:
            if error_code(error) == "NoSuchBucket":
                raise SourceError(
                    f"{source}: found no bucket {bucket}",
                    hint=f"name it with --source {source}=s3://BUCKET/PREFIX/",
                ) from error
            if error_code(error) in DENIED:
                raise SourceError(
                    f"{source}: these credentials may not list {location} ({error_code(error)})",
                    hint=READ_PERMISSION_HINT,
                ) from error
            raise
    return [o for o in found if not o.key.endswith("/")]


def other_objects_in(objects: Sequence[S3Object], folder: str) -> list[S3Object]:
    """Return the other visible objects of a folder, other than Parquet by their names."""
    bucket, taken = objects[0].bucket, {o.key for o in objects}
    listed = _list_objects("", f"s3://{bucket}/{folder}", bucket, folder)
    return [
        o
        for o in listed
        if o.key not in taken
        and o.size
        and not is_hidden(o.key[len(folder) :].split("/"))
        and kind_of_file(o.key) != "parquet"
    ]


def fingerprints(addresses: Sequence[str]) -> list[list[Any]]:
    """Return address, size and entity tag of each object: equal values are taken for equal
    contents.

    Raises:
        FileNotFoundError: an object is gone.
    """
    with ThreadPoolExecutor(REQUEST_THREADS) as pool:
        return list(pool.map(_fingerprint, addresses))


def _fingerprint(address: str) -> list[Any]:
    bucket, key = split_address(address)
    try:
        head = client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        raise FileNotFoundError(2, str(error), address) from error
    return [address, int(head["ContentLength"]), head["ETag"]]


class ObjectFile(io.RawIOBase):
    """An S3 object as a seekable file: only the ranges that are read are fetched.

    Raises PermissionError or FileNotFoundError if it cannot be read.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self._bucket, self._key, self._at = bucket, key, 0
        self._size = int(self._call("head_object")["ContentLength"])

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
        data = self._call("get_object", Range=f"bytes={self._at}-{stop - 1}")["Body"].read()
        self._at = stop
        return bytes(data)

    def size(self) -> int:
        return self._size

    def _call(self, call: str, **more: Any) -> Any:
        try:
            return getattr(client("s3"), call)(Bucket=self._bucket, Key=self._key, **more)
        except ClientError as error:
            kind = PermissionError if error_code(error) in DENIED else FileNotFoundError
            raise kind(f"s3://{self._bucket}/{self._key} cannot be read: {error}") from error
