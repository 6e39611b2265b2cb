"""The local ledger: one SQLite file, with a row for each run.

Each call opens the file, executes one transaction, and closes it. No state is kept between calls,
so that threads and processes may share it. A write is durable when the call returns, its directory
entry included (synchronous=EXTRA).

Each row has a checksum of its values, which is verified when the row is read. When a row is missing
or all are listed, SQLite also checks the structure of the file. A file that is missing, or was
moved away because of damage, is created again with the records that `rebuild` returns from the
folders of the runs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..data.checksums import checksum
from ..errors import DamagedFile, HomeError, StateError
from ..ports.interfaces import Clock, Record
from ..ports.run_facts import RunCounts, RunOptions
from ..ports.run_records import MAX_RUNS_SHOWN, annotate, no_such_run, run_exists_error, transition
from ..ports.run_states import Event, State
from .filesystem import home_error, home_gone_error

FORMAT = 2
SCHEMA = """CREATE TABLE runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, ref TEXT NOT NULL,
    state TEXT NOT NULL, step TEXT NOT NULL,
    created TEXT NOT NULL, updated TEXT NOT NULL, reason TEXT NOT NULL,
    options TEXT NOT NULL, counts TEXT NOT NULL, version INTEGER NOT NULL, checksum TEXT NOT NULL
) WITHOUT ROWID"""
NEWEST_FIRST = "ORDER BY created DESC, id DESC"

INSERT = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
COLUMNS = "id, job, ref, state, step, created, updated, reason, options, counts, version, checksum"
DAMAGED = ("is damaged, or was not written by hundredfold", None)

PLACE_HINT = "let this user write in that folder, or keep the runs elsewhere with --home"
ERRORS_BY_CODE = {
    sqlite3.SQLITE_BUSY: (
        "is locked by another process",
        "see which hundredfold processes are running, and try again",
    ),
    sqlite3.SQLITE_FULL: (
        "cannot grow: the disk is full",
        "free some space, or keep the runs elsewhere with --home; then hundredfold resume",
    ),
    sqlite3.SQLITE_READONLY: ("cannot be written", PLACE_HINT),
    sqlite3.SQLITE_PERM: ("cannot be written", PLACE_HINT),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", PLACE_HINT),
    sqlite3.SQLITE_IOERR: (
        "cannot be read or written",
        "check the disk, and the free space on it; or keep the runs elsewhere with --home",
    ),
    sqlite3.SQLITE_NOTADB: DAMAGED,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
}


class _Damaged(Exception):
    """The damage to the file, found by a checksum or by SQLite."""


class SqliteLedger:
    """The records of runs in a file, which is created with the first run.

    patience: seconds to wait for a lock. made: the folder existed before, and is not created again
    if it was removed.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock = time.time,
        *,
        patience: float = 30.0,
        rebuild: Callable[[], Sequence[Record]] = tuple,
        made: bool = False,
    ) -> None:
        self.path = Path(path)
        self._rebuild = rebuild
        self._made = made
        self._clock = clock
        self._patience = patience

    def create(self, record: Record) -> None:
        """Add a run. Raises: StateError if its id exists."""
        with self._writing() as db:
            _check(db)
            if _rows(db, "WHERE id = ?", record.id):
                raise run_exists_error(record.id)
            db.execute(INSERT, _row(record))

    def read(self, run: str) -> Record:
        """Return a record. Raises: NoSuchRun."""
        with self._reading() as db:
            return _one(db, run)

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Apply an event to a run, and return the new record. Raises: StateError if its state
        forbids it.

        `reason` replaces that of the previous event.
        """
        with self._writing() as db:
            return _replace(db, transition(_one(db, run), event, step, reason, self._clock()))

    def note(
        self,
        run: str,
        *,
        step: str | None = None,
        counts: RunCounts | None = None,
        options: RunOptions | None = None,
    ) -> Record:
        """Write facts that leave the state unchanged: the current step, counts and options.

        Counts and options are merged into the existing ones.
        """
        with self._writing() as db:
            return _replace(db, annotate(_one(db, run), step, counts, options, self._clock()))

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """Return all runs, or those of a job, newest first."""
        with self._reading() as db:
            _check(db)
            return (
                _rows(db, NEWEST_FIRST)
                if job is None
                else _rows(db, f"WHERE job = ? {NEWEST_FIRST}", job)
            )

    def _refuse_gone(self) -> None:
        if self._made and not self.path.parent.is_dir():
            raise home_gone_error(self.path.parent)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._refuse_gone()
        with sqlite_errors(self.path, _damaged(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with (
                closing(
                    sqlite3.connect(self.path, timeout=self._patience, isolation_level=None)
                ) as db,
                db,
            ):
                db.execute("PRAGMA synchronous = EXTRA")
                db.execute("BEGIN IMMEDIATE")
                if _format(db, self.path) == 0:
                    db.execute(SCHEMA)
                    db.executemany(INSERT, map(_row, self._rebuild()))
                    db.execute(f"PRAGMA user_version = {FORMAT}")
                yield db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open the file, also in a read-only place; where there is none, the ledger is empty."""
        self._refuse_gone()
        with sqlite_errors(self.path, _damaged(self.path)):
            uri = f"{self.path.absolute().as_uri()}?mode=rw" if self.path.exists() else ":memory:"
            with closing(
                sqlite3.connect(uri, uri=True, timeout=self._patience, isolation_level=None)
            ) as db:
                if _format(db, self.path) == 0:
                    db.execute(SCHEMA.replace("CREATE TABLE", "CREATE TEMP TABLE"))
                    db.executemany(INSERT, map(_row, self._rebuild()))
                yield db


