"""Stacks for tests: synthesized once for all test processes, and deployed into an account that
enforces IAM.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

import hundredfold
from hundredfold import Run
from hundredfold.aws.functions import handlers, stage_execution, step_handler
from hundredfold.aws.functions.worker import stop_worker_pool
from hundredfold.aws.home import StackHome
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import State
from support.commands import CliResult, run_command
from support.emulator import ACCOUNT, DONE, HANG_S, MISSING, Emulator, wait_until
from support.emulator.deploy import deploy
from support.javascript import check_statements
from support.shared_folders import shared_folder
from support.synthesis import cdk_app

JOBS_FOLDER = Path(__file__).parent.parent / "aws"
ENDED = (State.DONE, State.HELD, State.FAILED, State.CANCELLED)
TROUBLE = "jobs.trouble:job"
AS_OF = "2026-01-01"
SHARED: dict[str, Any] = {
    "concurrency": 4,
    "trigger": "messages",
    "timeout": 60,
    "memory": 1769,  # one core: the tests share this machine
    "architecture": "x86_64",
    "tracing": False,
}
# the stacks of the tests, by name, with their settings
WANTED: dict[str, dict[str, Any]] = {
    "hundredfold-tariffs": {"job": "tariffs.job:job"},
    "hundredfold-trouble": {"job": TROUBLE},
    "by-events": {"job": TROUBLE, "trigger": "events"},
    "started-directly": {"job": TROUBLE, "trigger": "direct"},
    "raised-pollers": {
        "job": TROUBLE,
        "concurrency": None,
        "pollers": (2, 3),
        "raise_pollers": True,
    },
    "with-fleets": {
        "job": TROUBLE,
        "fleets": ("fargate", "fargate-spot", "managed", "batch"),
        "worker_image": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/worker:1",
        "subnets": ("subnet-0123456a",),
        "security_groups": ("sg-0123456b",),
    },
    "by-uploads": {"job": TROUBLE, "start_on_upload": True, "upload_quiet": 1},
    "refreshed": {"job": "jobs.refreshed:job", "start_on_upload": True, "upload_quiet": 2},
}


@dataclass(frozen=True)
class Tasks:
    """Rows of the job `trouble`, and the record of its calls."""

    file: Path
    log: Path

    @classmethod
    def write(cls, folder: Path, endings: Sequence[str]) -> Tasks:
        """Write a task for each way to end, numbered from 0."""
        tasks = cls(folder / "tasks.csv", folder / "calls.txt")
        tasks.log.touch()
        tasks.file.write_text(
            "\n".join(["k,how,log", *(f"{k},{how},{tasks.log}" for k, how in enumerate(endings))])
            + "\n"
        )
        return tasks

    def release(self) -> None:
        """Release the units that are held."""
        Path(f"{self.log}.released").touch()

    def calls(self) -> Counter[int]:
        """Return how often the function was called for each task."""
        return Counter(map(int, self.log.read_text().split()))

    def fix(self) -> None:
        """Let every task succeed from now on; earlier calls are forgotten."""
        Path(f"{self.log}.mended").touch()
        self.log.write_text("")

    def local_release(self, name: str) -> dict[str, bytes]:
        """Return the release of a local run whose tasks all succeed: the file of each format."""
        self.fix()
        return self.local_release_as_declared(name)

    def local_release_as_declared(self, name: str, **limits: Any) -> dict[str, bytes]:
        """Return the same, with tasks that end as declared."""
        return published(
            hundredfold.run(
                TROUBLE,
                {"tasks": self.file},
                home=self.file.parent / "home",
                run_id=name,
                as_of=AS_OF,
                workers=1,  # the bytes are the same for any number
                **limits,
            )
        )


def published(run: Run) -> dict[str, bytes]:
    return {format: run.published(format=format).read_bytes() for format in ("csv", "parquet")}


@dataclass(frozen=True)
class Stack:
    """A deployed stack, and its account."""

    name: str
    emulator: Emulator
    outputs: Mapping[str, str]

    def client(self, service: str) -> Any:
        return self.emulator.client(service)

    program = (sys.executable, "-m", "hundredfold")

    def command(self, *arguments: str) -> list[str]:
        return [*self.program, *arguments, "--backend", "aws", "--stack", self.name]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a user's shell: the account, and the folder of the job."""
        return self.emulator.environment() | {"PYTHONPATH": str(JOBS_FOLDER), "COLUMNS": "200"}

    def cli(self, *arguments: str, code: int = 0) -> CliResult:
        """Run `hundredfold WORDS --backend aws` to its end; it must have that exit code."""
        words = self.command(*arguments)[len(self.program) :]
        done = run_command("hundredfold", *words, folder=Path.cwd(), environment=self.environment)
        assert done.code == code, (
            f"{arguments}: {done.code}\n{done.out}\n{done.err}\n{self.emulator.log()}"
        )
        return done

    def credentials_of_workers(self) -> dict[str, str]:
        """Return an environment with the credentials of the role of the workers."""
        function = self.client("lambda").get_function_configuration(
            FunctionName=self.outputs["WorkFunction"]
        )
        found = self.client("sts").assume_role(
            RoleArn=function["Role"], RoleSessionName="container"
        )["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }

    @cached_property
    def home(self) -> StackHome:
        """The home as the API opens it; valid only while this process reaches the account."""
        return StackHome(self.name)

    def run(self, tasks: Tasks, name: str, warehouse: str = "athena", **how: Any) -> Run:
        """Run the job `trouble`; raises as `hundredfold.run` does."""
        return hundredfold.run(
            TROUBLE,
            {"tasks": tasks.file},
            backend="aws",
            stack=self.name,
            run_id=name,
            as_of=AS_OF,
            warehouse=warehouse,
            **how,
        )

    def record(self, run: str) -> Record:
        return self.home.ledger.read(run)

    def depth(self) -> tuple[int, int]:
        """Return the number of messages in the queue, waiting or in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client("sqs").get_queue_attributes(
            QueueUrl=self.outputs["QueueUrl"], AttributeNames=names
        )["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def wait_for_end(self, name: str, within: float = HANG_S) -> Run:
        """Return the record of a run when it has ended, without counting its units."""
        wait_until(
            lambda: self.record(name).state in ENDED,
            lambda: f"{self.record(name)}\n{self.emulator.log()}",
            every=0.5,
            within=within,
        )
        return hundredfold.open_run(name, home=self.home)

    def wait_for_execution(self, name: str) -> None:
        """Wait until the execution of a run has ended, which is after the run."""
        execution = self.record(name).execution
        wait_until(
            lambda: self.home.status_of(execution) != "RUNNING",
            lambda: f"{self.record(name)}\n{self.emulator.log()}",
        )

    def wait_for_step(self, name: str, step: str) -> None:
        """Wait until a run has reached that step."""
        wait_until(
            lambda: self.record(name).step == step,
            lambda: f"{self.record(name)}\n{self.emulator.log()}",
        )

    @contextmanager
    def fast_redelivery(self, *, seconds: int, receives: int = 5) -> Iterator[None]:
        """Redeliver messages of dead workers this soon, and this often; on AWS it takes six times
        the timeout.
        """
        url, sqs = self.outputs["QueueUrl"], self.client("sqs")
        before = sqs.get_queue_attributes(
            QueueUrl=url, AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )["Attributes"]
        redrive = json.dumps({**json.loads(before["RedrivePolicy"]), "maxReceiveCount": receives})
        sqs.set_queue_attributes(
            QueueUrl=url, Attributes={"VisibilityTimeout": str(seconds), "RedrivePolicy": redrive}
        )
        try:
            yield
        finally:
            sqs.set_queue_attributes(QueueUrl=url, Attributes=before)

    @contextmanager
    def changed_function(self, function: str, **change: Any) -> Iterator[None]:
        """Change a function's configuration: Timeout=20, Handler=..., Environment={...}."""
        client, name = self.client("lambda"), self.outputs[f"{function}Function"]
        before = client.get_function_configuration(FunctionName=name)
        variables = before["Environment"]["Variables"]
        if "Environment" in change:
            change["Environment"] = {"Variables": variables | change["Environment"]}
        client.update_function_configuration(FunctionName=name, **change)
        try:
            yield
        finally:
            kept = {key: before[key] for key in change} | (
                {"Environment": {"Variables": variables}} if "Environment" in change else {}
            )
            client.update_function_configuration(FunctionName=name, **kept)

    @contextmanager
    def as_function(self, name: str, folder: Path) -> Iterator[None]:
        """Let this process act as that function, but without access control; temporary files go
        into a folder.
        """
        variables = self.client("lambda").get_function_configuration(
            FunctionName=self.outputs[f"{name}Function"]
        )["Environment"]["Variables"]
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            for module in (handlers, stage_execution, step_handler):
                patch.setattr(module, "SCRATCH_FOLDER", folder)
            try:
                yield
            finally:
                stop_worker_pool()

    @contextmanager
    def denied(self, role: str, action: str) -> Iterator[None]:
        """Deny an action to a role of the stack."""
        iam = self.client("iam")
        named = next(
            r["RoleName"]
            for page in iam.get_paginator("list_roles").paginate()
            for r in page["Roles"]
            if self._is(role, r)
        )
        deny = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Deny", "Action": action, "Resource": "*"}],
        }
        iam.put_role_policy(RoleName=named, PolicyName="denied", PolicyDocument=json.dumps(deny))
        try:
            yield
        finally:
            iam.delete_role_policy(RoleName=named, PolicyName="denied")

    def _is(self, role: str, found: Mapping[str, Any]) -> bool:
        return f"{self.name}-Job{role}Role" in found["RoleName"]

    @contextmanager
    def scaled_waits(self, scale: float) -> Iterator[None]:
        """Scale the waits of the state machine (0.05 by default), so that it polls less often."""
        self._set_waiting(scale)
        try:
            yield
        finally:
            self._set_waiting(self.emulator.wait_scale)

    def _set_waiting(self, scale: float) -> None:
        asked = urllib.request.Request(
            f"{self.emulator.url}/_ministack/config",
            method="POST",
            data=json.dumps({"stepfunctions._SFN_WAIT_SCALE": scale}).encode(),
        )
        with urllib.request.urlopen(asked, timeout=HANG_S) as answer:
            assert json.loads(answer.read())["applied"], (
                "the emulator does not know its own setting any more"
            )

    @contextmanager
    def changed_mapping(self, **change: Any) -> Iterator[None]:
        """Change the mapping that invokes the workers: Enabled=False, BatchSize=10,
        ScalingConfig=...
        """
        client = self.client("lambda")
        mappings = client.list_event_source_mappings(FunctionName=self.outputs["WorkFunction"])[
            "EventSourceMappings"
        ]
        before = mappings[0]
        client.update_event_source_mapping(UUID=before["UUID"], **change)
        try:
            yield
        finally:
            kept = {
                "Enabled": True,
                "BatchSize": before["BatchSize"],
                "ScalingConfig": before["ScalingConfig"],
            }
            client.update_event_source_mapping(UUID=before["UUID"], **kept)

    def workers_alive(self) -> list[psutil.Process]:
        """Return the processes of the function `work`."""
        found = []
        for process in psutil.Process(self.emulator.pid).children():
            with suppress(psutil.Error):
                if "hundredfold.aws.functions.handlers.work" in process.cmdline():
                    found.append(process)
        return found

    def kill_a_worker(self, chance: random.Random) -> bool:
        """Kill one of them; return whether there was one."""
        found = self.workers_alive()
        if found:
            chance.choice(found).kill()
        return bool(found)

    def worker_environment(self) -> dict[str, str]:
        return self.workers_alive()[0].environ()

    def log_events(self, function: str) -> list[str]:
        """Return all log events of a function, with Lambda's own lines."""
        logs = self.client("logs")
        group = next(
            g["logGroupName"]
            for g in logs.describe_log_groups()["logGroups"]
            if f"{self.name}/Job{function}" in g["logGroupName"]
        )
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        return [event["message"].rstrip() for page in pages for event in page["events"]]

    def dead_letters(self) -> dict[str, str]:
        """Return the bodies in the dead-letter queue, with their reasons, including those in
        flight.
        """
        query = urllib.parse.urlencode({"QueueUrl": self.outputs["DeadUrl"]})
        with urllib.request.urlopen(
            f"{self.emulator.url}/_ministack/sqs/messages?{query}", timeout=HANG_S
        ) as answer:
            accounts = json.loads(answer.read())["messages"]
        letters = [
            message
            for regions in accounts.values()
            for queues in regions.values()
            for found in queues.values()
            for message in found
        ]
        return {
            message["Body"]: message["MessageAttributes"].get("reason", {}).get("StringValue", "")
            for message in letters
        }


