"""A worker on AWS: one call of a function takes some messages, and has until its deadline.

The step is the one of every machine (steps/work.py), and so is the crew.  What differs is the queue, which has handed out its messages
before the function began, and the end: what is left when time runs out goes back as new messages.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from ..crew import Crew, Kit
from ..errors import HundredfoldError, NoSuchRun
from ..job import Job, Layout, Message
from ..manifest import Manifest, UnitList
from ..ports import Delivery, Depth
from ..states import State
from ..steps.coverage import Coverage
from ..steps.work import LOST, Floor, Progress, dead, halves
from .begin import with_limits
from .ledger import DynamoLedger
from .queue import SqsQueue
from .store import S3Store

VCPU = 1769  # MB of memory that come with one whole vCPU
OWN = 300  # MB that the function itself takes
MARGIN = 12.0  # seconds before the deadline at which what is left is given back
WHOLE = 0.8  # of a worker's time: a unit that took so much of it does not fit
VISIBILITY = 1e9  # the mapping's own is long enough for a call: leases are not extended
BATCH = re.compile(r"processing/(?P<run>[A-Za-z0-9_-]+)/(?P<model>[a-z][a-z0-9_]*)/(?P<batch>\d+)-\d+\.batch\.parquet")

log = logging.getLogger("hundredfold")
log.setLevel(logging.INFO)


class OutOfTime(Exception):
    """The deadline is near."""


@dataclass
class Handed:
    """The queue of one call: its messages are in hand, and new ones go to the queue behind it."""

    behind: SqsQueue
    waiting: deque[Delivery]
    done: set[str] = field(default_factory=set)

    def send(self, bodies: Sequence[str]) -> None:
        self.behind.send(bodies)

    def receive(self, wait: float = 0.0) -> Delivery | None:
        return self.waiting.popleft() if self.waiting else None

    def extend(self, receipt: str, seconds: float) -> bool:
        return True

    def delete(self, receipt: str) -> bool:
        self.done.add(receipt)
        return True

    def dead(self) -> Sequence[str]:
        return ()

    def redrive(self) -> int:
        return 0

    def purge(self) -> None:
        self.waiting.clear()

    def depth(self) -> Depth:
        return Depth(len(self.waiting), 0, 0)


@dataclass
class Shift:
    """One call of a worker. Its children live on until the next, and with them what they have loaded."""

    store: S3Store
    ledger: DynamoLedger
    queue: SqsQueue
    job: Job
    scratch: Path
    remaining: Callable[[], float]  # seconds until the deadline
    had: float = 0.0  # seconds that it had at its beginning

    def do(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Do the messages of one call; the ids of those that are to come back."""
        self.had = self.remaining()
        back, ours = [], []
        for record in records:
            try:
                messages = event_messages(record["body"], self.store)
            except ValueError as error:
                self._refuse(record, str(error))
                continue
            ours.append((record, messages))
        groups: dict[tuple[str, str, int], list[tuple[Mapping[str, Any], Message]]] = {}
        for record, messages in ours:
            for message in messages:
                groups.setdefault((message.run, message.model, message.round), []).append((record, message))
        for group in groups.values():
            back += self._do_group(group)
        return list(dict.fromkeys(back))

    def _do_group(self, group: Sequence[tuple[Mapping[str, Any], Message]]) -> list[str]:
        run, model = group[0][1].run, group[0][1].model
        ids = [str(record["messageId"]) for record, _ in group]
        try:
            record = self.ledger.read(run)
        except NoSuchRun:
            for each, _ in group:
                self._refuse(each, f"there is no run {run}")
            return []
        if record.state is not State.RUNNING:
            log.info(
                json.dumps({"message": "dropped: the run is not running", "run": run, "state": record.state.value, "messages": len(ids)})
            )
            return []
        try:
            self._floor([message for _, message in group], group, with_limits(self.job, record))
        except OutOfTime:
            return []
        except HundredfoldError as error:
            log.exception(json.dumps({"message": str(error), "run": run, "model": model}))
            stop_crew()
            return ids
        return []

    def _floor(self, messages: Sequence[Message], group: Sequence[tuple[Mapping[str, Any], Message]], job: Job) -> None:
        layout, model = Layout(messages[0].run), messages[0].model
        manifest = Manifest.read(layout, model, self.store)
        units = UnitList.read(layout, model, self.store)
        coverage = Coverage(manifest.units)
        for message in messages:
            for done in outcomes_of(message, layout, self.store):
                coverage.add(done.first, done.last)
        deliveries = deque(
            Delivery(str(message), f"{record['messageId']}/{number}", int(record["attributes"]["ApproximateReceiveCount"]))
            for number, (record, message) in enumerate(group)
        )
        handed = Handed(self.queue, deliveries)
        crew = crew_for(Kit(job, layout, self.store), self.scratch)
        floor = Floor(messages, manifest, units, layout, coverage, handed, self.store, crew, self._look, VISIBILITY, only=True)
        try:
            floor.run()
        except OutOfTime:
            whole = [unit for unit, since in map(crew.at, crew.hands) if unit >= 0 and since > WHOLE * (self.had - MARGIN)]
            stop_crew()  # whatever a child is at, it is not handed over any more
            for unit in whole:  # it would take all of the next worker's time as well
                message = next(m for m in messages if m.first <= unit <= m.last).part(unit, unit)
                self.store.put(
                    layout.outcome(message, "ledger"),
                    dead(message, f"it took all of the {self.had:.0f} s that a worker has; deploy with a longer --timeout"),
                )
                coverage.add(unit, unit)
            left = [part for m in messages for part in _parts(m, coverage)]
            if job.model(model).many:  # a call for so many at once does not fit
                left = [half for part in left for half in halves(part)]
            handed.behind.send([str(part) for part in left])
            log.info(json.dumps({"message": "handed back", "run": layout.run, "model": model, "units": sum(p.units for p in left)}))
            raise

    def _look(self, progress: Progress) -> None:
        if self.remaining() < MARGIN:
            raise OutOfTime

    def _refuse(self, record: Mapping[str, Any], reason: str) -> None:
        """Put what is not ours to the dead letters, with the reason."""
        log.error(json.dumps({"message": "refused", "reason": reason, "id": record["messageId"]}))
        self.queue.refuse(record["body"], reason)


