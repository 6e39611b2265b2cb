"""Fleets: the laws by which the workers of a service become available, as plain numbers.

The figures are published ones where a source is named; the others are assumptions, marked so, and
the interval of a plan is as wide as they are uncertain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# of a standard SQS mapping: concurrent calls at once, more per second, at most (AWS, 2023-11)
MAPPING_BASE, MAPPING_PER_S, MAX_MAPPING_CALLS = 5, 300 / 60, 1_250
# of provisioned pollers: calls of each, more of all per second (AWS, 2025-11)
CALLS_PER_POLLER, POLLERS_PER_S = 10, 1_000 / 60
# execution environments of one function: at once, more per second (Lambda scaling behaviour)
FUNCTION_BASE, FUNCTION_PER_S = 1_000, 100.0
# Fargate tasks: launches at once, more per second; start of a task (ECS throttling quotas)
TASK_BASE, TASKS_PER_S, TASK_START_S = 100, 20.0, (30.0, 60.0)
EC2_START_S = (60.0, 300.0)  # assumption: from the request to the worker
# Lambda Managed Instances: the three that run by default, assumed to have four cores each; then
# twice as many in five minutes (load that grows faster is throttled)
MANAGED_INSTANCE_CORES, MANAGED_DOUBLING_S = 12, 300.0
COLD_START_S = (2.0, 0.4)  # assumption: median, and standard deviation of the logarithm
MESSAGE_S = 0.15  # assumption: receive, read the batch, write the outcome, delete
SPOT_INTERRUPTIONS_PER_H = 0.05  # assumption: per task or core
# of S3 events: median 1 s, 99.9 % within a minute ("can sometimes take a minute or longer")
EVENT_DELAY_S = (1.0, math.log(60) / 3.09)
LOST_EVENTS = 1e-5  # assumption: fraction of S3 events that never arrive, and are sent again
SEND_PER_S = 500.0  # assumption: messages sent by one process, ten in a call
THROTTLE_PAUSE_S = 60.0  # assumption: a poller whose call was throttled waits so long
VISIBILITY_FACTOR = 6  # of the function's timeout, as the stack has it


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of one service, as the simulator needs them.

    slots: messages in work at a time. cores: of one slot, which share a message. base: slots that
    are launched at once; then per_s more per second, or, with doubling_s, twice as many after that
    time. start_s: from launch to ready, from..to. cold_s: of the first message of a slot.
    message_s: of each message beside its units. delay_s: of a message's arrival, like cold_s.
    sent_per_s: messages that arrive per second. lost: fraction of messages that arrive only after
    another visibility timeout. accepted: slots above it are throttled. visibility_s: until a
    throttled message is delivered again. timeout_s: a batch that takes longer is continued in
    another message. interruptions_per_h: of a slot. steals: idle slots share the last messages.
    """

    slots: int
    cores: int = 1
    base: int = 10**9
    per_s: float = math.inf
    doubling_s: float = 0.0
    start_s: tuple[float, float] = (0.0, 0.0)
    cold_s: tuple[float, float] = (0.0, 0.0)
    message_s: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)
    sent_per_s: float = math.inf
    accepted: int | None = None
    visibility_s: float = 60.0
    max_receives: int = 5
    timeout_s: float = math.inf
    interruptions_per_h: float = 0.0
    lost: float = 0.0
    steals: bool = False

    def launches(self) -> NDArray[np.float64]:
        """Return the second at which each slot is launched, ascending."""
        number = np.arange(self.slots, dtype=float)
        if self.doubling_s:
            doublings = np.log2(np.maximum((number + 1) / self.base, 1.0))
            return np.asarray(self.doubling_s * doublings, np.float64)
        return np.asarray(np.maximum(number + 1 - self.base, 0.0) / self.per_s, np.float64)


def mapping(concurrency: int, quota: int, cores: int, timeout_s: float) -> Fleet:
    """Return Lambda behind a standard SQS mapping with a maximum concurrency."""
    slots = min(concurrency, MAX_MAPPING_CALLS)
    return _lambda(slots, quota, cores, timeout_s, MAPPING_BASE, MAPPING_PER_S)


def events(concurrency: int, quota: int, cores: int, timeout_s: float) -> Fleet:
    """Return the same with the trigger "events": S3 sends a message as each batch is written."""
    mapped = mapping(concurrency, quota, cores, timeout_s)
    return replace(mapped, delay_s=EVENT_DELAY_S, lost=LOST_EVENTS)


def pollers(least: int, most: int, quota: int, cores: int, timeout_s: float) -> Fleet:
    """Return Lambda behind provisioned pollers."""
    slots, base = most * CALLS_PER_POLLER, least * CALLS_PER_POLLER
    return _lambda(slots, quota, cores, timeout_s, base, POLLERS_PER_S)


def direct(quota: int, cores: int, timeout_s: float) -> Fleet:
    """Return Lambda invoked directly, at the scaling rate of one function."""
    return _lambda(quota, quota, cores, timeout_s, FUNCTION_BASE, FUNCTION_PER_S)


def _lambda(slots: int, quota: int, cores: int, timeout_s: float, base: int, per_s: float) -> Fleet:
    return Fleet(
        slots,
        cores,
        base,
        per_s,
        cold_s=COLD_START_S,
        message_s=MESSAGE_S,
        sent_per_s=SEND_PER_S,
        accepted=quota,
        visibility_s=VISIBILITY_FACTOR * timeout_s,
        timeout_s=timeout_s,
    )


def fargate(tasks: int, *, spot: bool) -> Fleet:
    """Return Fargate tasks with one core each."""
    return Fleet(
        tasks,
        1,
        TASK_BASE,
        TASKS_PER_S,
        start_s=TASK_START_S,
        message_s=MESSAGE_S,
        sent_per_s=SEND_PER_S,
        interruptions_per_h=SPOT_INTERRUPTIONS_PER_H if spot else 0.0,
    )


def instances(cores: int, *, spot: bool) -> Fleet:
    """Return the cores of EC2 instances that are started for the run (Batch, managed instances)."""
    return Fleet(
        cores,
        start_s=EC2_START_S,
        message_s=MESSAGE_S,
        sent_per_s=SEND_PER_S,
        interruptions_per_h=SPOT_INTERRUPTIONS_PER_H if spot else 0.0,
    )


def managed_lambda(cores: int) -> Fleet:
    """Return Lambda Managed Instances, which grow from the three that run by default."""
    return Fleet(
        cores,
        base=MANAGED_INSTANCE_CORES,
        doubling_s=MANAGED_DOUBLING_S,
        cold_s=COLD_START_S,
        message_s=MESSAGE_S,
        sent_per_s=SEND_PER_S,
    )


def local(workers: int, message_s: float) -> Fleet:
    """Return the worker processes of this machine."""
    return Fleet(workers, message_s=message_s, steals=True)
