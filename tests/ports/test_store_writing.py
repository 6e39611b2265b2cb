"""The promises of a store to callers that write a file: it becomes the object at the end, or not at
all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.errors import HomeError
from hundredfold.local.filesystem import FileStore

KINDS: dict[str, Callable[..., Any]] = {
    "local": lambda ask: FileStore(ask("tmp_path") / "home"),
    "s3": lambda ask: S3Store(ask("account").bucket(), "some/where"),
}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store whose local files are below `tmp_path`."""
    store = KINDS[request.param](request.getfixturevalue)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return store


def left(tmp_path: Path) -> list[str]:
    """Return the temporary files, and the hidden ones next to objects."""
    return [
        path.name
        for path in tmp_path.rglob("*")
        if path.is_file() and (path.name.startswith(".") or "temporary" in path.parts)
    ]


def test_the_written_file_becomes_the_object(store: Any, tmp_path: Path) -> None:
    with store.writing("a/ü b.parquet") as path:
        path.write_bytes(b"rows")
    assert bytes(store.get("a/ü b.parquet")) == b"rows"
    assert left(tmp_path) == []


def test_the_object_is_replaced_only_when_the_block_ends(store: Any) -> None:
    store.put("a", b"old")
    with store.writing("a") as path:
        path.write_bytes(b"new")
        assert bytes(store.get("a")) == b"old"
        assert list(store.list("")) == ["a"]
    assert bytes(store.get("a")) == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_block_that_raises_writes_nothing(
    store: Any, tmp_path: Path, error: type[BaseException]
) -> None:
    def write(key: str) -> None:
        with store.writing(key) as path:
            path.write_bytes(b"half")
            raise error

    store.put("a/old", b"old")
    for key in ("a/old", "a/new"):
        with pytest.raises(error):
            write(key)
    assert list(store.list("")) == ["a/old"]
    assert bytes(store.get("a/old")) == b"old"
    assert left(tmp_path) == []


def test_a_block_that_writes_no_file_is_an_error(store: Any) -> None:
    with pytest.raises(HomeError, match="a/b"), store.writing("a/b"):
        pass
    assert list(store.list("")) == []


def test_a_full_disk_is_an_error_of_the_store(
    store: Any, tmp_path: Path, small_files: Callable[[int], AbstractContextManager[None]]
) -> None:
    with (
        small_files(10_000),
        pytest.raises(HomeError, match="a/b") as caught,
        store.writing("a/b") as path,
    ):
        path.write_bytes(b"x" * 100_000)
    assert caught.value.hint
    assert list(store.list("")) == []
    assert left(tmp_path) == []


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/", "a:b"])
def test_what_is_no_key_is_refused(store: Any, key: str) -> None:
    with pytest.raises(ValueError, match="is not a key"), store.writing(key):
        pass
    with pytest.raises(ValueError, match="is not a key"):
        store.where(key)


def test_it_states_where_an_object_is(store: Any, tmp_path: Path) -> None:
    location = store.where("runs/1/a")
    assert location in (
        str(tmp_path / "home" / "runs" / "1" / "a"),
        f"s3://{getattr(store, 'bucket', '')}/some/where/runs/1/a",
    )
