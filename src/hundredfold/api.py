"""The Python API: the same functions for every backend.

`backend="local"` executes runs in processes of this machine and keeps them in the folder `home`.
`backend="aws"` executes runs of a deployed job on the stack `stack` (by default the job's own).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError, needing
from .job import Job
from .local.backend import DEFAULT_HOME, LocalBackend
from .local.home import Home, as_home
from .pipeline.release_tables import write_tables
from .pipeline.releases import Release, current_release
from .pipeline.releases import rollback as roll_back
from .pipeline.runner import NullCallbacks, RunCallbacks
from .ports.interfaces import Record, RunHome
from .ports.release_tables import ReleaseTable
from .runs.backend import Backend, RunArguments
from .runs.names import check_job_name
from .runs.run import Run, find_run

if TYPE_CHECKING:
    from .local.cleaning import CleanedRun
    from .runs.difference import Difference

DIFF_MEMORY = 2**30  # bytes of DuckDB, which writes to a file what exceeds them


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
    warehouse: str | None = None,
    fleets: Sequence[str] = (),
    wait: bool = True,
    as_of: dt.date | str | None = None,
    run_id: str | None = None,
    max_rejected: Mapping[str, float] | None = None,
    max_failed: float | None = None,
    budget: str | float | None = None,
    prices: str | Path | None = None,
    plan: str | Path | None = None,
    callbacks: RunCallbacks | None = None,
) -> Run:
    """Run a job from its sources to its release.

    job          a Job; or "module:attribute" or "path/to/file.py:attribute", on AWS deployed before
    sources      {name: location}: a path, glob or folder, or (locally) a pandas, polars or Arrow
                 table (default: Source.path); on AWS also s3:// and glue://, files are uploaded
    backend      "local" or "aws"
    home, stack  location of the runs: a folder, or the name of a stack on AWS
    workers      local: number of processes (default: one per core)
    memory       local: "2GB", for warehouse, driver and workers together (default: 0.7 of all)
    batches      aws: approximate number of batches per model
    warehouse    aws: "duckdb" (in one function), "athena", or "auto": by the size of the sources
    fleets       aws: "lambda" (default), or fleets of the stack such as "fargate:20"
    wait         aws: False starts the run and returns
    as_of        the time that counts as now, for the checks and the release (default: now)
    max_rejected, max_failed   limits for this run instead of the declared ones
    budget       what the run may spend before it stops: locally core time ("30m"), on AWS dollars
    prices       aws: TOML file with prices for the budget, which override the package's
    plan         file of `hundredfold plan --out`: its workers, its pilot; on AWS its batches
    callbacks    receives the progress of the run (hundredfold.pipeline.runner.RunCallbacks)

    Returns the Run. Raises the error that stopped it, with the next action in its `hint`. After
    PublishRefused (too many units failed) `open_run(run_id)` returns the Run with its results.
    """
    given = RunArguments(workers=workers, memory=memory, batches=batches, warehouse=warehouse)
    given = replace(given, wait=wait, as_of=as_of, run_id=run_id, plan=plan, max_failed=max_failed)
    rejected = {} if max_rejected is None else max_rejected  # an empty list is an error
    given = replace(given, fleets=fleets, max_rejected=rejected, budget=budget, prices=prices)
    return backend_of(backend, home, stack).run(job, sources, given, callbacks or NullCallbacks())


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
    fleets: Sequence[str] = (),
    budget: str | float | None = None,
    prices: str | Path | None = None,
    wait: bool = True,
    accept_new_code: bool = False,
) -> Run:
    """Resume a run (default: the newest) that was stopped or whose driver died.

    Completed work is kept.

    sources          {name: path} of sources whose files were moved (local)
    fleets           aws: in place of the run's present ones; ["lambda"]: the functions alone
    budget           what the whole run may spend, in place of its present budget
    accept_new_code  continue although the code differs from the run's; completed units keep their
                     results
    """
    arguments = RunArguments(
        workers=workers,
        memory=memory,
        fleets=fleets,
        budget=budget,
        prices=prices,
        wait=wait,
        accept_new_code=accept_new_code,
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
    fleets: Sequence[str] = (),
    prices: str | Path | None = None,
    wait: bool = True,
    accept_new_code: bool = False,
) -> Run:
    """Retry the failed and crashed units of a run (default: the newest), then publish.

    They are computed with the current function, and so are models that depend on them.

    fleets           aws: in place of the run's present ones; ["lambda"]: the functions alone
    prices           aws: file with prices that override the table's, for a run with a budget
    accept_new_code  continue although the code differs from the run's; completed units keep their
                     results
    """
    arguments = RunArguments(
        workers=workers,
        memory=memory,
        fleets=fleets,
        prices=prices,
        wait=wait,
        accept_new_code=accept_new_code,
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
    """Publish a run (default: the newest) that is held because it exceeded a limit.

    max_failed     the new limit
    replace_newer  allow the release to replace that of a run that was created later
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
    """Cancel a run (default: the newest) permanently; its driver stops within a second.

    Its results so far stay readable.
    """
    return backend_of(backend, home, stack).cancel(run_id)


def adjust(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path = DEFAULT_HOME,
    stack: str | None = None,
    max_failed: float | None = None,
    concurrency: int | None = None,
) -> Record:
    """Change the limits of a run (default: the newest) while it goes on.

    max_failed   limit of failed units of each model that is not collected yet
    concurrency  aws: maximum number of concurrent workers of the stack, until it is deployed again

    Raises StateError if the run has ended.
    """
    return backend_of(backend, home, stack).adjust(run_id, max_failed, concurrency)