@contextmanager
def sqlite_errors(path: Path, damaged: str) -> Iterator[None]:
    """Raise HomeError in place of an error of SQLite or of the system.

    damaged: the hint for a damaged file.
    """
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.Error as error:
        # the primary code of an extended code
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # damage to a schema or a text has many codes
        problem, hint = ERRORS_BY_CODE.get(code, DAMAGED)
        # SQLite does not report this cause
        if code == sqlite3.SQLITE_CANTOPEN and _no_more_files():
            problem, hint = (
                "cannot be opened: too many files are open",
                "raise the limit of open files (ulimit -n), or lower --workers",
            )
        raise (HomeError if hint else DamagedFile)(
            f"{path} {problem}: {error}", hint=hint or damaged
        ) from error
    except _Damaged as error:
        raise DamagedFile(f"{path} is damaged: {error}", hint=damaged) from error
    except OSError as error:
        raise home_error(error, path, "opened") from error


def _no_more_files() -> bool:
    """Return whether this process is at its limit of open files (SQLite opens several)."""
    opened = []
    try:
        for _ in range(8):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    finally:
        for each in opened:
            os.close(each)
    return False


def _damaged(path: Path) -> str:
    return (
        f"move it away: mv {path} {path}.damaged   the next command rebuilds the list of runs "
        "from their folders"
    )


def _format(db: sqlite3.Connection, path: Path) -> int:
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > FORMAT:
        raise HomeError(
            f"{path} has format {found}, and this hundredfold supports {FORMAT}",
            hint="pip install --upgrade hundredfold",
        )
    if 0 < found < FORMAT:
        raise HomeError(
            f"{path} has format {found}, of an older hundredfold, and this one supports {FORMAT}",
            hint="name another folder with --home for new runs",
        )
    return found


def _check(db: sqlite3.Connection) -> None:
    """Raise _Damaged if SQLite finds errors in the pages, rows or indexes of the file."""
    [found] = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _Damaged(found)


def _one(db: sqlite3.Connection, run: str) -> Record:
    found = _rows(db, "WHERE id = ?", run)
    if not found:
        _check(db)
        raise no_such_run(
            run, [record.id for record in _rows(db, f"{NEWEST_FIRST} LIMIT {MAX_RUNS_SHOWN}")]
        )
    return found[0]


def _rows(db: sqlite3.Connection, which: str, *values: str) -> list[Record]:
    return [_record(row) for row in db.execute(f"SELECT {COLUMNS} FROM runs {which}", values)]


def _record(row: tuple[Any, ...]) -> Record:
    *texts, version, wanted = row
    if _checksum((*texts, version)) != wanted:
        raise _Damaged(
            f"the row of run {row[0]!r} does not have the checksum with which it was written"
        )
    id, job, ref, state, step, created, updated, reason, options, counts = texts
    return Record(
        id,
        job,
        ref,
        State(state),
        step,
        created,
        updated,
        reason,
        json.loads(options),
        json.loads(counts),
        version,
    )


def _checksum(values: tuple[Any, ...]) -> str:
    return f"{checksum('runs', json.dumps(values, default=str).encode()):08x}"


def _row(record: Record) -> tuple[Any, ...]:
    r = record
    values = (
        r.id,
        r.job,
        r.ref,
        r.state,
        r.step,
        r.created,
        r.updated,
        r.reason,
        json.dumps(dict(r.options)),
        json.dumps(dict(r.counts)),
        r.version,
    )
    return (*values, _checksum(values))


def _replace(db: sqlite3.Connection, record: Record) -> Record:
    """Write a record over its previous version. Raises: StateError if that is no longer there."""
    written = db.execute(
        "UPDATE runs SET state = ?, step = ?, updated = ?, reason = ?, options = ?, counts = ?, "
        "version = ?, checksum = ? WHERE id = ? AND version = ?",
        (*_row(record)[3:5], *_row(record)[6:], record.id, record.version - 1),
    )
    if written.rowcount != 1:
        raise StateError(
            f"run {record.id} was changed by another process at the same moment",
            hint=f"hundredfold status {record.id}",
        )
    return _one(db, record.id)
