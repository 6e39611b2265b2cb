"""Shared fixtures for the tests of ports: a manual clock, unwritable locations, and an account of
an emulated AWS.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.aws_account import Account, LinkedClock
from support.emulator import Emulator
from support.emulator_fixture import emulator as emulator
from support.faulty_connection import FaultyConnection

OTHER_USER_ID = 65534


@pytest.fixture
def clock() -> LinkedClock:
    return LinkedClock()


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Iterator[Account]:
    """The scope is one module, because other modules may use an account of their own."""
    with emulator.reached():
        yield Account(emulator)


@pytest.fixture
def connection(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyConnection]:
    """The account behind a connection that fails on request."""
    from hundredfold.aws.adapters.session import client

    with FaultyConnection(account.emulator.url) as connection:
        monkeypatch.setenv("AWS_ENDPOINT_URL", connection.url)
        client.cache_clear()
        yield connection
    client.cache_clear()


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder with readable files that accepts no new ones (use it inside `as_a_guest`)."""
    if os.name == "nt":
        pytest.skip("a folder's permission bits mean nothing on Windows")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        for location in (folder, *folder.iterdir()):
            location.chmod(0o755)


@contextmanager
def as_a_guest(folder: Path) -> Iterator[None]:
    """Remove the permissions to write in `folder` and to enter its contents, also for root, whom
    file modes do not stop.
    """
    for inside in folder.iterdir():
        inside.chmod(0o444)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(OTHER_USER_ID)
    try:
        yield
    finally:
        if was == 0:
            os.seteuid(was)


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def guest() -> Any:
    return as_a_guest


@pytest.fixture
def small_files() -> Any:
    return files_at_most
