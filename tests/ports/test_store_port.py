"""The promises of the Store port, held by every implementation."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.errors import HomeError
from hundredfold.local.filesystem import FileStore, home_error
from hundredfold.ports.object_keys import TEMP_PREFIX
from hundredfold.testing import MemoryStore

KINDS: dict[str, Callable[..., Any]] = {
    "memory": lambda _: MemoryStore(),
    "local": lambda ask: FileStore(ask("tmp_path") / "home"),
    "s3": lambda ask: S3Store(ask("account").bucket(), "some/where"),
}
ODD_KEYS = [
    "a b",
    "a+b",
    "100%",
    "%41",
    "a&b=c",
    "ü/€/😀",
    "a=1/b='x'",
    "#a",
    "@;,$!()[]{}^~`",
    "e\u0301",
    "a.b..c",
    "-",
    "x" * 200,
]
NO_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a\\b",
    "c:/a",
    "a\nb",
    "a\0",
    "a/.~b",
    "a*",
]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param](request.getfixturevalue)


def files(folder: Path) -> list[str]:
    """Return every file below a folder, including half-written ones."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_get_returns_the_bytes_of_put(store: Any) -> None:
    store.put("runs/1/a.arrow", b"rows")
    assert store.get("runs/1/a.arrow") == pa.py_buffer(b"rows")


def test_a_buffer_can_be_put_as_well_as_bytes(store: Any) -> None:
    store.put("a", pa.py_buffer(b"rows"))
    assert bytes(store.get("a")) == b"rows"


def test_a_slice_of_another_object_can_be_put(store: Any) -> None:
    store.put("a", b"0123456789")
    store.put("b", store.get("a").slice(2, 3))
    assert bytes(store.get("b")) == b"234"


def test_the_parts_of_an_object_are_complete(store: Any) -> None:
    data = bytes(range(256)) * 40_000  # more than one part if the store reads in parts
    store.put("a", data)
    store.put("b", b"")
    assert b"".join(map(bytes, store.parts("a"))) == data
    assert b"".join(map(bytes, store.parts("b"))) == b""
    with pytest.raises(KeyError):
        next(store.parts("c"))


def test_an_object_may_be_empty(store: Any) -> None:
    store.put("a", b"")
    assert store.get("a").size == 0
    assert list(store.list("")) == ["a"]


def test_an_existing_object_is_replaced(store: Any) -> None:
    store.put("a", b"a long old object")
    store.put("a", b"new")
    assert bytes(store.get("a")) == b"new"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is mapped")
def test_a_buffer_stays_valid_when_its_object_is_deleted(store: Any) -> None:
    store.put("a/b", b"old" * 10_000)
    buffer = store.get("a/b")
    store.put("a/b", b"new")
    store.delete("a")
    assert bytes(buffer) == b"old" * 10_000


@pytest.mark.parametrize("key", ["a", "runs", "runs/1", "runs/1/a/b"])
def test_a_missing_object_is_a_key_error(store: Any, key: str) -> None:
    store.put("runs/1/a", b"rows")
    with pytest.raises(KeyError, match=key):
        store.get(key)


def test_a_listing_is_sorted_by_key(store: Any) -> None:
    keys = ["a/b", "a.b", "a-b/c", "a0", "a/b.c", "a/c/d", "b", "a/B", "a/ü", "a/c.d"]
    for key in keys:
        store.put(key, b"")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a/")) == ["a/B", "a/b", "a/b.c", "a/c.d", "a/c/d", "a/ü"]


def test_a_listing_contains_only_keys_below_the_prefix(store: Any) -> None:
    for key in ["runs/1/a", "runs/1/b/c", "runs/10/a", "other"]:
        store.put(key, b"")
    assert list(store.list("runs/1/")) == ["runs/1/a", "runs/1/b/c"]


@pytest.mark.parametrize("prefix", ["", "nothing/", "runs/1/a/"])
def test_a_listing_without_objects_is_empty(store: Any, prefix: str) -> None:
    if prefix:
        store.put("runs/1/a", b"")
    assert list(store.list(prefix)) == []


@pytest.mark.parametrize("key", ODD_KEYS)
def test_unusual_keys_are_allowed(store: Any, key: str) -> None:
    store.put(key, b"rows")
    store.put(
        f"{key}/not below it" if isinstance(store, MemoryStore | S3Store) else f"{key} 2", b""
    )
    assert bytes(store.get(key)) == b"rows"
    assert key in store.list("")
    store.delete(key)
    assert key not in store.list("")
    with pytest.raises(KeyError):
        store.get(key)


def test_a_listing_of_thousands_is_complete_and_sorted(store: Any) -> None:
    keys = [f"runs/{number:05d}" for number in range(1_050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), reversed(keys)))
    assert list(store.list("runs/")) == keys
    store.delete("runs")
    assert list(store.list("")) == []


def test_a_listed_prefix_must_end_with_a_slash(store: Any) -> None:
    with pytest.raises(ValueError, match="ends with '/'"):
        store.list("runs")


