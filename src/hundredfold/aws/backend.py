"""What a person does with runs on AWS, from a laptop: each verb begins something there and, if
asked to, watches it.

The state machine goes on when the laptop is closed.
"""

from __future__ import annotations

import datetime as dt
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from botocore.exceptions import ClientError

from ..contract import read_contract
from ..errors import (
    NEW_CODE,
    HundredfoldError,
    PublishRefused,
    QueryError,
    RunBusy,
    SourceError,
    StateError,
    Stopped,
    UsageError,
    placed,
)
from ..job import Job, Layout
from ..paths import expand_user
from ..pipeline.collect import Collected
from ..pipeline.runner import RunCallbacks
from ..pipeline.stages import stages
from ..pipeline.validate import read_validation
from ..ports.interfaces import Record
from ..ports.run_facts import RunOptions
from ..ports.run_states import Event, State, after
from ..runs.backend import Interruption, RunArguments
from ..runs.job_loader import load_job
from ..runs.names import check_aws_run_id
from ..runs.retry import discard, plan_remaining, plan_retry_of_run
from ..runs.run import Run, find_run
from ..runs.start import (
    check_arguments,
    check_declared,
    check_names,
    decided_options,
    new_run_id,
    parse_as_of,
)
from ..sql.athena import refuse_untranslatable
from ..sql.queries import load_query, query_of
from ..sql.sources.files import find_files
from ..sql.sources.listing import is_hidden
from .adapters.session import caller, client
from .adapters.sources import check_place, refuse_csv
from .home import AT_WORK, StackHome, stack_of
from .progress import ProgressReader
from .runs import entry_of, is_other, new_record

LOOK = 1.5  # seconds between looks at the record
COUNT = 4.0  # seconds between counts of what is done
REMOTE = ("s3://", "glue://")


