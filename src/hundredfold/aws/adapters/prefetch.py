"""A store that fetches listed objects before they are read, since each object costs a round trip.

Collecting reads thousands of small objects one after the other, in the order of their names.
Meanwhile this store fetches the next ones, within two bounds: the number of concurrent requests,
and the bytes that are fetched before they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from .plain_reads import PlainReader
from .s3_store import S3Store

FETCH_THREADS = 16
MAX_PREFETCH_BYTES = 64 * 2**20
MAX_CACHED_BYTES = 64 * 2**20


class PrefetchingStore:
    """An S3Store for the duration of a `with` block.

    Objects with the same suffix (such as `.status.arrow`) are expected in the order of the listing.

    `prefetch_bytes`  of each suffix that may be fetched before they are read
    `cache_bytes`     a suffix with at most this many bytes stays in memory after it is read
    """

    def __init__(
        self,
        store: S3Store,
        *,
        prefetch_bytes: int = MAX_PREFETCH_BYTES,
        cache_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self.store, self.prefetch_bytes, self.cache_bytes = store, prefetch_bytes, cache_bytes
        self._pool = ThreadPoolExecutor(FETCH_THREADS)
        self._queues: dict[str, PrefetchQueue] = {}
        self._reader = PlainReader(store.bucket)

    def __enter__(self) -> PrefetchingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)  # only reading differs from the store

    def list(self, prefix: str) -> Iterator[str]:
        """Return the keys below a prefix, whose objects are expected from now on."""
        sizes = self.store.sizes(prefix)
        by_suffix: dict[str, dict[str, int]] = {}
        for key, size in sizes.items():
            by_suffix.setdefault(_suffix(key), {})[key] = size
        self._queues = {
            suffix: PrefetchQueue(
                expected, self.prefetch_bytes, sum(expected.values()) <= self.cache_bytes
            )
            for suffix, expected in by_suffix.items()
        }
        return iter(sizes)

    def get(self, key: str) -> pa.Buffer:
        """Return the object's bytes; KeyError if there is none."""
        queue = self._queues.get(_suffix(key))
        if queue is None or key not in queue.sizes:
            return self.store.get(key)
        return queue.take(key, lambda wanted: self._pool.submit(self._read, wanted))

    def _read(self, key: str) -> pa.Buffer:
        found = self._reader.read(self.store.prefix + key)
        return self.store.get(key) if found is None else pa.py_buffer(found)


class PrefetchQueue:
    """The objects of one suffix in order, and the requests for them that are in flight."""

    def __init__(self, sizes: Mapping[str, int], prefetch_bytes: int, cache: bool) -> None:
        self.sizes, self.prefetch_bytes, self.cache = sizes, prefetch_bytes, cache
        self.keys = list(sizes)
        self.positions = {key: position for position, key in enumerate(self.keys)}
        self.in_flight: dict[str, Future[pa.Buffer]] = {}
        self.cached: dict[str, pa.Buffer] = {}
        self.bytes_in_flight = 0
        self.next = 0  # position of the first object that is not requested yet

    def take(self, key: str, fetch: Callable[[str], Future[pa.Buffer]]) -> pa.Buffer:
        """Return the object of that key, and request the ones that follow it."""
        if key in self.cached:
            return self.cached[key]
        if key not in self.in_flight:
            # the first read, or the reader restarted or skipped some keys
            self._cancel()
            self.next = self.positions[key]
        while self.next < len(self.keys) and (
            self.bytes_in_flight < self.prefetch_bytes or not self.in_flight
        ):
            following = self.keys[self.next]
            self.in_flight[following] = fetch(following)
            self.bytes_in_flight += self.sizes[following]
            self.next += 1
        found = self.in_flight.pop(key).result()
        self.bytes_in_flight -= self.sizes[key]
        if self.cache:
            self.cached[key] = found
        return found

    def _cancel(self) -> None:
        for future in self.in_flight.values():
            future.cancel()
        self.in_flight.clear()
        self.bytes_in_flight = 0


def _suffix(key: str) -> str:
    return key.rpartition("/")[2].partition(".")[2]
