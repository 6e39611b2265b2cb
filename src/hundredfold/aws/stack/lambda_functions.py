"""The Lambda functions of a stack (step, work, dead_letter, and dispatch where runs start workers
themselves), and the event source mappings that invoke work and dead_letter.
"""

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

from ...workers.interrupts import defer_interrupts
from ..archive import unpacked_bytes
from ..lambda_platform import METRICS_NAMESPACE, PYTHON
from .encryption import key_of
from .nag_suppressions import accept_finding, acknowledge
from .permissions import Grant, accept_tracing_wildcard, allow, network_permissions, role
from .queues import DEAD_LETTER_TIMEOUT_S
from .settings import Settings

STEP_MODULE = "hundredfold.aws.functions.step_handler"
HANDLERS_MODULE = "hundredfold.aws.functions.handlers"
DISPATCH_MODULE = "hundredfold.aws.functions.starting_workers"  # it starts fast
DISPATCH_TIMEOUT_S = 60
MAX_MAPPED_WORKERS = 1000  # of an event source mapping without pollers
MAX_START_AGE_S = 60  # of the start of a worker; later, the queue delivers the messages
STEP_TIMEOUT_S = 900  # seconds
MAX_COMMON_TIMEOUT_S = 900  # of Lambda in every region
MIN_STEP_DISK_MB = 4096
IMAGE_ADDRESS = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"/(?P<repository>[a-z0-9._/-]+)[:@](?P<version>[\w.:-]+)"
)
# the tag with the unzipped size of the code in bytes, for `hundredfold doctor`
UNZIPPED_SIZE_TAG = "hundredfold:unzipped"


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One of the functions: memory and disk in MB, timeout in seconds."""

    name: str
    memory: int
    timeout: int
    disk: int = 512
    recursive: bool = False
    description: str = ""
    module: str = HANDLERS_MODULE

    @property
    def construct_id(self) -> str:
        """The id of the function's construct: DeadLetter for dead_letter."""
        return self.name.title().replace("_", "")


@dataclass(frozen=True, slots=True)
class FunctionCode:
    """The code of the functions: the package, or an image that contains it; and the layers."""

    code: Any
    runtime: Any
    architecture: Any
    layers: Sequence[Any] = ()
    unzipped_bytes: int | None = None
    is_image: bool = False
    unpacked_mb: int = 0  # of libraries that a function unpacks onto its disk when it starts


def function_specs(settings: Settings) -> tuple[FunctionSpec, FunctionSpec, FunctionSpec]:
    return (
        FunctionSpec(
            "step",
            settings.step_memory,
            STEP_TIMEOUT_S,
            disk=max(MIN_STEP_DISK_MB, settings.step_memory),
            description="The steps of a run",
            module=STEP_MODULE,
        ),
        # work may send to the queue that invokes it, when it halves a batch: Lambda takes that for
        # a loop, and would stop it
        FunctionSpec(
            "work",
            settings.memory,
            settings.timeout,
            recursive=True,
            description="The job's function over the units of a batch",
        ),
        FunctionSpec(
            "dead_letter",
            512,
            DEAD_LETTER_TIMEOUT_S,
            description="Records the units of dead-lettered messages as crashed",
        ),
    )


def dispatch_spec() -> FunctionSpec:
    """Return the function that starts workers, for the trigger "direct"."""
    return FunctionSpec(
        "dispatch",
        512,
        DISPATCH_TIMEOUT_S,
        description="Starts workers",
        module=DISPATCH_MODULE,
    )