@dataclass(frozen=True, slots=True)
class AwsBackend:
    """Runs of a deployed stack: Step Functions walks the stages, and goes on when this process
    ends.
    """

    stack: str | None = None

    fixed: ClassVar[str] = "mended and deployed"
    watch_options: ClassVar[Sequence[str]] = ("--watch",)

    @property
    def cli_options(self) -> list[str]:
        """The options of a command that name this backend and its home again."""
        return ["--backend", "aws", *(["--stack", self.stack] if self.stack else [])]

    def caller(self) -> str:
        """The ARN of the IAM principal; "" where STS cannot be asked."""
        return caller()

    def prestart(self) -> None:
        """Nothing starts on this machine."""

    def open_home(self, job: str | None = None) -> StackHome:
        """The runs of the stack."""
        return StackHome(stack_of(job, self.stack))

    def run(
        self,
        job: Job | str,
        sources: Mapping[str, object] | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
    ) -> Run:
        """Run a deployed job.

        A place of a source is s3://BUCKET/KEY, a prefix or a pattern, glue://DATABASE/TABLE, or a
        path of this machine, which is uploaded.
        """
        _refuse_local(arguments)
        check_arguments(job, sources, None, arguments.max_rejected, arguments.max_failed)
        if not isinstance(job, str):
            raise UsageError(
                "on AWS a job is named, not passed: its functions are those that were deployed",
                hint="such as run('my_job.job:job', backend='aws')",
            )
        declared = load_job(job)
        check_translates(declared)
        check_declared(declared)
        there = self.open_home(declared.name)
        run = (
            check_aws_run_id(arguments.run_id)
            if arguments.run_id is not None
            else new_run_id(dt.datetime.now(dt.UTC))
        )
        check_names(declared, sources or {}, arguments.max_rejected)
        places = _places(there, run, declared, sources or {})
        options: RunOptions = {
            "as_of": parse_as_of(arguments.as_of) if arguments.as_of is not None else None,
            "max_rejected": dict(arguments.max_rejected),
            "max_failed": arguments.max_failed,
            "batches": arguments.batches,
            "stack": there.stack,
        }
        there.ledger.create(new_record(run, declared, job, places, options, there.place.code))
        return _go(there, there.ledger.read(run), callbacks, arguments.wait)

    def resume(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
        sources: Mapping[str, str | Path] | None = None,
    ) -> Run:
        """Go on with a run whose execution ended before the run did."""
        _refuse_job(job)
        if sources:
            raise UsageError(
                "--source is not for --backend aws",
                hint="run the job again: hundredfold run JOB --backend aws --source NAME=s3://...",
            )
        there, record = self._open_again("resume", run_id, Event.START, arguments.accept_new_code)
        _plan_new_code(there, record)
        return _go_again(there, record, Event.START, callbacks, arguments.wait)

    def retry(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Do the failed and crashed units again, with the function as it was deployed last, and
        what builds on them.
        """
        _refuse_job(job)
        there, record = self._open_again("retry", run_id, Event.RETRY, arguments.accept_new_code)
        plan_retry_of_run(there, record, load_job(record.ref))
        _keep_code(there, record, there.ledger.read(record.id).attempt)
        return _go_again(there, record, Event.RETRY, callbacks, arguments.wait)

    def publish(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Go on with a run that its limits held back."""
        _refuse_job(job)
        there, record = self._open(run_id)
        if record.state is not State.HELD:
            raise StateError(
                f"run {record.id} is {record.state.value}, and only a run that is held back waits "
                "to be published",
                hint=_command(there, "status", record.id),
            )
        _check_code(there, record, "publish", arguments.accept_new_code)
        there.ledger.note(
            record.id,
            options=decided_options(record, arguments.max_failed, arguments.replace_newer),
        )
        _plan_new_code(there, record)
        return _go_again(there, record, Event.START, callbacks, arguments.wait)

    def cancel(self, run_id: str | None) -> Record:
        """End a run for good, and its execution; messages that are still queued are dropped by
        whoever takes them.
        """
        there, record = self._open(run_id)
        record = there.ledger.move(record.id, Event.CANCEL, reason="cancelled by hand")
        execution = record.execution
        if execution and there.status_of(execution) == AT_WORK:
            try:
                client("stepfunctions").stop_execution(
                    executionArn=execution, error="Cancelled", cause="cancelled by hand"
                )
            except ClientError:
                if (
                    there.status_of(execution) == AT_WORK
                ):  # else it saw the record, and has ended by itself
                    raise
        return record

    def watch(self, run_id: str | None, callbacks: RunCallbacks) -> Run:
        """Follow a run to its end."""
        there, record = self._open(run_id)
        callbacks.run_started(record.id)
        _follow(there, record.id, callbacks)
        return Run(there, record.id)

    def interruption(self, run_id: str) -> Interruption:
        """The run goes on without this process."""
        return Interruption(
            f"run {run_id} goes on without us", [("status", run_id, "--watch"), ("cancel", run_id)]
        )

    def _open(self, run_id: str | None) -> tuple[StackHome, Record]:
        there = self.open_home()
        return there, find_run(there, run_id)

    def _open_again(
        self, verb: str, run_id: str | None, event: Event, accept_new_code: bool
    ) -> tuple[StackHome, Record]:
        """Open a run that is to go on.

        RunBusy or StateError if it cannot, or not with the code that is deployed now.
        """
        there, record = self._open(run_id)
        _refuse_active(there, record)
        after(record.state, event, record.id)
        _check_code(there, record, verb, accept_new_code)
        return there, record


def _refuse_local(arguments: RunArguments) -> None:
    """Raise UsageError for what only a run of this machine takes."""
    given = [f"--{name}" for name in ("workers", "memory") if getattr(arguments, name) is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)} are of this machine",
            hint="on AWS, deploy says them: hundredfold deploy --help",
        )


def _refuse_job(job: Job | None) -> None:
    if job is not None:
        raise UsageError(
            "a run on AWS goes on with the job as it is deployed",
            hint="leave job out; deploy it first where it has changed",
        )


def _places(
    there: StackHome, run: str, declared: Job, sources: Mapping[str, Any]
) -> dict[str, str]:
    """The address of each source that is given or has files of this machine, which are uploaded."""
    for source in declared.sources:
        place = sources.get(source.name, source.path)
        if isinstance(place, str) and place.startswith(REMOTE):
            refuse_csv(source, place)
            check_place(source.name, place)
    places = {
        name: _sent(there, run, name, _from_here(place), declared)
        for name, place in sources.items()
    }
    for source in declared.sources:
        if (
            source.name not in places
            and source.path is not None
            and not source.path.startswith(REMOTE)
        ):
            places[source.name] = _sent(there, run, source.name, source.path, declared)
    return places


