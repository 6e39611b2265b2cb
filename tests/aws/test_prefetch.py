"""A store that prefetches returns the same objects as the store, in any order of reading."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from hundredfold.aws.adapters.plain_reads import MAX_REFUSALS, PlainReader
from hundredfold.aws.adapters.prefetch import PrefetchingStore
from hundredfold.aws.adapters.s3_store import S3Store
from support.emulator import Emulator

KEYS = {
    f"runs/r/outcomes/{number:03d}.{kind}.arrow": 100 * number + len(kind)
    for number in range(60)
    for kind in ("status", "results")
}


@pytest.fixture
def store(aws_env: Emulator, name_of: Callable[[str], str]) -> S3Store:
    bucket = name_of("bucket")
    aws_env.client("s3").create_bucket(Bucket=bucket)
    store = S3Store(bucket)
    for key, size in KEYS.items():
        store.put(key, key.encode().ljust(size, b"."))
    return store


def test_objects_with_unusual_keys_are_read_without_boto3(store: S3Store) -> None:
    keys = ("a b+c/ü%41~(x)'.arrow", "runs/r=1/k&v")
    for key in keys:
        store.put(key, key.encode())
    with closing(PlainReader(store.bucket)) as reader:
        assert [reader.read(key) for key in keys] == [key.encode() for key in keys]
        for connection in reader._idle:  # as a service ends it that was idle for long
            connection.sock.shutdown(socket.SHUT_RDWR)
        assert reader.read(keys[0]) == keys[0].encode()
        assert (len(reader._idle), reader._refusals) == (1, 0)


def test_boto3_reads_what_a_plain_request_does_not(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PlainReader(store.bucket)
    assert reader.read("no such key") is None
    reader.close()
    monkeypatch.setattr(reader, "_base", "http://127.0.0.1:1/refused")
    assert [reader.read(key) for key in sorted(KEYS)[: MAX_REFUSALS + 1]] == [None] * (
        MAX_REFUSALS + 1
    )
    monkeypatch.undo()
    assert reader.read(min(KEYS)) is None  # from then on, boto3 reads all
    with PrefetchingStore(store) as ahead:
        ahead._reader = reader
        assert list(ahead.list("runs/r/outcomes/")) == sorted(KEYS)
        assert ahead.get(min(KEYS)).to_pybytes() == content(min(KEYS))


def content(key: str) -> bytes:
    return key.encode().ljust(KEYS[key], b".")


@pytest.mark.parametrize(("prefetch_bytes", "cache_bytes"), [(2**20, 2**20), (5_000, 0), (1, 0)])
def test_the_bytes_of_objects_are_the_same_in_any_order(
    store: S3Store, prefetch_bytes: int, cache_bytes: int
) -> None:
    chance = random.Random(prefetch_bytes)
    with PrefetchingStore(store, prefetch_bytes=prefetch_bytes, cache_bytes=cache_bytes) as ahead:
        assert list(ahead.list("runs/r/outcomes/")) == sorted(KEYS)
        in_order = sorted(KEYS)
        some = [key for key in in_order if chance.random() < 0.5]  # others are never read
        for key in [*in_order, *some, *chance.sample(in_order, 40)]:
            assert ahead.get(key).to_pybytes() == content(key)


def test_unlisted_objects_are_read_and_missing_ones_are_key_errors(store: S3Store) -> None:
    with PrefetchingStore(store) as ahead:
        list(ahead.list("runs/r/outcomes/"))
        ahead.put("runs/r/other.json", b"{}")
        assert ahead.get("runs/r/other.json").to_pybytes() == b"{}"
        with pytest.raises(KeyError):
            ahead.get("runs/r/outcomes/999.status.arrow")


def test_an_object_removed_after_the_listing_is_a_key_error(store: S3Store) -> None:
    with PrefetchingStore(store) as ahead:
        first, second, *_ = ahead.list("runs/r/outcomes/")
        store.delete(second)
        assert ahead.get(first).to_pybytes() == content(first)
        with pytest.raises(KeyError):
            ahead.get(second)