def test_delete_removes_the_object_and_all_below(store: Any) -> None:
    for key in ["runs/1/a", "runs/1/b/c", "runs/10/a", "runs/1.json"]:
        store.put(key, b"")
    store.delete("runs/1")
    assert list(store.list("")) == ["runs/1.json", "runs/10/a"]
    store.delete("runs/1.json")
    assert list(store.list("")) == ["runs/10/a"]


def test_a_deleted_prefix_may_end_with_a_slash(store: Any) -> None:
    store.put("runs/1/a", b"")
    store.delete("runs/1/")
    assert list(store.list("")) == []


@pytest.mark.parametrize("key", ["a", "runs/1/a/b", "runs/2"])
def test_deleting_a_missing_object_is_allowed(store: Any, key: str) -> None:
    store.delete(key)
    store.put("runs/1/a", b"")
    store.delete(key)
    assert list(store.list("")) == ["runs/1/a"]


def test_after_a_deletion_the_key_can_be_used_again(store: Any) -> None:
    store.put("a/b", b"1")
    store.delete("a")
    store.put("a", b"2")
    assert bytes(store.get("a")) == b"2"


@pytest.mark.parametrize("key", NO_KEYS)
def test_invalid_keys_are_rejected_by_every_method(store: Any, key: str) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        store.put(key, b"")
    with pytest.raises(ValueError, match="is not a key"):
        store.get(key)
    if not key.endswith("/"):
        with pytest.raises(ValueError, match="is not a key"):
            store.delete(key)


@given(key=st.text(max_size=12) | st.text("./\\a~:", max_size=6))
def test_a_key_is_inside_of_the_folder_or_is_rejected(key: str) -> None:
    root = Path("/home/of/runs")
    try:
        path = FileStore(root).path(key)
    except ValueError:
        return
    assert path.relative_to(root).as_posix() == key
    assert path.resolve().is_relative_to(root.resolve())


def test_a_reader_gets_a_whole_object_or_none(store: Any) -> None:
    sizes = range(1, 60)

    def write() -> None:
        for size in sizes:
            store.put("folder/object", bytes([size]) * size * 1000)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            assert list(store.list("")) in ([], ["folder/object"])
            try:
                found = bytes(store.get("folder/object"))
            except KeyError:
                continue  # not written yet
            assert found == bytes([found[0]]) * found[0] * 1000
        writing.result()


def test_many_threads_put_into_one_new_folder(store: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.put(f"a/b/c/{i % 10}", str(i % 10).encode()), range(40)))
    assert [bytes(store.get(key)) for key in store.list("a/")] == [
        str(i).encode() for i in range(10)
    ]


def test_half_written_objects_are_not_visible_in_a_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a/b", b"")
    # left behind by a killed writer
    (tmp_path / "a" / f"{TEMP_PREFIX}killed").write_bytes(b"hal")
    assert list(store.list("")) == ["a/b"]
    store.delete("a")
    assert files(tmp_path) == []


def test_a_failed_write_leaves_only_the_old_object(
    tmp_path: Path, small_files: Callable[[int], AbstractContextManager[None]]
) -> None:
    store = FileStore(tmp_path)
    store.put("a/b", b"old")
    with small_files(10_000), pytest.raises(HomeError, match="cannot be written"):
        store.put("a/b", b"new" * 100_000)
    assert bytes(store.get("a/b")) == b"old"
    assert files(tmp_path) == ["b"]


def test_reading_from_a_folder_copies_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a", b"x" * 1_000_000)
    before = pa.total_allocated_bytes()
    buffer = store.get("a")
    assert pa.total_allocated_bytes() == before
    assert buffer.size == 1_000_000


def test_a_folder_returns_the_path_of_an_object(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a/b", b"rows")
    assert store.path("a/b").read_bytes() == b"rows"


def test_a_read_only_folder_is_named(
    closed_folder: Path, guest: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with guest(closed_folder), pytest.raises(HomeError, match="cannot be written") as caught:
        FileStore(closed_folder).put("a/b", b"")
    assert str(closed_folder) in caught.value.message
    assert "--home" in str(caught.value.hint)


def test_a_folder_without_access_is_named(
    closed_folder: Path, guest: Callable[[Path], AbstractContextManager[None]]
) -> None:
    inside = closed_folder / "inside"
    inside.mkdir()
    with guest(closed_folder), pytest.raises(HomeError, match="cannot be written") as caught:
        # the files and folders in it have lost their x bit
        FileStore(inside / "deeper").put("a", b"")
    assert str(closed_folder) in caught.value.message


def test_a_full_disk_is_reported_with_needed_and_free_bytes(tmp_path: Path) -> None:
    error = home_error(
        OSError(errno.ENOSPC, "No space left on device"),
        tmp_path / "not" / "there",
        "written",
        wanted=1_234_567,
    )
    assert error.message.startswith(
        f"the disk is full: 1,234,567 bytes wanted at {tmp_path / 'not' / 'there'}, "
    )
    assert error.message.endswith(" free")
    assert "hundredfold resume" in str(error.hint)


def test_a_key_below_an_object_is_an_error(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a", b"")
    with pytest.raises(HomeError, match="a/b cannot be written"):
        store.put("a/b", b"")
