"""What a person does with runs on this machine, one verb a function: run, resume, retry, publish, cancel, rollback."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.batch import form_of
from ..data.checksums import checksum_of, get_sealed, listed, missing, put_sealed, verify
from ..data.manifest import Manifest, UnitList
from ..data.result_contract import returned_by
from ..data.upstream import check_given
from ..errors import DamagedFile, HundredfoldError, JobError, SourceError, StateError, Stopped, UsageError, text_of_error
from ..job import Job, Layout, Model, check_limit
from ..pipeline import publish as publishing
from ..pipeline.collect import read_collected
from ..pipeline.enqueue import plan_retry, plan_round, retry_key
from ..pipeline.publish import Release
from ..pipeline.runner import Quiet, Watcher
from ..pipeline.validate import move_source
from ..ports.interfaces import Record
from ..ports.run_states import Event, State, after
from ..runs.code_fingerprint import Code, code_of, differences, facts_of, with_queries
from ..runs.job_loader import expanded, lasting, load_job
from ..runs.names import check_job_name, check_run_id
from ..runs.run import Run, find_run
from ..sql.duckdb import DuckWarehouse, prints
from ..sql.queries import query_of
from ..sql.sources.files import as_table, find_files, pattern
from ..workers.pool import Crew, packed
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


def check_arguments(job: Any, sources: Any, workers: Any, max_rejected: Any, max_failed: Any) -> None:
    """UsageError or JobError for arguments that are not what `run` says."""
    if not isinstance(job, str | Job):
        raise UsageError(f"the job is {type(job).__name__}, wanted a Job, 'module:attribute' or 'path/to/file.py:attribute'")
    if sources is not None and not isinstance(sources, Mapping):
        raise UsageError(f"sources is {type(sources).__name__}, wanted a mapping", hint='such as sources={"sales": frame}')
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise UsageError(f"workers is {workers!r}, wanted a whole number")
    if max_rejected is not None and not isinstance(max_rejected, Mapping):
        raise UsageError(f"max_rejected is {max_rejected!r}, wanted a mapping", hint='such as max_rejected={"sales": 0.01}')
    for name, limit in (max_rejected or {}).items():
        check_limit(f"max_rejected of {name}", limit)
    if max_failed is not None:
        check_limit("max_failed", max_failed)


def check_names(job: Job, *named: Mapping[str, Any]) -> None:
    """Raise JobError for a name, of those that arguments give to sources, which no source of the job has."""
    for names in named:
        for name in names:
            job.source(name)


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


def decided(record: Record, max_failed: float | None, replace_newer: bool) -> dict[str, Any]:
    """Return what a person decided about a run that is held back, as options of its record."""
    limit = max_failed if max_failed is not None else record.options.get("max_failed")
    return {"max_failed": limit, "replace_newer": replace_newer or bool(record.options.get("replace_newer"))}


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


def new_run_id(now: dt.datetime) -> str:
    """An id that sorts by time."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


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
    return Drive(home, with_queries(_with_limits(job, record)), record, limits, places, watcher, snapshot)


def check_code(home: Home, record: Record, job: Job, verb: str, accept: bool) -> Code:
    """Return the code of the job as it is now. StateError if it is not that with which the run was done so far, unless that is accepted."""
    code = code_of(job, record.ref)
    if accept or not is_new(record, code):
        return code
    last = record.options["code"][-1]["fingerprint"]
    try:
        problems = differences(facts_of(get_sealed(home.store, Layout(record.id).code(last)).to_pybytes()), code.facts)
    except (KeyError, DamagedFile):
        problems = ["what differs is not known: the run's copy of its code is gone or damaged"]
    raise StateError(
        f"the code is not that with which run {record.id} was done so far",
        problems=problems,
        hint=f"go on with the code as it is now: hundredfold {verb} {record.id} --accept-new-code   (in Python: accept_new_code=True)"
        "   or put the code back, or run the job again",
    )


def is_new(record: Record, code: Code) -> bool:
    """Whether code is other than that with which the run was done last."""
    known = record.options.get("code") or []
    return bool(known) and known[-1]["fingerprint"] != code.fingerprint


def keep_code(home: Home, record: Record, code: Code, round_: int | None = None) -> None:
    """Keep the code with the run, and record that it is that of a round (the run's present one) and of those that follow."""
    layout = Layout(record.id)
    try:
        get_sealed(home.store, layout.code(code.fingerprint))
    except (KeyError, DamagedFile):
        put_sealed(home.store, layout.code(code.fingerprint), code.archive())
    known = record.options.get("code", [])
    if not known or is_new(record, code):
        first = round_ if round_ is not None else int(record.options.get("round", 1))
        entry = {"round": first, "fingerprint": code.fingerprint, "commit": code.commit}
        home.ledger.note(record.id, options={"code": [*known, entry]})


def keep_job(home: Home, record: Record, job: Job, code: Code) -> None:
    """Keep a job that was given as an object, where its code is new: whoever goes on without naming a job takes this one."""
    if not record.ref and is_new(record, code):
        put_sealed(home.store, Layout(record.id).job(), packed(job))


def plan_new_code(home: Home, record: Record, job: Job, code: Code) -> None:
    """Let what is left of a run be done in a round of its own, so that each unit's round says by which code it was done."""
    keep_job(home, record, job, code)
    left = plan_rest(home, record, job)
    round_ = int(record.options.get("round", 1)) + 1
    keep_code(home, record, code, round_)
    if left:
        home.ledger.note(record.id, options={"round": round_})


