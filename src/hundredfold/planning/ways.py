"""The ways to execute a job: each a fleet with its bill, its settings and its limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..aws.lambda_platform import MB_PER_VCPU, WORKERS_PER_POLLER
from ..aws.stack.settings import CONCURRENCY, Settings
from ..runs.plans import FLEETS
from ..runs.prices import Prices
from . import fleets
from .fleets import Fleet
from .simulator import Played

# of the account. Lambda: the default; Fargate: the default, in vCPU; EC2: assumption, in vCPU
QUOTAS = {"lambda": 1_000, "fargate": 6, "fargate-spot": 6, "ec2": 32}
MAX_TIMEOUT_S, MIN_TIMEOUT_S = 900, 60  # of a function: the documented limit
MAX_MEMORY_MB, MAX_TASK_GB = 10_240, 8.0  # of a function; of a task with one vCPU
FAT_MEMORY_MB = Settings(job="a:b").memory
POLLERS = (10, 100)  # minimum and maximum
TASK_GB, MIN_BILL_S = 2.0, 60.0  # of a container
LEAST_CONTAINER_WORK_S = 60.0  # for each core: with less, most of the bill is the minimum
Make = Callable[[int, int], Fleet]  # of a number of slots, and the timeout of a call
Bill = Callable[["Way", Played, float, Prices], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to execute a job.

    slots: the most that the account and the service allow. make: the fleet of a number of slots and
    a timeout. bill: dollars by item of an execution that takes some seconds. gb: memory of a slot.
    quota: of the account, that limits it. timed: billed by calls, with a timeout. why_not: the
    reason why the job cannot be executed so. price: the name of the price, or its beginning.
    """

    key: str
    title: str
    slots: int
    cores: int
    gb: float
    make: Make
    bill: Bill
    quota: str
    deployable: bool = False
    timed: bool = False
    why_not: str = ""
    price: str = ""
    pollers: tuple[int, int] | None = None


def ways(
    quotas: Mapping[str, int], architecture: str, worker_bytes: int, longest_s: float
) -> Iterator[Way]:
    """Yield the ways on AWS. worker_bytes: of one process. longest_s: of the longest unit."""
    need_mb = math.ceil(worker_bytes * 1.3 / 2**20)
    yield from _lambda_ways(quotas["lambda"], architecture, need_mb, longest_s)
    gb = max(TASK_GB, math.ceil(need_mb / 1024))
    much = f"a process needs {gb:g} GB; one vCPU has at most {MAX_TASK_GB:g}"
    no = much if gb > MAX_TASK_GB else ""
    for spot in (False, True):
        key = "fargate-spot" if spot else "fargate"
        yield Way(
            key,
            "Fargate Spot" if spot else "Fargate",
            quotas[key],
            1,
            gb,
            _fargate(spot=spot),
            _bill_task,
            key,
            deployable=True,
            why_not=no,
            price=f"{key.replace('-', '_')}_{architecture}",
        )
    for key, title, kind in (
        ("batch-ec2", "Batch, EC2", "ec2"),
        ("batch-spot", "Batch, EC2 Spot", "ec2_spot"),
        ("ecs-managed", "ECS Managed Instances", "ec2"),
    ):
        yield Way(
            key,
            title,
            quotas["ec2"],
            1,
            gb,
            _instances(spot=kind == "ec2_spot"),
            _bill_managed_instance if key == "ecs-managed" else _bill_instance,
            "ec2",
            deployable=key in FLEETS,
            why_not=no,
            price=f"{kind}_{architecture}_vcpu_h",
        )
    yield _managed_lambda(quotas["ec2"], gb, architecture, no)


def _managed_lambda(quota: int, gb: float, architecture: str, why_not: str) -> Way:
    return Way(
        "lambda-managed",
        "Lambda Managed Instances",
        quota,
        1,
        gb,
        _managed,
        _bill_managed_lambda,
        "ec2",
        why_not=why_not,
        price=f"ec2_{architecture}_vcpu_h",
    )


def _fargate(*, spot: bool) -> Make:
    return lambda slots, _: fleets.fargate(slots, spot=spot)


def _instances(*, spot: bool) -> Make:
    return lambda slots, _: fleets.instances(slots, spot=spot)


def _managed(slots: int, _: int) -> Fleet:
    return fleets.managed_lambda(slots)


def _mapping(quota: int, cores: int) -> Make:
    return lambda slots, timeout: fleets.mapping(slots, quota, cores, timeout)


