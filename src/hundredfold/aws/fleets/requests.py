"""The fleets that a run asks for: `--fleet NAME` or `--fleet NAME:TASKS`, and their prices.

This module imports neither boto3 nor the CDK: settings and commands are checked with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...ports.run_facts import FleetFacts
from ...runs.prices import NoPrice, Prices

LAMBDA = "lambda"  # the functions, which every stack has
FARGATE, FARGATE_SPOT, MANAGED, BATCH = "fargate", "fargate-spot", "managed", "batch"
FLEETS = (FARGATE, FARGATE_SPOT, MANAGED, BATCH)  # that a stack may have beside them
DEFAULT_TASKS, MAX_TASKS = 10, 5000  # of a fleet in one run: 5,000 tasks run in one cluster
# the metric of the tasks of a run, and its dimensions
RUNNING_TASKS, FLEET_DIMENSION, FUNCTION_DIMENSION = "RunningTasks", "fleet", "function"
REQUEST = re.compile(r"(?P<name>[a-z-]+)(?::(?P<tasks>[1-9]\d{0,5}))?")
# the prices of its tasks: a task that does not get Spot is billed as another fleet
PRICES = {
    FARGATE: (FARGATE,),
    FARGATE_SPOT: (FARGATE_SPOT, FARGATE),
    MANAGED: (MANAGED,),
    BATCH: (BATCH,),
}


@dataclass(frozen=True, slots=True)
class TaskSize:
    """The size of a task: its whole cores, its memory in MB, and its processor."""

    cores: int
    memory: int
    architecture: str

    @classmethod
    def parse(cls, text: str) -> TaskSize:
        """Parse the text of a stack's output, such as 1,2048,arm64."""
        cores, memory, architecture = text.split(",")
        return cls(int(cores), int(memory), architecture)

    def __str__(self) -> str:
        return f"{self.cores},{self.memory},{self.architecture}"


@dataclass(frozen=True, slots=True)
class StackFleets:
    """The fleets of a stack: their names, and the size of their tasks (None without any)."""

    stack: str
    names: Sequence[str] = ()
    size: TaskSize | None = None

    @classmethod
    def of(cls, stack: str, names: str, size: str) -> StackFleets:
        """Return those of a stack's outputs; "" where it has none."""
        if not names:
            return cls(stack)
        return cls(stack, tuple(names.split(",")), TaskSize.parse(size))

    def requested(self, texts: Sequence[str]) -> list[FleetFacts]:
        """Return the fleets that a run asks for; none for the functions alone.

        Raises: UsageError for a text that is not NAME or NAME:TASKS, and for a fleet that the stack
        has not.
        """
        if isinstance(texts, str):
            raise UsageError(
                f"fleets is {texts!r}, wanted a list of names", hint=f"such as [{texts!r}]"
            )
        found: dict[str, FleetFacts] = {}
        for text in texts:
            name, tasks = _parse(text)
            if name in found:
                raise UsageError(f"the fleet {name} is given twice", hint=f"such as {name}:20")
            if name not in (LAMBDA, *self.names):
                raise UsageError(
                    f"the stack {self.stack} has no fleet {name!r}; its fleets are "
                    f"{', '.join((LAMBDA, *self.names))}",
                    hint=f"deploy it with the fleet: hundredfold deploy JOB --fleet {name}"
                    if name in FLEETS
                    else f"the fleets are {', '.join((LAMBDA, *FLEETS))}",
                )
            found[name] = {"name": name, "tasks": tasks}
        return [] if [*found] == [LAMBDA] else list(found.values())

    def priced(
        self, fleets: Sequence[FleetFacts], prices: Prices, *, needed: bool
    ) -> list[FleetFacts]:
        """Return fleets with the dollars of a task for an hour, as far as they are known.

        needed: of a run with a budget. Raises: NoPrice for one that is needed and not known.
        """
        return [self._with_price(each, prices, needed=needed) for each in fleets]

    def _with_price(self, fleet: FleetFacts, prices: Prices, *, needed: bool) -> FleetFacts:
        if self.size is None or fleet["name"] == LAMBDA:
            return fleet
        try:
            hourly = [_hourly(name, self.size, prices) for name in PRICES[fleet["name"]]]
        except NoPrice:
            if needed:
                raise
            return fleet
        return {**fleet, "hourly": hourly}


def _parse(text: str) -> tuple[str, int]:
    found = REQUEST.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--fleet is {text!r}, wanted NAME or NAME:TASKS", hint="such as --fleet fargate:20"
        )
    if found["name"] == LAMBDA and found["tasks"]:
        raise UsageError(
            f"--fleet is {text!r}, but functions are not tasks",
            hint="hundredfold adjust RUN --concurrency N changes how many there are",
        )
    tasks = int(found["tasks"] or DEFAULT_TASKS)
    if tasks > MAX_TASKS:
        raise UsageError(f"--fleet is {text!r}, wanted at most {MAX_TASKS:,} tasks")
    return found["name"], tasks


def _hourly(name: str, size: TaskSize, prices: Prices) -> float:
    """Return the dollars of a task for an hour; of an instance, the share of its cores."""
    if name == MANAGED:
        fee = 1 + prices.usd("ecs_managed_fee")
        return size.cores * prices.usd(f"ec2_{size.architecture}_vcpu_h") * fee
    if name == BATCH:
        return size.cores * prices.usd(f"ec2_spot_{size.architecture}_vcpu_h")
    price = f"{name.replace('-', '_')}_{size.architecture}"
    vcpu, gigabyte = prices.usd(f"{price}_vcpu_h"), prices.usd(f"{price}_gb_h")
    return size.cores * vcpu + size.memory / 1024 * gigabyte
