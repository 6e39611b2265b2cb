"""The store on AWS: objects in an S3 bucket, below a prefix.

S3 writes an object whole or not at all, makes it durable before it replies, and then shows it to
every reader: these are the promises of the port. A caller that needs a file in place of bytes gets
a temporary one on this machine, which is removed after its use.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Self
from uuid import uuid4

import pyarrow as pa
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from s3transfer import exceptions as transfer

from ...data.checksums import damage_error
from ...errors import HomeError
from ...ports.object_keys import checked_key, checked_prefix
from .errors import DENIED, THROTTLED, error_code, translate_errors
from .session import client

MAX_KEYS_PER_DELETE = 1000  # the limit of one delete call
MAX_TRIES = 5  # for errors that boto3 does not retry
INTERRUPTED = (
    ConnectionClosedError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
WRITTEN_BY = "hundredfold-write"  # metadata key of an object: the call that wrote it
NO_SUCH_KEY = {"NoSuchKey", "404"}
BEYOND_THE_END = {"InvalidRange", "416"}
PLAIN_ETAG = re.compile(r'"?([0-9a-f]{32})"?')  # of an object that was uploaded in one part
# the object is not the one that the call allows
PRECONDITION_FAILED = {"PreconditionFailed", "412"}
# a concurrent write of the same key: try again
CONFLICT = {"ConditionalRequestConflict", "409"}
# the boto3 of a Lambda runtime may be too old to have this error
REPLACED_DURING_TRANSFER = (
    transfer.S3DownloadFailedError,
    getattr(transfer, "S3CopyFailedError", transfer.S3DownloadFailedError),
)


@dataclass(frozen=True)
class S3Store:
    """A Store in a bucket, below `prefix` ("" for the whole bucket).

    It holds no connection, and can be sent to another process. S3 limits keys to 1,024 bytes,
    prefix included. If a process is killed during a multipart upload, parts remain that no listing
    shows: the bucket's lifecycle should abort incomplete uploads.
    """

    bucket: str
    prefix: str = ""
    _copies: LocalCopies = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "prefix", checked_prefix(f"{self.prefix.rstrip('/')}/") if self.prefix else ""
        )
        object.__setattr__(self, "_copies", LocalCopies())

    def where(self, key: str) -> str:
        """Return the address of an object, for a person: s3://bucket/key."""
        return f"s3://{self.bucket}/{self._full_key(key)}"

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write an object, whole or not at all, and replace one that exists.

        It is durable when the call returns.
        """
        full = self._full_key(key)
        with self._translate_errors(key, "written"):
            client("s3").put_object(Bucket=self.bucket, Key=full, Body=bytes(data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists; return whether it was written.

        S3 itself lets one writer of a key win, on whichever machines the others run
        (`If-None-Match: *`).
        """
        return self._put_if(key, data, IfNoneMatch="*")

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        """Replace an object that still has this entity tag; return whether it was written."""
        return self._put_if(key, data, IfMatch=etag)

    def _put_if(self, key: str, data: bytes, **condition: str) -> bool:
        """Write on a condition of S3; return whether this call wrote the object.

        boto3 resends a write whose reply was lost, and S3 then refuses it because of our own
        object. The object's metadata name the call that wrote it, so that it is recognised.
        """
        full, call = self._full_key(key), uuid4().hex
        with self._translate_errors(key, "written"):
            for pause in _retry_delays():
                try:
                    client("s3").put_object(
                        Bucket=self.bucket,
                        Key=full,
                        Body=data,
                        Metadata={WRITTEN_BY: call},
                        **condition,
                    )
                    return True
                except ClientError as error:
                    if error_code(error) in PRECONDITION_FAILED:
                        return self._written_by(full) == call
                    if error_code(error) in NO_SUCH_KEY and "IfMatch" in condition:
                        return False
                    if error_code(error) not in CONFLICT or pause is None:
                        raise
                    time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _written_by(self, full: str) -> str:
        """Return the conditional write that made an object; "" if there is none."""
        try:
            found = client("s3").head_object(Bucket=self.bucket, Key=full)
        except ClientError as error:
            if error_code(error) in NO_SUCH_KEY:
                return ""
            raise
        return str(found["Metadata"].get(WRITTEN_BY, ""))

    def get(self, key: str) -> pa.Buffer:
        """Return the object's bytes; KeyError if there is none."""
        full = self._full_key(key)
        with self._translate_errors(key, "read"), self._missing_as_key_error(key):
            return pa.py_buffer(self._read(full))

    def get_range(self, key: str, first: int, last: int) -> pa.Buffer:
        """Return the bytes first..last of an object, or those of them that there are.

        Raises: KeyError if there is no object.
        """
        full = self._full_key(key)
        with self._translate_errors(key, "read"), self._missing_as_key_error(key):
            try:
                return pa.py_buffer(self._get_object(full, Range=f"bytes={first}-{last}")[1])
            except ClientError as error:
                if error_code(error) in BEYOND_THE_END:
                    return pa.py_buffer(b"")
                raise

    def get_with_etag(self, key: str) -> tuple[pa.Buffer, str]:
        """Return the object's bytes and its entity tag; KeyError if there is none."""
        full = self._full_key(key)
        with self._translate_errors(key, "read"), self._missing_as_key_error(key):
            answer, content = self._get_object(full)
            return pa.py_buffer(content), str(answer["ETag"])

    def parts(self, key: str) -> Iterator[pa.Buffer]:
        """Yield the object's bytes, in one part; KeyError if there is none."""
        yield self.get(key)

    def get_marked(self, key: str, mark: str) -> pa.Buffer:
        """Return the bytes of the object that had this mark, as `marks` returned it.

        Raises:
            KeyError: there is no object.
            DamagedFile: the object has another mark.
        """
        full = self._full_key(key)
        size, _, etag = mark.partition(" ")
        with self._translate_errors(key, "read"), self._missing_as_key_error(key):
            try:
                found, content = self._get_object(full, IfMatch=etag)
                data = pa.py_buffer(content)
            except ClientError as error:
                if error_code(error) in PRECONDITION_FAILED:
                    raise damage_error(self, key, "was replaced since it was written") from error
                raise
        if data.size != int(size):
            raise damage_error(
                self, key, f"has {data.size:,} bytes, and had {int(size):,} when it was written"
            )
        if not _matches_etag(content, etag, found):
            raise damage_error(self, key, "does not have the checksum with which it was written")
        return data

    def marks(self, prefix: str) -> dict[str, str]:
        """Return the size and entity tag of each object below a prefix ending with '/'."""
        below = self.prefix + checked_prefix(prefix)
        with self._translate_errors(prefix, "listed"):
            return {
                found["Key"].removeprefix(self.prefix): f"{found['Size']} {found['ETag']}"
                for found in self._pages(below)
            }

    def list(self, prefix: str) -> Iterator[str]:
        """Return the keys below a prefix that ends with '/', in order; all of them for the prefix
        ''.
        """
        below = self.prefix + checked_prefix(prefix)  # checked now, before the first key is read
        return (key for key, _ in self._objects(below))

    def beginning(self, beginning: str) -> Iterator[str]:
        """Return the keys with this beginning, in order: `list` for a part of a name."""
        return (key for key, _ in self._objects(self._full_key(beginning)))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size in bytes of each object below a prefix that ends with '/', by key."""
        return dict(self._objects(self.prefix + checked_prefix(prefix)))

    def delete(self, prefix: str) -> None:
        """Remove the object of that key and all below `prefix/`, if they exist."""
        key = prefix.removesuffix("/")
        full = self._full_key(key)
        with self._translate_errors(key, "removed"):
            keys = chain([full], (found["Key"] for found in self._pages(f"{full}/")))
            while batch := [*islice(keys, MAX_KEYS_PER_DELETE)]:
                self._delete_keys(batch)

    def copy(self, source: str, target: str) -> None:
        """Copy `source` to `target` within S3, whole or not at all; KeyError if there is no
        `source`.
        """
        source_key, target_key = self._full_key(source), self._full_key(target)
        with (
            self._translate_errors(target, f"copied from {self.where(source)}"),
            self._missing_as_key_error(source),
        ):
            self._retry_if_replaced(
                source,
                lambda: client("s3").copy(
                    {"Bucket": self.bucket, "Key": source_key}, self.bucket, target_key
                ),
            )

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield a path on this machine, whose file becomes the object when the block ends.

        The object is whole and durable then; nothing is written if the block raises.
        """
        full, suffix = self._full_key(key), PurePosixPath(key).suffix
        with (
            self.translate_disk_errors(key),
            TemporaryDirectory(prefix="hundredfold-", ignore_cleanup_errors=True) as folder,
        ):
            path = Path(folder) / f"object{suffix}"
            yield path
            with self._translate_errors(key, "written"):
                client("s3").upload_file(str(path), self.bucket, full)

    def send(self, path: Path, key: str, tag: str = "") -> None:
        """Upload a file of this machine as the object of that key. tag: NAME=VALUE."""
        full = self._full_key(key)
        with self.translate_disk_errors(key), self._translate_errors(key, "written"):
            client("s3").upload_file(
                str(path), self.bucket, full, ExtraArgs={"Tagging": tag} if tag else None
            )

    def fetch(self, key: str) -> Path:
        """Return a local copy of the object, kept until `close`; KeyError if there is none."""
        full = self._full_key(key)
        with (
            self.translate_disk_errors(key),
            self._translate_errors(key, "read"),
            self._missing_as_key_error(key),
        ):
            path = self._copies.new_path(PurePosixPath(key).suffix)
            self._retry_if_replaced(
                key, lambda: client("s3").download_file(self.bucket, full, str(path))
            )
            return path

    def close(self) -> None:
        """Remove the copies that were fetched; the store can be used again."""
        self._copies.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # the copies belong to the process that fetched them
        return S3Store, (
            self.bucket,
            self.prefix,
        )

    def _full_key(self, key: str) -> str:
        return self.prefix + checked_key(key)

    def _objects(self, below: str) -> Iterator[tuple[str, int]]:
        """Yield the keys and sizes of all objects below a prefix of the bucket, in key order."""
        with self._translate_errors(below.removeprefix(self.prefix), "listed"):
            for found in self._pages(below):
                if not found["Key"].endswith("/"):  # a "folder" that was created in the console
                    yield found["Key"].removeprefix(self.prefix), found["Size"]

    def _pages(self, below: str) -> Iterator[dict[str, Any]]:
        for page in (
            client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below)
        ):
            yield from page.get("Contents", ())

    def _read(self, full: str) -> bytes:
        return self._get_object(full)[1]

    def _get_object(self, full: str, **condition: str) -> tuple[dict[str, Any], bytes]:
        """Return S3's reply about an object, and its bytes."""
        for pause in _retry_delays():
            # boto3 retries this call itself
            found = client("s3").get_object(Bucket=self.bucket, Key=full, **condition)
            try:
                return found, bytes(found["Body"].read())
            except INTERRUPTED:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _retry_if_replaced(self, key: str, move: Callable[[], object]) -> None:
        """Repeat a transfer if the object was replaced between two of its parts."""
        for pause in _retry_delays():
            try:
                move()
                return
            except REPLACED_DURING_TRANSFER as error:
                if pause is None:
                    raise HomeError(
                        f"{self.where(key)} was replaced while it was read, {MAX_TRIES} times: "
                        f"{error}"
                    ) from error
                time.sleep(pause)

    def _delete_keys(self, keys: Sequence[str]) -> None:
        for pause in _retry_delays():
            objects = [{"Key": key} for key in keys]
            errors = (
                client("s3")
                .delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
                .get("Errors", [])
            )
            keys = [error["Key"] for error in errors]
            if not keys:
                return
            first = next((error for error in errors if error["Code"] not in THROTTLED), None)
            if first or pause is None:
                raise ClientError({"Error": first or errors[0]}, "DeleteObjects")
            time.sleep(pause)

    @contextmanager
    def _missing_as_key_error(self, key: str) -> Iterator[None]:
        """Raise KeyError for an object that does not exist."""
        try:
            yield
        except ClientError as error:
            if error_code(error) == "NoSuchKey" or (
                error_code(error) in NO_SUCH_KEY | DENIED and self._is_absent(key)
            ):
                raise KeyError(key) from None
            raise

    def _is_absent(self, key: str) -> bool:
        """Return whether the bucket's listing has no such object.

        S3 calls a missing object forbidden if the permission to list is limited to some prefixes;
        and the reply to HEAD does not distinguish a missing object from a missing bucket.
        """
        full = self._full_key(key)
        try:
            found = client("s3").list_objects_v2(Bucket=self.bucket, Prefix=full, MaxKeys=1)
        except ClientError as error:
            if error_code(error) in DENIED:
                return False
            raise
        return all(each["Key"] != full for each in found.get("Contents", ()))

    def _translate_errors(self, key: str, participle: str) -> AbstractContextManager[None]:
        return translate_errors(f"s3://{self.bucket}/{self.prefix}{key}", participle)

    @contextmanager
    def translate_disk_errors(self, key: str) -> Iterator[None]:
        """Raise a HomeError for an error of the local file that holds the object."""
        try:
            yield
        except OSError as error:
            raise HomeError(
                f"{self.where(key)} cannot be stored in a local temporary file in "
                f"{tempfile.gettempdir()}: {error.strerror or error}",
                hint=(
                    "free space there, or name another folder with TMPDIR; a Lambda function has "
                    "as much as its ephemeral storage"
                ),
            ) from error


