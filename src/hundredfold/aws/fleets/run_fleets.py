"""The fleets of one run: started with its messages, replaced while messages wait, stopped at its
end.

A task takes messages until the queue has stayed empty for a while, so that a fleet ends without
anybody; the step of the run's end stops what is left. A run without functions has its messages in
a queue of their own, which no event source mapping reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ...errors import StateError
from ...ports.interfaces import Record
from ...ports.run_facts import FleetFacts
from ..work.json_log import log
from .batch import BatchFleet
from .ecs import EcsFleet
from .requests import BATCH, LAMBDA

# the environment of the function `step`, and of the workers
FLEETS_ENV = "HUNDREDFOLD_FLEET_RESOURCES"
FLEET_QUEUE_ENV = "HUNDREDFOLD_FLEET_QUEUE"
QUEUE_ENV, PRICE_ENV = "HUNDREDFOLD_QUEUE", "HUNDREDFOLD_HOURLY_PRICE"
MIN_CHECK_S = 5.0  # between two starts: a list of tasks lacks those of the last seconds


@dataclass(frozen=True, slots=True)
class FleetResources:
    """The fleets that a stack has. cores: of a task. queue: URL of the messages of tasks alone."""

    fleets: Mapping[str, EcsFleet | BatchFleet]
    cores: int = 1
    queue: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> FleetResources:
        """Return those of this function."""
        text = environment.get(FLEETS_ENV)
        if not text:
            return cls({})
        found: dict[str, Any] = json.loads(text)
        fleets = {
            name: BatchFleet(**fleet) if name == BATCH else EcsFleet(**fleet)
            for name, fleet in found["fleets"].items()
        }
        return cls(fleets, int(found["cores"]), environment[FLEET_QUEUE_ENV])

    def stop(self, run: str) -> None:
        """Stop the tasks of a run that has ended."""
        for name, fleet in self.fleets.items():
            try:
                stopped = fleet.stop(run, "the run has ended")
            except (BotoCoreError, ClientError) as error:
                log.error("tasks were not stopped: they end by themselves", reason=str(error))
                continue
            if stopped:
                log.info("tasks were stopped", fleet=name, tasks=stopped)


@dataclass(frozen=True, slots=True)
class StartedTasks:
    """The tasks of a run: started now, active before, and why others could not be started."""

    started: int
    active: int
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class RunFleets:
    """The fleets that a run asked for. `requests`: without the functions."""

    run: str
    execution: str
    requests: Sequence[FleetFacts]
    uses_functions: bool
    resources: FleetResources

    @classmethod
    def of(cls, record: Record, resources: FleetResources) -> RunFleets:
        """Return the fleets of a run. Raises: StateError for one that the stack has no longer."""
        asked = record.options.get("fleets") or []
        requests = [each for each in asked if each["name"] != LAMBDA]
        gone = [each["name"] for each in requests if each["name"] not in resources.fleets]
        if gone:
            raise StateError(
                f"run {record.id} asked for the fleet {', '.join(gone)}, which the stack has no "
                "longer",
                hint=f"deploy it again with --fleet {gone[0]}, then resume the run",
            )
        functions = not requests or len(requests) < len(asked)
        return cls(record.id, record.execution, requests, functions, resources)

    @property
    def tasks(self) -> int:
        """The most tasks at a time."""
        return sum(each["tasks"] for each in self.requests)

    def queue(self, of_functions: str) -> str:
        """Return the URL of the queue of the run's messages."""
        return of_functions if self.uses_functions else self.resources.queue

    def start(
        self, messages: int, scope: str, before: int, queue: str, *, again: bool
    ) -> StartedTasks:
        """Start the tasks that are missing.

        messages: that wait or are being processed. scope, before: the model and its attempt, and
        the tasks that were started for it before; a repetition with the same starts nothing.
        again: tasks have ended early, so that others are started on demand.
        """
        wanted = -(-messages // self.resources.cores)
        started, active = 0, 0
        problems: list[str] = []
        for request in self.requests:
            count = min(request["tasks"], wanted)
            wanted -= count
            found, reasons = 0, list[str]()
            try:
                present = self.resources.fleets[request["name"]].active(self.run)
                active += present
                if count > present:
                    found, reasons = self._start(
                        request, count - present, f"{scope}/{before}", queue, again
                    )
            except (BotoCoreError, ClientError) as error:
                reasons = [str(error)]
            started += found
            problems += reasons
            if found:
                log.info("tasks were started", fleet=request["name"], tasks=found)
            for reason in reasons:
                log.error("tasks were not started", fleet=request["name"], reason=reason)
        return StartedTasks(started, active, problems)

    def reasons(self) -> list[str]:
        """Return why tasks of the run have ended."""
        try:
            return [
                reason
                for request in self.requests
                for reason in self.resources.fleets[request["name"]].reasons(self.run)
            ]
        except (BotoCoreError, ClientError) as error:
            return [str(error)]

    def _start(
        self, request: FleetFacts, count: int, scope: str, queue: str, again: bool
    ) -> tuple[int, list[str]]:
        fleet = self.resources.fleets[request["name"]]
        places = len(fleet.providers)
        prices = request.get("hourly") or []
        environments = [
            {QUEUE_ENV: queue} | ({PRICE_ENV: str(prices[place])} if place < len(prices) else {})
            for place in range(places)
        ]
        token = f"{self.execution}/{request['name']}/{scope}"
        return fleet.start(self.run, count, environments, token, places - 1 if again else 0)
