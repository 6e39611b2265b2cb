"""The folder in which all runs are kept: their files, the ledger, a lock for each run, and a mark
of its format.
"""

from __future__ import annotations

import errno
import getpass
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

from filelock import FileLock, Timeout

from ..errors import HomeError, RunBusy, UsageError
from ..job import Layout, releases_of
from ..paths import expand_user
from ..ports.interfaces import Ledger, RunHome
from ..ports.object_keys import TEMP_PREFIX
from ..runs.names import check_job_name, check_run_id
from .filesystem import FileStore, acquire, home_error, home_errors
from .rebuild import rebuild_records
from .sqlite_ledger import SqliteLedger

IGNORED_FILES = {
    ".gitignore",
    ".gitkeep",
    ".DS_Store",
    "lost+found",
}  # a folder that holds only these counts as empty
FORMAT = 3  # goes up when an older program could no longer read what lies here


class Home:
    """A home that exists and that this program can read; HomeError says what is wrong with it."""

    def __init__(self, folder: Path | str = ".hundredfold", *, make: bool = True) -> None:
        if str(folder).startswith("s3://"):
            raise UsageError(
                f"the home {folder} is on S3, which this machine's driver cannot keep its ledger "
                "in",
                hint="name a folder with --home",
            )
        if not isinstance(folder, str | Path) or not str(folder).strip() or "\0" in str(folder):
            raise UsageError(
                f"the home is {folder!r}, wanted a folder",
                hint="name one with --home, or leave the option out",
            )
        self.folder = expand_user(folder).absolute()
        _refuse_no_folder(self.folder)
        if make:
            self._make()
        elif not _is_home(self.folder):
            raise HomeError(
                f"there is no run in {self.folder}",
                hint="name the folder with --home, or make a run first: hundredfold run, or "
                "hundredfold demo",
            )
        self._check_format()
        self.store = FileStore(self.folder, made=True)
        self.ledger: Ledger = SqliteLedger(
            self.folder / "ledger.sqlite", rebuild=lambda: rebuild_records(self.store), made=True
        )

    @property
    def words(self) -> str:
        """How the runs' place is called in a sentence."""
        return str(self.folder)

    def holds(self, run: str) -> bool:
        """Whether the run's files are still there."""
        return (self.folder / Layout(run).root).exists()

    def where(self, key: str) -> str:
        """Where a person finds an object."""
        return str(self.store.path(key))

    def fetch(self, key: str) -> Path:
        """An object as a file of this machine."""
        return self.store.path(key)

    def scratch(self, run: str) -> Path:
        """The folder of a warehouse, emptied at its start and removed at its end; a temporary one
        where the home cannot be written.
        """
        if self.writable:
            return self.folder / "scratch" / run
        return Path(mkdtemp(prefix="hundredfold-"))

    @property
    def writable(self) -> bool:
        """Whether this process may write in the home."""
        return os.access(self.folder, os.W_OK)

    def logs(self, run: str) -> Path:
        return self.folder / Layout(run).root / "logs"

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Be the only driver of a run; RunBusy if another one is.

        The system gives the lock back when a process dies.
        """
        folder = self.folder / Layout(check_run_id(run)).root
        lock = FileLock(folder / "driver.lock")
        try:
            acquire(lock, 0.5, self.store)  # it may only be looked at, by `is_active`
        except Timeout:
            raise RunBusy(
                f"run {run} is being driven by {_driver_of(folder)}",
                hint=f"watch it with: hundredfold status {run}   or stop it with: hundredfold "
                f"cancel {run}",
            ) from None
        try:
            _remove_partial_files(folder)
            with home_errors(folder / "driver.txt", "written"):
                (folder / "driver.txt").write_text(
                    f"process {os.getpid()} of {_user()}",
                    encoding="utf-8",
                    errors="backslashreplace",
                )
            yield
        finally:
            lock.release()

    @contextmanager
    def publishing(self, job: str) -> Iterator[None]:
        """Be the only one who publishes for a job: two runs may end at once, and a version is made
        once.
        """
        lock = FileLock(
            self.folder / "locks" / f"{check_job_name(job)}.publish"
        )  # not among the releases, which others read
        acquire(lock, -1, self.store)
        try:
            _remove_partial_files(self.folder / releases_of(job))
            yield
        finally:
            lock.release()

    def is_active(self, run: str) -> bool:
        """Whether some process holds the run's lock just now."""
        folder = self.folder / Layout(run).root
        if not folder.exists():
            return False
        lock = FileLock(folder / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # the home cannot be written: somebody else's driver may hold the lock
            return _is_locked(folder / "driver.lock")
        lock.release()
        return False

    def _refuse_format(self, mark: Path, found: str) -> None:
        """Raise HomeError for a mark that is not this program's own."""
        if found == str(FORMAT):
            return
        if not re.fullmatch("[0-9]{1,4}", found):
            raise HomeError(
                f"{mark} is damaged: it holds {found[:20]!r}, wanted the number of the home's "
                "format",
                hint=f"if this hundredfold made the folder, remove that file (rm {mark}): it is "
                "written anew",
            )
        if int(found) > FORMAT:
            raise HomeError(
                f"{self.folder} is of format {found}, and this program reads up to {FORMAT}",
                hint="install a newer hundredfold, or name another folder with --home",
            )
        raise HomeError(
            f"{self.folder} is of format {found}, of an older hundredfold, and this program reads "
            f"format {FORMAT}",
            hint="what it published can be copied out of its folder releases; name another folder "
            "with --home for new runs",
        )

    def _make(self) -> None:
        """Make the folder into a home.

        HomeError for one that holds other files than ours, or that cannot be written.
        """
        mark = self.folder / "format"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not mark.exists():
                self._refuse_foreign()
                half = mark.with_name(f"{TEMP_PREFIX}{uuid4().hex}")
                half.write_text(f"{FORMAT}\n")
                half.replace(mark)  # whole or not there, whoever else begins in this moment
                with suppress(FileExistsError), (self.folder / ".gitignore").open("x") as file:
                    file.write("*\n")
        except OSError as error:
            raise home_error(error, mark, "written") from error
        if not self.writable:
            raise HomeError(
                f"{self.folder} cannot be written",
                hint="let this user write in that folder, or keep the runs elsewhere with --home",
            )

    def _refuse_foreign(self) -> None:
        """HomeError for a folder that holds files which are not a home's."""
        foreign = (
            []
            if _is_home(self.folder)
            else sorted(p.name for p in self.folder.iterdir() if p.name not in IGNORED_FILES)
        )
        if foreign:
            raise HomeError(
                f"{self.folder} is not empty, and it is no folder of runs: it holds "
                f"{', '.join(foreign[:3])}{' ...' if foreign[3:] else ''}",
                hint="name a new or an empty folder with --home",
            )

    def _check_format(self) -> None:
        """Raise HomeError for a home of another format.

        A mark that is missing was lost: nothing depends on it.
        """
        mark = self.folder / "format"
        try:
            self._refuse_format(mark, mark.read_text(errors="replace").strip())
        except FileNotFoundError:
            return
        except OSError as error:
            raise home_error(error, mark, "read") from error


def _refuse_no_folder(folder: Path) -> None:
    """Raise HomeError for a place that is no folder, or lies below one that is none."""
    above = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    try:
        mode = above.stat().st_mode
    except OSError as error:
        if not above.is_symlink():
            raise home_error(error, folder, "written") from error
        found = (
            f"a link that leads nowhere ({os.readlink(above)})"  # noqa: PTH115
            if error.errno == errno.ENOENT
            else f"a link: {error.strerror}"
        )
    else:
        if stat.S_ISDIR(mode):
            return
        found = "a file" if stat.S_ISREG(mode) else "a device, a pipe or a socket"
    raise HomeError(
        f"the home {folder} cannot be read or written: {above} is {found}, wanted a folder",
        hint="name a folder with --home",
    )


def _remove_partial_files(folder: Path) -> None:
    """Remove what a driver that was killed had begun to write."""
    with home_errors(folder, "tidied"):
        for half in folder.rglob(f"{TEMP_PREFIX}*"):
            half.unlink(missing_ok=True)


def _is_home(folder: Path) -> bool:
    """Whether a folder is a home: it has the mark, or, where that was lost, a ledger of ours or
    runs.
    """
    return (
        (folder / "format").is_file()
        or (folder / "ledger.sqlite").is_file()
        or any(folder.glob("runs/*/job.pickle"))
    )


def _is_locked(path: Path) -> bool:
    """Whether another process holds a lock on a file that can only be read."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def as_home(home: str | Path | RunHome) -> RunHome:
    """A folder's home, which must be there; what is a home already stays as it is."""
    return Home(home, make=False) if isinstance(home, str | Path) else home


def _driver_of(folder: Path) -> str:
    try:
        return (folder / "driver.txt").read_text(errors="replace")
    except OSError:
        return "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
