"""The functions on AWS: `step` does a stage of a run, `work` does messages, `bury` writes down what nobody could do.

Each may be called again with what it was called with before, and may be cut off at any moment: what is done is found, and not done again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import HundredfoldError, NoSuchRun, PublishRefused
from ..job import Job, Layout, Message, Model
from ..load import load_job
from ..manifest import Manifest
from ..pipeline import stages
from ..ports import Record
from ..states import Event, State
from ..steps.enqueue import enqueue, plan_round
from ..steps.publish import describe_run
from ..steps.validate import validate
from ..walk import Walk
from .athena import Asked, AthenaWarehouse, Heard
from .begin import begin_upload, with_limits
from .ledger import DynamoLedger
from .place import Place
from .prepare import prepare
from .queue import SqsQueue
from .store import S3Store
from .worker import Shift, buried, event_messages, log

SCRATCH = Path(tempfile.gettempdir()) / "hundredfold"  # the one place that a function may write to
SOONEST, LATEST = 3, 60  # seconds between looks at how far the workers are
PATIENCE = 2  # looks without progress and with an empty queue after which what is missing is sent again
WORDS = 20_000  # characters of a reason that a state machine is told


def step(event: dict[str, Any], _context: Any = None) -> dict[str, Any]:
    """One stage of a run, or as much of it as can be done before a query has run; what is to happen next."""
    return {"token": "", **_step(event)}


def _step(event: dict[str, Any]) -> dict[str, Any]:
    place = Place.of_environment()
    store, ledger, job = S3Store(place.bucket), DynamoLedger(place.table), load_job(place.job)
    record = _record(event, ledger, job)
    if record.state is State.CANCELLED:
        return {"do": "cancelled"}
    if record.state in (State.DONE, State.HELD):
        return {"do": "held" if record.state is State.HELD else "next"}
    if record.state is State.NEW:
        record = ledger.move(record.id, Event.START)
    name = f"{event['step']} {event['model']}".strip()
    if record.step != name:
        record = ledger.note(record.id, step=name)
    shutil.rmtree(SCRATCH / "step", ignore_errors=True)
    try:
        return _do(event, Stand(place, store, ledger, with_limits(job, record), record, _heard(event)))
    except Asked as asked:
        once = f"{asked.token[:60]}-{event['execution']}"[:128]  # a query that failed may be tried again by another execution
        return {"do": "query", "query": asked.sql, "token": asked.token, "once": once, "output": asked.output}
    except PublishRefused as refusal:
        ledger.move(record.id, Event.HOLD, reason=str(refusal))
        return {"do": "held", "reason": str(refusal)[:WORDS]}
    except HundredfoldError as error:
        ledger.move(record.id, Event.FAIL, reason=str(error))
        return {"do": "failed", "reason": str(error)[:WORDS]}


class Stand:
    """All that a stage needs, where it stands on AWS."""

    def __init__(self, place: Place, store: S3Store, ledger: DynamoLedger, job: Job, record: Record, heard: Heard) -> None:
        self.place, self.store, self.ledger, self.job, self.record, self.heard = place, store, ledger, job, record, heard
        self.layout = Layout(record.id)
        self.walk = Walk(job, record, store, ledger)

    def warehouse(self, until: Model | None, sources: bool = True) -> AthenaWarehouse:
        """The warehouse, in which the sources and the models before `until` (all of them: None) stand under their names."""
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")) * 2**20 // 2
        opened = AthenaWarehouse(
            self.store, self.layout, self.place, SCRATCH / "step", memory=memory, heard=self.heard, round_=self.walk.round
        )
        if sources:
            validate(self.job, self.record.options["sources"], self.walk.as_of, self.layout, opened, self.store)
            describe_run(self.job, self.layout, self.walk.as_of, None, None, opened)
            for model in self.job.models:
                if model is until:
                    break
                self.walk.define(model, opened)
        return opened


def _do(event: dict[str, Any], stand: Stand) -> dict[str, Any]:
    model = stand.job.model(event["model"]) if event["model"] else None
    match event["step"], model:
        case "validate", _:
            with closing(stand.warehouse(None, sources=False)) as warehouse:
                stand.walk.validate(stand.record.options["sources"], warehouse)
        case "prepare", Model():
            _prepare(model, stand)
        case "enqueue", Model():
            _enqueue(model, stand)
        case "work", Model():
            return _look(model, stand)
        case "collect", Model():
            with closing(stand.warehouse(model)) as warehouse:
                stand.walk.collect(model, warehouse)
        case _:
            with closing(stand.warehouse(None)) as warehouse:
                stand.walk.publish(warehouse)
                warehouse.drop_all()
            stand.ledger.move(stand.record.id, Event.FINISH, step="done")
    return {"do": "next"}


def _prepare(model: Model, stand: Stand) -> None:
    options = stand.record.options
    with closing(stand.warehouse(model)) as warehouse:
        manifest = prepare(
            model,
            stand.job,
            stand.layout,
            warehouse,
            stand.store,
            workers=stand.place.concurrency,
            batch_bytes=int(options.get("batch_bytes") or 2**28),
            batches=int(options.get("batches") or 0),
        )
    stand.walk.note(model.name, units=manifest.units, rows=manifest.rows, batches=len(manifest.batches))


def _enqueue(model: Model, stand: Stand) -> None:
    """A message for each batch, or, where S3 tells the workers of new objects, the batches put where it watches."""
    manifest = Manifest.read(stand.layout, model.name, stand.store)
    messages, coverage = plan_round(manifest, stand.layout, stand.walk.round, stand.store)
    if stand.place.trigger == "events" and stand.walk.round == 1:
        for message in messages:
            if coverage.missing(message.first, message.last):
                for number, key in enumerate(manifest.files[message.batch]):
                    stand.store.copy(key, f"processing/{message.run}/{model.name}/{message.batch:06d}-{number}.batch.parquet")
    else:
        enqueue(messages, coverage, _queue(stand.place))


def _look(model: Model, stand: Stand) -> dict[str, Any]:
    """How far the workers are: on with the run, or look again later. What never arrived is sent again."""
    manifest = Manifest.read(stand.layout, model.name, stand.store)
    messages, coverage = plan_round(manifest, stand.layout, stand.walk.round, stand.store)
    missing = [m.part(first, last) for m in messages for first, last in coverage.missing(m.first, m.last)]
    if not missing:
        return {"do": "next"}
    queue = _queue(stand.place)
    done, now = int(coverage.done.sum()), time.time()
    before = stand.record.counts.get("models", {}).get(model.name, {}).get("look") or {"done": -1, "at": now, "idle": 0}
    depth = queue.depth()
    idle = before["idle"] + 1 if done == before["done"] and not (depth.waiting or depth.in_flight) else 0
    if idle >= PATIENCE:
        queue.send([str(message) for message in missing])
        idle = 0
    stand.walk.note(model.name, look={"done": done, "at": now, "idle": idle})
    gained, took = done - max(before["done"], 0), now - before["at"]
    left = sum(m.units for m in missing) / (gained / took) if gained > 0 and took > 0 else 4 * SOONEST
    return {"do": "wait", "seconds": max(SOONEST, min(LATEST, math.ceil(left / 2)))}


def _record(event: dict[str, Any], ledger: DynamoLedger, job: Job) -> Record:
    """The run's record; that of an upload is made with its first step."""
    try:
        return ledger.read(event["run"])
    except NoSuchRun:
        if event["step"] != str(next(stages(job))) or "sources" not in event["input"]:
            raise
        return begin_upload(event["run"], event["input"]["sources"], job, Place.of_environment(), ledger)