def function_code(scope: Construct, code: Any, settings: Settings) -> FunctionCode:
    """Return the code of a folder or zip made by `hundredfold package`, of an image in ECR given by
    its address, or of an aws_lambda.Code.
    """
    runtime = aws_lambda.Runtime(f"python{settings.python}", aws_lambda.RuntimeFamily.PYTHON)
    arm = settings.architecture == "arm64"
    architecture = aws_lambda.Architecture.ARM_64 if arm else aws_lambda.Architecture.X86_64
    layers = [_layer(scope, f"Layer{n}", arn) for n, arn in enumerate(settings.layers)]
    image = IMAGE_ADDRESS.fullmatch(str(code))
    if image:
        repository = _once(scope, "Image") or _repository(scope, image)
        code = aws_lambda.Code.from_ecr_image(repository, tag_or_digest=image["version"])
    if isinstance(code, aws_lambda.EcrImageCode | aws_lambda.AssetImageCode):
        return FunctionCode(code, aws_lambda.Runtime.FROM_IMAGE, architecture, is_image=True)
    if isinstance(code, aws_lambda.Code):
        return FunctionCode(code, runtime, architecture, layers)
    return FunctionCode(
        aws_lambda.Code.from_asset(str(code)),
        runtime,
        architecture,
        layers,
        unzipped_bytes(Path(code)),
        unpacked_mb=-(-unpacked_bytes(Path(code)) // 2**20),
    )


def _layer(scope: Construct, id: str, arn: str) -> Any:
    """Return a layer, which the functions of both packages share."""
    return _once(scope, id) or aws_lambda.LayerVersion.from_layer_version_arn(scope, id, arn)


def _once(scope: Construct, id: str) -> Any:
    return scope.node.try_find_child(id)


def _repository(scope: Construct, image: re.Match[str]) -> Any:
    stack = Stack.of(scope)
    registry = f"arn:{stack.partition}:ecr:{image['region']}:{image['account']}"
    arn = f"{registry}:repository/{image['repository']}"
    return aws_ecr.Repository.from_repository_attributes(
        scope, "Image", repository_arn=arn, repository_name=image["repository"]
    )


@defer_interrupts()
def unzipped_bytes(path: Path) -> int:
    """Return the size in bytes of a package on a function's disk."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def make_function(
    scope: Construct,
    spec: FunctionSpec,
    code: FunctionCode,
    settings: Settings,
    environment: Mapping[str, str],
    grants: Sequence[Grant],
    name: str | None,
) -> Any:
    """Create a function with a role and a log group of its own."""
    logs = make_log_group(scope, f"{spec.construct_id}Logs", settings)
    function_role = role(
        scope, f"{spec.construct_id}Role", aws_iam.ServicePrincipal("lambda.amazonaws.com")
    )
    allow(
        function_role,
        [
            Grant("Logs", ("logs:CreateLogStream", "logs:PutLogEvents"), (logs.log_group_arn,)),
            *grants,
            *(network_permissions() if settings.subnets else ()),
        ],
    )
    handler = f"{spec.module}.{spec.name}"
    function = aws_lambda.Function(
        scope,
        spec.construct_id,
        function_name=name,
        description=spec.description,
        code=code.code,
        runtime=code.runtime,
        architecture=code.architecture,
        handler=aws_lambda.Handler.FROM_IMAGE if code.is_image else handler,
        layers=list(code.layers) or None,
        role=function_role,
        memory_size=spec.memory,
        timeout=Duration.seconds(spec.timeout),
        ephemeral_storage_size=Size.mebibytes(spec.disk + code.unpacked_mb),
        environment={
            **environment,
            "POWERTOOLS_SERVICE_NAME": spec.name,
            "POWERTOOLS_METRICS_NAMESPACE": METRICS_NAMESPACE,
        },
        log_group=logs,
        tracing=aws_lambda.Tracing.ACTIVE if settings.tracing else aws_lambda.Tracing.DISABLED,
        recursive_loop=aws_lambda.RecursiveLoop.ALLOW if spec.recursive else None,
    )
    _configure(function, function_role, code, settings, handler)
    _acknowledge_timeout(function, spec)
    return function


def _acknowledge_timeout(function: Any, spec: FunctionSpec) -> None:
    """Suppress the finding about a timeout that not every region allows."""
    if spec.timeout > MAX_COMMON_TIMEOUT_S:
        acknowledge(
            function,
            "CloudFormation-Validate::E3717",
            "the owner of the stack chose a timeout that only some regions allow",
        )


def _configure(
    function: Any, function_role: Any, code: FunctionCode, settings: Settings, handler: str
) -> None:
    if settings.tracing:
        accept_tracing_wildcard(function_role)
    if settings.subnets:
        network = {
            "SubnetIds": list(settings.subnets),
            "SecurityGroupIds": list(settings.security_groups),
        }
        function.node.default_child.add_property_override("VpcConfig", network)
    if code.is_image:
        # one image contains three handlers
        function.node.default_child.add_property_override("ImageConfig.Command", [handler])
    if code.unzipped_bytes is not None:
        Tags.of(function).add(UNZIPPED_SIZE_TAG, str(code.unzipped_bytes))
    if settings.python != PYTHON:
        accept_finding(function, "L1", f"the owner of the stack chose Python {settings.python}")


def make_log_group(scope: Construct, id: str, settings: Settings, name: str | None = None) -> Any:
    logs = aws_logs.LogGroup(
        scope,
        id,
        log_group_name=name,
        removal_policy=RemovalPolicy.DESTROY,
        encryption_key=key_of(scope, settings),
    )
    # CDK has an enum for these numbers
    cast(aws_logs.CfnLogGroup, logs.node.default_child).retention_in_days = settings.log_days
    return logs


def connect_work_queue(scope: Construct, function: Any, queue: Any, settings: Settings) -> Any:
    """Let the queue invoke the workers, up to the concurrency of the settings; return the mapping.

    A message that fails is delivered again, the others of its call are not. Pollers that runs raise
    are not there between them.
    """
    mapping = aws_lambda.CfnEventSourceMapping
    pollers = None if settings.raise_pollers else settings.pollers
    most = min(settings.mapped_workers, MAX_MAPPED_WORKERS)
    return mapping(
        scope,
        "WorkMapping",
        function_name=function.function_name,
        event_source_arn=queue.queue_arn,
        batch_size=settings.messages_per_call,
        maximum_batching_window_in_seconds=settings.batching_window_s,
        function_response_types=["ReportBatchItemFailures"],
        scaling_config=None if pollers else mapping.ScalingConfigProperty(maximum_concurrency=most),
        provisioned_poller_config=mapping.ProvisionedPollerConfigProperty(
            minimum_pollers=pollers[0], maximum_pollers=pollers[1]
        )
        if pollers
        else None,
    )


def connect_dead_letter_queue(scope: Construct, function: Any, dead: Any) -> None:
    aws_lambda.CfnEventSourceMapping(
        scope,
        "DeadLetterMapping",
        function_name=function.function_name,
        event_source_arn=dead.queue_arn,
        batch_size=10,
        function_response_types=["ReportBatchItemFailures"],
        scaling_config=aws_lambda.CfnEventSourceMapping.ScalingConfigProperty(
            maximum_concurrency=10
        ),
    )
