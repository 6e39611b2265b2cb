"""The start of workers by the run itself, with `--trigger direct`.

An event source mapping adds workers at its own rate. So the run invokes them at once, on two
levels: `step` invokes dispatchers, and each of them invokes its share of the workers. A worker that
was started this way takes messages from the queue until it is empty, so that the fast ones do more
than the slow ones. The mapping of the queue stays, with few workers: it delivers what was lost,
which a queue alone returns.

The module imports little but the AWS SDK, since its cold start precedes that of the workers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..adapters.session import client
from ..lambda_platform import DIRECT_WORKERS_ENV

WORKERS_PER_DISPATCHER = 32
INVOKING_THREADS = 16  # of one function
MAX_ENTRIES = 10  # messages that one call of SQS delivers
# the environment of a dispatcher, and of the function step
WORK_FUNCTION_ENV = "HUNDREDFOLD_WORK_FUNCTION"
DISPATCHER_ENV = "HUNDREDFOLD_DISPATCHER"
TIMEOUT_ENV = "HUNDREDFOLD_TIMEOUT"


def dispatch(event: dict[str, Any], context: Any = None) -> None:  # noqa: ARG001
    """Invoke workers that take `messages` at a time (a Lambda handler)."""
    request = {"pull": event["messages"]}
    _invoke(os.environ[WORK_FUNCTION_ENV], [request] * event["workers"])


@dataclass(frozen=True, slots=True)
class DirectStart:
    """How the step of a stack starts workers. `dispatcher`: "" for a stack that does not.

    `workers`: the maximum, without those of the mapping; `timeout`: seconds of a call of one.
    """

    dispatcher: str = ""
    workers: int = 0
    timeout: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> DirectStart:
        """Return the values of this function."""
        return cls(
            environment.get(DISPATCHER_ENV, ""),
            int(environment.get(DIRECT_WORKERS_ENV, 0)),
            int(environment.get(TIMEOUT_ENV, 0)),
        )

    def start(self, messages: int, units: int, cores: int, active: int = 0) -> tuple[int, int]:
        """Start workers for messages with that many units in all, if the stack starts any.

        `active`: the workers that were started before. Returns the number of started workers, and
        how many more the messages could feed.
        """
        if not (self.dispatcher and messages):
            return 0, 0
        wanted = _workers(dispatches(messages, units, cores, self.workers))
        requests = dispatches(messages, units, cores, max(0, self.workers - active))
        _invoke(self.dispatcher, requests)
        return _workers(requests), wanted - _workers(requests)


def dispatches(messages: int, units: int, cores: int, most: int) -> list[dict[str, int]]:
    """Return the requests to dispatchers that start up to `most` workers.

    A worker takes as many messages at a time as give each of its cores a unit.
    """
    at_a_time = max(1, min(cores, MAX_ENTRIES, -(-cores * messages // max(units, 1))))
    workers = min(most, -(-messages // at_a_time))
    whole, rest = divmod(workers, WORKERS_PER_DISPATCHER)
    shares = [WORKERS_PER_DISPATCHER] * whole + ([rest] if rest else [])
    return [{"workers": share, "messages": at_a_time} for share in shares]


def _workers(requests: list[dict[str, int]]) -> int:
    return sum(request["workers"] for request in requests)


def _invoke(function: str, requests: list[dict[str, int]]) -> None:
    """Invoke a function for each request, without waiting for it."""
    lambda_client = client("lambda")

    def invoke(request: dict[str, int]) -> None:
        lambda_client.invoke(
            FunctionName=function, InvocationType="Event", Payload=json.dumps(request).encode()
        )

    with ThreadPoolExecutor(INVOKING_THREADS) as pool:
        for _ in pool.map(invoke, requests):
            pass  # reraises the error of a thread
