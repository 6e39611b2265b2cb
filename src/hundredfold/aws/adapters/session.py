"""The resources of one stack (bucket, queue, table, ...), and the boto3 clients that reach them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ...errors import UsageError
from ...ports.run_facts import UNMARKED_FORMAT
from ..lambda_platform import DEFAULT_QUIET_S, FINGERPRINT_FILE, digest_in_address

OPTIONAL = (
    "machine",
    "code",
    "cores",
    "quiet",
    "work_function",
    "step_function",
    "format",
    "pollers",
    "mapping",
    "fleets",
    "task_size",
)  # resources that an environment or a stack may lack
MAX_ATTEMPTS = 8  # throttling is normal when a thousand workers start at the same time


@cache
def client(service: str) -> Any:
    """Return this process's client of an AWS service.

    Credentials, region and endpoint come from the usual environment variables.
    """
    with _client_lock:
        return boto3.client(
            service,
            config=Config(
                retries={"mode": "adaptive", "max_attempts": MAX_ATTEMPTS}, max_pool_connections=32
            ),
        )


def caller_arn() -> str:
    """Return the ARN of the IAM principal whose credentials these are, "" where STS cannot be
    asked.
    """
    try:
        return str(client("sts").get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError, KeyError):
        return ""


def image_digest(function: str) -> str:
    """Return the digest of the image that a Lambda function runs, even if it was deployed by a tag.

    "" for a function without an image, or one that these credentials may not read.
    """
    try:
        found = client("lambda").get_function(FunctionName=function)["Code"]
    except (BotoCoreError, ClientError, KeyError):
        return ""
    return digest_in_address(str(found.get("ResolvedImageUri", "")))


def sealed_code(environment: Mapping[str, str] = os.environ) -> str:
    """Return the fingerprint that the package of this process holds; "" where there is none.

    It is right while a deployment changes the function and its environment.
    """
    sealed = Path(environment.get("LAMBDA_TASK_ROOT", "")) / FINGERPRINT_FILE
    return sealed.read_text("ascii") if sealed.is_file() else ""


def _after_fork() -> None:
    global _client_lock
    _client_lock = Lock()
    client.cache_clear()


_client_lock = Lock()  # boto3's default session creates all clients, and is not thread-safe
if hasattr(os, "register_at_fork"):
    # otherwise parent and child would read each other's replies on shared connections
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True, slots=True)
class StackResources:
    """The resources of one stack.

    Every Lambda function has these values in its environment, and the stack has them as outputs.
    """

    job: str
    bucket: str
    table: str
    queue: str
    dead: str
    database: str
    workgroup: str
    concurrency: int
    trigger: str
    machine: str = ""
    code: str = ""  # fingerprint of the deployed package; "" if unknown
    cores: int = 1  # of a worker
    work_function: str = ""  # known from the outputs of a stack
    step_function: str = ""  # the same
    format: int = UNMARKED_FORMAT  # of the runs that it writes; known from the outputs of a stack
    pollers: str = ""  # MIN,MAX that runs raise
    mapping: str = ""  # id of the event source mapping of the queue
    quiet: int = DEFAULT_QUIET_S  # seconds without another upload after which a run starts
    fleets: str = ""  # names of those that runs may ask for; known from the outputs of a stack
    task_size: str = ""  # of their tasks; the same

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> StackResources:
        """Return the stack that this Lambda function belongs to."""
        found = cls._from_lookup(
            lambda name: environment.get(f"HUNDREDFOLD_{name.upper()}"),
            "the environment of the function",
        )
        return replace(found, code=sealed_code(environment) or found.code)

    @classmethod
    def from_stack(cls, stack: str) -> StackResources:
        """Return the stack of that name in the account and region of the credentials.

        Raises:
            UsageError: there is no such stack, or these credentials may not see it.
        """
        try:
            found = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        except (ClientError, BotoCoreError) as error:
            raise UsageError(
                f"found no stack {stack!r} that these credentials can see: {error}",
                hint=(
                    "deploy it first: hundredfold deploy MODULE:JOB   or name it with --stack; "
                    "AWS_PROFILE and AWS_REGION select the account and region"
                ),
            ) from error
        outputs = {
            output["OutputKey"].lower(): output["OutputValue"]
            for output in found.get("Outputs", [])
        }
        names = {
            "queue": "queueurl",
            "dead": "deadurl",
            "machine": "machinearn",
            "work_function": "workfunction",
            "step_function": "stepfunction",
            "task_size": "tasksize",
        }
        resources = cls._from_lookup(
            lambda name: outputs.get(names.get(name, name)), f"the outputs of the stack {stack}"
        )
        return (
            resources
            if resources.code or "workfunction" not in outputs
            else replace(resources, code=image_digest(outputs["workfunction"]))
        )

    @classmethod
    def _from_lookup(cls, find: Any, where: str) -> StackResources:
        found = {field.name: find(field.name) for field in fields(cls)}
        missing = [name for name, value in found.items() if not value and name not in OPTIONAL]
        if missing:
            raise UsageError(
                f"{where} lack {', '.join(missing)}",
                hint="deploy it again with this version: hundredfold deploy MODULE:JOB",
            )
        return cls(
            **{
                **found,
                "concurrency": int(found["concurrency"]),
                "machine": found["machine"] or "",
                "code": found["code"] or "",
                "work_function": found["work_function"] or "",
                "step_function": found["step_function"] or "",
                "pollers": found["pollers"] or "",
                "mapping": found["mapping"] or "",
                "fleets": found["fleets"] or "",
                "task_size": found["task_size"] or "",
                "cores": int(found["cores"] or 1),
                "format": int(found["format"] or UNMARKED_FORMAT),
                "quiet": int(found["quiet"] or DEFAULT_QUIET_S),
            }
        )