def _lambda_ways(quota: int, architecture: str, need_mb: int, longest_s: float) -> Iterator[Way]:
    """Yield Lambda by trigger, thin (one core) and fat (several processes in one environment)."""
    too_long = (
        f"a unit takes {longest_s:,.0f} s; a function ends after {MAX_TIMEOUT_S}"
        if longest_s * 1.5 > MAX_TIMEOUT_S
        else ""
    )
    for name, memory in (("thin", MB_PER_VCPU), ("fat", FAT_MEMORY_MB)):
        cores = memory // MB_PER_VCPU
        memory = max(memory, cores * need_mb)
        much = f"{cores} processes need {memory:,} MB; a function has at most {MAX_MEMORY_MB:,}"
        no = too_long or (much if memory > MAX_MEMORY_MB else "")
        mapped = Way(
            f"lambda-{name}-mapping",
            f"Lambda {name}, SQS mapping",
            min(quota, CONCURRENCY.maximum),
            cores,
            memory / 1024,
            _mapping(quota, cores),
            _bill_function,
            "lambda",
            True,
            timed=True,
            why_not=no,
            price=f"lambda_{architecture}_gb_s",
        )
        yield mapped
        yield from _other_triggers(mapped, name, quota)


def _other_triggers(mapped: Way, name: str, quota: int) -> Iterator[Way]:
    """Yield the same function behind the other triggers."""
    cores = mapped.cores
    yield replace(
        mapped,
        key=f"lambda-{name}-events",
        title=f"Lambda {name}, S3 events",
        make=lambda slots, timeout: fleets.events(slots, quota, cores, timeout),
    )
    most = max(min(POLLERS[1], quota // WORKERS_PER_POLLER), 2)
    least = min(POLLERS[0], most)
    yield replace(
        mapped,
        key=f"lambda-{name}-pollers",
        title=f"Lambda {name}, pollers",
        slots=most * WORKERS_PER_POLLER,
        bill=_bill_polled_function,
        pollers=(least, most),
        make=lambda _, timeout: fleets.pollers(least, most, quota, cores, timeout),
    )
    yield replace(
        mapped,
        key=f"lambda-{name}-direct",
        title=f"Lambda {name}, direct",
        make=lambda slots, timeout: fleets.direct(slots, cores, timeout),
    )


def _bill_function(way: Way, played: Played, _: float, prices: Prices) -> dict[str, float]:
    return {
        "compute": played.busy * way.gb * prices.usd(way.price),
        "requests": played.calls * prices.usd("lambda_request"),
    }


def _bill_polled_function(
    way: Way, played: Played, wall: float, prices: Prices
) -> dict[str, float]:
    """Add the pollers: those that the calls needed, and the minimum, while the run lasts."""
    least = way.pollers[0] if way.pollers else 0
    used = max(least, math.ceil(played.slots / WORKERS_PER_POLLER))
    polled = used * wall / 3600 * prices.usd("sqs_poller_h")
    return {**_bill_function(way, played, wall, prices), "pollers": polled}


def _bill_task(way: Way, played: Played, _: float, prices: Prices) -> dict[str, float]:
    hour = prices.usd(f"{way.price}_vcpu_h") + way.gb * prices.usd(f"{way.price}_gb_h")
    return _bill_alive(played, hour + prices.usd("public_ipv4_h"))


def _bill_instance(way: Way, played: Played, _: float, prices: Prices) -> dict[str, float]:
    return _bill_alive(played, prices.usd(way.price))


def _bill_managed_instance(way: Way, played: Played, _: float, prices: Prices) -> dict[str, float]:
    return _bill_alive(played, prices.usd(way.price) * (1 + prices.usd("ecs_managed_fee")))


def _bill_managed_lambda(way: Way, played: Played, _: float, prices: Prices) -> dict[str, float]:
    """Return the bill of the run alone: the instances that run between runs are not in it."""
    hour = prices.usd(way.price) * (1 + prices.usd("lambda_managed_fee"))
    requests = played.calls * prices.usd("lambda_request")
    return {**_bill_alive(played, hour), "requests": requests}


def _bill_alive(played: Played, hour: float) -> dict[str, float]:
    """Return the bill of slots that are paid while they are alive, the idle part apart."""
    return {
        "compute": min(played.busy, played.alive) / 3600 * hour,
        "start, end and minimum": max(played.alive - played.busy, 0.0) / 3600 * hour,
    }


def bill_steps(
    batches: int, played: Played, athena_tb: float, models: int, prices: Prices
) -> dict[str, float]:
    """Return the dollars of everything beside the workers.

    Assumptions: of each message three requests to SQS, two objects written and three read; of a run
    20 transitions of the state machine, and 25 of each model.
    """
    items = {
        "SQS": 3 * max(played.receives, batches) * prices.usd("sqs_request"),
        "S3": (batches + 2 * played.calls) * prices.usd("s3_put")
        + 3 * played.calls * prices.usd("s3_get"),
        "Step Functions": (20 + 25 * models) * prices.usd("step_functions_transition"),
    }
    if athena_tb:
        items["Athena"] = athena_tb * prices.usd("athena_tb")
    return items
