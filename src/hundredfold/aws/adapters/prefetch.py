"""A store that reads ahead: what was listed will be asked for soon, and each object costs a round
trip.

Collecting reads thousands of small objects one after the other, in the order of their names. Here
others are fetched meanwhile, within bounds: so many at a time, and so many bytes before they are
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from .s3_store import S3Store

THREADS = 16
MOST = 64 * 2**20  # bytes


class PrefetchingStore:
    """An S3Store, for as long as a `with`.

    Objects of one kind (`.ledger.arrow`, say) are expected in the order of a listing.

    `room`  bytes of each kind that may be here before they are asked for
    `kept`  a kind that has so many bytes at most is kept, for the next time it is asked for
    """

    def __init__(self, store: S3Store, *, room: int = MOST, kept: int = MOST) -> None:
        self.store, self.room, self.kept = store, room, kept
        self._pool = ThreadPoolExecutor(THREADS)
        self._lines: dict[str, PrefetchQueue] = {}

    def __enter__(self) -> PrefetchingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)  # whatever is not read is done as ever

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, which from now on are expected."""
        sizes = self.store.sizes(prefix)
        kinds: dict[str, dict[str, int]] = {}
        for key, size in sizes.items():
            kinds.setdefault(_kind(key), {})[key] = size
        self._lines = {
            kind: PrefetchQueue(expected, self.room, sum(expected.values()) <= self.kept)
            for kind, expected in kinds.items()
        }
        return iter(sizes)

    def get(self, key: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none."""
        line = self._lines.get(_kind(key))
        if line is None or key not in line.sizes:
            return self.store.get(key)
        return line.take(key, lambda wanted: self._pool.submit(self.store.get, wanted))


class PrefetchQueue:
    """Objects of one kind in their order, and those of them that are on their way."""

    def __init__(self, sizes: Mapping[str, int], room: int, keep: bool) -> None:
        self.sizes, self.room, self.keep = sizes, room, keep
        self.keys = list(sizes)
        self.places = {key: place for place, key in enumerate(self.keys)}
        self.coming: dict[str, Future[pa.Buffer]] = {}
        self.kept: dict[str, pa.Buffer] = {}
        self.bytes = 0  # of what is coming
        self.next = 0  # the place of the first that is not

    def take(self, key: str, fetch: Callable[[str], Future[pa.Buffer]]) -> pa.Buffer:
        """What is fetched under that key; what follows it is being fetched from now on."""
        if key in self.kept:
            return self.kept[key]
        if (
            key not in self.coming
        ):  # it begins here, or again from the first, or some were not wanted
            self._forget()
            self.next = self.places[key]
        while self.next < len(self.keys) and (self.bytes < self.room or not self.coming):
            following = self.keys[self.next]
            self.coming[following] = fetch(following)
            self.bytes, self.next = self.bytes + self.sizes[following], self.next + 1
        found = self.coming.pop(key).result()
        self.bytes -= self.sizes[key]
        if self.keep:
            self.kept[key] = found
        return found

    def _forget(self) -> None:
        for future in self.coming.values():
            future.cancel()
        self.coming.clear()
        self.bytes = 0


def _kind(key: str) -> str:
    return key.rpartition("/")[2].partition(".")[2]
