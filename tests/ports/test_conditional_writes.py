"""The promises of a Store's conditional writes: of all the writers of a key, one wins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.local.filesystem import FileStore
from hundredfold.ports.interfaces import Store
from hundredfold.testing import MemoryStore
from support.aws_account import Account
from support.faulty_connection import FaultyConnection

KINDS: dict[str, Callable[[Callable[[str], Any]], Store]] = {
    "memory": lambda _: MemoryStore(),
    "local": lambda ask: FileStore(ask("tmp_path") / "home"),
    "s3": lambda ask: S3Store(ask("account").bucket(), "some/where"),
}
WRITERS = 8


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Store:
    return KINDS[request.param](request.getfixturevalue)


def test_an_absent_object_is_written_once(store: Store) -> None:
    assert store.put_if_absent("claims/1", b"first")
    assert not store.put_if_absent("claims/1", b"second")
    assert bytes(store.get("claims/1")) == b"first"


def test_a_second_writer_of_the_same_bytes_learns_that_it_lost(store: Store) -> None:
    assert store.put_if_absent("claims/1", b"first")
    assert not store.put_if_absent("claims/1", b"first")
    store.put("pointer", b"1")
    _, etag = store.get_with_etag("pointer")
    assert store.put_if_match("pointer", b"2", etag)
    assert not store.put_if_match("pointer", b"2", etag)


def test_an_object_is_replaced_while_it_is_the_one_that_was_read(store: Store) -> None:
    store.put("pointer", b"1")
    found, etag = store.get_with_etag("pointer")
    assert bytes(found) == b"1"
    assert store.put_if_match("pointer", b"2", etag)
    assert not store.put_if_match("pointer", b"3", etag)
    assert bytes(store.get("pointer")) == b"2"
    _, newer = store.get_with_etag("pointer")
    assert store.put_if_match("pointer", b"3", newer)


def test_an_object_that_was_removed_is_not_replaced(store: Store) -> None:
    store.put("pointer", b"1")
    _, etag = store.get_with_etag("pointer")
    store.delete("pointer")
    assert not store.put_if_match("pointer", b"2", etag)
    assert list(store.list("")) == []


def test_the_entity_tag_of_an_absent_object_is_a_key_error(store: Store) -> None:
    with pytest.raises(KeyError):
        store.get_with_etag("pointer")


def test_conditional_writes_leave_nothing_else_in_a_listing(store: Store) -> None:
    store.put_if_absent("a", b"1")
    store.put_if_match("a", b"2", store.get_with_etag("a")[1])
    assert list(store.list("")) == ["a"]


def test_one_of_many_threads_makes_an_object(store: Store) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(5):
            key = f"claims/{number}"
            won = [
                *pool.map(lambda n, key=key: store.put_if_absent(key, b"%d" % n), range(WRITERS))
            ]
            assert won.count(True) == 1
            assert bytes(store.get(key)) == b"%d" % won.index(True)


def test_one_of_many_threads_replaces_an_object(store: Store) -> None:
    store.put("pointer", b"0")
    with ThreadPoolExecutor(WRITERS) as pool:
        for round_number in range(5):
            _, etag = store.get_with_etag("pointer")
            values = [b"%d of %d" % (n, round_number) for n in range(WRITERS)]
            won = [*pool.map(lambda v, etag=etag: store.put_if_match("pointer", v, etag), values)]
            assert won.count(True) == 1
            assert bytes(store.get("pointer")) == values[won.index(True)]


def test_a_conditional_write_whose_answer_is_lost_counts_as_written(
    account: Account, connection: FaultyConnection
) -> None:
    store = S3Store(account.bucket(), "some/where")
    connection.lose_reply("PUT")
    assert store.put_if_absent("pointer", b"1")
    _, etag = store.get_with_etag("pointer")
    connection.lose_reply("PUT")
    assert store.put_if_match("pointer", b"2", etag)
    assert not store.put_if_match("pointer", b"2", etag)
    assert bytes(store.get("pointer")) == b"2"


def test_processes_that_count_in_one_object_lose_no_count(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "home")
    store.put("count", b"0")
    script = (
        "import sys\n"
        "from hundredfold.local.filesystem import FileStore\n"
        "store = FileStore(sys.argv[1])\n"
        "for _ in range(40):\n"
        "    while True:\n"
        "        found, etag = store.get_with_etag('count')\n"
        "        if store.put_if_match('count', b'%d' % (int(bytes(found)) + 1), etag):\n"
        "            break\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "home")]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert bytes(store.get("count")) == b"120"
