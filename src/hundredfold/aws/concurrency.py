"""The number of concurrent workers of a deployed stack, changed while runs are in progress."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from ..errors import UsageError
from .adapters.session import StackResources, client
from .lambda_platform import DIRECT_WORKERS_ENV, WORKERS_PER_POLLER, worker_shares

MIN_CONCURRENCY, MAX_CONCURRENCY = 2, 1000  # of an event source mapping without pollers
MIN_POLLERS = 2


def set_concurrency(work_function: str, workers: int) -> None:
    """Let the queue invoke at most this many workers at a time, from now on.

    Raises:
        UsageError: the number is not allowed, or the mapping cannot be changed.
    """
    mapping = _mapping_of(work_function)
    pollers = mapping.get("ProvisionedPollerConfig")
    if pollers:
        most = max(MIN_POLLERS, -(-workers // WORKERS_PER_POLLER))
        least = min(int(pollers["MinimumPollers"]), most)
        change: dict[str, Any] = {
            "ProvisionedPollerConfig": {"MinimumPollers": least, "MaximumPollers": most}
        }
    else:
        if not MIN_CONCURRENCY <= workers <= MAX_CONCURRENCY:
            raise UsageError(
                f"--concurrency is {workers}, expected {MIN_CONCURRENCY} to {MAX_CONCURRENCY}",
                hint="more workers need provisioned pollers: hundredfold deploy --pollers",
            )
        change = {"ScalingConfig": {"MaximumConcurrency": workers}}
    try:
        client("lambda").update_event_source_mapping(UUID=mapping["UUID"], **change)
    except ClientError as error:
        raise UsageError(
            f"the concurrency of {work_function} cannot be changed: {error}",
            hint="these credentials need lambda:UpdateEventSourceMapping",
        ) from error


def set_direct_concurrency(resources: StackResources, workers: int) -> None:
    """Let runs start this many workers at a time, less those of the queue's own mapping.

    A run that has messages left starts more at its next poll. Workers that have started go on.

    Raises:
        UsageError: the number is not allowed, or something cannot be changed.
    """
    mapped, direct = worker_shares(workers)
    allowed = MIN_CONCURRENCY <= workers <= MAX_CONCURRENCY
    set_concurrency(resources.work_function, mapped if allowed else workers)
    step = resources.step_function
    try:
        found = client("lambda").get_function_configuration(FunctionName=step)
        variables = found["Environment"]["Variables"] | {DIRECT_WORKERS_ENV: str(direct)}
        client("lambda").update_function_configuration(
            FunctionName=step, Environment={"Variables": variables}
        )
    except (ClientError, KeyError) as error:
        raise UsageError(
            f"the number of workers that {step} starts cannot be changed: {error}",
            hint=(
                "these credentials need lambda:GetFunctionConfiguration and "
                "lambda:UpdateFunctionConfiguration"
            ),
        ) from error


def worker_limits(resources: StackResources) -> tuple[int, int]:
    """Return the memory (MB) and the timeout (seconds) of the workers.

    Raises: UsageError where they cannot be read.
    """
    name = resources.work_function
    try:
        found = client("lambda").get_function_configuration(FunctionName=name)
        return int(found["MemorySize"]), int(found["Timeout"])
    except ClientError as error:
        raise UsageError(
            f"the memory and the timeout of {name}, which a plan prescribes, cannot be read: "
            f"{error}",
            hint="these credentials need lambda:GetFunctionConfiguration; or run without --plan",
        ) from error


def _mapping_of(work_function: str) -> dict[str, Any]:
    """Return the event source mapping by which the queue invokes the workers."""
    try:
        found = client("lambda").list_event_source_mappings(FunctionName=work_function)
    except ClientError as error:
        raise UsageError(
            f"the event source mapping of {work_function} cannot be read: {error}",
            hint="these credentials need lambda:ListEventSourceMappings",
        ) from error
    mappings = found["EventSourceMappings"]
    if len(mappings) != 1:
        raise UsageError(
            f"{work_function} has {len(mappings)} event source mappings, expected 1",
            hint="deploy the stack again",
        )
    return dict(mappings[0])