def rollback(
    job: str,
    *,
    backend: str = "local",
    home: str | Path | RunHome = DEFAULT_HOME,
    stack: str | None = None,
    to: int | None = None,
) -> Release:
    """Make the parent of the current release, or version `to`, the current release.

    Its rows are then written to the tables of other systems to which the job publishes.
    """
    opened = _open(backend, home, stack, check_job_name(job))
    with opened.publishing(job):
        before = current_release(job, opened.store)
        release = roll_back(job, opened.store, to)
    tables = release.tables or (before.tables if before is not None else {})
    if tables:
        write_tables(release, opened.store, _open_table, tables)
    return release


def open_run(
    run_id: str | None = None,
    *,
    backend: str = "local",
    home: str | Path | RunHome = DEFAULT_HOME,
    stack: str | None = None,
) -> Run:
    """Return an existing run (default: the newest); NoSuchRun if there is none."""
    opened = _open(backend, home, stack)
    return Run(opened, find_run(opened, run_id).id)


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
    """Call a model's function in this process on one unit of a run, and return its value.

    The function receives the rows and the results of earlier models that it had in the run.

    key   as `failures` shows it, such as "PREMIUM,Accra,1GB"
    call  calls the function; such as the `runcall` of pdb.Pdb()
    """
    from .runs.replay import replay_unit

    return replay_unit(model, key, _open(backend, home, stack), run_id=run_id, job=job, call=call)


def clean(
    *,
    home: str | Path = DEFAULT_HOME,
    keep: int = 10,
    older_than: float = 0.0,
    job: str | None = None,
    unfinished: bool = False,
    rows_only: bool = False,
    dry_run: bool = False,
) -> list[CleanedRun]:
    """Remove the files of old runs of a local home, and return what was removed, oldest first.

    Records and releases stay. Kept are the newest `keep` runs of each job, the runs of its current
    release and of that release's parent, and runs that are executed now.

    older_than   seconds since the last change of a run, below which it is kept
    job          only runs of this job
    unfinished   failed, held and stopped runs too, which could be resumed
    rows_only    only the rows of units and the outcomes, of runs that are done
    dry_run      remove nothing
    """
    from .local.cleaning import CleanOptions, clean_home

    opened = Home(home, make=False)
    options = CleanOptions(keep, older_than, job, unfinished, rows_only, dry_run)
    return clean_home(opened, options, dt.datetime.now(dt.UTC))


def diff(
    a: Any,
    b: Any,
    *,
    model: str | None = None,
    published: str | None = None,
    key: Sequence[str] = (),
    relative: float = 0.0,
    absolute: float = 0.0,
    examples: int = 20,
    backend: str = "local",
    home: str | Path | RunHome | None = DEFAULT_HOME,
    stack: str | None = None,
) -> Difference:
    """Return how table B differs from table A, by key: rows added, removed and changed.

    a, b         id of a run, a Run, a file (.parquet, .csv, .jsonl), or a frame
    model        compare its results (default: those of the last model)
    published    compare this published table instead; "" is the first
    key          columns that identify a row (default: the unit of the model)
    relative, absolute   numbers are equal within `relative` times the larger one, or `absolute`
    examples     number of rows in `Difference.examples`; `Difference.rows` has all that differ

    Raises UsageError for tables that cannot be compared, NoSuchRun for an unknown run.
    """
    from tempfile import TemporaryDirectory

    from .local.filesystem import FileStore
    from .runs.compared_tables import DiffOptions, compare_tables, names_run
    from .runs.difference import Tolerance
    from .sql.duckdb import DuckWarehouse

    options = DiffOptions(model, published, tuple(key), Tolerance(relative, absolute), examples)
    opened = None
    if home is not None and (names_run(a) or names_run(b)):
        opened = _open(backend, home, stack)
    with (
        TemporaryDirectory(prefix="hundredfold-diff-") as folder,
        DuckWarehouse(
            FileStore(Path(folder)), Path(folder) / "scratch", memory=DIFF_MEMORY, threads=2
        ) as warehouse,
    ):
        return compare_tables(a, b, opened, options, warehouse)


def backend_of(backend: str, home: str | Path = DEFAULT_HOME, stack: str | None = None) -> Backend:
    """Return the backend of a name.

    Raises:
        UsageError: the name is unknown, or a package that the backend needs is not installed.
    """
    if backend == "local":
        if stack is not None:
            raise UsageError(f"the stack {stack!r} is for the backend aws", hint='backend="aws"')
        return LocalBackend(home, _open_table)
    if backend != "aws":
        raise UsageError(f"the backend is {backend!r}, wanted 'local' or 'aws'")
    with needing("aws"):
        from .aws.backend import AwsBackend
    return AwsBackend(stack)


def _open_table(facts: Mapping[str, Any]) -> ReleaseTable:
    """Return the table of another system that a release names."""
    with needing("aws"):
        from .aws.adapters.release_table import open_release_table
    return open_release_table(facts)


def _open(
    backend: str, home: str | Path | RunHome, stack: str | None, job: str | None = None
) -> RunHome:
    """Return the home of a backend's runs, which must exist; an open home is returned unchanged."""
    if isinstance(home, str | Path) and backend != "local":
        return backend_of(backend, home, stack).open_home(job)
    return as_home(home)
