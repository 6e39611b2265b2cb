"""The store on AWS: objects in a bucket of S3, below a prefix.

S3 writes an object whole or not at all, keeps it before it answers, and shows it to everybody at
once: what the door promises is what S3 does. Who needs a file and not bytes gets one in this
machine's temporary folder, and it does not outlive its use.
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
from .errors import BUSY, DENIED, code, in_plain_words
from .session import client

AT_ONCE = 1000  # so many keys one call may delete
TRIES = 5  # of what boto3 does not try again by itself
CUT_OFF = (
    ConnectionClosedError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
WRITTEN_BY = "hundredfold-write"  # metadata of an object: the call that wrote it
ABSENT = {"NoSuchKey", "404"}
PLAIN_ETAG = re.compile(r'"?([0-9a-f]{32})"?')  # of an object that was written in one part
TAKEN = {"PreconditionFailed", "412"}  # there is another object than the call allows
RACED = {
    "ConditionalRequestConflict",
    "409",
}  # another write of the same key was under way: ask again
REPLACED = (
    transfer.S3DownloadFailedError,
    getattr(transfer, "S3CopyFailedError", transfer.S3DownloadFailedError),
)  # a runtime of Lambda may have an older boto3 than ours, which has no such error


@dataclass(frozen=True)
class S3Store:
    """A Store in a bucket, below `prefix` ("" is the whole bucket).

    It holds no connection, and can be sent to another process.

    Keys are limited by S3 to 1,024 bytes, prefix included. An upload of many parts whose process is
    killed leaves parts that no listing shows: the bucket's lifecycle should abort incomplete
    uploads.
    """

    bucket: str
    prefix: str = ""
    _copies: Copies = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "prefix", checked_prefix(f"{self.prefix.rstrip('/')}/") if self.prefix else ""
        )
        object.__setattr__(self, "_copies", Copies())

    def where(self, key: str) -> str:
        """How a person finds the object of that key: s3://bucket/key."""
        return f"s3://{self.bucket}/{self._full(key)}"

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write whole or not at all, durable when the call returns; an object that is there is
        replaced.
        """
        full = self._full(key)
        with self._told(key, "written"):
            client("s3").put_object(Bucket=self.bucket, Key=full, Body=bytes(data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one of that key; return whether it is written.

        S3 itself lets one writer of a key win, wherever the others are (`If-None-Match: *`).
        """
        return self._put_if(key, data, IfNoneMatch="*")

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        """Replace an object that still has this entity tag; return whether it is written."""
        return self._put_if(key, data, IfMatch=etag)

    def _put_if(self, key: str, data: bytes, **condition: str) -> bool:
        """Write on a condition of S3.

        A write whose answer is lost is sent again by boto3, and refused then because of our own
        object. Its metadata name this call, so that the object is recognised.
        """
        full, call = self._full(key), uuid4().hex
        with self._told(key, "written"):
            for pause in _pauses():
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
                    if code(error) in TAKEN:
                        return self._written_by(full) == call
                    if code(error) in ABSENT and "IfMatch" in condition:
                        return False
                    if code(error) not in RACED or pause is None:
                        raise
                    time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _written_by(self, full: str) -> str:
        """Return the conditional write that made an object; "" if there is none."""
        try:
            found = client("s3").head_object(Bucket=self.bucket, Key=full)
        except ClientError as error:
            if code(error) in ABSENT:
                return ""
            raise
        return str(found["Metadata"].get(WRITTEN_BY, ""))

    def get(self, key: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none."""
        full = self._full(key)
        with self._told(key, "read"), self._absent(key):
            return pa.py_buffer(self._read(full))

    def get_with_etag(self, key: str) -> tuple[pa.Buffer, str]:
        """Return the object's bytes and its entity tag; KeyError if there is none."""
        full = self._full(key)
        with self._told(key, "read"), self._absent(key):
            answer, content = self._answer(full)
            return pa.py_buffer(content), str(answer["ETag"])

    def parts(self, key: str) -> Iterator[pa.Buffer]:
        """The object's bytes, in one part; KeyError if there is none."""
        yield self.get(key)

    def get_marked(self, key: str, mark: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none, DamagedFile if it is not the one that had
        this mark, as `marks` gives it.
        """
        full = self._full(key)
        size, _, etag = mark.partition(" ")
        with self._told(key, "read"), self._absent(key):
            try:
                found, content = self._answer(full, IfMatch=etag)
                data = pa.py_buffer(content)
            except ClientError as error:
                if code(error) in TAKEN:
                    raise damage_error(self, key, "was replaced since it was written") from error
                raise
        if data.size != int(size):
            raise damage_error(
                self, key, f"has {data.size:,} bytes, and had {int(size):,} when it was written"
            )
        if not _has_tag(content, etag, found):
            raise damage_error(self, key, "does not have the checksum with which it was written")
        return data

    def marks(self, prefix: str) -> dict[str, str]:
        """The size and entity tag of each object below a prefix that ends with '/', by key."""
        below = self.prefix + checked_prefix(prefix)
        with self._told(prefix, "listed"):
            return {
                found["Key"].removeprefix(self.prefix): f"{found['Size']} {found['ETag']}"
                for found in self._listed(below)
            }

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix that ends with '/', in order; all of them for the prefix ''."""
        below = self.prefix + checked_prefix(prefix)  # checked now, and not at the first key
        return (key for key, _ in self._objects(below))

    def beginning(self, beginning: str) -> Iterator[str]:
        """The keys that begin like this, in order: `list` for a part of a name."""
        return (key for key, _ in self._objects(self._full(beginning)))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of each object below a prefix that ends with '/', by key."""
        return dict(self._objects(self.prefix + checked_prefix(prefix)))

    def delete(self, prefix: str) -> None:
        """Remove the object of that key and all below `prefix/`; what is not there is no error."""
        key = prefix.removesuffix("/")
        full = self._full(key)
        with self._told(key, "removed"):
            keys = chain([full], (found["Key"] for found in self._listed(f"{full}/")))
            while some := [*islice(keys, AT_ONCE)]:
                self._remove(some)

    def copy(self, source: str, target: str) -> None:
        """Make `target` a copy of `source` within S3, whole or not at all; KeyError if there is no
        `source`.
        """
        there, here = self._full(source), self._full(target)
        with self._told(target, f"copied from {self.where(source)}"), self._absent(source):
            self._steady(
                source,
                lambda: client("s3").copy({"Bucket": self.bucket, "Key": there}, self.bucket, here),
            )

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A path to write to, on this machine; it becomes the object when the block ends, whole and
        durable, and nothing if it raises.
        """
        full, suffix = self._full(key), PurePosixPath(key).suffix
        with (
            self._on_disk(key),
            TemporaryDirectory(prefix="hundredfold-", ignore_cleanup_errors=True) as folder,
        ):
            path = Path(folder) / f"object{suffix}"
            yield path
            with self._told(key, "written"):
                client("s3").upload_file(str(path), self.bucket, full)

    def send(self, path: Path, key: str) -> None:
        """Let a file of this machine be the object of that key."""
        full = self._full(key)
        with self._on_disk(key), self._told(key, "written"):
            client("s3").upload_file(str(path), self.bucket, full)

    def fetch(self, key: str) -> Path:
        """A copy of the object as it is now, in a file of this machine that is there until `close`;
        KeyError if there is none.
        """
        full = self._full(key)
        with self._on_disk(key), self._told(key, "read"), self._absent(key):
            path = self._copies.new(PurePosixPath(key).suffix)
            self._steady(key, lambda: client("s3").download_file(self.bucket, full, str(path)))
            return path

    def close(self) -> None:
        """Remove the copies that were fetched; the store can be used again."""
        self._copies.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (
            self.bucket,
            self.prefix,
        )  # the copies belong to the process that fetched them

    def _full(self, key: str) -> str:
        return self.prefix + checked_key(key)

    def _objects(self, below: str) -> Iterator[tuple[str, int]]:
        """The keys and sizes of all objects below a prefix of the bucket, in the order of the keys."""
        with self._told(below.removeprefix(self.prefix), "listed"):
            for found in self._listed(below):
                if not found["Key"].endswith("/"):  # a "folder" that somebody made in the console
                    yield found["Key"].removeprefix(self.prefix), found["Size"]

    def _listed(self, below: str) -> Iterator[dict[str, Any]]:
        for page in (
            client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below)
        ):
            yield from page.get("Contents", ())

    def _read(self, full: str) -> bytes:
        return self._answer(full)[1]

    def _answer(self, full: str, **condition: str) -> tuple[dict[str, Any], bytes]:
        """What S3 says of an object, and its bytes."""
        for pause in _pauses():
            found = client("s3").get_object(
                Bucket=self.bucket, Key=full, **condition
            )  # this, boto3 tries again by itself
            try:
                return found, bytes(found["Body"].read())
            except CUT_OFF:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _steady(self, key: str, move: Callable[[], object]) -> None:
        """Do it anew where the object was replaced between two of its parts."""
        for pause in _pauses():
            try:
                move()
                return
            except REPLACED as error:
                if pause is None:
                    raise HomeError(
                        f"{self.where(key)} was replaced while it was read, {TRIES} times: {error}"
                    ) from error
                time.sleep(pause)

    def _remove(self, keys: Sequence[str]) -> None:
        for pause in _pauses():
            objects = [{"Key": key} for key in keys]
            errors = (
                client("s3")
                .delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
                .get("Errors", [])
            )
            keys = [error["Key"] for error in errors]
            if not keys:
                return
            first = next((error for error in errors if error["Code"] not in BUSY), None)
            if first or pause is None:
                raise ClientError({"Error": first or errors[0]}, "DeleteObjects")
            time.sleep(pause)

    @contextmanager
    def _absent(self, key: str) -> Iterator[None]:
        """Say as a KeyError that there is no such object."""
        try:
            yield
        except ClientError as error:
            if code(error) == "NoSuchKey" or (
                code(error) in ABSENT | DENIED and self._is_absent(key)
            ):
                raise KeyError(key) from None
            raise

    def _is_absent(self, key: str) -> bool:
        """Whether the bucket's listing has no such object.

        What is not there, S3 calls forbidden if the right to list ends at some prefixes; and where
        the object is missing, a HEAD cannot say that it was the bucket.
        """
        full = self._full(key)
        try:
            found = client("s3").list_objects_v2(Bucket=self.bucket, Prefix=full, MaxKeys=1)
        except ClientError as error:
            if code(error) in DENIED:
                return False
            raise
        return all(each["Key"] != full for each in found.get("Contents", ()))

    def _told(self, key: str, done: str) -> AbstractContextManager[None]:
        return in_plain_words(f"s3://{self.bucket}/{self.prefix}{key}", done)

    @contextmanager
    def _on_disk(self, key: str) -> Iterator[None]:
        """Say as a HomeError what goes wrong with the file that stands for the object on this
        machine.
        """
        try:
            yield
        except OSError as error:
            raise HomeError(
                f"{self.where(key)} cannot go through a file of this machine, in "
                f"{tempfile.gettempdir()}: {error.strerror or error}",
                hint=(
                    "make room there, or name another folder with TMPDIR; a Lambda function has "
                    "as much as its ephemeral storage"
                ),
            ) from error


class Copies:
    """A temporary folder for the objects that were fetched: made for the first, gone with the
    process at the latest.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers = count()
        self._folder: Path | None = None
        self._gone = weakref.finalize(self, _remove_folder, None, os.getpid())

    def new(self, suffix: str) -> Path:
        """A file that is not there yet."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="hundredfold-"))
                self._gone = weakref.finalize(self, _remove_folder, self._folder, os.getpid())
            return self._folder / f"{next(self._numbers)}{suffix}"

    def remove(self) -> None:
        with self._lock:
            self._gone()
            self._folder = None


def _has_tag(content: bytes, etag: str, answer: Mapping[str, Any]) -> bool:
    """Whether bytes have their object's entity tag, which is their MD5 where S3 encrypts with its
    own keys (the default).

    With keys of KMS, and for an upload of several parts, it is another number: True.
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
    if folder is not None and os.getpid() == owner:  # and not a child that was forked, at its end
        shutil.rmtree(folder, ignore_errors=True)


def _pauses() -> Iterator[float | None]:
    """The seconds to wait after each try, and None after the last."""
    yield from (0.1 * 2**number for number in range(TRIES - 1))
    yield None
