"""Removes the files of old runs from a home; their records and all releases stay.

A run's folder is renamed first, so that a process that is killed never leaves half a run. The lock
of its driver is held meanwhile, so that nothing resumes it.
"""

from __future__ import annotations

import datetime as dt
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ..data.layout import Layout
from ..errors import HomeError, RunBusy, UsageError
from ..pipeline.releases import current_version, read_release
from ..ports.interfaces import Record
from ..ports.run_states import State
from .filesystem import home_errors
from .home import Home

DEFAULT_KEPT = 10  # newest runs of each job
TRASH = "trash"  # folder of the home
FINISHED = (State.DONE, State.CANCELLED)
ALL_FILES, ROW_FILES = "all files", "rows of units"


@dataclass(frozen=True, slots=True)
class CleanOptions:
    """The runs that are cleaned.

    keep: newest runs of each job that are kept. older_than: seconds since the last change of a
    record, below which a run is kept. job: only its runs. unfinished: failed, held and stopped runs
    too, which could be resumed. rows_only: remove only the rows of the units and the outcomes of
    runs that are done. dry_run: remove nothing.
    """

    keep: int = DEFAULT_KEPT
    older_than: float = 0.0
    job: str | None = None
    unfinished: bool = False
    rows_only: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise UsageError(f"--keep is {self.keep}, wanted a number of runs, 0 or more")


@dataclass(frozen=True, slots=True)
class CleanedRun:
    """A run whose files were removed, or would be. files: which of them. size: bytes."""

    run: str
    job: str
    state: str
    updated: str
    files: str
    size: int


def clean_home(home: Home, options: CleanOptions, now: dt.datetime) -> list[CleanedRun]:
    """Remove the files of old runs, oldest first, and return what was removed.

    A run that a process is executing is left alone, and so are the runs that made the current
    release of a job and its parent.

    Raises: HomeError if a file cannot be removed.
    """
    if not options.dry_run:
        _empty_trash(home)
    return list(_clean(home, options, now))


def _clean(home: Home, options: CleanOptions, now: dt.datetime) -> Iterator[CleanedRun]:
    for record in _candidates(home, options, now):
        paths = list(_folders(home, record, options))
        size = sum(map(_bytes_below, paths))
        if not size or home.is_active(record.id):
            continue
        if not options.dry_run and not _remove(home, record, paths):
            continue
        files = ROW_FILES if options.rows_only else ALL_FILES
        yield CleanedRun(record.id, record.job, record.state.value, record.updated, files, size)


def _candidates(home: Home, options: CleanOptions, now: dt.datetime) -> Sequence[Record]:
    """Return the records of the runs to clean, oldest first."""
    by_job: defaultdict[str, list[Record]] = defaultdict(list)
    for record in home.ledger.runs(options.job):  # newest first
        if home.holds(record.id):
            by_job[record.job].append(record)
    found = [
        record
        for job, records in by_job.items()
        for record in _beyond_kept(records, options.keep, _runs_of_releases(job, home))
        if _is_cleaned(record, options, now)
    ]
    return sorted(found, key=lambda record: (record.created, record.id))


def _beyond_kept(records: Sequence[Record], keep: int, released: set[str]) -> list[Record]:
    return [record for record in records[keep:] if record.id not in released]


def _is_cleaned(record: Record, options: CleanOptions, now: dt.datetime) -> bool:
    if options.rows_only:
        may_be = record.state is State.DONE
    else:
        may_be = options.unfinished or record.state in FINISHED
    return may_be and _age(record, now) >= options.older_than


def _age(record: Record, now: dt.datetime) -> float:
    """Return the seconds since the record was changed; 0 for a record without a time."""
    with suppress(ValueError):
        updated = dt.datetime.fromisoformat(record.updated)
        return (now - updated.replace(tzinfo=updated.tzinfo or dt.UTC)).total_seconds()
    return 0.0


def _runs_of_releases(job: str, home: Home) -> set[str]:
    """Return the runs that made the current release of a job, and its parent."""
    version = current_version(job, home.store)
    if version is None:
        return set()
    release = read_release(job, version, home.store)
    runs = {release.run}
    if release.parent is not None:
        runs.add(read_release(job, release.parent, home.store).run)
    return runs


def _folders(home: Home, record: Record, options: CleanOptions) -> Iterator[Path]:
    """Yield the folders of a run to remove."""
    layout = Layout(record.id)
    if not options.rows_only:
        yield home.store.path(layout.root)
        return
    for model in record.models:
        yield home.store.path(layout.batch(model, 0)).parent
        yield home.store.path(layout.outcomes(model))


def _bytes_below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _remove(home: Home, record: Record, paths: Sequence[Path]) -> bool:
    """Remove folders of a run; return whether they could be, since no process executes it."""
    trash = home.folder / TRASH
    with suppress(RunBusy), home.lock(record.id), home_errors(trash, "written"):
        for path in paths:
            if path.exists():
                trash.mkdir(exist_ok=True)
                path.rename(trash / f"{record.id}-{uuid4().hex}")
        _empty_trash(home)
        return True
    return False


def _empty_trash(home: Home) -> None:
    """Remove what this process, or one that was killed, has renamed. Others may do so too."""
    trash = home.folder / TRASH
    shutil.rmtree(trash, ignore_errors=True)
    if trash.exists() and any(trash.iterdir()):
        raise HomeError(
            f"{trash} cannot be removed",
            hint=f"remove it as a user who may: rm -r {shlex.quote(str(trash))}",
        )