def plan_rest(home: Any, record: Record, job: Job) -> bool:
    """Plan the units of a run that are not done for its next round; whether there may be any: none of a run that was published."""
    layout, round_ = Layout(record.id), int(record.options.get("round", 1))
    if any((r.run, r.round) == (record.id, round_) for r in publishing.releases(record.job, home.store)):
        return False
    for model in job.models:
        try:
            home.store.get(retry_key(layout, model.name, round_))
            manifest = Manifest.read(layout, model.name, home.store)
        except KeyError:
            continue
        messages, coverage = plan_round(manifest, layout, round_, home.store)
        units = [unit for m in messages for first, last in coverage.missing(m.first, m.last) for unit in range(first, last + 1)]
        if units:
            plan_retry(manifest, layout, round_ + 1, units, home.store)
    return True


def forget(home: Any, record: Record) -> None:
    """Remove what a retry does anew; a driver that died here has the next one do it again."""
    keys = record.options.get("forget", ())
    for key in keys:
        home.store.delete(key)
    if keys:
        home.ledger.note(record.id, options={"forget": []})


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


def check_declared(job: Job) -> None:
    """Raise what is wrong with queries and functions before anything is done."""
    for model in job.models:
        query_of(model, job)
        form_of(model)
        returned_by(model)
        check_given(model, job)


def moment(text: dt.date | str) -> str:
    try:
        moment = dt.datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError as error:
        raise UsageError(
            f"as_of is {text!r}, wanted a date or time such as 2026-06-30 or 2026-06-30T12:00", hint="ISO 8601, in UTC"
        ) from error
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return moment.isoformat(" ")


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


def job_of(home: Any, record: Record) -> Job:
    """The job of a run: imported anew where it has a name, so that mended code counts; else as it was kept."""
    if record.ref:
        return load_job(record.ref)
    try:
        kept = get_sealed(home.store, Layout(record.id).job())
    except KeyError:
        raise StateError(f"run {record.id} died before its job was kept", hint="run the job again") from None
    try:
        job = cloudpickle.loads(kept.to_pybytes())
    except Exception as error:  # whatever the user's modules raise is told
        raise JobError(
            f"the job of run {record.id} cannot be loaded: {type(error).__name__}: {text_of_error(error)}",
            hint="in Python, pass it: hundredfold.resume(run_id, job=job)",
        ) from error
    if not isinstance(job, Job):
        raise JobError(f"what run {record.id} kept is no job")
    return job


def _with_limits(job: Job, record: Record) -> Job:
    """The job with the limits that this run was started with."""
    limits = record.options.get("max_rejected") or {}
    for name in limits:
        job.source(name)
    sources = tuple(dataclasses.replace(s, max_rejected=limits.get(s.name, s.max_rejected)) for s in job.sources)
    return dataclasses.replace(job, sources=sources)


def plan_again(home: Any, record: Record, job: Job) -> None:
    """Which units are to be done again, and which models from the start because they build on them."""
    layout, round_ = Layout(record.id), int(record.options.get("round", 1)) + 1
    bad: dict[str, list[int]] = {}
    for model in job.models:
        try:
            collected = read_collected(layout, model.name, home.store)
        except KeyError:
            if record.state is State.DONE:
                raise missing(home.store, layout.collected(model.name)) from None
            continue
        if collected.bad:
            units = UnitList.read(layout, model.name, home.store)
            bad[model.name] = _numbers_of_failures(units, layout, model, home)
    if not bad:
        raise StateError(
            f"run {record.id} has no failed unit to retry; it is {record.state.value}",
            hint=f"hundredfold resume {record.id}" if record.state is not State.DONE else None,
        )
    anew = _that_build_on(job, set(bad), home, record)
    for name, units_ in bad.items():
        if name not in anew:
            plan_retry(Manifest.read(layout, name, home.store), layout, round_, units_, home.store)
    forget = [*map(layout.model, sorted(anew)), *(layout.collected(name) for name in bad if name not in anew)]
    home.ledger.note(record.id, options={"round": round_, "forget": forget})  # at once: a retry is planned whole, or not at all


def _numbers_of_failures(units: UnitList, layout: Layout, model: Model, home: Any) -> list[int]:
    table = pq.ParquetFile(pa.BufferReader(listed(home.store, layout.accounts(model.name), layout.collected(model.name)))).read(["status"])
    if table.num_rows != len(units.rows):
        raise HundredfoldError(f"the accounts of {model.name} have {table.num_rows:,} rows for {len(units.rows):,} units")
    return [number for number, status in enumerate(table.column("status").to_pylist()) if status != "ok"]


def _that_build_on(job: Job, changed: set[str], home: Any, record: Record) -> set[str]:
    """The models that are given, or whose query reads, a model whose results may change."""
    warehouse = DuckWarehouse(home.store, home.scratch(f"{record.id}-plan"), memory=2**27, threads=1)
    try:
        after: set[str] = set()
        for model in job.models:
            reads = warehouse.tables_of(query_of(model, job)) | set(model.given or ())
            if reads & (changed | after):
                after.add(model.name)
        return after
    finally:
        warehouse.close()
