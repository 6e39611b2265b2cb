"""Features of the S3 store alone: prefixes of a bucket, multipart uploads, local copies, and a
network that fails.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.errors import HomeError
from support.aws_account import Account
from support.faulty_connection import FaultyConnection
from support.waits import HANG_S

BIG = 20 * 1024 * 1024  # bytes: three parts of an upload
ODD = "ü/a b+c%20&d='e'/#😀.bin"
WRITE = """
import sys, time
from hundredfold.aws.adapters.s3_store import S3Store
with S3Store(sys.argv[1]).writing("a/object.bin") as path:
    path.write_bytes(b"new" * int(sys.argv[2]))
    print("written", flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def store(account: Account) -> S3Store:
    return S3Store(account.bucket())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def unfinished(account: Account, store: S3Store) -> list[str]:
    """Return the keys of multipart uploads that were started and not completed."""
    return [
        upload["Key"]
        for upload in account.emulator.client("s3")
        .list_multipart_uploads(Bucket=store.bucket)
        .get("Uploads", [])
    ]


def test_a_range_of_bytes_is_read_as_far_as_there_are_any(store: S3Store) -> None:
    store.put("a/b", b"0123456789")
    ranges = [(0, 0), (3, 5), (8, 20), (10, 12), (99, 100)]
    found = [store.get_range("a/b", *each).to_pybytes() for each in ranges]
    assert found == [b"0", b"345", b"89", b"", b""]
    with pytest.raises(KeyError):
        store.get_range("a/c", 0, 1)


def test_stores_with_different_prefixes_are_separate(account: Account) -> None:
    bucket = account.bucket()
    one, two, all_ = S3Store(bucket, "a"), S3Store(bucket, "ab/c/"), S3Store(bucket)
    one.put("x", b"1")
    two.put("x", b"2")
    assert (bytes(one.get("x")), bytes(two.get("x"))) == (b"1", b"2")
    assert list(one.list("")) == ["x"]
    assert list(all_.list("")) == ["a/x", "ab/c/x"]
    one.delete("x")
    assert list(all_.list("")) == ["ab/c/x"]
    assert one.where("x") == f"s3://{bucket}/a/x"


@pytest.mark.parametrize("prefix", ["../a", "a//b", "a\\b", "/"])
def test_an_invalid_prefix_is_rejected(prefix: str) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        S3Store("bucket", prefix)


def test_a_store_is_sent_to_another_process(store: S3Store) -> None:
    store.put("a", b"rows")
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert bytes(copy.get("a")) == b"rows"


def test_folders_created_in_the_console_are_not_objects(account: Account, store: S3Store) -> None:
    store.put("runs/1/a", b"")
    for marker in ("runs/", "runs/1/", "runs/1/empty/"):
        account.emulator.client("s3").put_object(Bucket=store.bucket, Key=marker)
    assert list(store.list("runs/")) == ["runs/1/a"]
    store.delete("runs")
    assert account.emulator.client("s3").list_objects_v2(Bucket=store.bucket)["KeyCount"] == 0


def test_sizes_are_those_of_the_objects(store: S3Store) -> None:
    store.put("a/1", b"x")
    store.put("a/ü/2", b"x" * 5_000)
    store.put("b", b"")
    assert store.sizes("a/") == {"a/1": 1, "a/ü/2": 5_000}
    assert store.sizes("c/") == {}


@pytest.mark.parametrize(
    ("source", "target"), [("a", "b"), (ODD, "b"), ("a", ODD), (ODD, f"copy of {ODD}")]
)
def test_an_object_is_copied(store: S3Store, source: str, target: str) -> None:
    store.put(source, b"rows")
    store.copy(source, target)
    assert bytes(store.get(target)) == bytes(store.get(source)) == b"rows"


def test_copying_a_missing_object_is_a_key_error(store: S3Store) -> None:
    with pytest.raises(KeyError, match="nothing"):
        store.copy("nothing", "b")
    assert list(store.list("")) == []


def test_a_large_object_is_transferred_in_parts(
    account: Account, store: S3Store, connection: FaultyConnection, temporary: Path
) -> None:
    content = os.urandom(BIG)
    with store.writing(ODD) as path:
        path.write_bytes(content)
    assert connection.count_requests("PUT") == 3  # parts
    assert bytes(store.get(ODD)) == content
    store.copy(ODD, "copy.bin")
    with store:
        assert store.fetch("copy.bin").read_bytes() == content
    assert store.sizes("") == {"copy.bin": BIG, ODD: BIG}
    assert unfinished(account, store) == []
    assert list(temporary.iterdir()) == []


def test_a_failed_upload_leaves_the_old_object_and_no_parts(
    account: Account, store: S3Store, connection: FaultyConnection
) -> None:
    store.put("a", b"old")
    connection.fail_with(f"PUT /{store.bucket}/a", 403, "AccessDenied", "no", times=100)
    with (
        pytest.raises(HomeError, match="lack the permission s3:PutObject"),
        store.writing("a") as path,
    ):
        path.write_bytes(b"x" * BIG)
    assert bytes(store.get("a")) == b"old"
    assert unfinished(account, store) == []


@pytest.mark.parametrize("size", [1_000, BIG])
def test_a_writer_that_is_killed_before_the_upload_leaves_nothing(
    account: Account, store: S3Store, temporary: Path, size: int
) -> None:
    with _writer(store, size) as writer:
        writer.kill()
    assert list(store.list("")) == unfinished(account, store) == []


def test_a_writer_killed_during_the_upload_leaves_the_old_object(
    store: S3Store, connection: FaultyConnection, temporary: Path
) -> None:
    store.put("a/object.bin", b"old")
    connection.hold(f"PUT /{store.bucket}/a/object.bin", after=1)
    with _writer(store, BIG) as writer:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        assert connection.held.wait(HANG_S)
        writer.kill()
    assert list(store.list("")) == ["a/object.bin"]
    assert bytes(store.get("a/object.bin")) == b"old"


def _writer(store: S3Store, size: int) -> subprocess.Popen[bytes]:
    """A process that has written its file, and uploads it on request."""
    environment = os.environ | {"TMPDIR": tempfile.gettempdir()}
    arguments = [sys.executable, "-c", WRITE, store.bucket, str(size // 3)]
    writer = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    return writer


def test_a_fetched_copy_does_not_change(store: S3Store) -> None:
    store.put("a.parquet", b"1")
    with store:
        first = store.fetch("a.parquet")
        store.put("a.parquet", b"2")
        second = store.fetch("a.parquet")
        assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
        assert first.suffix == ".parquet"


def test_an_object_replaced_during_a_fetch_is_fetched_again(
    store: S3Store, connection: FaultyConnection
) -> None:
    store.put("a", b"rows")
    connection.fail_with(f"GET /{store.bucket}/a", 412, "PreconditionFailed", times=2)
    with store:
        assert store.fetch("a").read_bytes() == b"rows"
        connection.fail_with(f"GET /{store.bucket}/a", 412, "PreconditionFailed", times=1_000)
        with pytest.raises(HomeError, match="a was replaced while it was read, 5 times"):
            store.fetch("a")


def test_an_object_replaced_during_a_copy_is_copied_again(
    store: S3Store, connection: FaultyConnection
) -> None:
    store.put("a", b"x" * BIG)
    connection.fail_with(f"PUT /{store.bucket}/b", 412, "PreconditionFailed")
    store.copy("a", "b")
    assert store.sizes("")["b"] == BIG


def test_a_file_is_uploaded(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"rows")
    store.send(tmp_path / "file", ODD)
    assert bytes(store.get(ODD)) == b"rows"
    with pytest.raises(HomeError, match=r"none.* cannot be stored in a local temporary file"):
        store.send(tmp_path / "none", "none")
    assert list(store.list("")) == [ODD]


def test_the_beginning_of_a_name_lists_the_matching_keys(store: S3Store) -> None:
    for key in ("a/001-1", "a/001-2", "a/002-1", "a/001", "b/001-1"):
        store.put(key, b"")
    assert list(store.beginning("a/001-")) == ["a/001-1", "a/001-2"]


def test_fetching_a_missing_object_is_a_key_error(store: S3Store) -> None:
    with store, pytest.raises(KeyError, match="a/b"):
        store.fetch("a/b")


def test_fetched_copies_are_removed_with_the_store(store: S3Store, temporary: Path) -> None:
    store.put("a", b"rows")
    with store:
        with ThreadPoolExecutor(8) as pool:
            assert all(path.exists() for path in pool.map(lambda _: store.fetch("a"), range(16)))
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []
    other = S3Store(store.bucket)
    other.fetch("a")
    pickle.loads(pickle.dumps(other)).close()  # it has its own
    assert len(list(temporary.iterdir())) == 1
    del other
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_removes_no_copies(store: S3Store) -> None:
    store.put("a", b"rows")
    script = f"""
import os
from hundredfold.aws.adapters.s3_store import S3Store
store = S3Store({store.bucket!r})
path = store.fetch("a")
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(path.exists(), path)
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[0] == "True"
    assert not Path(printed[1]).exists()


def test_an_interrupted_body_is_read_again(store: S3Store, connection: FaultyConnection) -> None:
    store.put("a", b"x" * 100_000)
    connection.truncate(f"GET /{store.bucket}/a", times=2)
    assert bytes(store.get("a")) == b"x" * 100_000


def test_repeatedly_interrupted_bodies_are_an_error(
    store: S3Store, connection: FaultyConnection
) -> None:
    store.put("a", b"x" * 100_000)
    connection.truncate(f"GET /{store.bucket}/a", times=1_000)
    with pytest.raises(HomeError, match=f"s3://{store.bucket}/a cannot be read"):
        store.get("a")


def test_a_request_without_reply_is_repeated(store: S3Store, connection: FaultyConnection) -> None:
    for method in ("PUT", "GET", "POST"):
        connection.lose_reply(method)
    store.put("a", b"rows")
    assert bytes(store.get("a")) == b"rows"
    store.delete("a")
    assert list(store.list("")) == []


def test_objects_that_s3_failed_to_delete_are_deleted_later(
    store: S3Store, connection: FaultyConnection
) -> None:
    for key in ("a/1", "a/2"):
        store.put(key, b"")
    connection.reply("POST", _errors({"a/1": "InternalError", "a/2": "SlowDown"}))
    store.delete("a")
    assert list(store.list("")) == []


def test_a_denied_deletion_is_an_error(store: S3Store, connection: FaultyConnection) -> None:
    store.put("a/1", b"")
    connection.reply("POST", _errors({"a/1": "AccessDenied"}))
    with pytest.raises(
        HomeError,
        match="a cannot be removed: these credentials lack the permission s3:DeleteObject",
    ):
        store.delete("a")


def _errors(codes: dict[str, str]) -> bytes:
    errors = "".join(
        f"<Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error>"
        for key, code in codes.items()
    )
    return f'<?xml version="1.0"?><DeleteResult>{errors}</DeleteResult>'.encode()


@pytest.mark.parametrize("method", ["get", "fetch"])
def test_a_missing_object_reported_as_forbidden_is_a_key_error(
    store: S3Store, connection: FaultyConnection, method: str
) -> None:
    connection.fail_with(
        "GET /" if method == "get" else "HEAD /", 403, "AccessDenied", "Access Denied"
    )
    store.put("a/b/c", b"")  # not for a/b
    with store, pytest.raises(KeyError, match="a/b"):
        getattr(store, method)("a/b")


@pytest.mark.parametrize("method", ["get", "fetch"])
def test_an_existing_but_forbidden_object_is_an_error(
    store: S3Store, connection: FaultyConnection, method: str
) -> None:
    store.put("a", b"rows")
    connection.fail_with(
        "GET /" if method == "get" else "HEAD /", 403, "AccessDenied", "Access Denied", times=2
    )
    with store, pytest.raises(HomeError, match="lack the permission s3:GetObject"):
        getattr(store, method)("a")


def test_an_object_that_may_not_be_read_or_listed_is_an_error(
    store: S3Store, connection: FaultyConnection
) -> None:
    connection.fail_with("GET /", 403, "AccessDenied", "Access Denied", times=2)
    with pytest.raises(HomeError, match="lack the permission s3:GetObject"):
        store.get("a")


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.put("a", b""),
        lambda store: store.get("a"),
        lambda store: list(store.list("")),
        lambda store: store.sizes("a/"),
        lambda store: store.delete("a"),
        lambda store: store.copy("a", "b"),
        lambda store: store.fetch("a"),
    ],
    ids=["put", "get", "list", "sizes", "delete", "copy", "fetch"],
)
def test_a_missing_bucket_is_an_error_of_the_store(account: Account, call: Any) -> None:
    with (
        S3Store("no-such-bucket") as store,
        pytest.raises(HomeError, match=r"s3://no-such-bucket/.* not found") as caught,
    ):
        call(store)
    assert "hundredfold deploy" in str(caught.value.hint)
