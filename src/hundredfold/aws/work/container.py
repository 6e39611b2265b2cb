"""The worker in a container, or on any machine: takes messages until the queue stays empty.

It has no deadline. On SIGTERM it starts nothing more, gives the units at work some seconds to end,
and sends the rest of their slices back as new messages, which other workers get at once.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from ...data.messages import Message
from ...errors import UsageError
from ...pipeline.work import WorkDispatcher
from ...ports.interfaces import Clock
from ...ports.run_facts import BudgetFacts
from ...runs.resources import Resources
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.s3_store import S3Store
from ..adapters.sqs_queue import SqsQueue
from .billing import Price
from .json_log import log
from .leases import Leases
from .pools import ClosablePool, PoolKeeper
from .processing import MessageProcessor, WorkStopped
from .slices import missing_parts
from .sources import TakenMessages

MAX_POLL_S = 2  # of one request for a message: a signal is noticed after it
SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNAL_EXIT_CODE = 128  # plus the number of the signal that ended the worker


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """The run resources and the limits of a container worker. Times in seconds."""

    job: str  # module:attribute
    bucket: str
    table: str
    queue: str  # URL
    dead: str  # URL of the dead-letter queue
    code: str  # fingerprint; "" if unknown
    scratch: Path  # the only folder that is written to
    idle: float  # that the queue is empty before the worker ends
    lease: float  # of a message; extended while it is processed
    grace: float  # for the units at work to end, after SIGTERM
    hourly_price: float | None = None  # dollars


@dataclass
class Termination:
    """The end of a worker by a signal; a second signal ends it without a grace."""

    grace: float
    clock: Clock = time.monotonic
    number: int = 0  # of the signal
    until: float = 0.0
    requested: threading.Event = field(default_factory=threading.Event)
    sent_back: str = "sent back after a signal"

    def handle(self, number: int, _frame: FrameType | None = None) -> None:
        """Note a signal (its handler). The worker looks at it between events and requests."""
        self.until = self.clock() + (0.0 if self.number else self.grace)
        self.number = self.number or number
        self.requested.set()

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle the signals in this block."""
        before = [signal.signal(number, self.handle) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)

    def may_start(self) -> bool:
        return not self.number

    def check(self, pool: ClosablePool) -> None:
        if self.number and (pool.stop_after_current_units() or self.clock() >= self.until):
            raise WorkStopped

    def leave(
        self,
        dispatcher: WorkDispatcher,
        pool: ClosablePool,  # noqa: ARG002  # of the port
        slices: Sequence[Message],
    ) -> list[Message]:
        return [part for each in slices for part in missing_parts(each, dispatcher.coverage)]


def run_worker(settings: ContainerSettings, resources: Resources) -> int:
    """Process messages until the queue stays empty or a signal arrives; return the exit code.

    0: the queue stayed empty. 128 + N: signal N ended the worker.
    """
    write_only_to(settings.scratch)
    queue = SqsQueue(settings.queue, settings.dead)
    ending = Termination(settings.grace)
    with ending.handling(), Leases(queue, settings.lease) as leases:
        source = TakenMessages(queue, leases, may_take=ending.may_start)
        processor = MessageProcessor(
            S3Store(settings.bucket),
            DynamoLedger(settings.table),
            queue,
            source,
            settings.job,
            settings.code,
            PoolKeeper(resources.workers, resources.worker_bytes, settings.scratch / "logs"),
            ending,
            lambda budget: container_price(settings.hourly_price, budget),
        )
        log.info("a worker started", job=settings.job, processes=resources.workers)
        try:
            _process_until_end(processor, source, ending, settings.idle, resources.workers)
        finally:
            processor.pools.stop()
            source.return_all()
            reason = "a signal" if ending.number else "the queue stayed empty"
            log.info("the worker ends", reason=reason, **asdict(processor.counts))
    return SIGNAL_EXIT_CODE + ending.number if ending.number else 0


def _process_until_end(
    processor: MessageProcessor,
    source: TakenMessages,
    ending: Termination,
    idle: float,
    count: int,
) -> None:
    """Process up to `count` messages at a time."""
    busy_at = processor.clock()
    while not ending.number:
        records = source.take(count, MAX_POLL_S)
        if records:
            processor.process(records)
            busy_at = processor.clock()
        elif processor.clock() - busy_at >= idle:
            return


def container_price(hourly: float | None, budget: BudgetFacts) -> Price:
    """Return the price of this worker. Raises: UsageError if it is not known."""
    if hourly is None:
        raise UsageError(
            f"the run has a budget of {budget['limit']:g} dollars, and the price of this worker is "
            "not known",
            hint="--hourly-price DOLLARS of this machine; 0 if its time costs nothing",
        )
    return Price(hourly / 3600)


def write_only_to(scratch: Path) -> None:
    """Let this process and its children write temporary files into a folder, and nothing else.

    The root file system of a container may be read-only.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch):
            pass
    except OSError as error:
        raise UsageError(
            f"--scratch {scratch} cannot be written: {error.strerror or error}",
            hint="name a folder that this user can write to, such as a mounted volume",
        ) from error
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
