"""The three functions: step, work and bury; and what wakes the last two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

from aws_cdk import (
    Duration,
    RemovalPolicy,
    Size,
    Stack,
    Tags,
    aws_ecr,
    aws_iam,
    aws_lambda,
    aws_logs,
)
from constructs import Construct

from ..lambda_platform import PYTHON
from .nag_suppressions import reviewed
from .permissions import Grant, allow, review_tracing, role
from .queues import BURY_TIMEOUT
from .settings import Settings

HANDLERS = "hundredfold.aws.functions.handlers"
STEP_TIMEOUT = 900  # seconds
IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<repository>[a-z0-9._/-]+)[:@](?P<version>[\w.:-]+)"
)
# the tag that says how many bytes the code takes, for `hundredfold doctor`
UNZIPPED = "hundredfold:unzipped"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the functions: its sizes in MB, its timeout in seconds."""

    name: str
    memory: int
    timeout: int
    disk: int = 512
    recursive: bool = False
    describes: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """What runs: the package, or an image that holds it; and the layers beside it."""

    code: Any
    runtime: Any
    architecture: Any
    layers: Sequence[Any] = ()
    unzipped: int | None = None
    is_image: bool = False


def kinds(settings: Settings) -> tuple[Kind, Kind, Kind]:
    return (
        Kind("step", 3008, STEP_TIMEOUT, disk=4096, describes="One step of a run"),
        # work may send to the queue that it is fed from, where it halves a batch: Lambda takes that
        # for a loop, and would stop it
        Kind(
            "work",
            settings.memory,
            settings.timeout,
            recursive=True,
            describes="The job's function over the units of a batch",
        ),
        Kind("bury", 512, BURY_TIMEOUT, describes="Dead letters into the run's accounts"),
    )


def code_of(scope: Construct, code: Any, settings: Settings) -> Code:
    """From a folder or zip made by `hundredfold package`, the address of an image in ECR, or
    aws_lambda.Code as it is.
    """
    runtime = aws_lambda.Runtime(f"python{settings.python}", aws_lambda.RuntimeFamily.PYTHON)
    arm = settings.architecture == "arm64"
    architecture = aws_lambda.Architecture.ARM_64 if arm else aws_lambda.Architecture.X86_64
    layers = [
        aws_lambda.LayerVersion.from_layer_version_arn(scope, f"Layer{n}", arn)
        for n, arn in enumerate(settings.layers)
    ]
    image = IMAGE.fullmatch(str(code))
    if image:
        code = aws_lambda.Code.from_ecr_image(
            _repository(scope, image), tag_or_digest=image["version"]
        )
    if isinstance(code, aws_lambda.EcrImageCode | aws_lambda.AssetImageCode):
        return Code(code, aws_lambda.Runtime.FROM_IMAGE, architecture, is_image=True)
    if isinstance(code, aws_lambda.Code):
        return Code(code, runtime, architecture, layers)
    return Code(
        aws_lambda.Code.from_asset(str(code)), runtime, architecture, layers, unzipped(Path(code))
    )


def _repository(scope: Construct, image: re.Match[str]) -> Any:
    stack = Stack.of(scope)
    arn = f"arn:{stack.partition}:ecr:{image['region']}:{image['account']}:repository/{image['repository']}"
    return aws_ecr.Repository.from_repository_attributes(
        scope, "Image", repository_arn=arn, repository_name=image["repository"]
    )


def unzipped(path: Path) -> int:
    """Bytes that a package takes on a function's disk."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def make_function(
    scope: Construct,
    kind: Kind,
    code: Code,
    settings: Settings,
    environment: Mapping[str, str],
    grants: Sequence[Grant],
    name: str | None,
) -> Any:
    """A function with a role and logs of its own."""
    logs = make_logs(scope, f"{kind.name.title()}Logs", settings)
    rights = role(
        scope, f"{kind.name.title()}Role", aws_iam.ServicePrincipal("lambda.amazonaws.com")
    )
    allow(
        rights,
        [
            Grant("Logs", ("logs:CreateLogStream", "logs:PutLogEvents"), (logs.log_group_arn,)),
            *grants,
        ],
    )
    handler = f"{HANDLERS}.{kind.name}"
    function = aws_lambda.Function(
        scope,
        kind.name.title(),
        function_name=name,
        description=kind.describes,
        code=code.code,
        runtime=code.runtime,
        architecture=code.architecture,
        handler=aws_lambda.Handler.FROM_IMAGE if code.is_image else handler,
        layers=list(code.layers) or None,
        role=rights,
        memory_size=kind.memory,
        timeout=Duration.seconds(kind.timeout),
        ephemeral_storage_size=Size.mebibytes(kind.disk),
        environment={
            **environment,
            "POWERTOOLS_SERVICE_NAME": kind.name,
            "POWERTOOLS_METRICS_NAMESPACE": "Hundredfold",
        },
        log_group=logs,
        tracing=aws_lambda.Tracing.ACTIVE if settings.tracing else aws_lambda.Tracing.DISABLED,
        recursive_loop=aws_lambda.RecursiveLoop.ALLOW if kind.recursive else None,
    )
    _finish(function, rights, code, settings, handler)
    return function


def _finish(function: Any, rights: Any, code: Code, settings: Settings, handler: str) -> None:
    if settings.tracing:
        review_tracing(rights)
    if code.is_image:
        function.node.default_child.add_property_override(
            "ImageConfig.Command", [handler]
        )  # one image, three handlers
    if code.unzipped is not None:
        Tags.of(function).add(UNZIPPED, str(code.unzipped))
    if settings.python != PYTHON:
        reviewed(function, "L1", f"the owner of the stack chose Python {settings.python}")


def make_logs(scope: Construct, id: str, settings: Settings, name: str | None = None) -> Any:
    logs = aws_logs.LogGroup(scope, id, log_group_name=name, removal_policy=RemovalPolicy.DESTROY)
    cast(
        aws_logs.CfnLogGroup, logs.node.default_child
    ).retention_in_days = settings.log_days  # CDK has its own words for these numbers
    return logs


def feed_work(scope: Construct, function: Any, queue: Any, settings: Settings) -> None:
    """The queue wakes the workers, as many at once as the settings say; a message that fails comes
    back, its neighbours do not.
    """
    property = aws_lambda.CfnEventSourceMapping
    pollers = settings.pollers
    property(
        scope,
        "WorkMapping",
        function_name=function.function_name,
        event_source_arn=queue.queue_arn,
        batch_size=settings.batch_size,
        maximum_batching_window_in_seconds=settings.window,
        function_response_types=["ReportBatchItemFailures"],
        scaling_config=None
        if pollers
        else property.ScalingConfigProperty(maximum_concurrency=settings.workers),
        provisioned_poller_config=property.ProvisionedPollerConfigProperty(
            minimum_pollers=pollers[0], maximum_pollers=pollers[1]
        )
        if pollers
        else None,
    )


def feed_bury(scope: Construct, function: Any, dead: Any) -> None:
    aws_lambda.CfnEventSourceMapping(
        scope,
        "BuryMapping",
        function_name=function.function_name,
        event_source_arn=dead.queue_arn,
        batch_size=10,
        function_response_types=["ReportBatchItemFailures"],
        scaling_config=aws_lambda.CfnEventSourceMapping.ScalingConfigProperty(
            maximum_concurrency=10
        ),
    )
