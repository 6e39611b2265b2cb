"""A run that ends before a sync, rename or removal of a file, by a kill or a loss of power: the
same bytes after resume.

The home is copied at each of these moments while a run continues. A kill leaves all that was
written; a loss of power also reverts data of files and names in folders that were not synced.
SQLite's own syncs are not tested here.

All moments: python -m pytest -m drill tests/faults/test_power.py
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from threading import RLock
from typing import Any

import pytest

from hundredfold.errors import HundredfoldError
from hundredfold.local.home import Home
from support.in_process_pool import published_bytes
from support.two_model_runs import CORRECTED, JOB, begin, drive, resume, retry, tried, write_sales

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says which file is synced")
DATABASE = ("ledger.sqlite", ".queue")
HOWS = ("kill", "power, files cut", "power, files of zeros")


@dataclass
class Disk:
    """What of a home is on the disk for good, and copies of the home as it would be found after a
    crash.
    """

    home: Path
    copies: Path
    wanted: Callable[[int], bool]
    moment: int = 0
    begun: int = 0  # the moment at which the run's sources and job were kept
    synced: dict[int, int] = field(default_factory=dict)  # inode: bytes on the disk
    pending: dict[Path, list[tuple[Path, bytes | None]]] = field(
        default_factory=dict
    )  # folder: names changed, and what was there
    lock: Any = field(default_factory=RLock)
    busy: bool = False

    def __post_init__(self) -> None:
        for path in self.home.rglob("*"):
            if path.is_file():
                self.synced[path.stat().st_ino] = path.stat().st_size

    def holds(self, path: Path) -> bool:
        return self.home in path.parents or path == self.home

    def copy(self, what: str) -> None:
        """Copy the home as each kind of crash at this moment leaves it."""
        self.moment += 1
        if not self.wanted(self.moment):
            return
        for how in HOWS:
            to = self.copies / f"{self.moment:04d} {how}"
            shutil.copytree(
                self.home, to, ignore=shutil.ignore_patterns("ledger.sqlite*", "*.lock")
            )
            if (self.home / "ledger.sqlite").exists():
                with (
                    closing(sqlite3.connect(self.home / "ledger.sqlite")) as source,
                    closing(sqlite3.connect(to / "ledger.sqlite")) as target,
                ):
                    source.backup(target)
            (to.with_suffix(".txt")).write_text(what)
            if how != "kill":
                self._lose(to, how)

    def _lose(self, to: Path, how: str) -> None:
        """Take back from a copy what was not synced."""
        for path in self.home.rglob("*"):
            there = to / path.relative_to(self.home)
            if not there.is_file() or any(name in path.name for name in DATABASE):
                continue
            size, kept = path.stat().st_size, self.synced.get(path.stat().st_ino, 0)
            if kept < size:
                data = there.read_bytes()
                there.write_bytes(
                    data[:kept] if how.endswith("cut") else data[:kept] + bytes(size - kept)
                )
        for changes in self.pending.values():
            for path, before in reversed(changes):
                there = to / path.relative_to(self.home)
                if before is not None:
                    there.parent.mkdir(parents=True, exist_ok=True)
                    there.write_bytes(before)
                else:
                    there.unlink(missing_ok=True)


@contextmanager
def watched(disk: Disk, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the disk know of every sync, rename and removal below its home, before it is done."""
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def resolve(name: Any, dir_fd: int | None = None) -> Path:
        return (
            Path(f"/proc/self/fd/{dir_fd}").readlink() / os.fsdecode(name)
            if dir_fd is not None
            else Path(os.fsdecode(name)).absolute()
        )

    @contextmanager
    def moment(what: str, path: Path) -> Iterator[bool]:
        with disk.lock:
            if disk.busy or not disk.holds(path):
                yield False
                return
            disk.busy = True
            try:
                disk.copy(f"{what} {path}")
            finally:
                disk.busy = False
            yield True

    def changed(path: Path) -> None:
        disk.pending.setdefault(path.parent, []).append(
            (path, path.read_bytes() if path.is_file() else None)
        )

    def watched_fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        with moment("sync", path) as ours:
            fsync(handle)
            if ours and path.is_dir():
                disk.pending.pop(path, None)
            elif ours:
                disk.synced[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def watched_replace(source: Any, target: Any, **more: Any) -> None:
        path = resolve(target)
        with moment("rename to", path) as ours:
            if ours:
                changed(path)
            replace(source, target, **more)

    def watched_unlink(name: Any, *, dir_fd: int | None = None) -> None:
        path = resolve(name, dir_fd)
        with moment("remove", path) as ours:
            if ours and not any(part in path.name for part in DATABASE):
                changed(path)
            unlink(name, dir_fd=dir_fd)

    with patch.context() as patched:
        for name, function in (
            ("fsync", watched_fsync),
            ("replace", watched_replace),
            ("unlink", watched_unlink),
            ("remove", watched_unlink),
        ):
            patched.setattr(os, name, function)
        yield


def moments(
    wanted: Callable[[int], bool], folder: Path, patch: pytest.MonkeyPatch
) -> tuple[Disk, dict[str, bytes]]:
    """A run, and then a retry of it, whose home is copied at the wanted moments; and what it left
    before the retry.
    """
    (folder / "copies").mkdir(parents=True)
    write_sales(folder / "sales.csv")
    write_sales(folder / "copies" / "sales.csv")
    home = Home(folder / "home")
    begin(home, JOB, "older")
    drive(home, JOB, run="older")
    disk = Disk(home.folder, folder / "copies", wanted)
    with watched(disk, patch):
        begin(home, JOB, "r")
        disk.begun = disk.moment
        drive(home, JOB)
    return disk, published_bytes(home.folder)


def check(disk: Disk, wanted: dict[str, bytes]) -> int:
    """Resume each copy; how many there were."""
    copies = sorted(path for path in disk.copies.iterdir() if path.is_dir())
    for copy in copies:
        what = f"{copy.name}: {copy.with_suffix('.txt').read_text()}"
        _, error = tried(partial(resume, copy))
        if (
            int(copy.name[:4]) <= disk.begun
        ):  # it may be too early for this run to go on; and then it says so
            assert error is None or error.hint or isinstance(error, HundredfoldError), what
        elif error is not None:
            assert "it is done" in str(error), (what, error)
        if error is None or int(copy.name[:4]) > disk.begun:
            assert published_bytes(copy) == wanted, what
        shutil.rmtree(copy)
    return len(copies)


def some(each: int, seed: int = 11) -> Callable[[int], bool]:
    chance = Random(seed)
    return lambda _moment: chance.randrange(each) == 0


def test_a_run_cut_off_between_any_two_writes_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, wanted = moments(some(8), tmp_path, monkeypatch)
    assert disk.moment > 60
    assert check(disk, wanted) > 20


@pytest.mark.drill
def test_a_run_cut_off_at_every_write_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, wanted = moments(lambda _moment: True, tmp_path, monkeypatch)
    assert check(disk, wanted) == len(HOWS) * disk.moment


def test_a_retry_cut_off_between_any_two_writes_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _ = moments(lambda _moment: False, tmp_path, monkeypatch)
    home = tmp_path / "home"
    disk = Disk(home, tmp_path / "copies", some(4))
    with watched(disk, monkeypatch):
        retry(home)
    wanted = published_bytes(home)
    for copy in sorted(path for path in disk.copies.iterdir() if path.is_dir()):
        what = f"{copy.name}: {copy.with_suffix('.txt').read_text()}"
        tried(
            partial(resume, copy, CORRECTED)
        )  # a retry that was not planned yet is done: then it is asked for again
        if published_bytes(copy) != wanted:
            retry(copy)
        assert published_bytes(copy) == wanted, what
        shutil.rmtree(copy)
