"""A stack as the place that keeps runs, seen from a laptop: what local.home.Home is for a folder."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ..errors import UsageError
from ..job import Layout
from ..ports.interfaces import Ledger
from ..runs.names import check_job_name
from .adapters.dynamodb_ledger import DynamoLedger
from .adapters.s3_store import S3Store
from .adapters.session import StackResources, client

AT_WORK = "RUNNING"


class StackHome:
    """The runs of one stack."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.place = StackResources.of_stack(stack)
        self.store = S3Store(self.place.bucket)
        self.ledger: Ledger = DynamoLedger(self.place.table)

    def publishing(self, job: str) -> AbstractContextManager[None]:  # noqa: ARG002  # a port says what it is called with
        """Nothing to hold: S3 replaces the pointer at once."""
        return nullcontext()

    def is_active(self, run: str) -> bool:
        """Whether an execution of the state machine is at work on the run."""
        return self.status_of(self.ledger.read(run).execution) == AT_WORK

    def status_of(self, execution: str) -> str:
        """What Step Functions says of an execution; "" if it knows none."""
        if not execution:
            return ""
        try:
            return str(client("stepfunctions").describe_execution(executionArn=execution)["status"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
                return ""
            raise

    def holds(self, run: str) -> bool:
        """Whether the run's files are still there."""
        return next(self.store.list(f"{Layout(run).root}/"), None) is not None

    def where(self, key: str) -> str:
        """Where a person finds an object."""
        return self.store.where(key)

    def fetch(self, key: str) -> Path:
        """An object as a file of this machine, which is gone when this process ends."""
        return self.store.fetch(key)

    def scratch(self, run: str) -> Path:
        """An empty folder of this machine."""
        return Path(mkdtemp(prefix=f"hundredfold-{run}-"))

    @property
    def words(self) -> str:
        """How the runs' place is called in a sentence."""
        return f"the stack {self.stack}"


def stack_of(job: str | None, stack: str | None) -> str:
    """The stack that is meant: the one named, that of the job, or the only one that there is;
    UsageError if there is no telling.
    """
    if stack == "":
        raise UsageError("the stack's name is empty", hint="leave it out, or name it with --stack")
    if stack is not None:
        return stack
    if job is not None:
        return f"hundredfold-{check_job_name(job).replace('_', '-')}"
    names = sorted(_stacks())
    if len(names) == 1:
        return names[0]
    raise UsageError(
        f"which stack is meant? there are {', '.join(names)}"
        if names
        else "there is no stack of hundredfold that these credentials can see",
        hint="name it with --stack" if names else "deploy one: hundredfold deploy MODULE:JOB",
    )


def _stacks() -> list[str]:
    found: list[Any] = []
    try:
        for page in client("cloudformation").get_paginator("describe_stacks").paginate():
            found += page["Stacks"]
    except (ClientError, BotoCoreError) as error:
        raise UsageError(
            f"the stacks cannot be listed: {error}",
            hint="log in, or name the stack with --stack; AWS_PROFILE and AWS_REGION say where",
        ) from error
    ours = {
        "Job",
        "MachineArn",
        "QueueUrl",
        "Trigger",
    }  # of its outputs, which have the same names in everybody's app
    return [
        s["StackName"]
        for s in found
        if ours <= {output["OutputKey"] for output in s.get("Outputs", ())}
        and not s["StackStatus"].startswith("DELETE")
    ]
