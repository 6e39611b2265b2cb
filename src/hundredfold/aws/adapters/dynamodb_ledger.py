"""The ledger on AWS: a table of DynamoDB, an item per run.

A record is read as it is now, the rules of the door make the next one of it, and it is written on
the condition that its version is still the one that was read. Who loses that race reads again and
decides anew: the state machine writes into the same item. The lists of runs come from two indexes,
which follow the table within a second or so.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from botocore.exceptions import ClientError

from ...errors import HomeError, NoSuchRun, StateError
from ...ports.interfaces import Clock, Record
from ...ports.run_facts import RunCounts, RunOptions
from ...ports.run_records import annotate, no_such_run, run_exists_error, transition
from ...ports.run_states import Event, State
from .errors import code, in_plain_words
from .session import client

KIND = "run"  # every item's `kind`: the key of the index by time
BY_JOB, BY_TIME = "by_job", "by_time"
TRIES = 24
SHORTEST, LONGEST = (
    0.02,
    1.0,
)  # seconds between two tries, at most: the pause doubles, and chance takes a part of it
RACED = {
    "ConditionalCheckFailedException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
}
TEXTS = ("id", "job", "ref", "state", "step", "created", "updated", "reason")


class DynamoLedger:
    """The runs' records in a table. It holds no connection, and can be sent to another process.

    `runs` may miss, for a second or so, what was written last: it asks the indexes."""

    def __init__(
        self, table: str, clock: Clock = time.time, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.table = table
        self._clock = clock
        self._sleep = sleep

    def create(self, record: Record) -> None:
        """Add a run; StateError if its id is taken."""
        for pause in _pauses():
            if self._put(record, None):
                return
            if self._item(record.id):
                raise run_exists_error(record.id)
            self._sleep(pause)
        raise _raced(record.id)

    def read(self, run: str) -> Record:
        """The record; NoSuchRun if there is none."""
        item = self._item(run)
        if not item:
            raise self._no_such_run(run)
        return self._record(item)

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Let `event` happen to the run, if its state allows it; the new record.

        `reason` replaces the last event's.
        """
        return self._change(
            run, lambda record: transition(record, event, step, reason, self._clock())
        )

    def note(
        self,
        run: str,
        *,
        step: str | None = None,
        counts: RunCounts | None = None,
        options: RunOptions | None = None,
    ) -> Record:
        """Write facts beside the state: the step it is at, counts and options (merged into those
        there).
        """
        return self._change(
            run, lambda record: annotate(record, step, counts, options, self._clock())
        )

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """All runs, or those of a job, newest first."""
        found = (
            self._query(BY_TIME, "kind", KIND) if job is None else self._query(BY_JOB, "job", job)
        )
        return sorted(
            map(self._record, found), key=lambda record: (record.created, record.id), reverse=True
        )

    def _change(self, run: str, change: Callable[[Record], Record]) -> Record:
        for pause in _pauses():
            before = self.read(run)
            after = change(before)
            if self._put(after, before.version):
                return self._record(_item(after))
            self._sleep(pause)
        raise _raced(run)

    def _put(self, record: Record, version: int | None) -> bool:
        """Write the record over that version, or where there is none; whether it was done."""
        item = _item(record)
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(id)"}
        if version is not None:
            condition = {
                "ConditionExpression": "version = :version",
                "ExpressionAttributeValues": {":version": {"N": str(version)}},
            }
        with self._told("written"):
            try:
                client("dynamodb").put_item(TableName=self.table, Item=item, **condition)
            except ClientError as error:
                if code(error) not in RACED:
                    raise
                # boto3 asked more than once: the first may have been carried out, and its answer
                # lost on the way
                return (
                    error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    and self._item(record.id) == item
                )
        return True

    def _item(self, run: str) -> dict[str, Any]:
        """The item as it is now, or {}."""
        with self._told("read"):
            answer = client("dynamodb").get_item(
                TableName=self.table, Key={"id": {"S": run}}, ConsistentRead=True
            )
        return dict(answer.get("Item", {}))

    def _query(self, index: str, key: str, value: str) -> Iterator[dict[str, Any]]:
        with self._told("read"):
            pages = client("dynamodb").get_paginator("query")
            for page in pages.paginate(
                TableName=self.table,
                IndexName=index,
                KeyConditionExpression="#key = :value",
                ExpressionAttributeNames={"#key": key},
                ExpressionAttributeValues={":value": {"S": value}},
            ):
                yield from page["Items"]

    def _no_such_run(self, run: str) -> NoSuchRun:
        try:
            return no_such_run(run, [record.id for record in self.runs()])
        except HomeError:  # a worker may read a run, and not list them
            return NoSuchRun(
                f"there is no run {run} in the table {self.table}", hint="hundredfold status"
            )

    def _record(self, item: Mapping[str, Any]) -> Record:
        missing = [name for name in (*TEXTS, "options", "counts", "version") if name not in item]
        if missing:
            raise HomeError(
                f"the item {item['id']['S']} of the table {self.table} lacks "
                f"{', '.join(missing)}: no run was recorded there before it was changed",
                hint=(
                    "look at it, and remove it: aws dynamodb delete-item --table-name "
                    f"{self.table} --key '{json.dumps({'id': item['id']})}'"
                ),
            )
        texts = {name: item[name]["S"] for name in TEXTS}
        options, counts = json.loads(item["options"]["S"]), json.loads(item["counts"]["S"])
        return Record(
            **{**texts, "state": State(texts["state"])},
            options=options,
            counts=counts,
            version=int(item["version"]["N"]),
        )

    def _told(self, done: str) -> AbstractContextManager[None]:
        return in_plain_words(f"the table {self.table}", done)


def _item(record: Record) -> dict[str, Any]:
    texts = {name: {"S": str(getattr(record, name))} for name in TEXTS}
    facts = {name: {"S": json.dumps(dict(getattr(record, name)))} for name in ("options", "counts")}
    return {**texts, **facts, "kind": {"S": KIND}, "version": {"N": str(record.version)}}


def _pauses() -> Iterator[float]:
    yield from (random.random() * min(LONGEST, SHORTEST * 2**number) for number in range(TRIES))


def _raced(run: str) -> StateError:
    return StateError(
        f"run {run} cannot be written: others changed it first, {TRIES} times one after the other",
        hint=f"hundredfold status {run}",
    )
