"""The rows of the current release in a DynamoDB table, one item for each.

An item has the columns of its row, and four attributes of its own: `hf_source` (job/output),
`hf_release`, `hf_run`, and `hf_order`, which grows with each release and each rollback. An item is
put on condition that its key has no item yet, or one of the same source with a lower order. So a
late writer of an earlier release replaces nothing, and a repeated step writes the same.

The item of a row that a later release no longer has is replaced by a mark: its key, these four
attributes, `hf_removed` and the time `hf_expires`. If it were deleted, a late writer of an earlier
release would find no item, and put its own. Marks that have expired are deleted by the next
release, or by DynamoDB itself, if time to live is switched on for `hf_expires`.

Items are put by transactions of up to 100: a batch write has no conditions, and a put for each item
takes a request for each. A transaction is written whole or not at all.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from botocore.exceptions import ClientError

from ...errors import HomeError, JobError, PublishRefused, StateError
from ...ports.interfaces import Clock
from ...ports.release_tables import Stamp, Written
from .dynamodb_items import (
    EXPIRES,
    ORDER,
    OWN_NAMES,
    RELEASE,
    REMOVED,
    RUN,
    SOURCE,
    Item,
    item_bytes,
    key_text,
    refusal,
    to_items,
)
from .errors import error_code, translate_errors
from .session import client

MAX_ACTIONS, MAX_BYTES = 100, 3_500_000  # of a transaction: DynamoDB allows 4 MB
WRITERS = 8  # threads, each with one transaction
CURRENT_CHECK_S = 1.0  # between looks at the pointer
MARK_S = 30 * 86_400.0  # that the mark of a removed row is kept
MAX_TRIES = 12
MIN_PAUSE_S, MAX_PAUSE_S = 0.05, 10.0  # between two tries: it doubles, a random part is waited
MAX_PROBLEMS = 4  # rows that an error names
# reasons of a cancelled transaction that pass
PASSING = {
    "TransactionConflict",
    "ThrottlingError",
    "ProvisionedThroughputExceeded",
    "ItemCollectionSizeLimitExceeded",
}
PASSING_ERRORS = {
    "TransactionInProgressException",
    "TransactionConflictException",
    "ThrottlingException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "InternalServerError",
}
CONDITION = "ConditionalCheckFailed"


class _Superseded(Exception):
    """A later release is in the table, or became current."""


@dataclass
class DynamoReleaseTable:
    """A table, by its name, with the columns that are its key.

    writers: threads. max_actions: items of a transaction.
    """

    table: str
    key: Sequence[str]
    clock: Clock = time.time
    sleep: Callable[[float], object] = time.sleep
    writers: int = WRITERS
    max_actions: int = MAX_ACTIONS
    _types: dict[str, str] = field(default_factory=dict)
    _looked: float = -math.inf

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> DynamoReleaseTable:
        """Return the table that a release names."""
        return cls(facts["dynamodb"], facts["key"])

    def check(self, parts: Iterable[pa.Table]) -> None:
        """Check that the table exists with this key, and that it can hold every row."""
        self._types = self._key_types()
        problems: list[str] = []
        keys: set[tuple[Any, ...]] = set()
        wrong = number = 0
        for rows in parts:
            self._refuse_columns(rows)
            for item, reason in to_items(rows):
                number += 1
                reason = reason or refusal(item, self.key, self._types)
                reason = reason or self._repeated(item, keys)
                if reason:
                    wrong += 1
                    named = f"row {number:,} {key_text(item, self.key)}".rstrip()
                    problems.append(f"{named}: {reason}")
                    del problems[MAX_PROBLEMS:]
        if wrong:
            more = wrong - len(problems)
            raise PublishRefused(
                f"{wrong:,} of {number:,} rows cannot be items of the DynamoDB table {self.table}, "
                "and nothing is written",
                problems=[*problems, *([f"and {more:,} more"] if more else [])],
                hint="change the publishing query, then run it again",
            )

    def write(
        self, parts: Iterable[pa.Table], stamp: Stamp, is_current: Callable[[], bool]
    ) -> Written:
        """Put the items of all rows, then mark those of earlier releases."""
        self._types = self._types or self._key_types()
        written, removed = [0], [0]
        self._looked = -math.inf
        try:
            self._put_all(self._items(parts, stamp), stamp, is_current, written)
            self._put_all(self._marks(stamp), stamp, is_current, removed)
        except _Superseded:
            return Written(written[0], removed[0], superseded=True)
        self._delete_expired(stamp)
        return Written(written[0], removed[0])

    def _key_types(self) -> dict[str, str]:
        """Return the type of each key attribute. Raises: JobError for another key."""
        with self._translated("read"):
            found = client("dynamodb").describe_table(TableName=self.table)["Table"]
        order = {"HASH": 0, "RANGE": 1}
        schema = sorted(found["KeySchema"], key=lambda each: order[each["KeyType"]])
        names = [each["AttributeName"] for each in schema]
        if names != list(self.key):
            raise JobError(
                f"the DynamoDB table {self.table} has the key {', '.join(names)}, and the job "
                f"declares {', '.join(self.key)}",
                hint=f"declare key={tuple(names)!r}, with columns of these names in the query",
            )
        types = {a["AttributeName"]: a["AttributeType"] for a in found["AttributeDefinitions"]}
        return {name: types[name] for name in names}

    def _refuse_columns(self, rows: pa.Table) -> None:
        missing = [name for name in self.key if name not in rows.column_names]
        taken = sorted(OWN_NAMES & set(rows.column_names))
        if missing or taken:
            problems = [f"there is no column {name}, a key of the table" for name in missing]
            problems += [f"the column {name} has a name of this package" for name in taken]
            raise PublishRefused(
                f"the rows cannot be written to the DynamoDB table {self.table}",
                problems=problems,
                hint="change the publishing query, then run it again",
            )

    def _repeated(self, item: Item, keys: set[tuple[Any, ...]]) -> str:
        key = tuple(next(iter(item[name].values())) for name in self.key)
        if key in keys:
            return "another row has this key"
        keys.add(key)
        return ""

    def _items(self, parts: Iterable[pa.Table], stamp: Stamp) -> Iterator[Item]:
        own = _attributes(stamp)
        for rows in parts:
            for item, reason in to_items(rows):
                if reason:
                    raise PublishRefused(f"a row cannot be written to {self.table}: {reason}")
                yield {**item, **own}

    def _marks(self, stamp: Stamp) -> Iterator[Item]:
        """Yield a mark for each item of an earlier release that is still in the table."""
        expires = {"N": str(int(self.clock() + MARK_S))}
        own = {**_attributes(stamp), REMOVED: {"BOOL": True}, EXPIRES: expires}
        rule = "#source = :source AND #order < :order AND attribute_not_exists(#removed)"
        for item in self._scan(rule, stamp, {"#removed": REMOVED}, {}):
            yield {**{name: item[name] for name in self.key}, **own}

    def _scan(
        self, rule: str, stamp: Stamp, names: Mapping[str, str], values: Mapping[str, Any]
    ) -> Iterator[Item]:
        key_names = {f"#k{number}": name for number, name in enumerate(self.key)}
        pages = (
            client("dynamodb")
            .get_paginator("scan")
            .paginate(
                TableName=self.table,
                ConsistentRead=True,
                FilterExpression=rule,
                ProjectionExpression=", ".join(key_names),
                ExpressionAttributeNames={"#source": SOURCE, "#order": ORDER, **names, **key_names},
                ExpressionAttributeValues={
                    ":source": {"S": stamp.source},
                    ":order": {"N": str(stamp.order)},
                    **values,
                },
            )
        )
        with self._translated("read"):
            for page in pages:
                yield from page["Items"]

    def _delete_expired(self, stamp: Stamp) -> None:
        """Delete the marks whose time is over."""
        now = {":now": {"N": str(int(self.clock()))}}
        rule = "#source = :source AND #order < :order AND #expires < :now"
        expired = list(self._scan(rule, stamp, {"#expires": EXPIRES}, now))
        for item in expired:
            with self._translated("written"):
                try:
                    client("dynamodb").delete_item(
                        TableName=self.table,
                        Key=item,
                        ConditionExpression="#expires < :now",
                        ExpressionAttributeNames={"#expires": EXPIRES},
                        ExpressionAttributeValues=now,
                    )
                except ClientError as error:  # it is an item again
                    if error_code(error) != "ConditionalCheckFailedException":
                        raise

    def _put_all(
        self,
        items: Iterator[Item],
        stamp: Stamp,
        is_current: Callable[[], bool],
        written: list[int],
    ) -> None:
        """Put items by transactions, several at a time; `written` counts them.

        Raises: _Superseded when a later release is met; the transactions that began are ended.
        """
        waiting: set[Future[int]] = set()
        with ThreadPoolExecutor(self.writers) as pool:
            try:
                for part in self._transactions(items):
                    if not self._still_current(is_current):
                        raise _Superseded
                    waiting.add(pool.submit(self._put, part, stamp))
                    if len(waiting) >= 2 * self.writers:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        written[0] += sum(each.result() for each in done)
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    written[0] += sum(each.result() for each in done)
            except BaseException:
                for each in waiting:
                    each.cancel()
                raise
        if not is_current():
            raise _Superseded

    def _still_current(self, is_current: Callable[[], bool]) -> bool:
        now = time.monotonic()
        if now - self._looked < CURRENT_CHECK_S:
            return True
        self._looked = now
        return is_current()

    def _transactions(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        part: list[Item] = []
        size = 0
        for item in items:
            own = item_bytes(item)
            if part and (len(part) == self.max_actions or size + own > MAX_BYTES):
                yield part
                part, size = [], 0
            part.append(item)
            size += own
        if part:
            yield part

    def _put(self, items: Sequence[Item], stamp: Stamp) -> int:
        """Put items in one transaction, which is tried again while the reasons against it pass."""
        actions = [{"Put": self._conditional_put(item, stamp)} for item in items]
        pause = MIN_PAUSE_S
        with self._translated("written"):
            for left in reversed(range(MAX_TRIES)):
                try:
                    client("dynamodb").transact_write_items(TransactItems=actions)
                except ClientError as error:
                    self._explain(error, items, stamp)
                    if not left:
                        raise
                else:
                    return len(items)
                self.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, MAX_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _conditional_put(self, item: Item, stamp: Stamp) -> dict[str, Any]:
        return {
            "TableName": self.table,
            "Item": item,
            "ConditionExpression": "attribute_not_exists(#key) OR (#source = :source AND "
            "(#order < :order OR (#order = :order AND #run = :run)))",
            "ExpressionAttributeNames": {
                "#key": self.key[0],
                "#source": SOURCE,
                "#order": ORDER,
                "#run": RUN,
            },
            "ExpressionAttributeValues": {
                ":source": {"S": stamp.source},
                ":order": {"N": str(stamp.order)},
                ":run": {"S": stamp.run},
            },
        }

    def _explain(self, error: ClientError, items: Sequence[Item], stamp: Stamp) -> None:
        """Return if a transaction may succeed later.

        Raises: _Superseded; StateError for an item of something else; else the error.
        """
        code = error_code(error)
        if code in PASSING_ERRORS:
            return
        if code != "TransactionCanceledException":
            raise error
        reasons = [
            str(each.get("Code", "None")) for each in error.response.get("CancellationReasons", [])
        ]
        failed = [n for n, reason in enumerate(reasons) if reason == CONDITION]
        for number in failed:
            self._refuse_item(items[number], stamp)
        if failed or any(reason in PASSING for reason in reasons):
            return  # of a failed condition: the item is gone or older by now
        raise error

    def _refuse_item(self, item: Item, stamp: Stamp) -> None:
        """Raise for the item in the table that prevents one of ours."""
        found: Item = (
            client("dynamodb")
            .get_item(
                TableName=self.table,
                Key={name: item[name] for name in self.key},
                ConsistentRead=True,
            )
            .get("Item", {})
        )
        if not found:
            return
        source = found.get(SOURCE, {}).get("S")
        order = int(found[ORDER]["N"]) if ORDER in found else 0
        if source == stamp.source and order > stamp.order:
            raise _Superseded
        run = found.get(RUN, {}).get("S")
        if source == stamp.source and (order < stamp.order or run == stamp.run):
            return
        owner = (
            "no release wrote"
            if source is None
            else f"run {run} of another home wrote"
            if source == stamp.source
            else f"{source} wrote"
        )
        raise StateError(
            f"the DynamoDB table {self.table} has an item that {owner}: {key_text(item, self.key)}",
            hint="use a table of its own for each output of a job and each home, or delete the "
            "item; then hundredfold resume",
        )

    def _translated(self, participle: str) -> Any:
        return translate_errors(f"the DynamoDB table {self.table}", participle)


def _attributes(stamp: Stamp) -> Item:
    return {
        SOURCE: {"S": stamp.source},
        ORDER: {"N": str(stamp.order)},
        RELEASE: {"N": str(stamp.version)},
        RUN: {"S": stamp.run},
    }


def open_release_table(facts: Mapping[str, Any]) -> DynamoReleaseTable:
    """Return the table that a release names. Raises: HomeError for a kind that is unknown."""
    if "dynamodb" not in facts:
        raise HomeError(f"a release names a table of an unknown kind: {dict(facts)}")
    return DynamoReleaseTable.of(facts)
