"""The ledger on AWS: a DynamoDB table with one item per run.

A change reads the current record, computes the next one by the rules of the port, and writes it on
condition that the version is still the one that was read. A writer that loses this race reads again
and decides again: the state machine writes into the same item. The lists of runs come from two
indexes, which follow the table within about a second.
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
from ..lambda_platform import SPENT_PREFIX
from .errors import error_code, translate_errors
from .session import client

ITEM_KIND = "run"  # every item's `kind`: the key of the index by time
BY_JOB, BY_TIME = "by_job", "by_time"
MAX_TRIES = 24
# maximum seconds between two tries: it doubles, and a random part of it is waited
MIN_PAUSE_S, MAX_PAUSE_S = (
    0.02,
    1.0,
)
CONFLICT = {
    "ConditionalCheckFailedException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
}
TEXT_ATTRIBUTES = ("id", "job", "ref", "state", "step", "created", "updated", "reason")


class SupersededError(Exception):
    """Another execution owns the run: this one must end, and change nothing.

    It is not a HundredfoldError: no step may take it for a reason why the run fails.
    """


class DynamoLedger:
    """The records of the runs in a table.

    It holds no connection, and can be sent to another process.

    `runs` may miss the writes of the last second or so: it reads the indexes.

    execution: ARN of the execution on whose behalf records are changed; "" for people and workers.
        Each change then raises SupersededError where another execution owns the run.
    """

    def __init__(
        self,
        table: str,
        clock: Clock = time.time,
        sleep: Callable[[float], object] = time.sleep,
        *,
        execution: str = "",
    ) -> None:
        self.table = table
        self.execution = execution
        self._clock = clock
        self.sleep = sleep

    def create(self, record: Record) -> None:
        """Add a run; StateError if its id is taken."""
        for pause in retry_delays():
            if self._put(record, None):
                return
            if self._item(record.id):
                raise run_exists_error(record.id)
            self.sleep(pause)
        raise _conflict_error(record.id)

    def own(self, run: str) -> Record:
        """Make this ledger's execution the owner of a run that has none; return the record.

        Raises: SupersededError if another execution owns the run, NoSuchRun if there is none.
        """
        record = self.read(run)
        if not record.execution:
            return self.note(run, options={"execution": self.execution})
        self._check_owner(record)
        return record

    def read(self, run: str) -> Record:
        """Return the record; NoSuchRun if there is none."""
        item = self._item(run)
        if not item:
            raise self._no_such_run(run)
        return self._record(item)

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Apply `event` to the run if its state allows it; return the new record.

        `reason` replaces the reason of the last event.
        """
        return self._update(
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
        """Update the step, counts and options of a run; counts and options are merged."""
        return self._update(
            run, lambda record: annotate(record, step, counts, options, self._clock())
        )

    def add_spent(self, run: str, dollars: float) -> float:
        """Add dollars to those that a run has spent, and return the sum.

        They are an item of their own, since every worker adds to it at any time.
        """
        with self._translate_errors("written"):
            answer = client("dynamodb").update_item(
                TableName=self.table,
                Key={"id": {"S": f"{SPENT_PREFIX}{run}"}},
                UpdateExpression="ADD usd :usd",
                ExpressionAttributeValues={":usd": {"N": f"{dollars:.9f}"}},
                ReturnValues="UPDATED_NEW",
            )
        return float(answer["Attributes"]["usd"]["N"])

    def spent(self, run: str) -> float:
        """Return the dollars that a run with a budget has spent on its workers."""
        return float(self._item(f"{SPENT_PREFIX}{run}").get("usd", {"N": "0"})["N"])

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """Return all runs, or those of a job, newest first."""
        found = (
            self._query(BY_TIME, "kind", ITEM_KIND)
            if job is None
            else self._query(BY_JOB, "job", job)
        )
        return sorted(
            map(self._record, found), key=lambda record: (record.created, record.id), reverse=True
        )

    def _update(self, run: str, change: Callable[[Record], Record]) -> Record:
        for pause in retry_delays():
            before = self.read(run)
            self._check_owner(before)
            after = change(before)
            if self._put(after, before.version):
                return self._record(item_of(after))
            self.sleep(pause)
        raise _conflict_error(run)

    def _check_owner(self, record: Record) -> None:
        if self.execution and record.execution not in ("", self.execution):
            raise SupersededError(f"{record.execution} owns run {record.id}")

    def _put(self, record: Record, version: int | None) -> bool:
        """Write the record over that version, or as a new item; return whether it was written."""
        item = item_of(record)
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(id)"}
        if version is not None:
            condition = {
                "ConditionExpression": "version = :version",
                "ExpressionAttributeValues": {":version": {"N": str(version)}},
            }
        with self._translate_errors("written"):
            try:
                client("dynamodb").put_item(TableName=self.table, Item=item, **condition)
            except ClientError as error:
                if error_code(error) not in CONFLICT:
                    raise
                # boto3 sent the request more than once: the first may have succeeded, and its reply
                # been lost
                return (
                    error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    and self._item(record.id) == item
                )
        return True

    def _item(self, run: str) -> dict[str, Any]:
        """Return the current item, or {}."""
        with self._translate_errors("read"):
            answer = client("dynamodb").get_item(
                TableName=self.table, Key={"id": {"S": run}}, ConsistentRead=True
            )
        return dict(answer.get("Item", {}))

    def _query(self, index: str, key: str, value: str) -> Iterator[dict[str, Any]]:
        with self._translate_errors("read"):
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
        except HomeError:  # a worker may read a run, but not list the runs
            return NoSuchRun(
                f"found no run {run} in the table {self.table}", hint="hundredfold status"
            )

    def _record(self, item: Mapping[str, Any]) -> Record:
        missing = [
            name for name in (*TEXT_ATTRIBUTES, "options", "counts", "version") if name not in item
        ]
        if missing:
            raise HomeError(
                f"the item {item['id']['S']} of the table {self.table} lacks "
                f"{', '.join(missing)}: the run was changed before it was recorded",
                hint=(
                    "check the item and remove it: aws dynamodb delete-item --table-name "
                    f"{self.table} --key '{json.dumps({'id': item['id']})}'"
                ),
            )
        texts = {name: item[name]["S"] for name in TEXT_ATTRIBUTES}
        options, counts = json.loads(item["options"]["S"]), json.loads(item["counts"]["S"])
        return Record(
            **{**texts, "state": State(texts["state"])},
            options=options,
            counts=counts,
            version=int(item["version"]["N"]),
        )

    def _translate_errors(self, participle: str) -> AbstractContextManager[None]:
        return translate_errors(f"the table {self.table}", participle)


def item_of(record: Record) -> dict[str, Any]:
    """Return a record as an item of the table."""
    texts = {name: {"S": str(getattr(record, name))} for name in TEXT_ATTRIBUTES}
    facts = {name: {"S": json.dumps(dict(getattr(record, name)))} for name in ("options", "counts")}
    return {
        **texts,
        **facts,
        "execution": {"S": record.execution},  # for the state machine, which reads no JSON
        "kind": {"S": ITEM_KIND},
        "version": {"N": str(record.version)},
    }


def retry_delays() -> Iterator[float]:
    """Yield the seconds to wait before each new try after a conflict."""
    yield from (
        random.random() * min(MAX_PAUSE_S, MIN_PAUSE_S * 2**number) for number in range(MAX_TRIES)
    )


def _conflict_error(run: str) -> StateError:
    return StateError(
        f"run {run} cannot be written: other writers changed it first, {MAX_TRIES} times in a row",
        hint=f"hundredfold status {run}",
    )
