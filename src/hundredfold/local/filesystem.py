"""The store of this machine: objects are files below one folder.

An object is whole or absent, and it survives a power cut: it is written under a temporary name in
its folder, synced, renamed, and the folder is synced. Reading maps the file and copies nothing.

Two uses need a file and not bytes: DuckDB writes an object itself (`writing`), and the batches of a
model grow while its rows stream by (`append_files`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa

from ..data.append_files import FolderAppendFiles
from ..errors import HomeError
from ..ports.object_keys import TEMP_PREFIX, checked_key, checked_prefix, etag_of

if TYPE_CHECKING:  # workers, which take no lock, do not import it
    from filelock import BaseFileLock

# of conditional writes; no listing shows it
LOCK_NAME = f"{TEMP_PREFIX}lock"
READ_BYTES = 2**22
DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# some network file systems cannot sync a folder, and do not need to
NO_FOLDER_SYNC = {
    errno.EINVAL,
    errno.ENOTSUP,
}


@dataclass(frozen=True, slots=True)
class FileStore:
    """A Store in a local folder, which is created with its first object.

    Unlike in an object store, a key cannot be below another object's key ("a" and "a/b"). On
    Windows an object cannot be replaced or removed while a buffer that `get` returned is in use.
    """

    root: Path
    # the folder existed before, and is not created again if it was removed
    made: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())

    def path(self, key: str) -> Path:
        """Return the file of the object with that key, whether it exists or not."""
        return self.root / checked_key(key)

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write an object whole or not at all; it is durable when the call returns.

        Raises: HomeError if there is no space or no permission.
        """
        path, content = self.path(key), memoryview(data)
        half = path.with_name(f"{TEMP_PREFIX}{uuid4().hex}")
        try:
            self.make(path.parent)
            _write(half, content)
            half.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise home_error(error, path, "written", content.nbytes) from error
        finally:
            _remove_half_written(half)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one of that key; return whether it is written."""
        with self._one_writer():
            if self._found(key) is not None:
                return False
            self.put(key, data)
            return True

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        """Replace an object that still has this entity tag; return whether it is written."""
        with self._one_writer():
            found = self._found(key)
            if found is None or etag_of(found) != etag:
                return False
            self.put(key, data)
            return True

    def make(self, folder: Path) -> None:
        """Create a folder of the store. Raises: HomeError if the store's own folder is missing."""
        if self.made and not self.root.is_dir():
            raise home_gone_error(self.root)
        _make_folders(folder)

    def get(self, key: str) -> pa.Buffer:
        """Return the bytes of an object, mapped and not copied. Raises: KeyError if there is none.

        They do not change when the object is replaced.
        """
        path = self.path(key)
        with _reading(key, path), pa.memory_map(str(path)) as file:
            return file.read_buffer()

    def get_with_etag(self, key: str) -> tuple[pa.Buffer, str]:
        """Return the object's bytes and its entity tag; KeyError if there is none."""
        found = self.get(key)
        return found, etag_of(found)

    def parts(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of an object in order, a few megabytes at a time.

        They are read and not mapped: a mapped file counts as memory of the process.
        """
        path = self.path(key)
        with _reading(key, path), path.open("rb") as file:
            while part := file.read(READ_BYTES):
                yield part

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix that ends with '/', in order; all keys for the prefix
        ''.
        """
        return _keys_below(self.root / checked_prefix(prefix), prefix)

    def delete(self, prefix: str) -> None:
        """Delete the object of that key and all objects below `prefix/`; there may be none."""
        path = self.path(prefix.removesuffix("/"))
        try:
            _remove(path)
            if path.parent.is_dir():
                _sync_folder(path.parent)
        except OSError as error:
            raise home_error(error, path, "removed") from error

    def where(self, key: str) -> str:
        """Return the path of an object, for people."""
        return str(self.path(key))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Return a path to write to, which becomes the object when the block ends, whole and
        durable.

        If the block raises, there is no object.
        """
        path = self.path(key)
        half = path.with_name(f"{TEMP_PREFIX}{uuid4().hex}")
        try:
            self.make(path.parent)
            yield half
            _sync_file(half)
            half.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise home_error(error, path, "written") from error
        finally:
            _remove_half_written(half)

    def append_files(self, prefix: str) -> LocalAppendFiles:
        """Return files below a prefix that can be appended to; they are durable after `sync`.

        A crash leaves partial files: readers trust them only once a later object commits them.
        """
        folder = self.path(prefix)
        return LocalAppendFiles(folder, prefix, self.make, lambda: home_errors(folder, "written"))

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        """Be the only process that writes conditionally.

        The system releases the lock when a process dies.
        """
        from filelock import FileLock

        lock = FileLock(self.root / LOCK_NAME)
        acquire(lock, -1, self)
        try:
            yield
        finally:
            lock.release()

    def _found(self, key: str) -> bytes | None:
        try:
            return b"".join(self.parts(key))
        except KeyError:
            return None


class LocalAppendFiles(FolderAppendFiles):
    """Files of a FileStore that can be appended to."""

    def sync(self) -> None:
        """Return when the disk has every byte."""
        with self.errors():
            paths = [self.folder / name for name in self.names()]
            for path in paths:
                _sync_file(path)
            for folder in {path.parent for path in paths}:
                _sync_folder(folder)


def home_error(error: OSError, path: Path, done: str, wanted: int = 0) -> HomeError:
    """Return the error for a place that cannot be written, read or removed, with a hint."""
    if error.errno in DISK_FULL:
        free = shutil.disk_usage(_existing(path)).free
        return HomeError(
            f"the disk is full: {f'{wanted:,} bytes wanted at ' if wanted else ''}{path}, "
            f"{free:,} bytes free",
            hint="free some space, or keep the runs elsewhere with --home; then hundredfold resume",
        )
    return HomeError(
        f"{path} cannot be {done}, in the folder {_existing(path.parent)}: "
        f"{error.strerror or error}",
        hint="let this user write in that folder, or keep the runs elsewhere with --home",
    )


def home_gone_error(home: Path) -> HomeError:
    """Return the error for a home that existed when it was opened, and is missing now."""
    return HomeError(
        f"the home {home} is gone: it was removed, moved or replaced while it was in use",
        hint="move it back and resume the run, or run the job again",
    )


def acquire(lock: BaseFileLock, timeout: float, store: FileStore) -> None:
    """Take a lock, and make its folder.

    Raises: Timeout, HomeError where the place cannot be written or has no locks.
    """
    from filelock import Timeout

    path = Path(lock.lock_file)
    try:
        store.make(path.parent)
        lock.acquire(timeout=timeout, poll_interval=0.02)
    except Timeout:  # an OSError, too
        raise
    except OSError as error:
        raise home_error(error, path, "written") from error
    except NotImplementedError as error:
        raise HomeError(
            f"{path} cannot be locked: {error}",
            hint="keep the runs on a disk of this machine with --home",
        ) from error


@contextmanager
def _reading(key: str, path: Path) -> Iterator[None]:
    """Raise KeyError where there is no object, and HomeError where it cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise KeyError(key) from None
    except OSError as error:
        if path.is_dir():
            raise KeyError(key) from None
        raise home_error(error, path, "read") from error


@contextmanager
def home_errors(path: Path, done: str) -> Iterator[None]:
    """Raise HomeError in place of an OSError about `place`."""
    try:
        yield
    except OSError as error:
        raise home_error(error, path, done) from error


def _existing(path: Path) -> Path:
    return next(
        folder
        for folder in (path, *path.parents)
        if os.access(folder, os.F_OK) or folder == folder.parent
    )


def _make_folders(folder: Path) -> None:
    """Create a folder and its missing parents, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _write(path: Path, content: memoryview) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a folder; NTFS has a journal of names
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def _remove_half_written(half: Path) -> None:
    with suppress(OSError):  # it could not be written, which is reported already
        half.unlink(missing_ok=True)


def _keys_below(folder: Path, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                f"{entry.name}/" if entry.is_dir() else entry.name
                for entry in entries
                if not entry.name.startswith(TEMP_PREFIX)
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise home_error(error, folder, "listed") from error
    for name in names:  # the '/' at the end sorts "a/b" after "a.b", as in an object store
        if name.endswith("/"):
            yield from _keys_below(folder / name, prefix + name)
        else:
            yield prefix + name


def _remove(path: Path) -> None:
    while path.is_dir():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue  # another process removes it too: try again
    with suppress(NotADirectoryError):  # nothing can be below an object
        path.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
