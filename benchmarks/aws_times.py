"""The times and costs of a run on AWS with 3,000 batches, computed from AWS's published laws.

    python -m benchmarks.aws_times

Nothing here was measured on an account. The statements and calls of `step` in sequence are those
that tests/aws/test_runs_on_aws.py counts on an emulator; the rates at which Lambda adds workers and
the prices are AWS's; the CPU time of a read from S3 was measured on one machine; the seconds of a
statement, a call and a start are assumptions, given as a range. The job is one model of 3,000
batches with one unit each, all of the same duration, whose work takes 2,400 or 18,000 seconds of
one core; its query filters and projects, and it publishes its results. A worker has five cores
(8,845 MB, arm64) and takes one message for each at a time, as by default.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

BATCHES, CORES = 3000, 5
WORKS = (2400, 18_000)  # core-seconds
MEMORY_GB = 8845 / 1024
STEP_GB = 3008 / 1024

# AWS, us-east-1, arm64; sources in the project's notes on prices, read 2026-11
GB_SECOND, REQUEST = 0.0000133334, 0.20e-6  # of Lambda
POLLER_HOUR = 0.00925
TRANSITION = 0.025e-3  # of Step Functions
SQS_REQUEST = 0.40e-6
TERABYTE_SCANNED, MIN_SCANNED_TB = 5.0, 10e-6
PUT = 0.005e-3  # of S3

# assumptions: low and high
STATEMENT_S = (2.0, 4.0)  # from the call that returns it to the one that has its result
STEP_CALL_S = (0.3, 0.6)  # warm, with its states
STEP_START_S = (1.5, 4.0)  # of the first call
WORKER_START_S = (1.5, 3.0)
SEND_S = 1.0  # 3,000 messages: 300 calls of 20 ms, 8 at a time
DISPATCH_S = 0.8  # a dispatcher starts, and invokes 32 workers
MESSAGE_S = 0.1  # a worker reads a batch and writes its outcome
POLL_S = 1.0  # from the last outcome to the poll that finds it
GET_S = 0.0006  # CPU time of a read from S3, measured; collect reads two objects of an outcome
RELEASE_S = (1.0, 3.0)  # the results are sorted, written, queried and published
COLLECT_S = tuple(2 * BATCHES * GET_S + seconds for seconds in RELEASE_S)
SMALL_S = (2.0, 9.0)  # DuckDB in `step`: from validation to batches, 30 MB of Parquet to 120 of CSV
POLLERS_UP_S = 0.0  # raised with the first call of a run; if Lambda takes longer, add the rest


@dataclass(frozen=True)
class Trigger:
    """A way in which workers start, and how many there may be."""

    name: str
    workers: int
    pollers: int = 0
    direct: bool = False

    def starts(self) -> Iterator[float]:
        """Yield the second at which each worker may start, after the first message."""
        for number in range(self.workers):
            if self.direct:
                yield 10.0 * (number // 1000)  # 1,000 in 10 s
            elif self.pollers:
                yield max(0, number - 10 * self.pollers) * 60 / 1000
            else:
                yield max(0, number - 5) * 60 / 300


TRIGGERS = (
    Trigger("messages, 100 workers", 100),
    Trigger("messages, 300 workers", 300),
    Trigger("pollers 10 to 100, raised by the run", 1000, pollers=10),
    Trigger("pollers 100 to 100, raised by the run", 1000, pollers=100),
    Trigger("direct, 100 workers", 90, direct=True),
    Trigger("direct, 300 workers (default)", 270, direct=True),
    Trigger("direct, 1,000 workers", 900, direct=True),
)


@dataclass(frozen=True)
class Prepared:
    """How a run gets from its start to its messages, and from its outcomes to the release.

    `statements` and `calls`: in sequence, counted on the emulator; `all_statements`: those that
    are paid for.
    """

    name: str
    statements: int
    calls: int
    all_statements: int
    local: bool = False


PREPARED = (
    Prepared("DuckDB (sources up to 250 MiB)", 0, 2, 0, local=True),
    Prepared("Athena", 5, 7, 35),
)


def finish(trigger: Trigger, work: float, start_s: float) -> tuple[float, float]:
    """Return when the last batch is done, and the seconds of all workers.

    Messages go to the worker that is free first.
    """
    each = work / BATCHES + MESSAGE_S  # five messages at a time, one for each core
    free = [(at + start_s, at) for at in trigger.starts()]
    heapq.heapify(free)
    paid, last = 0.0, 0.0
    for _ in range(BATCHES // CORES):
        ready, began = heapq.heappop(free)
        paid += each + (start_s if ready == began + start_s else 0.0)
        last = max(last, ready + each)
        heapq.heappush(free, (ready + each, began))
    return last, paid


def row(prepared: Prepared, trigger: Trigger, work: float) -> tuple[float, float, float]:
    """Return the low and the high estimate of the seconds of a run, and its cost in dollars."""
    totals = []
    for end in (0, 1):
        worked, paid = finish(trigger, work, WORKER_START_S[end])
        lead = DISPATCH_S if trigger.direct else SEND_S
        before = (
            STEP_START_S[end]
            + prepared.statements * STATEMENT_S[end]
            + prepared.calls * STEP_CALL_S[end]
            + (SMALL_S[end] if prepared.local else 0.0)
            + POLLERS_UP_S * bool(trigger.pollers)
        )
        totals.append(before + lead + worked + POLL_S + COLLECT_S[end])
    steps = prepared.calls * 3 * STEP_GB + (SMALL_S[1] + COLLECT_S[1]) * STEP_GB
    cost = (
        paid * MEMORY_GB * GB_SECOND
        + steps * GB_SECOND
        + BATCHES * (REQUEST + 3 * SQS_REQUEST + 3 * PUT)
        + prepared.all_statements * (MIN_SCANNED_TB * TERABYTE_SCANNED + 5 * TRANSITION)
        + 60 * TRANSITION
        + trigger.pollers * POLLER_HOUR * 5 / 60  # they are billed for some minutes
    )
    return totals[0], totals[1], cost


def table() -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    heads = " | ".join(f"{work:,} core-seconds" for work in WORKS)
    yield f"| prepared by | workers start by | {heads} |"
    yield "|---|---|---|---|"
    for prepared in PREPARED:
        for trigger in TRIGGERS:
            cells = []
            for work in WORKS:
                low, high, cost = row(prepared, trigger, work)
                cells.append(f"{low:.0f} to {high:.0f} s, ${cost:.2f}")
            yield f"| {prepared.name} | {trigger.name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(table()))
