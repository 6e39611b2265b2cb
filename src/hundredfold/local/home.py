"""The home: the folder that keeps the files of all runs, the ledger, locks, and a format number."""

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

from ..data.layout import Layout, releases_of
from ..errors import HomeError, RunBusy, UsageError
from ..paths import expand_user
from ..ports.interfaces import Ledger, RunHome
from ..ports.object_keys import TEMP_PREFIX
from ..ports.run_facts import HOME_FORMAT
from ..runs.names import check_job_name, check_run_id
from .filesystem import FileStore, acquire, home_error, home_errors
from .rebuild import rebuild_records
from .sqlite_ledger import SqliteLedger

# a folder with nothing else counts as empty
IGNORED_FILES = {
    ".gitignore",
    ".gitkeep",
    ".DS_Store",
    "lost+found",
}


class Home:
    """A home that exists and that this program can read. Raises: HomeError otherwise."""

    def __init__(self, folder: Path | str = ".hundredfold", *, make: bool = True) -> None:
        if str(folder).startswith("s3://"):
            raise UsageError(
                f"the home {folder} is on S3, where the local backend cannot keep its ledger",
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
                hint="name the folder with --home, or start a run first: "
                "hundredfold run MODULE:JOB   or hundredfold demo",
            )
        self._check_format()
        self.store = FileStore(self.folder, made=True)
        self.ledger: Ledger = SqliteLedger(
            self.folder / "ledger.sqlite", rebuild=lambda: rebuild_records(self.store), made=True
        )

    @property
    def description(self) -> str:
        """The name of the home, for messages."""
        return str(self.folder)

    def holds(self, run: str) -> bool:
        """Return whether the run's files still exist."""
        return (self.folder / Layout(run).root).exists()

    def where(self, key: str) -> str:
        """Return the path of an object, for people."""
        return str(self.store.path(key))

    def fetch(self, key: str) -> Path:
        """Return an object as a local file."""
        return self.store.path(key)

    def check_writers(self, key: str) -> None:
        """Check that an object may be executed.

        Raises: HomeError if users other than this one and root could have written it: it, or a
            folder of the home above it, belongs to one of them or may be written by everyone.
        """
        path = self.store.path(key)
        above = reversed(path.relative_to(self.folder).parents[:-1])
        for each in (self.folder, *above, path):
            _check_writers_of(self.folder / each, path)

    def scratch(self, run: str) -> Path:
        """Return the folder of a warehouse, emptied when it is opened and removed when it is
        closed.

        It is a temporary folder if the home cannot be written.
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
        """Hold the lock of a run's driver. Raises: RunBusy if another process holds it.

        The operating system releases the lock when a process dies.
        """
        folder = self.folder / Layout(check_run_id(run)).root
        lock = FileLock(folder / "driver.lock")
        try:
            # `is_active` of another process may hold it for a moment
            acquire(lock, 0.5, self.store)
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
        """Hold the lock for publishing a job: two runs may end together, and a version is made only
        once.
        """
        # outside the releases, which others read
        lock = FileLock(self.folder / "locks" / f"{check_job_name(job)}.publish")
        acquire(lock, -1, self.store)
        try:
            _remove_partial_files(self.folder / releases_of(job))
            yield
        finally:
            lock.release()

    def is_active(self, run: str) -> bool:
        """Return whether a process holds the run's lock."""
        folder = self.folder / Layout(run).root
        if not folder.exists():
            return False
        lock = FileLock(folder / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        # the home is read-only for this user: another user's driver may hold the lock
        except OSError:
            return _is_locked(folder / "driver.lock")
        lock.release()
        return False

    def _refuse_format(self, mark: Path, found: str) -> None:
        """Raise HomeError for a format number that is not this program's."""
        if found == str(HOME_FORMAT):
            return
        if not re.fullmatch("[0-9]{1,4}", found):
            raise HomeError(
                f"{mark} is damaged: it contains {found[:20]!r}, wanted the number of the home's "
                "format",
                hint=f"if hundredfold created the folder, delete that file (rm {mark}): it is "
                "written again",
            )
        if int(found) > HOME_FORMAT:
            raise HomeError(
                f"{self.folder} has format {found}, and this program reads up to {HOME_FORMAT}",
                hint="install a newer hundredfold, or name another folder with --home",
            )
        raise HomeError(
            f"{self.folder} has format {found}, of an older hundredfold, and this program reads "
            f"format {HOME_FORMAT}",
            hint="its published files can be copied from its folder releases; name another folder "
            "with --home for new runs",
        )

    def _make(self) -> None:
        """Turn the folder into a home.

        Raises: HomeError for a folder that has other files or cannot be written.
        """
        mark = self.folder / "format"
        try:
            # it keeps pickled code and all rows: the caller may open it to others with chmod
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not mark.exists():
                self._refuse_foreign()
                half = mark.with_name(f"{TEMP_PREFIX}{uuid4().hex}")
                half.write_text(f"{HOME_FORMAT}\n")
                half.replace(mark)  # atomic, also if another process does the same
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
        """Raise HomeError for a folder with files that do not belong to a home."""
        names = (path.name for path in self.folder.iterdir())
        # another process may be writing the format file of this home
        foreign = sorted(
            name for name in names if name not in IGNORED_FILES and not name.startswith(TEMP_PREFIX)
        )
        if foreign and not _is_home(self.folder):
            raise HomeError(
                f"{self.folder} is not empty and not a home: it contains "
                f"{', '.join(foreign[:3])}{' ...' if foreign[3:] else ''}",
                hint="name a new or an empty folder with --home",
            )

    def _check_format(self) -> None:
        """Raise HomeError for a home of another format. A missing format file is harmless."""
        mark = self.folder / "format"
        try:
            self._refuse_format(mark, mark.read_text(errors="replace").strip())
        except FileNotFoundError:
            return
        except OSError as error:
            raise home_error(error, mark, "read") from error


def _refuse_no_folder(folder: Path) -> None:
    """Raise HomeError for a path that is not a folder, or is below one that is not."""
    above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        mode = above.stat().st_mode
    except OSError as error:
        if not above.is_symlink():
            raise home_error(error, folder, "written") from error
        found = (
            f"a broken link ({os.readlink(above)})"  # noqa: PTH115
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


def _check_writers_of(path: Path, code: Path) -> None:
    if os.name != "posix":
        return
    found = path.lstat()
    if found.st_uid not in (os.getuid(), 0):
        problem = f"{path} belongs to {_name_of_user(found.st_uid)}"
    elif found.st_mode & stat.S_IWOTH:
        problem = f"everyone may write {path}"
    else:
        return
    raise HomeError(
        f"{code} holds code, which is not executed because another user may have written it",
        problems=[problem],
        hint="in Python, pass the job itself: hundredfold.resume(run_id, job=job)   or, if you "
        f"trust everything in it: chmod -R o-w {path} (chown -R, if it belongs to another user)",
    )


def _name_of_user(number: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user with number {number}"


def _remove_partial_files(folder: Path) -> None:
    """Remove the partial files of a driver that was killed."""
    with home_errors(folder, "tidied"):
        for half in folder.rglob(f"{TEMP_PREFIX}*"):
            half.unlink(missing_ok=True)


def _is_home(folder: Path) -> bool:
    """Return whether a folder is a home: by its format file, or else by a ledger or runs."""
    return (
        (folder / "format").is_file()
        or (folder / "ledger.sqlite").is_file()
        or any(folder.glob("runs/*/job.pickle"))
    )


def _is_locked(path: Path) -> bool:
    """Return whether another process holds a lock on a file that can only be read."""
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
    """Return the home of a folder, which must exist; a home is returned as it is."""
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