def check_translates(job: Job) -> None:
    """QueryError for a query that Athena would not understand, before anything is done."""
    for model in job.models:
        refuse_untranslatable(f"the query of model {model.name}", query_of(model, job))
    for output in job.releases:
        refuse_untranslatable(f"the query of {output.name}", load_query(output.query, job.folder))
        for title, query in output.summaries.items():
            refuse_untranslatable(f"the summary {title!r}", load_query(query, job.folder))
    for source in job.sources:
        for column, expression in source.clean.items():
            refuse_untranslatable(
                f"{source.name}: clean of {column}", f"SELECT {expression} AS x FROM t"
            )
    _refuse_checks_inside(job)


def _refuse_checks_inside(job: Job) -> None:
    """QueryError for constraints of the values in lists and dicts, which Athena would be asked to
    check; results are checked elsewhere.
    """
    contracts = [
        *((s.name, s.contract) for s in job.sources),
        *((p.name, p.contract) for p in job.releases),
    ]
    problems = [
        f"{name}: {column.name} {check.words}"
        for name, contract in contracts
        if contract is not None
        for column in read_contract(contract).columns
        for check in column.checks
        if check.inside
    ]
    if problems:
        raise QueryError(
            "a contract has constraints inside of lists or dicts, which are not checked on AWS",
            problems=problems,
            hint=(
                "take them out of the contracts of sources and releases (results are checked "
                "there too); the job runs here as it is"
            ),
        )


def _go_again(
    there: StackHome, record: Record, event: Event, callbacks: RunCallbacks, wait: bool
) -> Run:
    """Begin another execution for a run that has had one, and follow it."""
    if record.state is not State.NEW:
        there.ledger.move(record.id, event)
    record = there.ledger.read(record.id)
    discard(there, record)
    return _go(there, record, callbacks, wait)


def _check_code(there: StackHome, record: Record, verb: str, accept: bool) -> None:
    """Raise StateError where other code is deployed now than the run was done by, unless that is
    accepted.
    """
    if not accept and is_other(record, there.place.code):
        then = record.code[-1]["fingerprint"]
        raise StateError(
            f"the code is not that with which run {record.id} was done so far: {there.place.code} "
            f"is deployed, and it was {then}",
            hint=(
                "go on with the code as it is deployed now: "
                f"{_command(there, verb, record.id, NEW_CODE)}   or deploy the earlier code "
                "again, or run the job again"
            ),
        )


def _plan_new_code(there: StackHome, record: Record) -> None:
    """Let what is left of a run be done in an attempt of its own where the code is other, so that
    each unit's attempt says by which.
    """
    if is_other(record, there.place.code):
        left = plan_remaining(there, record, load_job(record.ref))
        attempt = record.attempt + 1
        _keep_code(there, record, attempt)
        if left:
            there.ledger.note(record.id, options={"attempt": attempt})


def _keep_code(there: StackHome, record: Record, attempt: int) -> None:
    if is_other(record, there.place.code):
        there.ledger.note(
            record.id,
            options={"code": [*record.code, entry_of(there.place.code, attempt)]},
        )


def _refuse_active(there: StackHome, record: Record) -> None:
    if there.is_active(record.id):
        raise RunBusy(
            f"run {record.id} is at work on AWS",
            hint=(
                f"watch it with: {_command(there, 'status', record.id, '--watch')}   or end it "
                f"with: {_command(there, 'cancel', record.id)}"
            ),
        )


def _go(there: StackHome, record: Record, callbacks: RunCallbacks, wait: bool) -> Run:
    """Begin an execution for the run, and follow it."""
    number = int(record.options.get("executions", 0)) + 1
    try:
        began = client("stepfunctions").start_execution(
            stateMachineArn=there.place.machine,
            name=f"{record.id}-{number}"[:80],
            input=json.dumps({"run": record.id}),
        )
    except ClientError as error:
        raise HundredfoldError(
            f"run {record.id} is recorded, but cannot be started: {error}",
            hint=_command(there, "resume", record.id),
        ) from error
    there.ledger.note(record.id, options={"execution": began["executionArn"], "executions": number})
    callbacks.run_started(record.id)
    if wait:
        _follow(there, record.id, callbacks)
    return Run(there, record.id)


