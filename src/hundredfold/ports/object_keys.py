"""What may be the name of an object: every kind of store, on every system, can hold it."""

from __future__ import annotations

TEMP_PREFIX = ".~"  # the names of half-written objects begin so; no key may


def checked_key(key: str) -> str:
    """The key, if every kind of store on every system can hold it; else ValueError."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMP_PREFIX) for part in parts) or any(
        c in '\\:*?"<>|' or c < " " for c in key
    ):
        raise ValueError(
            f"{key!r} is not a key: wanted names joined by single '/', none of them '.' or '..' or beginning with {TEMP_PREFIX!r}, "
            f'and none of \\ : * ? " < > | or control characters'
        )
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix, if it is '' or a key and '/'; else ValueError."""
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is not a prefix to list: wanted one that ends with '/'")
    return prefix and checked_key(prefix[:-1]) + "/"