def _heard(event: dict[str, Any]) -> Heard:
    """What came of the statement that was asked last."""
    heard = event["heard"]
    error = _athenas_words(heard) if "Error" in heard else ""
    return Heard(event["execution"], event["asked"], str(heard.get("id", "")), error)


def _athenas_words(failure: dict[str, Any]) -> str:
    """Why a query failed, out of what the state machine says of it."""
    cause = str(failure.get("Cause", ""))
    try:
        status = json.loads(cause)["QueryExecution"]["Status"]
        return str(status.get("AthenaError", {}).get("ErrorMessage") or status["StateChangeReason"])
    except (ValueError, KeyError, TypeError):
        return f"{failure.get('Error')}: {cause}"


def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Messages of the queue through the user's function; those that are to come back."""
    place = Place.of_environment()
    store, ledger, job = S3Store(place.bucket), DynamoLedger(place.table), load_job(place.job)
    shift = Shift(store, ledger, _queue(place), job, SCRATCH / "work", lambda: context.get_remaining_time_in_millis() / 1000)
    return {"batchItemFailures": [{"itemIdentifier": name} for name in shift.do(event["Records"])]}


def bury(event: dict[str, Any], _context: Any = None) -> dict[str, Any]:
    """Dead letters: what they ask for is written down as dead, so that the run ends. Letters that are not ours stay where they are."""
    place = Place.of_environment()
    store, ledger = S3Store(place.bucket), DynamoLedger(place.table)
    left = []
    for letter in event["Records"]:
        try:
            for message in event_messages(letter["body"], store):
                buried(message, store, ledger)
        except ValueError as error:
            left.append(letter["messageId"])
            log.error(json.dumps({"message": "a dead letter is not ours", "reason": str(error), "id": letter["messageId"]}))
    return {"batchItemFailures": [{"itemIdentifier": name} for name in left]}


def _queue(place: Place) -> SqsQueue:
    return SqsQueue(place.queue, place.dead)


__all__ = ["Message", "bury", "step", "work"]
