"""The AWS backend: the commands for runs of a deployed stack, called from a user's machine.

A command starts an execution on AWS and optionally follows it. The state machine continues when the
machine is switched off.
"""

from __future__ import annotations

import datetime as dt
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from botocore.exceptions import ClientError

from ..data.layout import Layout
from ..errors import (
    NEW_CODE,
    HundredfoldError,
    PublishRefused,
    RunBusy,
    SourceError,
    StateError,
    Stopped,
    UsageError,
    add_options,
)
from ..job import Job
from ..paths import expand_user
from ..pipeline.collect import Collected
from ..pipeline.runner import RunCallbacks
from ..pipeline.stage_times import StageTimes
from ..pipeline.stages import Stage, stages
from ..pipeline.validation_results import read_validation
from ..pipeline.work import Progress
from ..ports.interfaces import Record
from ..ports.run_facts import RunOptions
from ..ports.run_states import Event, State, after
from ..runs.backend import Interruption, RunArguments
from ..runs.budgets import dollar_budget
from ..runs.job_loader import load_job
from ..runs.names import check_aws_run_id
from ..runs.plans import deploy_options, setting_problems, take_plan
from ..runs.prices import read_prices
from ..runs.retry import discard, plan_remaining, plan_retry_of_run
from ..runs.run import Run, find_run
from ..runs.start import (
    check_adjustable,
    check_arguments,
    check_declared,
    check_held,
    check_names,
    decided_options,
    new_run_id,
    parse_as_of,
)
from ..sql.sources.files import find_files
from ..sql.sources.listing import is_hidden
from .adapters.glue_sources import refuse_csv
from .adapters.session import caller_arn, client
from .adapters.sources import check_location
from .concurrency import set_concurrency, set_direct_concurrency, worker_limits
from .fleets.requests import StackFleets
from .home import RUNNING, StackHome, find_stack_name
from .pollers import RunPollers
from .progress import ProgressReader
from .runs import code_entry, execution_arn, execution_name, is_other_code, new_record
from .translation_checks import check_translates
from .warehouse_choice import AUTO, DUCKDB, WAREHOUSES

RECORD_POLL_S = 1.5  # seconds between reads of the record
PROGRESS_POLL_S = 4.0  # seconds between reads of the progress
REMOTE_PREFIXES = ("s3://", "glue://")