class Account:
    """An account that enforces IAM, and its stacks, each deployed on first use."""

    def __init__(self, emulator: Emulator, shared: Path) -> None:
        self.emulator, self.shared = emulator, shared
        self.stacks: dict[str, Stack] = {}

    def stack(self, name: str) -> Stack:
        if name not in self.stacks:
            self.stacks[name] = Stack(
                name, self.emulator, deploy(self.emulator, assembly(name, self.shared))
            )
        return self.stacks[name]

    def queries(self) -> Iterator[str]:
        """Yield the statements that the functions of the stacks have sent to Athena."""
        client = self.emulator.client("athena")
        for stack in self.stacks.values():
            pages = client.get_paginator("list_query_executions").paginate(
                WorkGroup=stack.outputs["Workgroup"]
            )
            for page in pages:
                ids = page["QueryExecutionIds"]  # 50 at most, as one call may ask for
                if not ids:  # every run of this stack used DuckDB
                    continue
                found = client.batch_get_query_execution(QueryExecutionIds=ids)
                yield from (query["Query"] for query in found["QueryExecutions"])


def assembly(name: str, shared: Path) -> Path:
    """Return the synthesized stack, made by the first test process that needs it.

    Its code is the tests' jobs: everything else comes from the interpreter of the functions.
    """
    out = shared / f"stack-{name}"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            fresh = out.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(
                JOBS_FOLDER / "jobs",
                fresh / "code" / "jobs",
                ignore=shutil.ignore_patterns("__pycache__"),
            )
            _synthesize(name, fresh)
            fresh.rename(out)
    return out / "cdk.out"