def _follow(there: StackHome, run: str, callbacks: RunCallbacks) -> None:
    """Tell the callbacks what happens, until the run has ended; raises as a run on this machine
    would.
    """
    record = there.ledger.read(run)
    try:
        known = {str(stage): stage for stage in stages(load_job(record.ref))} if record.ref else {}
    except (
        HundredfoldError
    ):  # the job is not on this machine: its stages are told by their names alone
        known = {}
    told: set[str] = set()
    counts: dict[str, ProgressReader] = {}
    counted = 0.0
    while True:
        record = there.ledger.read(run)
        if record.step not in told and record.step in known:
            told.add(record.step)
            callbacks.stage_started(known[record.step])
        _tell(there, record, callbacks, told)
        model = record.step.removeprefix("work ")
        facts = record.models.get(model, {})
        if (
            record.step == f"work {model}"
            and "units" in facts
            and time.monotonic() - counted > COUNT
        ):
            counted = time.monotonic()
            count = counts.setdefault(
                model, ProgressReader(there.store, Layout(run), model, facts["units"])
            )
            callbacks.progress(count.look())
        if record.state not in (State.NEW, State.RUNNING):
            break
        if there.status_of(record.execution) not in (
            AT_WORK,
            "SUCCEEDED",
            "",
        ):
            record = there.ledger.read(run)
            if record.state in (State.NEW, State.RUNNING):
                raise HundredfoldError(
                    f"the execution of run {run} ended before the run did",
                    hint=_command(there, "resume", run),
                )
        time.sleep(LOOK)
    match record.state:
        case State.HELD:
            raise PublishRefused(record.reason, hint=_hint(there, record))
        case State.FAILED:
            raise HundredfoldError(record.reason or f"run {run} failed", hint=_hint(there, record))
        case State.CANCELLED:
            raise Stopped(
                f"run {run} was cancelled",
                hint=f"what was done is kept: {_command(there, 'status', run)}",
            )


def _tell(there: StackHome, record: Record, callbacks: RunCallbacks, told: set[str]) -> None:
    """The verdicts on the sources and what came of each model, once it is known."""
    if "sources" in record.counts and "sources" not in told:
        told.add("sources")
        callbacks.validated(read_validation(Layout(record.id), there.store))
    for name, facts in record.models.items():
        collected = Collected.of(name, facts)
        if collected is not None and f"{name} is collected in {collected.attempt}" not in told:
            told.add(f"{name} is collected in {collected.attempt}")
            callbacks.collected(collected)


def _command(there: StackHome, *words: str) -> str:
    """A command about this stack's runs, as a person would type it."""
    return shlex.join(["hundredfold", *words, "--backend", "aws", "--stack", there.stack])


def _hint(there: StackHome, record: Record) -> str:
    """What to do about the reason for which a run ended: what the step that failed said, where it
    is a step that failed.
    """
    reason, hint = record.options.get("hint") or ("", "")
    if reason != record.reason:
        return f"once the cause is mended: {_command(there, 'resume', record.id)}"
    return placed(hint, ["--backend", "aws", "--stack", there.stack])


def _sent(there: StackHome, run: str, name: str, place: Any, job: Job) -> str:
    """The address of a source's rows; files of this machine are uploaded."""
    if not isinstance(place, str | Path):
        raise SourceError(
            f"the source {name} is a table in memory", hint="write it as Parquet, and name the file"
        )
    if str(place).startswith(REMOTE):
        return str(place)
    files = find_files(name, str(place), job.folder or Path())
    folder = f"sources/_runs/{run}/{name}"
    for path in files.paths:
        there.store.send(Path(path), f"{folder}/{_seen(Path(path).relative_to(files.root))}")
    return there.store.where(folder) + "/"


def _seen(path: Path) -> str:
    """A key for a file that a place on this machine names itself: below a prefix, no hidden name is
    found.
    """
    *folders, last = path.parts
    seen = [f"named{part}" if is_hidden((part, "x")) else part for part in folders]
    return "/".join([*seen, f"named{last}" if is_hidden((last,)) else last])


def _from_here(place: Any) -> Any:
    """A path that was given by hand is relative to where we are, and not to the job's file."""
    return (
        place
        if not isinstance(place, str | Path) or str(place).startswith(REMOTE)
        else expand_user(place).absolute()
    )