@dataclass(frozen=True, slots=True)
class AwsBackend:
    """The runs of a deployed stack: Step Functions executes the stages, also after this process
    ends.
    """

    stack: str | None = None

    fixed: ClassVar[str] = "fixed and deployed"
    watch_options: ClassVar[Sequence[str]] = ("--watch",)

    @property
    def cli_options(self) -> list[str]:
        """The options that name this backend and its home in a command."""
        return ["--backend", "aws", *(["--stack", self.stack] if self.stack else [])]

    def caller(self) -> str:
        """Return the ARN of the IAM principal; "" if STS does not reply."""
        return caller_arn()

    def open_home(self, job: str | None = None) -> StackHome:
        """Return the home of the stack's runs."""
        return StackHome(find_stack_name(job, self.stack))

    def run(
        self,
        job: Job | str,
        sources: Mapping[str, object] | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
    ) -> Run:
        """Run a deployed job.

        The location of a source is s3://BUCKET/KEY, a prefix or a pattern, glue://DATABASE/TABLE,
        or a local path, which is uploaded.
        """
        _refuse_local(arguments)
        check_arguments(job, sources, None, arguments.max_rejected, arguments.max_failed)
        if not isinstance(job, str):
            raise UsageError(
                "the AWS backend takes the name of a job: its functions run the code that was "
                "deployed",
                hint="for example run('my_job.job:job', backend='aws')",
            )
        declared = load_job(job)
        arguments = take_plan(arguments, declared.name, on_aws=True)
        warehouse = _warehouse_of(arguments)
        if warehouse != DUCKDB:
            check_translates(declared)
        check_declared(declared)
        home = self.open_home(declared.name)
        _refuse_other_settings(arguments, job, home)
        run = (
            check_aws_run_id(arguments.run_id)
            if arguments.run_id is not None
            else new_run_id(dt.datetime.now(dt.UTC))
        )
        check_names(declared, sources or {}, arguments.max_rejected)
        budget, fleets = _budget_option(arguments), _fleets_option(arguments, home)
        locations = _resolve_sources(home, run, declared, sources or {})
        options: RunOptions = {
            "as_of": parse_as_of(arguments.as_of) if arguments.as_of is not None else None,
            "max_rejected": dict(arguments.max_rejected),
            "max_failed": arguments.max_failed,
            "batches": arguments.batches,
            "warehouse": warehouse,
            "stack": home.stack,
            **budget,
            **fleets,
        }
        if arguments.way is not None:
            options["plan"] = dict(arguments.way)
        home.ledger.create(new_record(run, declared, job, locations, options, home.resources.code))
        return _start_execution(home, home.ledger.read(run), callbacks, arguments.wait)

    def resume(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
        sources: Mapping[str, str | Path] | None = None,
    ) -> Run:
        """Resume a run whose execution ended before the run did."""
        _refuse_job(job)
        _refuse_local(arguments)
        if sources:
            raise UsageError(
                "--source is not for --backend aws",
                hint="run the job again: hundredfold run JOB --backend aws --source NAME=s3://...",
            )
        home, record = self._open_to_continue(
            "resume", run_id, Event.START, arguments.accept_new_code
        )
        if changed := _changed_options(arguments, home, record):
            home.ledger.note(record.id, options=changed)
        _plan_new_code(home, record)
        return _continue(home, record, Event.START, callbacks, arguments.wait)

    def retry(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Execute the failed and crashed units again with the deployed code, and everything that
        depends on them.
        """
        _refuse_job(job)
        _refuse_local(arguments)
        home, record = self._open_to_continue(
            "retry", run_id, Event.RETRY, arguments.accept_new_code
        )
        changed = _changed_options(arguments, home, record)
        plan_retry_of_run(home, record, load_job(record.ref))
        if changed:
            home.ledger.note(record.id, options=changed)
        _record_code(home, record, home.ledger.read(record.id).attempt)
        return _continue(home, record, Event.RETRY, callbacks, arguments.wait)

    def publish(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Publish a run that its limits held back."""
        _refuse_job(job)
        home, record = self._open(run_id)
        check_held(record, _command(home, "status", record.id))
        _check_code(home, record, "publish", arguments.accept_new_code)
        home.ledger.note(
            record.id,
            options=decided_options(record, arguments.max_failed, arguments.replace_newer),
        )
        _plan_new_code(home, record)
        return _continue(home, record, Event.START, callbacks, arguments.wait)

    def cancel(self, run_id: str | None) -> Record:
        """Cancel a run and its execution; workers drop its messages that are still queued."""
        home, record = self._open(run_id)
        record = home.ledger.move(record.id, Event.CANCEL, reason="cancelled by hand")
        execution = record.execution
        if execution and home.status_of(execution) == RUNNING:
            try:
                client("stepfunctions").stop_execution(
                    executionArn=execution, error="Cancelled", cause="cancelled by hand"
                )
            except ClientError:
                # otherwise it has read the record and ended
                if home.status_of(execution) == RUNNING:
                    raise
        _lower_pollers(home, record)
        return record

    def adjust(
        self, run_id: str | None, max_failed: float | None, concurrency: int | None
    ) -> Record:
        """Change the limit of failed units of a run, or the concurrent workers of its stack.

        The number of workers is that of every run of the stack, until it is deployed again.
        """
        if concurrency is None and max_failed is None:
            raise UsageError(
                "nothing to adjust", hint="give --max-failed LIMIT, --concurrency N, or both"
            )
        home, record = self._open(run_id)
        check_adjustable(record, max_failed)
        if concurrency is not None and home.resources.trigger == "direct":
            set_direct_concurrency(home.resources, concurrency)
        elif concurrency is not None:
            set_concurrency(home.resources.work_function, concurrency)
        if max_failed is not None:
            record = home.ledger.note(record.id, options={"max_failed": max_failed})
        return record

    def watch(self, run_id: str | None, callbacks: RunCallbacks) -> Run:
        """Follow a run to its end."""
        home, record = self._open(run_id)
        callbacks.run_started(record.id)
        _follow(home, record.id, callbacks)
        return Run(home, record.id)

    def interruption(self, run_id: str) -> Interruption:
        """Return the message for an interrupted command: the run continues."""
        return Interruption(
            f"run {run_id} continues on AWS", [("status", run_id, "--watch"), ("cancel", run_id)]
        )

    def _open(self, run_id: str | None) -> tuple[StackHome, Record]:
        home = self.open_home()
        return home, find_run(home, run_id)

    def _open_to_continue(
        self, verb: str, run_id: str | None, event: Event, accept_new_code: bool
    ) -> tuple[StackHome, Record]:
        """Open a run to continue it.

        Raises:
            RunBusy: an execution of the run is active.
            StateError: its state does not allow it, or other code is deployed now.
        """
        home, record = self._open(run_id)
        _refuse_active(home, record)
        after(record.state, event, record.id)
        _check_code(home, record, verb, accept_new_code)
        return home, record


def _lower_pollers(home: StackHome, ended: Record) -> None:
    """Lower the pollers that a cancelled run raised, unless another run is active."""
    pollers = RunPollers.of(home.resources)
    if pollers is None:
        return
    try:
        pollers.lower_after_run(ended, home.ledger)
    except ClientError as error:
        raise UsageError(
            f"run {ended.id} is cancelled, but its pollers are still raised, and cost money: "
            f"{error}",
            hint="these credentials need lambda:UpdateEventSourceMapping; the end of the next run "
            "lowers them too",
        ) from error


def _refuse_local(arguments: RunArguments) -> None:
    """Raise UsageError for arguments of the local backend."""
    given = [f"--{name}" for name in ("workers", "memory") if getattr(arguments, name) is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for --backend local",
            hint="on AWS they are set when deploying: hundredfold deploy --help",
        )


def _refuse_other_settings(arguments: RunArguments, job: str, home: StackHome) -> None:
    """Raise UsageError if the stack has not the settings of the plan that the run takes."""
    way, resources = arguments.way, home.resources
    if way is None:
        return
    problems = setting_problems(way, resources.trigger, *worker_limits(resources))
    if problems:
        raise UsageError(
            f"the stack {home.stack} has other settings than the plan",
            problems=problems,
            hint=f"deploy it so: {shlex.join(['hundredfold', 'deploy', job, *deploy_options(way)])}"
            "   or run without --plan",
        )


def _changed_options(arguments: RunArguments, home: StackHome, record: Record) -> RunOptions:
    """Return the options of a run that a call which continues it changes: budget and fleets.

    Raises: UsageError as for a new run.
    """
    budget = _budget_option(arguments, has_budget=record.options.get("budget") is not None)
    return {**budget, **_fleets_option(arguments, home, record.options)}


def _budget_option(arguments: RunArguments, *, has_budget: bool = False) -> RunOptions:
    """Return the option of a budget, if one is given. Raises: UsageError, also without a price.

    has_budget: of a run that has one, whose fleets need prices.
    """
    if arguments.budget is None:
        if arguments.prices is not None and not has_budget:
            raise UsageError("--prices is for --budget, which is not given")
        return {}
    region = str(client("dynamodb").meta.region_name)
    return {"budget": dollar_budget(arguments.budget, read_prices(region, arguments.prices))}


def _fleets_option(
    arguments: RunArguments, home: StackHome, before: RunOptions | None = None
) -> RunOptions:
    """Return the option of the fleets, if any are given.

    before: of a run that is continued: "lambda" alone removes its fleets, and with a new budget
    they need prices. Raises: UsageError for one that the stack has not, and for one without a price
    under a budget.
    """
    before = before or {}
    resources = home.resources
    fleets = StackFleets.of(home.stack, resources.fleets, resources.task_size)
    asked = fleets.requested(arguments.fleets)
    if not arguments.fleets and arguments.budget is not None:
        asked = list(before.get("fleets") or [])
    if not asked:
        return {"fleets": []} if arguments.fleets and before.get("fleets") else {}
    region = str(client("dynamodb").meta.region_name)
    has_budget = arguments.budget is not None or before.get("budget") is not None
    try:
        prices = read_prices(region, arguments.prices)
    except UsageError:
        if has_budget:
            raise
        return {"fleets": asked}
    return {"fleets": fleets.priced(asked, prices, needed=has_budget)}


def _warehouse_of(arguments: RunArguments) -> str:
    """Return the warehouse that a call asks for. Raises: UsageError for an unknown one."""
    wanted = arguments.warehouse or AUTO
    if wanted not in WAREHOUSES:
        raise UsageError(
            f"warehouse is {wanted!r}, expected {' or '.join(WAREHOUSES)}",
            hint="leave it out: auto chooses by the size of the sources",
        )
    return wanted


def _refuse_job(job: Job | None) -> None:
    if job is not None:
        raise UsageError(
            "a run on AWS continues with the job as it is deployed",
            hint="leave job out; deploy it first if it has changed",
        )


def _resolve_sources(
    home: StackHome, run: str, declared: Job, sources: Mapping[str, Any]
) -> dict[str, str]:
    """Return the address of each source that is given or has a path; local files are uploaded."""
    for source in declared.sources:
        location = sources.get(source.name, source.path)
        if isinstance(location, str) and location.startswith(REMOTE_PREFIXES):
            refuse_csv(source, location)
            check_location(source.name, location)
    locations = {
        name: _upload_source(home, run, name, _absolute(location), declared)
        for name, location in sources.items()
    }
    for source in declared.sources:
        if (
            source.name not in locations
            and source.path is not None
            and not source.path.startswith(REMOTE_PREFIXES)
        ):
            locations[source.name] = _upload_source(home, run, source.name, source.path, declared)
    return locations


def _continue(
    home: StackHome, record: Record, event: Event, callbacks: RunCallbacks, wait: bool
) -> Run:
    """Start another execution of a run, and follow it."""
    if record.state is not State.NEW:
        home.ledger.move(record.id, event)
    times = StageTimes.of(home.ledger.read(record.id).counts).restart()
    record = home.ledger.note(record.id, counts=times.counts)
    discard(home, record)
    return _start_execution(home, record, callbacks, wait)


def _check_code(home: StackHome, record: Record, verb: str, accept: bool) -> None:
    """Raise StateError if other code is deployed than the run used, unless that is accepted."""
    if not accept and is_other_code(record, home.resources.code):
        then = record.code[-1]["fingerprint"]
        raise StateError(
            f"other code is deployed than run {record.id} used so far: {home.resources.code} in "
            f"place of {then}",
            hint=(
                f"continue with the deployed code: {_command(home, verb, record.id, NEW_CODE)}   "
                "or deploy the earlier code again, or run the job again"
            ),
        )


def _plan_new_code(home: StackHome, record: Record) -> None:
    """Plan the rest of a run as a new attempt if other code is deployed.

    So the attempt of each unit records its code.
    """
    if is_other_code(record, home.resources.code):
        left = plan_remaining(home, record, load_job(record.ref))
        attempt = record.attempt + 1
        _record_code(home, record, attempt)
        if left:
            home.ledger.note(record.id, options={"attempt": attempt})


def _record_code(home: StackHome, record: Record, attempt: int) -> None:
    if is_other_code(record, home.resources.code):
        home.ledger.note(
            record.id,
            options={"code": [*record.code, code_entry(home.resources.code, attempt)]},
        )


def _refuse_active(home: StackHome, record: Record) -> None:
    if home.is_active(record.id):
        raise RunBusy(
            f"run {record.id} is active on AWS",
            hint=(
                f"watch it with: {_command(home, 'status', record.id, '--watch')}   or cancel it "
                f"with: {_command(home, 'cancel', record.id)}"
            ),
        )


def _start_execution(home: StackHome, record: Record, callbacks: RunCallbacks, wait: bool) -> Run:
    """Start an execution of the run, and follow it."""
    number = int(record.options.get("executions", 0)) + 1
    machine, name = home.resources.machine, execution_name(record.id, number)
    # recorded first: an execution whose run has another owner ends at once
    owner = execution_arn(machine, name)
    home.ledger.note(record.id, options={"execution": owner, "executions": number})
    try:
        client("stepfunctions").start_execution(
            stateMachineArn=machine, name=name, input=json.dumps({"run": record.id})
        )
    except ClientError as error:
        raise HundredfoldError(
            f"run {record.id} is recorded, but cannot be started: {error}",
            hint=_command(home, "resume", record.id),
        ) from error
    callbacks.run_started(record.id)
    if wait:
        _follow(home, record.id, callbacks)
    return Run(home, record.id)


def _follow(home: StackHome, run: str, callbacks: RunCallbacks) -> None:
    """Report to the callbacks until the run has ended; raise the errors that a local run would."""
    record = home.ledger.read(run)
    reporter = RunReporter(home, run, callbacks, _stages_of(record))
    while True:
        record = home.ledger.read(run)
        reporter.report(record)
        if record.state not in (State.NEW, State.RUNNING):
            break
        _refuse_dead_execution(home, record)
        time.sleep(RECORD_POLL_S)
    match record.state:
        case State.HELD:
            raise PublishRefused(record.reason, hint=_hint(home, record))
        case State.FAILED:
            raise HundredfoldError(record.reason or f"run {run} failed", hint=_hint(home, record))
        case State.CANCELLED:
            raise Stopped(
                f"run {run} was cancelled",
                hint=f"completed units are kept: {_command(home, 'status', run)}",
            )


def _stages_of(record: Record) -> Mapping[str, Stage]:
    """Return the stages of a run's job by name; none if the job is not on this machine."""
    try:
        return {str(stage): stage for stage in stages(load_job(record.ref))} if record.ref else {}
    except HundredfoldError:
        return {}


def _refuse_dead_execution(home: StackHome, record: Record) -> None:
    """Raise HundredfoldError if the execution ended and the run did not."""
    if home.status_of(record.execution) in (RUNNING, "SUCCEEDED", ""):
        return
    if home.ledger.read(record.id).state in (State.NEW, State.RUNNING):
        raise HundredfoldError(
            f"the execution of run {record.id} ended before the run did",
            hint=_command(home, "resume", record.id),
        )


@dataclass(slots=True)
class RunReporter:
    """Reports the changes of a run's record to callbacks, each one once."""

    home: StackHome
    run: str
    callbacks: RunCallbacks
    stages: Mapping[str, Stage]
    reported: set[str] = field(default_factory=set)
    readers: dict[str, ProgressReader] = field(default_factory=dict)
    last_progress: float = 0.0

    def report(self, record: Record) -> None:
        if record.step not in self.reported and record.step in self.stages:
            self.reported.add(record.step)
            self.callbacks.stage_started(self.stages[record.step])
        self._report_results(record)
        self._report_progress(record)

    def _report_results(self, record: Record) -> None:
        """Report the validation of the sources, and the result of each model, once known."""
        if "sources" in record.counts and "sources" not in self.reported:
            self.reported.add("sources")
            self.callbacks.validated(read_validation(Layout(record.id), self.home.store))
        for name, facts in record.models.items():
            collected = Collected.of(name, facts)
            if collected is None or f"{name} in attempt {collected.attempt}" in self.reported:
                continue
            self.reported.add(f"{name} in attempt {collected.attempt}")
            # a model that was done between two polls has failures too
            self.callbacks.progress(
                Progress(name, collected.units, collected.units, collected.bad, "")
            )
            self.callbacks.collected(collected)

    def _report_progress(self, record: Record) -> None:
        model = record.step.removeprefix("work ")
        facts = record.models.get(model, {})
        if (
            record.step == f"work {model}"
            and "units" in facts
            and time.monotonic() - self.last_progress > PROGRESS_POLL_S
        ):
            self.last_progress = time.monotonic()
            reader = self.readers.setdefault(
                model, ProgressReader(self.home.store, Layout(self.run), model, facts["units"])
            )
            self.callbacks.progress(reader.read())


def _command(home: StackHome, *arguments: str) -> str:
    """Return a command about this stack's runs, as a user would type it."""
    return shlex.join(["hundredfold", *arguments, "--backend", "aws", "--stack", home.stack])


def _hint(home: StackHome, record: Record) -> str:
    """Return what to do after a run ended: the hint of the step that failed, if any."""
    reason, hint = record.options.get("hint") or ("", "")
    if reason != record.reason:
        return f"after fixing the cause: {_command(home, 'resume', record.id)}"
    return add_options(hint, ["--backend", "aws", "--stack", home.stack])


def _upload_source(home: StackHome, run: str, name: str, location: Any, job: Job) -> str:
    """Return the address of a source's rows; local files are uploaded."""
    if not isinstance(location, str | Path):
        raise SourceError(
            f"the source {name} is a table in memory",
            hint="write it as a Parquet file, and give its path",
        )
    if str(location).startswith(REMOTE_PREFIXES):
        return str(location)
    files = find_files(name, str(location), job.folder or Path())
    folder = f"sources/_runs/{run}/{name}"
    for path in files.paths:
        home.store.send(Path(path), f"{folder}/{_visible_key(Path(path).relative_to(files.root))}")
    return home.store.where(folder) + "/"


def _visible_key(path: Path) -> str:
    """Return a visible key for a local file: a source below a prefix includes no hidden names."""
    *folders, last = path.parts
    seen = [f"named{part}" if is_hidden((part, "x")) else part for part in folders]
    return "/".join([*seen, f"named{last}" if is_hidden((last,)) else last])


def _absolute(location: Any) -> Any:
    """Make a path absolute: it is relative to the working directory, not to the job's file."""
    return (
        location
        if not isinstance(location, str | Path) or str(location).startswith(REMOTE_PREFIXES)
        else expand_user(location).absolute()
    )