class LocalCopies:
    """A temporary folder for fetched objects: created for the first, removed with the process at
    the latest.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers = count()
        self._folder: Path | None = None
        self._finalizer = weakref.finalize(self, _remove_folder, None, os.getpid())

    def new_path(self, suffix: str) -> Path:
        """Return the path of a new file."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="hundredfold-"))
                self._finalizer = weakref.finalize(self, _remove_folder, self._folder, os.getpid())
            return self._folder / f"{next(self._numbers)}{suffix}"

    def remove(self) -> None:
        with self._lock:
            self._finalizer()
            self._folder = None


def _matches_etag(content: bytes, etag: str, answer: Mapping[str, Any]) -> bool:
    """Return whether bytes match their object's entity tag.

    The tag is their MD5 if S3 encrypts with its own keys (the default). With KMS keys, and for a
    multipart upload, it is another number: True.
    """
    wanted = PLAIN_ETAG.fullmatch(etag)
    if (
        wanted is None
        or answer.get("ServerSideEncryption") != "AES256"
        or "SSECustomerAlgorithm" in answer
    ):
        return True
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == wanted[1]


def _remove_folder(folder: Path | None, owner: int) -> None:
    if folder is not None and os.getpid() == owner:  # not when a forked child ends
        shutil.rmtree(folder, ignore_errors=True)


def _retry_delays() -> Iterator[float | None]:
    """Yield the seconds to wait after each try, and None after the last."""
    yield from (0.1 * 2**number for number in range(MAX_TRIES - 1))
    yield None
