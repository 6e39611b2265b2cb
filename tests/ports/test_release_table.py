"""The rows of releases in a DynamoDB table: exact, never older than those that are there."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold.aws.adapters.dynamodb_items import (
    MAX_DIGITS,
    NoItem,
    item_bytes,
    number_text,
    to_attribute,
    to_items,
)
from hundredfold.aws.adapters.release_table import MARK_S, MAX_TRIES, DynamoReleaseTable
from hundredfold.errors import HomeError, JobError, PublishRefused, StateError
from hundredfold.ports.release_tables import Stamp, Written
from support.aws_account import Account
from support.faulty_connection import Fault, FaultyConnection

FIRST = Stamp("shelf/prices", 1, 1, "run-1")
SECOND = replace(FIRST, order=2, version=2, run="run-2")


def make_table(account: Account, **key: str) -> str:
    """Return a new table with these key attributes and types."""
    name, kinds = f"prices-{uuid4().hex[:12]}", ("HASH", "RANGE")
    account.emulator.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": each, "AttributeType": type_} for each, type_ in key.items()
        ],
        KeySchema=[
            {"AttributeName": each, "KeyType": kind} for each, kind in zip(key, kinds, strict=False)
        ],
    )
    return name


@pytest.fixture
def published(account: Account) -> DynamoReleaseTable:
    return table_of(make_table(account, product="S"))


def table_of(name: str, key: tuple[str, ...] = ("product",), **options: Any) -> DynamoReleaseTable:
    return DynamoReleaseTable(name, key, sleep=lambda _: None, **options)


def rows(**prices: float) -> list[pa.Table]:
    return [pa.table({"product": list(prices), "price": list(prices.values())})]


def always() -> bool:
    return True


def items(account: Account, table: DynamoReleaseTable) -> dict[str, dict[str, Any]]:
    client = account.emulator.client("dynamodb")
    pages = client.get_paginator("scan").paginate(TableName=table.table, ConsistentRead=True)
    return {item["product"]["S"]: item for page in pages for item in page["Items"]}


def prices(account: Account, table: DynamoReleaseTable) -> dict[str, float | None]:
    """Return the price of each item, None for a mark."""
    return {
        name: None if "hf_removed" in item else float(item["price"]["N"])
        for name, item in items(account, table).items()
    }


def test_items_have_the_row_and_its_origin(account: Account, published: DynamoReleaseTable) -> None:
    assert published.write(rows(milk=1.19), FIRST, always) == Written(1, 0)
    assert items(account, published)["milk"] == {
        "product": {"S": "milk"},
        "price": {"N": "1.19"},
        "hf_source": {"S": "shelf/prices"},
        "hf_order": {"N": "1"},
        "hf_release": {"N": "1"},
        "hf_run": {"S": "run-1"},
    }


def test_a_later_release_replaces_and_marks_an_earlier_one(
    account: Account, published: DynamoReleaseTable
) -> None:
    now = 1_000.0
    published.clock = lambda: now
    published.write(rows(milk=1.0, rice=2.0, tea=3.0), FIRST, always)
    assert published.write(rows(milk=1.5, oats=4.0), SECOND, always) == Written(2, 2)
    assert prices(account, published) == {"milk": 1.5, "oats": 4.0, "rice": None, "tea": None}
    # a mark is deleted after its time, and a row may come back before
    third = replace(SECOND, order=3, version=3)
    published.write(rows(milk=1.5, rice=2.5), third, always)
    assert prices(account, published) == {"milk": 1.5, "rice": 2.5, "oats": None, "tea": None}
    now += MARK_S + 1
    published.write(rows(milk=1.5, rice=2.5), replace(third, order=4), always)
    assert prices(account, published) == {"milk": 1.5, "rice": 2.5}


def test_a_late_writer_of_an_earlier_release_changes_nothing(
    account: Account, published: DynamoReleaseTable
) -> None:
    published.write(rows(milk=1.0, rice=2.0), FIRST, always)
    published.write(rows(milk=1.5), SECOND, always)
    before = items(account, published)
    late = table_of(published.table, max_actions=1, writers=1)
    assert late.write(rows(milk=1.0, rice=2.0), FIRST, always).superseded
    assert items(account, published) == before
    # one that learns from the pointer that it is late does not even try
    assert late.write(rows(new=9.0), FIRST, lambda: False) == Written(0, 0, True)
    assert items(account, published) == before


def test_two_releases_written_at_once_leave_the_later_one(
    account: Account, published: DynamoReleaseTable
) -> None:
    names = [f"p{number:02}" for number in range(40)]
    old = [pa.table({"product": [name], "price": [1.0]}) for name in names]
    new = [pa.table({"product": [name], "price": [2.0]}) for name in names[5:]]

    def between() -> Iterator[pa.Table]:
        for number, part in enumerate(old):
            if number == 20:
                other = table_of(published.table)
                assert other.write(new, SECOND, always).rows == 35
            yield part

    slow = table_of(published.table, max_actions=1, writers=1)
    assert slow.write(between(), FIRST, always).superseded
    found = prices(account, published)
    assert {name: found[name] for name in names[5:]} == dict.fromkeys(names[5:], 2.0)
    assert set(found.values()) <= {2.0, None}


@pytest.mark.parametrize("puts", [0, 1, 2, 3])
def test_a_write_that_was_killed_is_repeated_to_the_same_items(
    account: Account, connection: FaultyConnection, puts: int
) -> None:
    table = table_of(make_table(account, product="S"), max_actions=2, writers=1)
    table.write(rows(a=0.0, z=0.0), FIRST, always)

    class Killed(BaseException): ...

    def killed(handler: Any, _: Any) -> None:
        handler.reply(400, {"x-amzn-errortype": "AccessDeniedException"}, b"{}")

    connection.faults.append(Fault("TransactWriteItems", killed, 1, puts))
    new = rows(a=1.0, b=2.0, c=3.0, d=4.0, e=5.0)
    with pytest.raises(HomeError):
        table.write(new, SECOND, always)
    assert table.write(new, SECOND, always).rows == 5
    once = items(account, table)
    assert prices(account, table) == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0, "z": None}
    marks = {name: item for name, item in once.items() if name != "z"}
    table.write(new, SECOND, always)
    again = items(account, table)
    assert {name: again[name] for name in marks} == marks


def test_throttled_and_conflicting_transactions_are_tried_again(
    account: Account, connection: FaultyConnection
) -> None:
    pauses: list[float] = []
    table = table_of(make_table(account, product="S"), max_actions=2)
    table.sleep = pauses.append
    body = {
        "__type": "TransactionCanceledException",
        "message": "cancelled",
        "CancellationReasons": [{"Code": "None"}, {"Code": "ThrottlingError"}],
    }

    def cancel(handler: Any, _: Any) -> None:
        headers = {"x-amzn-errortype": "TransactionCanceledException"}
        handler.reply(400, headers, json.dumps(body).encode())

    connection.faults.append(Fault("TransactWriteItems", cancel, 4))
    connection.lose_reply("TransactWriteItems", after=1)
    assert table.write(rows(a=1.0, b=2.0, c=3.0), FIRST, always) == Written(3, 0)
    assert prices(account, table) == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert len(pauses) == 4
    assert pauses == sorted(pauses) or max(pauses) > 2 * min(pauses)
    connection.faults.append(Fault("TransactWriteItems", cancel, MAX_TRIES))
    with pytest.raises(HomeError, match="cannot be written"):
        table.write(rows(a=1.0), SECOND, always)


def test_items_of_others_are_not_replaced(account: Account, published: DynamoReleaseTable) -> None:
    client = account.emulator.client("dynamodb")
    client.put_item(TableName=published.table, Item={"product": {"S": "milk"}, "by": {"S": "hand"}})
    with pytest.raises(StateError, match="an item that no release wrote: product='milk'"):
        published.write(rows(milk=1.0), FIRST, always)
    other = replace(FIRST, source="other/prices")
    published.write(rows(tea=1.0), other, always)
    with pytest.raises(StateError, match="an item that other/prices wrote"):
        published.write(rows(tea=2.0), FIRST, always)
    # two homes count their releases on their own
    with pytest.raises(StateError, match="that run run-1 of another home wrote"):
        published.write(rows(tea=2.0), replace(other, run="run-9"), always)
    assert items(account, published)["milk"]["by"] == {"S": "hand"}
    assert published.write(rows(oats=1.0), FIRST, always) == Written(1, 0)
    assert set(items(account, published)) == {"milk", "tea", "oats"}


WRONG = [
    ({"product": ["a", None]}, "row 2: product is null, and it is a key of the table"),
    ({"product": ["a", ""]}, "product is empty, and it is a key of the table"),
    ({"product": ["a", "a"]}, "row 2 product='a': another row has this key"),
    ({"product": ["a", "k" * 2049]}, "product has 2,049 bytes, a key has at most 2,048"),
    ({"product": [1, 2]}, "product is N, and the key of the table is S"),
    (
        {"product": ["a", "b"], "x": [1.0, math.nan]},
        "row 2 product='b': x: nan is no number of DynamoDB",
    ),
    ({"product": ["a", "b"], "x": [1.0, -math.inf]}, "row 2 product='b': x: -inf is no number"),
    ({"product": ["a", "b"], "x": [1.0, 1e-131]}, "x: 1E-131 is outside of 1E-130"),
    ({"product": ["a", "b"], "x": ["", "x" * 409_600]}, "bytes, at most 409,600"),
    ({"product": ["a"], "x": pa.array([5], pa.duration("us"))}, "the type duration"),
    ({"product": ["a"], "x": pa.array([5], pa.timestamp("ns"))}, "has nanoseconds"),
]


@pytest.mark.parametrize(("columns", "reason"), WRONG)
def test_rows_that_cannot_be_items_are_refused_before_any_is_written(
    account: Account, published: DynamoReleaseTable, columns: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PublishRefused) as refused:
        published.check([pa.table(columns)])
    assert reason in str(refused.value), refused.value
    assert "nothing is written" in str(refused.value)
    assert items(account, published) == {}


def test_a_wrong_key_a_taken_name_and_a_missing_table_are_refused(
    account: Account, published: DynamoReleaseTable
) -> None:
    pair = make_table(account, product="S", shop="N")
    with pytest.raises(JobError, match="has the key product, shop, and the job declares pro"):
        table_of(pair).check(())
    table_of(pair, ("product", "shop")).check([pa.table({"product": ["a"], "shop": [1]})])
    with pytest.raises(PublishRefused, match="there is no column product, a key of the table"):
        published.check([pa.table({"price": [1.0]})])
    with pytest.raises(PublishRefused, match="hf_run has a name of this package"):
        published.check([pa.table({"product": ["a"], "hf_run": [1.0]})])
    with pytest.raises(HomeError, match="not found in the account"):
        table_of("prices-nowhere").check(())


def test_many_rows_that_are_wrong_are_counted(published: DynamoReleaseTable) -> None:
    wrong = pa.table({"product": [f"p{n}" for n in range(20)], "x": [math.nan] * 20})
    with pytest.raises(PublishRefused, match=r"20 of 20 rows cannot be items(.|\n)*and 16 more"):
        published.check([wrong])


def back(attribute: dict[str, Any]) -> Any:
    """Return an attribute as a reader of DynamoDB has it."""
    ((kind, value),) = attribute.items()
    match kind:
        case "N":
            return Decimal(value)
        case "L":
            return [back(each) for each in value]
        case "M":
            return {name: back(each) for name, each in value.items()}
        case "NULL":
            return None
        case _:
            return value


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_exact_or_refused_by_its_digits_or_size(value: Decimal) -> None:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0")
    significant = len(text.rstrip("0"))
    if significant and (significant > MAX_DIGITS or not -130 <= exponent + len(text) - 1 <= 125):
        with pytest.raises(NoItem, match=r"digits|outside"):
            to_attribute(value)
    else:
        assert back(to_attribute(value)) == value
        assert (value < 0) == (sign == 1 and significant > 0)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_the_same_float_again_or_refused_by_its_size(value: float) -> None:
    if value and not 1e-130 <= abs(value) < 1e126:
        with pytest.raises(NoItem, match="outside"):
            to_attribute(value)
    else:
        assert float(back(to_attribute(value))) == value


@given(st.integers(-(10**45), 10**45))
def test_an_integer_is_exact_or_refused_by_its_digits(value: int) -> None:
    digits = len(str(abs(value)).rstrip("0"))
    if digits > MAX_DIGITS:
        with pytest.raises(NoItem, match="digits, DynamoDB keeps 38"):
            to_attribute(value)
    else:
        assert int(back(to_attribute(value))) == value


VALUES = st.recursive(
    st.none() | st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=5))
def test_nested_values_are_the_same_after_dynamodb(values: dict[str, Any]) -> None:
    attribute = to_attribute(values)
    assert back(attribute) == values
    assert item_bytes(attribute["M"]) >= sum(len(name.encode()) + 1 for name in values)


def test_dates_and_times_are_texts_without_loss() -> None:
    at = dt.datetime(2026, 11, 30, 21, 5, 6, 789, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    table = pa.table(
        {
            "date": pa.array([dt.date(2026, 1, 2)]),
            "at": pa.array([at], pa.timestamp("us", "Europe/Paris")),
            "plain": pa.array([dt.datetime(2026, 1, 2, 3)], pa.timestamp("us")),
            "time": pa.array([dt.time(4, 5)], pa.time64("us")),
            "half": pa.array([0.1], pa.float32()),
            "money": pa.array([Decimal("1.10")], pa.decimal128(10, 2)),
            "missing": pa.array([None], pa.int64()),
            "code": pa.array(["x"]).dictionary_encode(),
        }
    )
    ((item, reason),) = to_items(table)
    assert reason == ""
    assert item == {
        "date": {"S": "2026-01-02"},
        "at": {"S": "2026-11-30T19:05:06.000789Z"},
        "plain": {"S": "2026-01-02T03:00:00"},
        "time": {"S": "04:05:00"},
        "half": {"N": "0.10000000149011612"},
        "money": {"N": "1.1"},
        "code": {"S": "x"},
    }
    assert number_text(Decimal("1E+125")) == "1E+125"
