"""Where a stack's things are: the names of its bucket, queue, table and so on, and the clients that
reach them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ...errors import UsageError
from ..lambda_platform import digest_of

ATTEMPTS = 8  # throttling is normal where a thousand workers begin at once


@cache
def client(service: str) -> Any:
    """A client of an AWS service, one for each process; credentials, region and endpoint come from
    the usual environment.
    """
    with _making:
        return boto3.client(
            service,
            config=Config(
                retries={"mode": "adaptive", "max_attempts": ATTEMPTS}, max_pool_connections=32
            ),
        )


def caller() -> str:
    """Return the ARN of the IAM principal whose credentials these are, "" where STS cannot be
    asked.
    """
    try:
        return str(client("sts").get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError, KeyError):
        return ""


def code_of_image(function: str) -> str:
    """Return the fingerprint of the image that a Lambda function runs: its digest, also where it
    was named by a tag.

    "" for a function that is no image, or that these credentials may not look at.
    """
    try:
        found = client("lambda").get_function(FunctionName=function)["Code"]
    except (BotoCoreError, ClientError, KeyError):
        return ""
    return digest_of(str(found.get("ResolvedImageUri", "")))


def _after_fork() -> None:
    global _making
    _making = Lock()
    client.cache_clear()


_making = Lock()  # boto3's session, which makes all clients, is not meant for two threads at once
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=_after_fork
    )  # parent and child would read each other's answers on the same connections


@dataclass(frozen=True, slots=True)
class StackResources:
    """One stack. Every function has these in its environment, and the stack has them among its
    outputs.
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
    code: str = ""  # the fingerprint of the package that is deployed; "" where it is not known

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> StackResources:
        """The stack that a function belongs to."""
        return cls._made(
            lambda name: environment.get(f"HUNDREDFOLD_{name.upper()}"),
            "the function's environment",
        )

    @classmethod
    def of_stack(cls, stack: str) -> StackResources:
        """The stack of that name in the account and region of the credentials; UsageError if there
        is none.
        """
        try:
            found = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        except (ClientError, BotoCoreError) as error:
            raise UsageError(
                f"there is no stack {stack!r} that these credentials can see: {error}",
                hint=(
                    "deploy it first: hundredfold deploy MODULE:JOB   or name it with --stack; "
                    "AWS_PROFILE and AWS_REGION say where"
                ),
            ) from error
        outputs = {
            output["OutputKey"].lower(): output["OutputValue"]
            for output in found.get("Outputs", [])
        }
        names = {"queue": "queueurl", "dead": "deadurl", "machine": "machinearn"}
        place = cls._made(
            lambda name: outputs.get(names.get(name, name)), f"the outputs of the stack {stack}"
        )
        return (
            place
            if place.code or "workfunction" not in outputs
            else replace(place, code=code_of_image(outputs["workfunction"]))
        )

    @classmethod
    def _made(cls, find: Any, where: str) -> StackResources:
        found = {field.name: find(field.name) for field in fields(cls)}
        missing = [
            name for name, value in found.items() if not value and name not in ("machine", "code")
        ]
        if missing:
            raise UsageError(
                f"{where} lack {', '.join(missing)}",
                hint="was it deployed by this version? hundredfold deploy MODULE:JOB",
            )
        return cls(
            **{
                **found,
                "concurrency": int(found["concurrency"]),
                "machine": found["machine"] or "",
                "code": found["code"] or "",
            }
        )
