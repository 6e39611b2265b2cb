"""The Python API: the same functions for every backend.

`backend="local"` runs in processes of this machine and keeps the runs in the folder `home`; `backend="aws"` runs a deployed
job on the stack `stack` (the job's own, if it is not named).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import UsageError, needing
from .job import Job
from .local.backend import DEFAULT_HOME, LocalBackend
from .local.home import as_home
from .pipeline.releases import Release
from .pipeline.releases import rollback as roll_back
from .pipeline.runner import NullCallbacks, RunCallbacks
from .ports.interfaces import Record, RunHome
from .runs.backend import Backend, RunArguments
from .runs.names import check_job_name
from .runs.replay import replay_unit
from .runs.run import Run, find_run


def run(
    job: Job | str,
    sources: Mapping[str, Any] | None = None,
    *,
    backend: str = "local",
    home: str | Path = DEFAULT_HOME,
    stack: str | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
    batches: int | None = None,
    wait: bool = True,
    as_of: dt.date | str | None = None,
    run_id: str | None = None,
    max_rejected: Mapping[str, float] | None = None,
    max_failed: float | None = None,
    callbacks: RunCallbacks | None = None,
) -> Run:
    """Run a job from its sources to its release.

    job          a Job, or "module:attribute", or "path/to/file.py:attribute"; on AWS one of the latter two, deployed before
    sources      {name: place}: a path, glob or folder, or (locally) a pandas, polars or Arrow table; those left out use
                 Source.path. On AWS also s3://BUCKET/KEY and glue://DATABASE/TABLE; files of this machine are uploaded
    backend      "local" or "aws"
    home, stack  where the runs are kept: a folder, or the name of a stack on AWS
    workers      local: processes (one for each core)
    memory       local: "2GB", for the warehouse, the driver and the workers together (0.7 of the machine's)
    batches      aws: about so many for each model
    wait         aws: False begins the run and does not follow it
    as_of        the moment that counts as now for the checks and the release (now)
    max_rejected, max_failed   limits for this run instead of the declared ones
    callbacks    an object whose methods are called as the run goes on (hundredfold.pipeline.runner.RunCallbacks)

    Returns the Run. Raises what stopped it, with the way on in its `hint`; PublishRefused if more units failed than the
    limit allows (then `open_run(run_id)` gives the Run, whose results and failures are there).
    """
    arguments = RunArguments(
        workers=workers,
        memory=memory,
        batches=batches,
        wait=wait,
        as_of=as_of,
        run_id=run_id,
        max_rejected={} if max_rejected is None else max_rejected,
        max_failed=max_failed,
    )
    return backend_of(backend, home, stack).run(
        job, sources, arguments, callbacks or NullCallbacks()
    )


def resume(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path = DEFAULT_HOME,
    stack: str | None = None,
    job: Job | None = None,
    sources: Mapping[str, str | Path] | None = None,
    callbacks: RunCallbacks | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
    wait: bool = True,
    accept_new_code: bool = False,
) -> Run:
    """Go on with a run (the newest) that was stopped or whose driver died: what is done is kept.

    sources: {name: path} of sources whose files were moved (local).
    accept_new_code: go on with other code than the run began with; the units that are done keep theirs.
    """
    arguments = RunArguments(
        workers=workers, memory=memory, wait=wait, accept_new_code=accept_new_code
    )
    return backend_of(backend, home, stack).resume(
        run_id, arguments, callbacks or NullCallbacks(), job=job, sources=sources
    )


def retry(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path = DEFAULT_HOME,
    stack: str | None = None,
    job: Job | None = None,
    callbacks: RunCallbacks | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
    wait: bool = True,
    accept_new_code: bool = False,
) -> Run:
    """Do the failed and crashed units of a run (the newest) again, with the function as it is now, and what builds on them; then
    go on to publish.

    accept_new_code: do so with other code than the run began with; the units that are done keep theirs.
    """
    arguments = RunArguments(
        workers=workers, memory=memory, wait=wait, accept_new_code=accept_new_code
    )
    return backend_of(backend, home, stack).retry(
        run_id, arguments, callbacks or NullCallbacks(), job=job
    )


def publish(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path = DEFAULT_HOME,
    stack: str | None = None,
    job: Job | None = None,
    max_failed: float | None = None,
    replace_newer: bool = False,
    callbacks: RunCallbacks | None = None,
    wait: bool = True,
    accept_new_code: bool = False,
) -> Run:
    """Go on with a run (the newest) that its limits held back, under another limit.

    replace_newer: its release may replace that of a run that was created later.
    """
    arguments = RunArguments(
        max_failed=max_failed,
        replace_newer=replace_newer,
        wait=wait,
        accept_new_code=accept_new_code,
    )
    return backend_of(backend, home, stack).publish(
        run_id, arguments, callbacks or NullCallbacks(), job=job
    )


def cancel(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path = DEFAULT_HOME,
    stack: str | None = None,
) -> Record:
    """End a run (the newest) for good; its driver, wherever it is, stops within a second. What was done stays readable."""
    return backend_of(backend, home, stack).cancel(run_id)


def rollback(
    job: str,
    *,
    backend: str = "local",
    home: str | Path | RunHome = DEFAULT_HOME,
    stack: str | None = None,
    to: int | None = None,
) -> Release:
    """Let the pointer name the release that the current one was built upon, or version `to`."""
    there = _open(backend, home, stack, check_job_name(job))
    with there.publishing(job):
        return roll_back(job, there.store, to)


def open_run(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path | RunHome = DEFAULT_HOME,
    stack: str | None = None,
) -> Run:
    """A run that was made before: the newest, if none is named. NoSuchRun if there is none."""
    there = _open(backend, home, stack)
    return Run(there, find_run(there, run_id).id)


def replay(
    model: str,
    key: str,
    *,
    run_id: str | None = None,
    backend: str = "local",
    home: str | Path | RunHome = DEFAULT_HOME,
    stack: str | None = None,
    job: Job | None = None,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Call a model's function here, on one unit, with the rows and the earlier results that it had; what it returns.

    key: as `failures` shows it, such as "PREMIUM,Accra,1GB". call: how to call (pdb's runcall, for one).
    """
    return replay_unit(model, key, _open(backend, home, stack), run_id=run_id, job=job, call=call)


def backend_of(backend: str, home: str | Path = DEFAULT_HOME, stack: str | None = None) -> Backend:
    """The backend of that name. UsageError for a name that none has, or where what it needs is not installed."""
    if backend == "local":
        if stack is not None:
            raise UsageError(f"the stack {stack!r} is for the backend aws", hint='backend="aws"')
        return LocalBackend(home)
    if backend != "aws":
        raise UsageError(f"the backend is {backend!r}, wanted 'local' or 'aws'")
    with needing("aws"):
        from .aws.backend import AwsBackend
    return AwsBackend(stack)


def _open(
    backend: str, home: str | Path | RunHome, stack: str | None, job: str | None = None
) -> RunHome:
    """The home of a backend's runs, which must be there; one that is open stays as it is."""
    if isinstance(home, str | Path) and backend != "local":
        return backend_of(backend, home, stack).open_home(job)
    return as_home(home)
