"""What a person does with runs on this machine, one verb a function: run, resume, retry, publish, cancel, rollback."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..data.checksums import checksum_of, put_sealed, verify
from ..errors import DamagedFile, SourceError, StateError, Stopped, UsageError
from ..job import Job, Layout
from ..paths import expanded
from ..pipeline import publish as publishing
from ..pipeline.publish import Release
from ..pipeline.runner import Quiet, Watcher
from ..pipeline.validate import move_source
from ..ports.interfaces import Record
from ..ports.run_states import Event, State, after
from ..runs.code_fingerprint import Code, code_of, with_queries
from ..runs.job_loader import job_of, lasting, load_job
from ..runs.names import check_job_name, check_run_id
from ..runs.retry import forget, plan_again
from ..runs.run import Run, find_run
from ..runs.run_code import check_code, is_new, keep_code, keep_job, plan_new_code
from ..runs.start import check_arguments, check_declared, check_names, decided, moment, new_run_id, with_limits
from ..sql.duckdb import prints
from ..sql.sources.files import as_table, find_files, pattern
from ..workers.job_pickle import packed
from ..workers.pool import Crew
from .home import Home, as_home
from .rebuild import keep_record
from .resources import Limits, limits_of
from .restore import note_recomputed, restore
from .runner import Drive, fail

STAGED = "(in memory)"  # the place of a source that came as a table


def run(
    job: Job | str,
    sources: Mapping[str, Any] | None = None,
    *,
    home: str | Path = ".hundredfold",
    workers: int | None = None,
    memory: str | int | None = None,
    as_of: dt.date | str | None = None,
    run_id: str | None = None,
    max_rejected: Mapping[str, float] | None = None,
    max_failed: float | None = None,
    watcher: Watcher | None = None,
) -> Run:
    """Run a job here, from its sources to its release.

    job          a Job, or "module:attribute", or "path/to/file.py:attribute"
    sources      {name: place}: a path, glob or folder, or a pandas, polars or Arrow table; those left out use Source.at
    home         the folder that keeps the runs
    workers      processes (one for each core)
    memory       "2GB": for the warehouse, the driver and the workers together (0.7 of the machine's)
    as_of        the moment that counts as now for the checks and the release (now)
    max_rejected, max_failed   limits for this run instead of the declared ones

    Returns the Run. Raises what stopped it, with the way on in its `hint`; PublishRefused if more units failed than the
    limit allows (then `open_run(run_id)` gives the Run, whose results and failures are there).
    """
    check_arguments(job, sources, workers, max_rejected, max_failed)
    ref, job = (lasting(job), load_job(job)) if isinstance(job, str) else ("", job)
    there = Home(home)
    limits = limits_of(workers, memory)
    check_declared(job)
    code = code_of(job, ref)
    begun = begin(
        there,
        job,
        ref,
        sources or {},
        as_of=as_of,
        run_id=run_id,
        max_rejected=max_rejected or {},
        max_failed=max_failed,
        options={"workers": workers, "memory": memory},
        code=code,
    )
    return drive(there, begun, job, limits, watcher or Quiet(), Event.START, code)


def resume(
    run_id: str | None = None,
    *,
    home: str | Path = ".hundredfold",
    job: Job | None = None,
    sources: Mapping[str, str | Path] | None = None,
    watcher: Watcher | None = None,
    workers: int | None = None,
    memory: str | None = None,
    accept_new_code: bool = False,
) -> Run:
    """Go on with a run that was stopped or whose driver died: what is done is kept.

    sources: {name: path} of sources whose files were moved.
    accept_new_code: go on with other code than the run began with; the units that are done keep theirs.
    """
    there, record, job, limits = _again(home, run_id, job, workers, memory)
    event = resuming(there, record, job)
    after(record.state, event, record.id)
    code = check_code(there, record, job, "resume", accept_new_code)
    if sources:
        with there.lock(record.id):
            after(there.ledger.read(record.id).state, event, record.id)
            move_sources(there, record, job, sources)
    if is_new(record, code):
        with there.lock(record.id):
            plan_new_code(there, there.ledger.read(record.id), job, code)
    return drive(there, record.id, job, limits, watcher or Quiet(), event, code)


def resuming(home: Home, record: Record, job: Job) -> Event:
    """Return the event that lets a run go on; files of a run that is done are forgotten where they are damaged."""
    if record.state is not State.DONE:
        return Event.START
    with home.lock(record.id):
        found = restore(record, job, home.store)
    if not found:
        return Event.START  # which says that it is done
    note_recomputed(home.ledger, record.id, found)
    return Event.RESTORE


def retry(
    run_id: str | None = None,
    *,
    home: str | Path = ".hundredfold",
    job: Job | None = None,
    watcher: Watcher | None = None,
    workers: int | None = None,
    memory: str | None = None,
    accept_new_code: bool = False,
) -> Run:
    """Do the failed and dead units of a run again (with the function as it is now), and what builds on them; then go on to publish.

    accept_new_code: do so with other code than the run began with; the units that are done keep theirs.
    """
    there, record, job, limits = _again(home, run_id, job, workers, memory)
    after(record.state, Event.RETRY, record.id)
    code = check_code(there, record, job, "retry", accept_new_code)
    with there.lock(record.id):
        after(there.ledger.read(record.id).state, Event.RETRY, record.id)
        plan_again(there, record, job)
        keep_code(there, there.ledger.read(record.id), code)
        keep_job(there, record, job, code)
    return drive(there, record.id, job, limits, watcher or Quiet(), Event.RETRY, code)


def publish(
    run_id: str | None = None,
    *,
    home: str | Path = ".hundredfold",
    job: Job | None = None,
    max_failed: float | None = None,
    replace_newer: bool = False,
    watcher: Watcher | None = None,
    accept_new_code: bool = False,
) -> Run:
    """Go on with a run that its limits held back, under another limit.

    replace_newer: its release may replace that of a run that was created later.
    """
    there, record, job, limits = _again(home, run_id, job, None, None)
    if record.state is not State.HELD:
        raise StateError(
            f"run {record.id} is {record.state.value}, and only a run that is held back waits to be published",
            hint=f"hundredfold status {record.id}",
        )
    code = check_code(there, record, job, "publish", accept_new_code)
    there.ledger.note(record.id, options=decided(record, max_failed, replace_newer))
    if is_new(record, code):
        with there.lock(record.id):
            plan_new_code(there, there.ledger.read(record.id), job, code)
    return drive(there, record.id, job, limits, watcher or Quiet(), Event.START, code)


def move_sources(home: Home, record: Record, job: Job, sources: Mapping[str, str | Path]) -> None:
    """Record where the files of sources are now. Raises: SourceError, UsageError for what they cannot be."""
    now = dict(record.options["sources"])
    for name, place in sources.items():
        job.source(name)
        if now[name] == STAGED or not isinstance(place, str | Path):
            raise UsageError(f"the source {name} is a table, and a table has no place", hint="its rows are kept with the run: leave it out")
        now[name] = _place(name, place, name_given=True)
        files = find_files(name, now[name], job.folder or Path())
        if files.kind == "parquet":
            move_source(name, prints(files.paths), pattern, Layout(record.id), home.store)
    home.ledger.note(record.id, options={"sources": now})


def cancel(run_id: str | None = None, *, home: str | Path = ".hundredfold") -> Record:
    """End a run for good; its driver, wherever it is, stops within a second. What was done stays readable."""
    there = Home(home, make=False)
    record = find_run(there, run_id)
    return there.ledger.move(record.id, Event.CANCEL, reason="cancelled by hand")


def rollback(job: str, *, home: Any = ".hundredfold", to: int | None = None) -> Release:
    """Let the pointer name the release that the current one was built upon, or version `to`."""
    there = as_home(home)
    with there.publishing(check_job_name(job)):
        return publishing.rollback(job, there.store, to)


def begin(
    home: Home,
    job: Job,
    ref: str,
    sources: Mapping[str, Any],
    *,
    as_of: dt.date | str | None,
    run_id: str | None,
    max_rejected: Mapping[str, float],
    max_failed: float | None,
    options: Mapping[str, Any],
    code: Code | None = None,
) -> str:
    """Record a new run, and keep what a later process needs to go on with it: the job, and sources that are only in memory."""
    now = dt.datetime.now(dt.UTC)
    begun = _after_all_runs(now, home)
    run = check_run_id(run_id) if run_id is not None else new_run_id(begun)
    layout = Layout(run)
    check_names(job, sources, max_rejected)
    places = {
        source.name: _place(source.name, sources.get(source.name, source.at), name_given=source.name in sources) for source in job.sources
    }
    check_declared(job)
    for name, place in places.items():
        if isinstance(place, str):
            find_files(name, place, job.folder or Path())  # a path that leads nowhere is found before the run is recorded
    stamp = moment(as_of) if as_of is not None else now.replace(tzinfo=None, microsecond=0).isoformat(" ")
    kept = {name: STAGED if not isinstance(place, str) else place for name, place in places.items()}
    record = Record(
        run, job.name, ref, State.NEW, "new", begun.isoformat(timespec="milliseconds"), begun.isoformat(timespec="milliseconds"),
        options={**options, "as_of": stamp, "sources": kept, "folder": str(job.folder), "max_rejected": dict(max_rejected), "max_failed": max_failed, "round": 1},
    )  # fmt: skip
    kept_job = packed(job)
    home.ledger.create(record)
    try:
        for name, place in places.items():
            if not isinstance(place, str):
                with home.store.writing(layout.staged(name)) as path:
                    pq.write_table(as_table(name, place), path)
        staged = {key: checksum_of(home.store, key) for name in places if kept[name] == STAGED for key in (layout.staged(name),)}
        if staged:
            record = home.ledger.note(run, options={"staged": staged})
        keep_record(record, [model.name for model in job.models], home.store)
        put_sealed(home.store, layout.job(), kept_job)
        if code is not None:
            keep_code(home, record, code)
    except Exception as error:
        fail(home, run, error)
        raise
    return run


def _after_all_runs(now: dt.datetime, home: Home) -> dt.datetime:
    """Now; or just after the newest run's beginning, where the clock was set back since: the newest run must stay the newest."""
    for record in home.ledger.runs()[:1]:
        with suppress(ValueError):
            now = max(now, dt.datetime.fromisoformat(record.created) + dt.timedelta(milliseconds=1))
    return now


def drive(
    home: Home,
    run: str,
    job: Job,
    limits: Limits,
    watcher: Watcher,
    event: Event,
    code: Code | None = None,
    hire: Callable[..., Crew] = Crew,
) -> Run:
    """Walk a run to its end, as its only driver."""
    with home.lock(run):
        record = home.ledger.move(run, event)
        try:
            drive = _drive_of(home, job, record, limits, watcher, code)
        except Stopped:
            raise
        except Exception as error:
            fail(home, run, error)
            raise
        drive.hire = hire
        drive.walk()
    return Run(home, run)


def _drive_of(home: Home, job: Job, record: Record, limits: Limits, watcher: Watcher, code: Code | None) -> Drive:
    """Prepare everything that a drive needs. DamagedFile if a source that came as a table is not what was kept of it."""
    forget(home, record)
    watcher.begun(record.id)
    for key, wanted in record.options.get("staged", {}).items():
        verify(home.store, key, wanted)
    staged = {name: home.store.path(Layout(record.id).staged(name)) for name, place in record.options["sources"].items() if place == STAGED}
    places = {**record.options["sources"], **staged}
    snapshot = code.snapshot(str(home.store.path(Layout(record.id).code(code.fingerprint)))) if code is not None else None
    return Drive(home, with_queries(with_limits(job, record)), record, limits, places, watcher, snapshot)


def _place(name: str, place: Any, name_given: bool) -> Any:
    """A path made absolute where it came from the caller; a table as it is."""
    if place is None:
        raise SourceError(
            f"the source {name} has no place", hint=f"name it: --source {name}=PATH   or in Python: sources={{{name!r}: ...}}"
        )
    if not isinstance(place, str | Path):
        return as_table(name, place)
    text = str(place)
    return str(expanded(text).absolute()) if name_given else text


def _again(
    home: str | Path, run_id: str | None, job: Job | None, workers: int | None, memory: str | None
) -> tuple[Home, Record, Job, Limits]:
    there = Home(home, make=False)
    record = find_run(there, run_id)
    options = record.options
    limits = limits_of(options.get("workers") if workers is None else workers, options.get("memory") if memory is None else memory)
    return there, record, job or _job_or_failed(there, record), limits


def _job_or_failed(home: Home, record: Record) -> Job:
    """Return the job of a run; where its file is damaged, a run that nobody drives is failed."""
    try:
        return job_of(home, record)
    except DamagedFile as damage:
        if record.state in (State.NEW, State.RUNNING) and not home.driven(record.id):
            home.ledger.move(record.id, Event.FAIL, reason=str(damage))
        raise


def open_run(run_id: str | None = None, *, home: Any = ".hundredfold") -> Run:
    """A run that was made before: the newest, if none is named. NoSuchRun if there is none."""
    there = as_home(home)
    return Run(there, find_run(there, run_id).id)
