"""A store that reads ahead: what was listed will be asked for soon, and each object costs a round trip.

Collecting reads thousands of small objects one after the other, in the order of their names.  Here others are fetched meanwhile, within
bounds: so many at a time, and so many bytes before they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from .store import S3Store

THREADS = 16
AHEAD = 64 * 2**20  # bytes that may wait here to be asked for
KEPT = 64 * 2**20  # bytes of one kind that are kept for the next time they are asked for


class Ahead:
    """An S3Store, for as long as a `with`. Objects of one kind (`.ledger.arrow`, say) are expected in the order of a listing."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(THREADS)
        self._lines: dict[str, Line] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)  # whatever is not read is done as ever

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, which from now on are expected."""
        sizes = self.store.sizes(prefix)
        self._lines = {}
        for key, size in sizes.items():
            self._lines.setdefault(_kind(key), Line()).expect(key, size)
        return iter(sizes)

    def get(self, key: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none."""
        line = self._lines.get(_kind(key))
        if line is None or key not in line.places:
            return self.store.get(key)
        return line.take(key, lambda wanted: self._pool.submit(self.store.get, wanted))


@dataclass
class Line:
    """Objects of one kind in their order, and those of them that are on their way."""

    keys: list[tuple[str, int]] = field(default_factory=list)  # with their bytes
    places: dict[str, int] = field(default_factory=dict)
    coming: dict[str, Future[pa.Buffer]] = field(default_factory=dict)
    kept: dict[str, pa.Buffer] = field(default_factory=dict)
    total: int = 0  # bytes of all
    ahead: int = 0  # bytes of what is coming
    next: int = 0  # the first that is not

    def expect(self, key: str, size: int) -> None:
        self.places[key] = len(self.keys)
        self.keys.append((key, size))
        self.total += size

    def take(self, key: str, fetch: Callable[[str], Future[pa.Buffer]]) -> pa.Buffer:
        """What was fetched under that key; what follows it is being fetched from now on."""
        if key in self.kept:
            return self.kept[key]
        if key not in self.coming:  # it begins here, or again from the first
            self._forget()
            self.next = self.places[key]
        while self.next < len(self.keys) and (self.ahead < AHEAD or not self.coming):
            following, size = self.keys[self.next]
            self.coming[following] = fetch(following)
            self.ahead, self.next = self.ahead + size, self.next + 1
        found = self.coming.pop(key).result()
        self.ahead -= self.keys[self.places[key]][1]
        if self.total <= KEPT:
            self.kept[key] = found
        return found

    def _forget(self) -> None:
        for future in self.coming.values():
            future.cancel()
        self.coming.clear()
        self.ahead = 0


def _kind(key: str) -> str:
    return key.rpartition("/")[2].partition(".")[2]