def event_messages(body: str, store: S3Store) -> list[Message]:
    """The messages in a body: ours, or those that S3's notification of new batches stands for. ValueError for anything else."""
    try:
        found = json.loads(body)
    except ValueError:
        raise ValueError(f"not a message: {body[:200]}") from None
    if isinstance(found, dict) and found.get("Event") == "s3:TestEvent":
        return []
    if not isinstance(found, dict) or "Records" not in found:
        return [_checked(Message.parse(body))]
    messages = []
    for record in found["Records"]:
        try:
            name, key = record["eventName"], unquote_plus(record["s3"]["object"]["key"])
            bucket = record["s3"]["bucket"]["name"]
        except (KeyError, TypeError):
            raise ValueError(f"not a notification of S3: {body[:200]}") from None
        batch = BATCH.fullmatch(key)
        if batch is None or bucket != store.bucket or not name.startswith("ObjectCreated:"):
            raise ValueError(f"a notification of {name} for s3://{bucket}/{key[:200]}, which is no batch of ours")
        messages.append(_of_batch(batch["run"], batch["model"], int(batch["batch"]), store))
    return messages


def _of_batch(run: str, model: str, number: int, store: S3Store) -> Message:
    try:
        manifest = Manifest.read(Layout(run), model, store)
        batch = manifest.batches[number]
    except (KeyError, IndexError):
        raise ValueError(f"batch {number} of {model} is in no manifest of run {run}") from None
    return Message(run, model, batch.number, batch.first, batch.last, 1)


def _checked(message: Message) -> Message:
    """The message, if its words can be used in a key; ValueError if not."""
    numbers = (message.batch, message.first, message.last, message.round)
    names = re.fullmatch(r"[A-Za-z0-9_-]{1,80}", str(message.run)) and re.fullmatch(r"[a-z][a-z0-9_]{0,62}", str(message.model))
    if not names or not all(type(n) is int and n >= 0 for n in numbers) or message.last < message.first:
        raise ValueError(f"not a message: {str(message)[:200]}")
    return message


def outcomes_of(message: Message, layout: Layout, store: S3Store) -> list[Message]:
    """The committed outcomes of a message's batch: in its round."""
    names = store.beginning(f"{layout.outcomes(message.model)}/{message.round:03d}-{message.batch:06d}-")
    return [found for key in names if (found := layout.slice(key)) is not None]


def buried(message: Message, store: S3Store, ledger: DynamoLedger) -> None:
    """Write down as dead what of a message nobody has done. ValueError if there is no such run."""
    layout = Layout(message.run)
    try:
        running = ledger.read(message.run).state is State.RUNNING
        manifest = Manifest.read(layout, message.model, store)
    except (NoSuchRun, KeyError):
        raise ValueError(f"there is no run {message.run} with a model {message.model}") from None
    if not running or message.last >= manifest.units:
        return
    coverage = Coverage(manifest.units)
    for done in outcomes_of(message, layout, store):
        coverage.add(done.first, done.last)
    for part in _parts(message, coverage):
        store.put(layout.outcome(part, "ledger"), dead(part, LOST))


def _parts(message: Message, coverage: Coverage) -> list[Message]:
    return [message.part(first, last) for first, last in coverage.missing(message.first, message.last)]


_crews: dict[str, Crew] = {}  # at most one: of the run that was worked on last


def crew_for(kit: Kit, scratch: Path) -> Crew:
    """The children that work on a run: those of the last call, if it was the same run."""
    crew = _crews.get(kit.layout.run)
    if crew is not None and all(hand.process is not None for hand in crew.hands):
        return crew
    stop_crew()
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048"))
    size = max(1, memory // VCPU)
    crew = _crews[kit.layout.run] = Crew(kit, size, max(memory - OWN, memory // 2) * 2**20 // size, scratch / "logs")
    crew.start()
    return crew


def stop_crew() -> None:
    for run in list(_crews):
        _crews.pop(run).stop()
