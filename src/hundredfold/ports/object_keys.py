"""The rules for object keys: every store on every operating system can hold a valid key."""

from __future__ import annotations

import hashlib

import pyarrow as pa

TEMP_PREFIX = ".~"  # prefix of the names of partially written objects, which no key may have


def checked_key(key: str) -> str:
    """Return a key that every store can hold. Raises: ValueError for any other."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMP_PREFIX) for part in parts) or any(
        c in '\\:*?"<>|' or c < " " for c in key
    ):
        raise ValueError(
            f"{key!r} is not a key: wanted names joined by single '/', none of them '.' or '..' "
            f'or beginning with {TEMP_PREFIX!r}, and none of \\ : * ? " < > | or control '
            "characters"
        )
    return key


def etag_of(data: bytes | pa.Buffer) -> str:
    """Return an entity tag for stores that keep none: the SHA-256 of the object's bytes."""
    return hashlib.sha256(memoryview(data)).hexdigest()


def checked_prefix(prefix: str) -> str:
    """Return a prefix that is "" or a key with '/' at its end. Raises: ValueError for any other."""
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is not a prefix to list: wanted one that ends with '/'")
    return prefix and checked_key(prefix[:-1]) + "/"
