"""Features of the DynamoDB ledger alone: items that others write too, pages, lost races, and lost
replies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hundredfold.aws.adapters.dynamodb_ledger import MAX_TRIES, DynamoLedger
from hundredfold.errors import HomeError, NoSuchRun, StateError
from hundredfold.ports.run_states import Event, State
from support.aws_account import Account, LinkedClock
from support.faulty_connection import FaultyConnection
from support.ledger_records import RUN, attempt, run_with


@pytest.fixture
def ledger(account: Account, clock: LinkedClock) -> Any:
    return DynamoLedger(account.table(), clock, lambda _: None)


def update(account: Account, ledger: Any, expression: str, **values: str) -> None:
    """Write into the run's item, as the state machine does."""
    account.emulator.client("dynamodb").update_item(
        TableName=ledger.table,
        Key={"id": {"S": RUN.id}},
        UpdateExpression=expression,
        ExpressionAttributeNames={"#state": "state"},
        ExpressionAttributeValues={f":{name}": {"S": value} for name, value in values.items()}
        | {":one": {"N": "1"}},
    )


def fail(account: Account, ledger: Any) -> None:
    update(
        account,
        ledger,
        "SET #state = :state, reason = :reason ADD version :one",
        state="failed",
        reason="the query failed",
    )


def test_an_item_has_the_attributes_that_the_indexes_read(account: Account, ledger: Any) -> None:
    ledger.create(run_with(options={"a": 1}, reason="", version=3))
    item = account.emulator.client("dynamodb").get_item(
        TableName=ledger.table, Key={"id": {"S": RUN.id}}
    )["Item"]
    assert item == {
        "id": {"S": RUN.id},
        "execution": {"S": ""},
        "kind": {"S": "run"},
        "job": {"S": "tariffs"},
        "ref": {"S": "tariffs.job:job"},
        "state": {"S": "new"},
        "step": {"S": "validate"},
        "created": {"S": RUN.created},
        "updated": {"S": RUN.updated},
        "reason": {"S": ""},
        "options": {"S": '{"a": 1}'},
        "counts": {"S": "{}"},
        "version": {"N": "3"},
    }


def test_writes_of_the_state_machine_are_read(account: Account, ledger: Any) -> None:
    ledger.create(run_with(state=State.RUNNING))
    fail(account, ledger)
    assert ledger.read(RUN.id) == run_with(state=State.FAILED, reason="the query failed", version=1)


def test_an_event_is_decided_on_a_concurrent_write(
    account: Account, ledger: Any, connection: FaultyConnection
) -> None:
    ledger.create(run_with(state=State.RUNNING))
    connection.before("PutItem", lambda: fail(account, ledger))
    with pytest.raises(StateError, match="cannot finish: it is not running"):
        ledger.move(RUN.id, Event.FINISH)
    assert ledger.read(RUN.id).state == State.FAILED


def test_a_note_keeps_a_concurrent_write(
    account: Account, ledger: Any, connection: FaultyConnection
) -> None:
    ledger.create(run_with(state=State.RUNNING))
    connection.before("PutItem", lambda: fail(account, ledger))
    noted = ledger.note(RUN.id, counts={"units": 3})
    assert (noted.state, noted.reason, noted.counts, noted.version) == (
        State.FAILED,
        "the query failed",
        {"units": 3},
        2,
    )


def test_reads_are_consistent(ledger: Any, connection: FaultyConnection) -> None:
    ledger.create(RUN)
    ledger.move(RUN.id, Event.START)
    reads = [
        json.loads(request.body)
        for request in connection.operations
        if request.operation == "GetItem"
    ]
    assert reads
    assert all(read["ConsistentRead"] for read in reads)


def test_a_write_whose_reply_is_lost_is_not_a_lost_race(
    ledger: Any, connection: FaultyConnection
) -> None:
    for _ in range(3):
        connection.lose_reply("PutItem")
    ledger.create(RUN)
    assert ledger.move(RUN.id, Event.START).version == 1
    assert ledger.note(RUN.id, counts={"units": 3}).version == 2
    assert connection.count_requests("PutItem") == 6
    assert ledger.read(RUN.id).version == 2


