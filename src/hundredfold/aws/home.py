"""The home of the runs of a stack, accessed from a user's machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ..data.layout import Layout
from ..errors import HomeError, UsageError
from ..ports.interfaces import Ledger
from ..ports.run_facts import HOME_FORMAT
from ..runs.names import check_job_name
from .adapters.dynamodb_ledger import DynamoLedger
from .adapters.s3_store import S3Store
from .adapters.session import StackResources, client

RUNNING = "RUNNING"


class StackHome:
    """The runs of one stack."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.resources = StackResources.from_stack(stack)
        refuse_other_format(stack, self.resources)
        self.store = S3Store(self.resources.bucket)
        self.ledger: Ledger = DynamoLedger(self.resources.table)

    def publishing(self, job: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Hold no lock: versions are claimed and the pointer is moved by conditional writes."""
        return nullcontext()

    def is_active(self, run: str) -> bool:
        """Return whether an execution of the state machine is active for the run."""
        return self.status_of(self.ledger.read(run).execution) == RUNNING

    def status_of(self, execution: str) -> str:
        """Return the status of an execution in Step Functions; "" for an unknown one."""
        if not execution:
            return ""
        try:
            return str(client("stepfunctions").describe_execution(executionArn=execution)["status"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
                return ""
            raise

    def holds(self, run: str) -> bool:
        """Return whether the run's files still exist."""
        return next(self.store.list(f"{Layout(run).root}/"), None) is not None

    def where(self, key: str) -> str:
        """Return the address of an object, for a person."""
        return self.store.where(key)

    def fetch(self, key: str) -> Path:
        """Return an object as a local file, which is removed when this process ends."""
        return self.store.fetch(key)

    def check_writers(self, key: str) -> None:
        """The bucket's policy and IAM decide who may write."""

    def scratch(self, run: str) -> Path:
        """Return a new empty folder on this machine."""
        return Path(mkdtemp(prefix=f"hundredfold-{run}-"))

    @property
    def description(self) -> str:
        """The name of this home in a sentence."""
        return f"the stack {self.stack}"


def refuse_other_format(stack: str, resources: StackResources) -> None:
    """Raise HomeError for a stack whose functions write runs in another format."""
    if resources.format != HOME_FORMAT:
        raise HomeError(
            f"the stack {stack} writes runs in format {resources.format}, and this program reads "
            f"format {HOME_FORMAT}",
            hint="deploy it again with this version: hundredfold deploy MODULE:JOB   or use the "
            "version that deployed it",
        )


def find_stack_name(job: str | None, stack: str | None) -> str:
    """Return the name of a stack: the one given, that of the job, or the only one.

    Raises:
        UsageError: no stack can be chosen.
    """
    if stack == "":
        raise UsageError("the stack's name is empty", hint="leave it out, or name it with --stack")
    if stack is not None:
        return stack
    if job is not None:
        return f"hundredfold-{check_job_name(job).replace('_', '-')}"
    names = sorted(_list_stacks())
    if len(names) == 1:
        return names[0]
    raise UsageError(
        f"which stack is meant? found {', '.join(names)}"
        if names
        else "these credentials can see no stack of hundredfold",
        hint="name it with --stack" if names else "deploy one: hundredfold deploy MODULE:JOB",
    )


def _list_stacks() -> list[str]:
    found: list[Any] = []
    try:
        for page in client("cloudformation").get_paginator("describe_stacks").paginate():
            found += page["Stacks"]
    except (ClientError, BotoCoreError) as error:
        raise UsageError(
            f"the stacks cannot be listed: {error}",
            hint=(
                "log in, or name the stack with --stack; AWS_PROFILE and AWS_REGION select the "
                "account and region"
            ),
        ) from error
    # outputs with the same names in every app
    own_outputs = {
        "Job",
        "MachineArn",
        "QueueUrl",
        "Trigger",
    }
    return [
        s["StackName"]
        for s in found
        if own_outputs <= {output["OutputKey"] for output in s.get("Outputs", ())}
        and not s["StackStatus"].startswith("DELETE")
    ]
