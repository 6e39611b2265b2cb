"""The record and the kept rows of a new local run, before any step."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from ..data.checksums import checksum_of, put_sealed
from ..data.layout import Layout
from ..errors import SourceError, UsageError
from ..job import Job
from ..paths import expand_user
from ..ports.interfaces import Record, SourceLocation
from ..ports.run_facts import HOME_FORMAT, RunOptions
from ..ports.run_states import State
from ..runs.backend import RunArguments
from ..runs.budgets import core_time_budget
from ..runs.code_history import keep_code
from ..runs.job_code import JobCode
from ..runs.names import check_run_id
from ..runs.start import check_declared, check_names, new_run_id, parse_as_of
from ..sql.sources.files import find_files
from ..workers.job_pickle import pickle_job
from .home import Home
from .rebuild import write_record
from .runner import fail

IN_MEMORY = "(in memory)"  # the recorded place of a source that was passed as a table


def create_run(
    home: Home,
    job: Job,
    ref: str,
    sources: Mapping[str, object],
    arguments: RunArguments,
    code: JobCode | None = None,
) -> str:
    """Record a new run and return its id; keep the job and in-memory sources for later
    processes.
    """
    as_of, run_id, max_rejected = arguments.as_of, arguments.run_id, arguments.max_rejected
    now = dt.datetime.now(dt.UTC)
    created = _after_all_runs(now, home)
    run = check_run_id(run_id) if run_id is not None else new_run_id(created)
    check_names(job, sources, max_rejected)
    check_declared(job)
    locations = _checked_locations(job, sources)
    stamp = created.isoformat(timespec="milliseconds")
    options: RunOptions = {
        "format": HOME_FORMAT,
        "workers": arguments.workers,
        "memory": arguments.memory,
        "as_of": parse_as_of(as_of)
        if as_of is not None
        else now.replace(tzinfo=None, microsecond=0).isoformat(" "),
        "sources": _recorded_addresses(locations),
        "folder": str(job.folder),
        "max_rejected": dict(max_rejected),
        "max_failed": arguments.max_failed,
        "attempt": 1,
        **budget_option(arguments),
    }
    if arguments.way is not None:
        options["plan"] = dict(arguments.way)
    if arguments.pilot is not None:
        options["pilot"] = str(arguments.pilot)
    pickled = pickle_job(job)
    record = Record(run, job.name, ref, State.NEW, "new", stamp, stamp, options=options)
    home.ledger.create(record)
    try:
        record = _keep_tables(home, record, locations)
        write_record(record, [model.name for model in job.models], home.store)
        put_sealed(home.store, Layout(run).job(), pickled)
        if code is not None:
            keep_code(home, record, code)
    except Exception as error:
        fail(home, run, error)
        raise
    return run


def _recorded_addresses(locations: Mapping[str, SourceLocation]) -> dict[str, str]:
    return {
        name: location if isinstance(location, str) else IN_MEMORY
        for name, location in locations.items()
    }


def budget_option(arguments: RunArguments) -> RunOptions:
    """Return the option of a budget, if one is given. Raises: UsageError."""
    if arguments.prices is not None:
        raise UsageError("--prices is for --backend aws", hint="a local run costs no dollars")
    return {} if arguments.budget is None else {"budget": core_time_budget(arguments.budget)}


def _checked_locations(job: Job, sources: Mapping[str, object]) -> dict[str, SourceLocation]:
    """Return the place of each source. Raises: SourceError for an invalid path."""
    locations = {
        source.name: source_location(
            source.name, sources.get(source.name, source.path), name_given=source.name in sources
        )
        for source in job.sources
    }
    for name, location in locations.items():
        if isinstance(location, str):
            find_files(name, location, job.folder or Path())
    return locations


def _keep_tables(home: Home, record: Record, locations: Mapping[str, SourceLocation]) -> Record:
    """Write the sources that are in memory as files, and record their checksums."""
    staged: dict[str, str] = {}
    for name, location in locations.items():
        if not isinstance(location, str):
            from ..sql.sources.frames import frame_to_table

            key = Layout(record.id).staged(name)
            with home.store.writing(key) as path:
                pq.write_table(frame_to_table(name, location), path)
            staged[key] = checksum_of(home.store, key)
    return home.ledger.note(record.id, options={"staged": staged}) if staged else record


def _after_all_runs(now: dt.datetime, home: Home) -> dt.datetime:
    """Return the present time, or just after the newest run's start if the clock was set back
    since.

    The newest run must have the latest time.
    """
    for record in home.ledger.runs()[:1]:
        with suppress(ValueError):
            now = max(now, dt.datetime.fromisoformat(record.created) + dt.timedelta(milliseconds=1))
    return now


def source_location(name: str, location: object, name_given: bool) -> SourceLocation:
    """Return a path made absolute if the caller passed it, or the rows of a table."""
    if location is None:
        raise SourceError(
            f"the source {name} has no path",
            hint=f"name its path: --source {name}=PATH   or in Python: sources={{{name!r}: ...}}",
        )
    if not isinstance(location, str | Path):
        from ..sql.sources.frames import frame_to_table

        return frame_to_table(name, location)
    text = str(location)
    return str(expand_user(text).absolute()) if name_given else text