def test_a_lost_race_is_not_a_write_whose_reply_is_lost(
    ledger: Any, connection: FaultyConnection
) -> None:
    ledger.create(run_with(state=State.RUNNING))
    connection.before("PutItem", lambda: twin.move(RUN.id, Event.FINISH))
    # the other writer writes the same record in the same millisecond
    twin = DynamoLedger(ledger.table, ledger._clock, ledger.sleep)
    assert attempt(lambda: ledger.move(RUN.id, Event.FINISH)) == "StateError"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "TransactionConflictException"),
        (400, "ProvisionedThroughputExceededException"),
        (500, "InternalServerError"),
    ],
)
def test_transient_errors_of_dynamodb_are_retried(
    ledger: Any, connection: FaultyConnection, status: int, code: str
) -> None:
    connection.fail_with("PutItem", status, code)
    ledger.create(RUN)
    connection.fail_with("PutItem", status, code)
    assert ledger.move(RUN.id, Event.START).version == 1
    assert connection.count_requests("PutItem") == 4


def test_losing_every_race_is_an_error(ledger: Any, connection: FaultyConnection) -> None:
    ledger.create(RUN)
    connection.fail_with("PutItem", 400, "TransactionConflictException", times=1_000)
    calls: list[Callable[[], object]] = [
        lambda: ledger.note(RUN.id),
        lambda: ledger.create(run_with(id="other")),
    ]
    for call in calls:
        before = connection.count_requests("PutItem")
        with pytest.raises(StateError, match=f"other writers changed it first, {MAX_TRIES} times"):
            call()
        assert connection.count_requests("PutItem") - before == MAX_TRIES


def test_a_list_of_several_pages_is_complete(ledger: Any, connection: FaultyConnection) -> None:
    for number in range(30):
        ledger.create(
            run_with(
                id=f"r{number:02d}",
                created=f"2024-05-{number + 1:02d}",
                options={"text": "x" * 60_000},
            )
        )
    assert [run.id for run in ledger.runs()] == [f"r{number:02d}" for number in range(29, -1, -1)]
    assert connection.count_requests("Query") > 1


def test_a_missing_run_is_reported_without_permission_to_list(
    ledger: Any, connection: FaultyConnection
) -> None:
    ledger.create(RUN)
    connection.fail_with("Query", 400, "AccessDeniedException")
    with pytest.raises(NoSuchRun, match=f"found no run x in the table {ledger.table}"):
        ledger.read("x")


def test_an_item_that_was_never_created_is_an_error(account: Account, ledger: Any) -> None:
    fail(account, ledger)
    with pytest.raises(
        HomeError, match=f"the item {RUN.id} of the table {ledger.table} lacks job, ref, step"
    ) as caught:
        ledger.read(RUN.id)
    assert f"aws dynamodb delete-item --table-name {ledger.table}" in str(caught.value.hint)


def test_a_record_that_is_too_large_is_an_error(ledger: Any) -> None:
    ledger.create(RUN)
    with pytest.raises(
        HomeError, match=f"the table {ledger.table} cannot be written: ValidationException"
    ):
        ledger.note(RUN.id, counts={"text": "x" * 500_000})
    assert ledger.read(RUN.id) == RUN


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.create(RUN),
        lambda ledger: ledger.read("x"),
        lambda ledger: ledger.note("x"),
        lambda ledger: ledger.runs(),
    ],
    ids=["create", "read", "note", "runs"],
)
def test_a_missing_table_is_an_error(account: Account, call: Any) -> None:
    with pytest.raises(HomeError, match=r"the table none cannot be .*: not found") as caught:
        call(DynamoLedger("none"))
    assert "hundredfold deploy" in str(caught.value.hint)
