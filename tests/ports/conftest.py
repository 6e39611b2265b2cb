"""What all doors are tested with: a clock moved by hand, places that cannot be written, and an
account of an emulated AWS.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.aws_account import Account, LedClock
from support.emulator import DONE, MISSING, Emulator
from support.faulty_connection import Line

NOBODY = 65534


@pytest.fixture
def clock() -> LedClock:
    return LedClock()


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Iterator[Account]:
    """For a module at a time: others may reach an account of their own."""
    with emulator.reached():
        yield Account(emulator)


@pytest.fixture
def line(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The account over a line that fails when it is told to."""
    from hundredfold.aws.adapters.session import client

    with Line(account.emulator.url) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        client.cache_clear()
        yield line
    client.cache_clear()


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder whose files can be read, and which takes no new ones (use it inside `as_a_guest`)."""
    if os.name == "nt":
        pytest.skip("a folder's permission bits mean nothing on Windows")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        for place in (folder, *folder.iterdir()):
            place.chmod(0o755)


@contextmanager
def as_a_guest(folder: Path) -> Iterator[None]:
    """Take the rights to write in `folder` and to enter what it holds away, also from root, whom no
    permission stops.
    """
    for inside in folder.iterdir():
        inside.chmod(0o444)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
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
def guest():
    return as_a_guest


@pytest.fixture
def small_files():
    return files_at_most