def _synthesize(name: str, folder: Path) -> None:
    """Write the assembly from this process: the CDK is loaded once, which takes longest."""
    settings = {"stack": name, "code": str(folder / "code"), "settings": SHARED | WANTED[name]}
    with cdk_app() as app:
        app.make_app(settings, outdir=str(folder / "cdk.out")).synth()


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The account of a test process.

    At its end, the statements that deployed functions have sent are compared with the grammar of
    Trino, where the checkers are installed.
    """
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator(auth=True, wait_scale=0.05) as emulator:
        account = Account(emulator, shared_folder(tmp_path_factory))
        yield account
        check_statements(account.queries())


@pytest.fixture
def events_stack(account: Account) -> Iterator[Stack]:
    """The same job in a stack with S3 events for each batch."""
    with account.emulator.reached():
        yield account.stack("by-events")


@pytest.fixture
def direct_stack(account: Account) -> Iterator[Stack]:
    """The same job in a stack whose runs start the workers themselves."""
    with account.emulator.reached():
        yield account.stack("started-directly")


@pytest.fixture
def raised_stack(account: Account) -> Iterator[Stack]:
    """The same job in a stack whose runs raise pollers."""
    with account.emulator.reached():
        yield account.stack("raised-pollers")


@pytest.fixture
def fleet_stack(account: Account) -> Iterator[Stack]:
    """The same job in a stack with fleets, whose tasks are processes of this machine."""
    with account.emulator.reached():
        stack = account.stack("with-fleets")
        with account.emulator.settings(
            worker_program=[*stack.program, "worker"],
            worker_environment={"PYTHONPATH": str(JOBS_FOLDER), "HUNDREDFOLD_LEASE": "5"},
        ):
            yield stack


@pytest.fixture
def uploads_stack(account: Account) -> Iterator[Stack]:
    """The same job in a stack where an upload starts a run."""
    with account.emulator.reached():
        yield account.stack("by-uploads")


@pytest.fixture
def trouble(account: Account) -> Iterator[Stack]:
    """The stack of the job whose rows determine their outcome, reached by this process."""
    with account.emulator.reached():
        yield account.stack("hundredfold-trouble")
