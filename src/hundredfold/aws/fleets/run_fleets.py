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
from dataclasses import dataclass, field
from math import floor
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from ...errors import StateError
from ...ports.interfaces import Record
from ...ports.run_facts import FleetFacts
from ..work.json_log import log
from .batch import BatchFleet
from .ecs import EcsFleet
from .refusals import Refusal, refusal_of
from .requests import BATCH, LAMBDA

# the environment of the function `step`, and of the workers
FLEETS_ENV = "HUNDREDFOLD_FLEET_RESOURCES"
FLEET_QUEUE_ENV = "HUNDREDFOLD_FLEET_QUEUE"
QUEUE_ENV, PRICE_ENV = "HUNDREDFOLD_QUEUE", "HUNDREDFOLD_HOURLY_PRICE"
CLOCKS_S = 1.0  # between the clocks of two services
MIN_CHECK_S = 5.0  # between two starts: a list of tasks lacks those of the last seconds


class Fleet(Protocol):
    """The tasks of one service: of ECS, or the jobs of Batch."""

    @property
    def providers(self) -> Sequence[str]:
        """The providers of capacity, of which each replaces the one before."""

    def active(self, run: str) -> int:
        """Return the tasks of a run that have not ended."""

    def start(
        self, run: str, count: int, environments: Sequence[Mapping[str, str]], token: str, at: int
    ) -> tuple[int, list[Refusal]]:
        """Start tasks with the provider of that place; return how many, and why not the others."""

    def refused_at_start(self, run: str, since: float) -> list[Refusal]:
        """Return why the containers of a run's ended tasks have not begun; none if one has."""

    def reasons(self, run: str) -> list[str]:
        """Return why tasks of a run have ended, each reason once."""

    def stop(self, run: str, reason: str) -> int:
        """Stop the tasks of a run; return how many there were."""


@dataclass(frozen=True, slots=True)
class FleetResources:
    """The fleets that a stack has. cores: of a task. queue: URL of the messages of tasks alone."""

    fleets: Mapping[str, Fleet]
    cores: int = 1
    queue: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> FleetResources:
        """Return those of this function."""
        text = environment.get(FLEETS_ENV)
        if not text:
            return cls({})
        found: dict[str, Any] = json.loads(text)
        fleets: dict[str, Fleet] = {
            name: BatchFleet(**fleet) if name == BATCH else EcsFleet(**fleet)
            for name, fleet in found["fleets"].items()
        }
        return cls(fleets, int(found["cores"]), environment[FLEET_QUEUE_ENV])

    def stop(self, run: str) -> list[str]:
        """Stop the tasks of a run that has ended; return the fleets that had any."""
        names = []
        for name, fleet in self.fleets.items():
            try:
                stopped = fleet.stop(run, "the run has ended")
            except (BotoCoreError, ClientError) as error:
                log.error("tasks were not stopped: they end by themselves", reason=str(error))
                continue
            if stopped:
                log.info("tasks were stopped", fleet=name, tasks=stopped)
                names.append(name)
        return names


@dataclass(frozen=True, slots=True)
class StartedTasks:
    """The tasks of a run: started now, active before, and why others were not started."""

    started: int
    active: int
    refusals: Sequence[Refusal] = ()
    of_fleets: Mapping[str, int] = field(default_factory=dict)  # both, by fleet

    @property
    def is_idle(self) -> bool:
        """Whether tasks were missing, and none was active before."""
        return not self.active and bool(self.started or self.refusals)

    @property
    def is_refused(self) -> bool:
        """Whether no task works or will, unless something is changed first."""
        none = not (self.active or self.started)
        return none and bool(self.refusals) and all(each.is_final for each in self.refusals)


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
                hint=f"deploy it again with --fleet {gone[0]}, or choose another fleet: "
                f"hundredfold resume {record.id} --fleet lambda",
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
        self, messages: int, scope: str, before: int, queue: str, *, again: bool, since: float
    ) -> StartedTasks:
        """Start the tasks that are missing; those that one fleet does not start, by the next one.

        messages: that wait or are being processed. scope, before: the model and its attempt, and
        the tasks that were started for it before; a repetition with the same starts nothing.
        again: tasks have ended early, so that others are started on demand. since: the time of the
        first start. If no task of the run can begin, no other is started.
        """
        present, refusals = self._present()
        active, started, at_work = sum(present.values()), 0, dict(present)
        if before and not (active or refusals):
            refusals = self._refused_at_start(since)
            present = {} if refusals else present
        wanted = -(-messages // self.resources.cores)
        for request in self.requests:
            name, count = request["name"], min(request["tasks"], wanted)
            if name not in present:
                continue
            found, refused = 0, list[Refusal]()
            if count > present[name]:
                found, refused = self._start(
                    request, count - present[name], f"{scope}/{before}", queue, again
                )
            wanted -= min(count, present[name] + found)
            started += found
            at_work[name] += found
            refusals += refused
            if found:
                log.info("tasks were started", fleet=name, tasks=found)
        for each in refusals:
            log.error("tasks were not started", reason=each.reason)
        return StartedTasks(started, active, refusals, at_work)

    def _present(self) -> tuple[dict[str, int], list[Refusal]]:
        """Return the active tasks of each fleet that can be asked, and why not those of others."""
        present: dict[str, int] = {}
        refusals = []
        for request in self.requests:
            name = request["name"]
            try:
                present[name] = self.resources.fleets[name].active(self.run)
            except (BotoCoreError, ClientError) as error:
                refusals.append(refusal_of(error))
        return present, refusals

    def _refused_at_start(self, since: float) -> list[Refusal]:
        """Return why no task of the run can begin; none if the next ones may."""
        try:
            found = [
                self.resources.fleets[each["name"]].refused_at_start(
                    self.run, floor(since - CLOCKS_S)
                )
                for each in self.requests
            ]
        except (BotoCoreError, ClientError):
            return []
        refusals = [each for of_fleet in found for each in of_fleet]
        final = all(found) and all(each.is_final for each in refusals)
        return refusals if final else []

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
    ) -> tuple[int, list[Refusal]]:
        fleet = self.resources.fleets[request["name"]]
        places = len(fleet.providers)
        prices = request.get("hourly") or []
        environments = [
            {QUEUE_ENV: queue} | ({PRICE_ENV: str(prices[place])} if place < len(prices) else {})
            for place in range(places)
        ]
        token = f"{self.execution}/{request['name']}/{scope}"
        return fleet.start(self.run, count, environments, token, places - 1 if again else 0)
