"""The local backend: run, resume, retry, publish and cancel on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..data.checksums import verify
from ..data.layout import Layout
from ..errors import DamagedFile, Stopped, UsageError
from ..job import Job
from ..pipeline.runner import RunCallbacks
from ..pipeline.validation_results import move_source
from ..ports.interfaces import Record
from ..ports.release_tables import OpenTable, no_tables
from ..ports.run_states import Event, State, after
from ..runs.backend import Interruption, RunArguments
from ..runs.code_history import check_code, is_new_code, keep_code, keep_job, plan_new_code
from ..runs.job_code import JobCode, read_job_code, with_queries
from ..runs.job_loader import absolute_ref, job_of, load_job
from ..runs.plans import take_plan
from ..runs.resources import Resources, choose_resources
from ..runs.retry import discard, plan_retry_of_run
from ..runs.run import Run, find_run
from ..runs.start import (
    check_adjustable,
    check_arguments,
    check_declared,
    check_held,
    decided_options,
    with_limits,
)
from ..sql.duckdb import fingerprints
from ..sql.sources.files import find_files, pattern
from ..workers.pool import WorkerPool
from .home import Home
from .new_run import IN_MEMORY, budget_option, create_run, source_location
from .runner import LocalRunner, fail

DEFAULT_HOME = ".hundredfold"


LOCALLY = "locally, --workers sets the parallelism, and a run ends with its process"


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """Runs in local worker processes, kept in the folder `home`.

    open_table: opens the tables of other systems to which jobs publish.
    """

    home: str | Path = DEFAULT_HOME
    open_table: OpenTable = no_tables

    fixed: ClassVar[str] = "fixed"
    watch_options: ClassVar[Sequence[str]] = ()

    @property
    def cli_options(self) -> list[str]:
        """The options of a command that select this backend and its home."""
        return ["--home", str(self.home)] if str(self.home) != DEFAULT_HOME else []

    def caller(self) -> str:
        """Return "": only the operating system knows the user."""
        return ""

    # a folder keeps the runs of every job
    def open_home(self, job: str | None = None) -> Home:  # noqa: ARG002
        """Return the home, which must exist."""
        return Home(self.home, make=False)

    def run(
        self,
        job: Job | str,
        sources: Mapping[str, object] | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
    ) -> Run:
        """Run a job in this process and its workers."""
        on_aws = (arguments.batches, arguments.warehouse, *arguments.fleets)
        if any(each is not None for each in on_aws) or not arguments.wait:
            raise UsageError(
                "--batches, --warehouse, --fleet and --detach are for --backend aws", hint=LOCALLY
            )
        check_arguments(
            job, sources, arguments.workers, arguments.max_rejected, arguments.max_failed
        )
        ref, job = (absolute_ref(job), load_job(job)) if isinstance(job, str) else ("", job)
        arguments = take_plan(arguments, job.name, on_aws=False)
        there = Home(self.home)
        resources = choose_resources(arguments.workers, arguments.memory)
        check_declared(job)
        code = read_job_code(job, ref)
        run = create_run(there, job, ref, sources or {}, arguments, code)
        start, tables = Event.START, self.open_table
        return execute(there, run, job, resources, callbacks, start, code, open_table=tables)

    def resume(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
        sources: Mapping[str, str | Path] | None = None,
    ) -> Run:
        """Resume a run; finished work is kept."""
        _refuse_aws(arguments)
        budget = budget_option(arguments)
        opened = self._open_to_continue("resume", run_id, job, arguments, resume_event)
        home, record = opened.home, opened.record
        if budget:
            home.ledger.note(record.id, options=budget)
        if sources:
            with opened.locked():
                move_sources(home, record, opened.job, sources)
        opened.plan_new_code()
        return opened.execute(callbacks)

    def retry(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Do failed and crashed units and their dependent models again."""
        _refuse_aws(arguments)
        budget_option(arguments)  # refuses prices
        opened = self._open_to_continue("retry", run_id, job, arguments, _retry_event)
        home, record, job, code = opened.home, opened.record, opened.job, opened.code
        with opened.locked():
            plan_retry_of_run(home, record, job)
            keep_code(home, home.ledger.read(record.id), code)
            keep_job(home, record, job, code)
        return opened.execute(callbacks)

    def publish(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Continue a run that was held back by its limits."""
        _refuse_aws(arguments)
        opened = self._open_to_continue("publish", run_id, job, arguments, _publish_event)
        opened.home.ledger.note(
            opened.record.id,
            options=decided_options(opened.record, arguments.max_failed, arguments.replace_newer),
        )
        opened.plan_new_code()
        return opened.execute(callbacks)

    def cancel(self, run_id: str | None) -> Record:
        """End a run for good; its driver stops within a second."""
        there = self.open_home()
        return there.ledger.move(
            find_run(there, run_id).id, Event.CANCEL, reason="cancelled by a user"
        )

    def adjust(
        self, run_id: str | None, max_failed: float | None, concurrency: int | None
    ) -> Record:
        """Change the limit of failed units; the driver reads it when it collects a model."""
        if concurrency is not None or max_failed is None:
            raise UsageError(
                "--concurrency is for --backend aws" if concurrency else "nothing to adjust",
                hint="--max-failed LIMIT is the limit of a run in progress; to change the number "
                "of workers, stop the run and resume it with --workers",
            )
        there = self.open_home()
        record = find_run(there, run_id)
        check_adjustable(record, max_failed)
        return there.ledger.note(record.id, options={"max_failed": max_failed})

    # the port has the parameters
    def watch(self, run_id: str | None, callbacks: RunCallbacks) -> Run:  # noqa: ARG002
        """Raise UsageError: a local run is the process that started it."""
        raise UsageError(
            "--watch is for --backend aws",
            hint="a local run is watched where it was started",
        )

    def interruption(self, run_id: str) -> Interruption:
        """Return the message for a run that stopped with its process."""
        return Interruption("stopped: nothing is lost", [("resume", run_id)])

    def _open_to_continue(
        self,
        verb: str,
        run_id: str | None,
        job: Job | None,
        arguments: RunArguments,
        event_of: Callable[[Home, Record, Job], Event],
    ) -> _OpenedRun:
        """Open a run to continue it, for resume, retry and publish.

        Raises: StateError where the run's state or its present code does not allow it.
        """
        home = self.open_home()
        record = find_run(home, run_id)
        kept = record.options
        job = job or _job_or_failed(home, record)
        resources = choose_resources(
            kept.get("workers") if arguments.workers is None else arguments.workers,
            kept.get("memory") if arguments.memory is None else arguments.memory,
        )
        event = event_of(home, record, job)
        after(record.state, event, record.id)
        code = check_code(home, record, job, verb, arguments.accept_new_code)
        return _OpenedRun(home, record, job, resources, event, code, self.open_table)


@dataclass(frozen=True, slots=True)
class _OpenedRun:
    """A run that a command continues: its home, its job, the present code, and the next event."""

    home: Home
    record: Record
    job: Job
    resources: Resources
    event: Event
    code: JobCode
    open_table: OpenTable

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock. Raises: StateError if the event is not allowed any more."""
        with self.home.lock(self.record.id):
            after(self.home.ledger.read(self.record.id).state, self.event, self.record.id)
            yield

    def plan_new_code(self) -> None:
        """Plan the remaining units as an attempt of their own, if the code is new."""
        if is_new_code(self.record, self.code):
            with self.home.lock(self.record.id):
                record = self.home.ledger.read(self.record.id)
                plan_new_code(self.home, record, self.job, self.code)

    def execute(self, callbacks: RunCallbacks) -> Run:
        return execute(
            self.home,
            self.record.id,
            self.job,
            self.resources,
            callbacks,
            self.event,
            self.code,
            open_table=self.open_table,
        )


def _refuse_aws(arguments: RunArguments) -> None:
    """Raise UsageError for arguments of the AWS backend in a call that continues a run."""
    if arguments.fleets:
        raise UsageError("--fleet is for --backend aws", hint=LOCALLY)
    if not arguments.wait:
        raise UsageError("wait=False is for the backend aws", hint=LOCALLY)


def _retry_event(_home: Home, _record: Record, _job: Job) -> Event:
    return Event.RETRY


def _publish_event(_home: Home, record: Record, _job: Job) -> Event:
    check_held(record, f"hundredfold status {record.id}")
    return Event.START


def resume_event(home: Home, record: Record, job: Job) -> Event:
    """Return the event that resumes a run; of a run that is done, delete damaged files first."""
    if record.state is not State.DONE:
        return Event.START
    from .restore import note_recomputed, restore

    with home.lock(record.id):
        found = restore(record, job, home.store)
    if not found:
        return Event.START  # which is refused: the run is done
    note_recomputed(home.ledger, record.id, found)
    return Event.RESTORE


def move_sources(home: Home, record: Record, job: Job, sources: Mapping[str, str | Path]) -> None:
    """Record the new places of the files of sources.

    Raises: SourceError or UsageError for a place that cannot be used.
    """
    now = dict(record.source_addresses)
    for name, location in sources.items():
        job.source(name)
        if now[name] == IN_MEMORY or not isinstance(location, str | Path):
            raise UsageError(
                f"the source {name} is a table, and a table has no file",
                hint="its rows are kept with the run: leave it out",
            )
        now[name] = str(source_location(name, location, name_given=True))
        files = find_files(name, now[name], job.folder or Path())
        if files.kind == "parquet":
            move_source(name, fingerprints(files.paths), pattern, Layout(record.id), home.store)
    home.ledger.note(record.id, options={"sources": now})


def execute(
    home: Home,
    run: str,
    job: Job,
    resources: Resources,
    callbacks: RunCallbacks,
    event: Event,
    code: JobCode | None = None,
    *,
    pool_factory: Callable[..., WorkerPool] = WorkerPool,
    open_table: OpenTable = no_tables,
) -> Run:
    """Execute a run to its end, as its only driver."""
    with home.lock(run):
        record = home.ledger.move(run, event)
        try:
            runner = _make_runner(home, job, record, resources, callbacks, code)
        except Stopped:
            raise
        except Exception as error:
            fail(home, run, error)
            raise
        runner.pool_factory = pool_factory
        runner.steps.open_table = open_table
        runner.run()
    return Run(home, run)


def _make_runner(
    home: Home,
    job: Job,
    record: Record,
    resources: Resources,
    callbacks: RunCallbacks,
    code: JobCode | None,
) -> LocalRunner:
    """Return the runner of a run.

    Raises: DamagedFile if the kept rows of an in-memory source have changed.
    """
    discard(home, record)
    callbacks.run_started(record.id)
    for key, wanted in record.options.get("staged", {}).items():
        verify(home.store, key, wanted)
    staged = {
        name: home.store.path(Layout(record.id).staged(name))
        for name, location in record.source_addresses.items()
        if location == IN_MEMORY
    }
    locations = {**record.source_addresses, **staged}
    snapshot = (
        code.snapshot(str(home.store.path(Layout(record.id).code(code.fingerprint))))
        if code is not None
        else None
    )
    return LocalRunner(
        home,
        with_queries(with_limits(job, record)),
        record,
        resources,
        locations,
        callbacks,
        snapshot,
    )


def _job_or_failed(home: Home, record: Record) -> Job:
    """Return the job of a run; if its file is damaged, fail a run that no driver works on."""
    try:
        return job_of(home, record)
    except DamagedFile as damage:
        if record.state in (State.NEW, State.RUNNING) and not home.is_active(record.id):
            home.ledger.move(record.id, Event.FAIL, reason=str(damage))
        raise
