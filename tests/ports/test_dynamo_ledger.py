"""What only a ledger in DynamoDB has: items that others write too, pages, races that are lost, and
answers that get lost.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_ledger_door import RUN, attempt

from hundredfold.aws.adapters.dynamodb_ledger import TRIES, DynamoLedger
from hundredfold.errors import HomeError, NoSuchRun, StateError
from hundredfold.ports.run_states import Event, State


@pytest.fixture
def ledger(account, clock):
    return DynamoLedger(account.table(), clock, lambda _: None)


def update(account, ledger, expression: str, **values: str) -> None:
    """Write into the run's item, as the state machine does."""
    account.emulator.client("dynamodb").update_item(
        TableName=ledger.table,
        Key={"id": {"S": RUN.id}},
        UpdateExpression=expression,
        ExpressionAttributeNames={"#state": "state"},
        ExpressionAttributeValues={f":{name}": {"S": value} for name, value in values.items()}
        | {":one": {"N": "1"}},
    )


def fail(account, ledger) -> None:
    update(
        account,
        ledger,
        "SET #state = :state, reason = :reason ADD version :one",
        state="failed",
        reason="the query failed",
    )


def test_an_item_has_the_attributes_that_others_read(account, ledger):
    ledger.create(replace(RUN, options={"a": 1}, reason="", version=3))
    item = account.emulator.client("dynamodb").get_item(
        TableName=ledger.table, Key={"id": {"S": RUN.id}}
    )["Item"]
    assert item == {
        "id": {"S": RUN.id},
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


def test_what_the_state_machine_writes_is_read(account, ledger):
    ledger.create(replace(RUN, state=State.RUNNING))
    fail(account, ledger)
    assert ledger.read(RUN.id) == replace(
        RUN, state=State.FAILED, reason="the query failed", version=1
    )


def test_an_event_is_decided_on_what_another_wrote_in_the_same_moment(account, ledger, line):
    ledger.create(replace(RUN, state=State.RUNNING))
    line.before("PutItem", lambda: fail(account, ledger))
    with pytest.raises(StateError, match="cannot finish: it is not running"):
        ledger.move(RUN.id, Event.FINISH)
    assert ledger.read(RUN.id).state == State.FAILED


def test_a_note_keeps_what_another_wrote_in_the_same_moment(account, ledger, line):
    ledger.create(replace(RUN, state=State.RUNNING))
    line.before("PutItem", lambda: fail(account, ledger))
    noted = ledger.note(RUN.id, counts={"units": 3})
    assert (noted.state, noted.reason, noted.counts, noted.version) == (
        State.FAILED,
        "the query failed",
        {"units": 3},
        2,
    )


def test_a_run_is_read_as_it_is_and_not_as_it_was(ledger, line):
    ledger.create(RUN)
    ledger.move(RUN.id, Event.START)
    reads = [json.loads(request.body) for request in line.seen if request.operation == "GetItem"]
    assert reads
    assert all(read["ConsistentRead"] for read in reads)


def test_a_write_whose_answer_is_lost_is_not_taken_for_a_lost_race(ledger, line):
    for _ in range(3):
        line.lose_answer("PutItem")
    ledger.create(RUN)
    assert ledger.move(RUN.id, Event.START).version == 1
    assert ledger.note(RUN.id, counts={"units": 3}).version == 2
    assert line.asked("PutItem") == 6
    assert ledger.read(RUN.id).version == 2


def test_a_race_is_not_taken_for_a_write_whose_answer_is_lost(ledger, line):
    ledger.create(replace(RUN, state=State.RUNNING))
    line.before("PutItem", lambda: twin.move(RUN.id, Event.FINISH))
    twin = DynamoLedger(
        ledger.table, ledger._clock, ledger._sleep
    )  # writes the same record in the same millisecond
    assert attempt(lambda: ledger.move(RUN.id, Event.FINISH)) == "StateError"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "TransactionConflictException"),
        (400, "ProvisionedThroughputExceededException"),
        (500, "InternalServerError"),
    ],
)
def test_what_dynamodb_could_not_do_just_now_is_tried_again(ledger, line, status, code):
    line.say("PutItem", status, code)
    ledger.create(RUN)
    line.say("PutItem", status, code)
    assert ledger.move(RUN.id, Event.START).version == 1
    assert line.asked("PutItem") == 4


def test_races_that_are_lost_without_end_are_told(ledger, line):
    ledger.create(RUN)
    line.say("PutItem", 400, "TransactionConflictException", times=1_000)
    for call in (lambda: ledger.note(RUN.id), lambda: ledger.create(replace(RUN, id="other"))):
        before = line.asked("PutItem")
        with pytest.raises(StateError, match=f"others changed it first, {TRIES} times"):
            call()
        assert line.asked("PutItem") - before == TRIES


def test_a_list_of_runs_beyond_one_page_is_whole(ledger, line):
    for number in range(30):
        ledger.create(
            replace(
                RUN,
                id=f"r{number:02d}",
                created=f"2024-05-{number + 1:02d}",
                options={"text": "x" * 60_000},
            )
        )
    assert [run.id for run in ledger.runs()] == [f"r{number:02d}" for number in range(29, -1, -1)]
    assert line.asked("Query") > 1


def test_who_may_not_list_the_runs_is_told_all_the_same_that_there_is_none(ledger, line):
    ledger.create(RUN)
    line.say("Query", 400, "AccessDeniedException")
    with pytest.raises(NoSuchRun, match=f"there is no run x in the table {ledger.table}"):
        ledger.read("x")


def test_an_item_that_was_changed_before_there_was_a_run_is_told(account, ledger):
    fail(account, ledger)
    with pytest.raises(
        HomeError, match=f"the item {RUN.id} of the table {ledger.table} lacks job, ref, step"
    ) as told:
        ledger.read(RUN.id)
    assert f"aws dynamodb delete-item --table-name {ledger.table}" in told.value.hint


def test_a_record_that_no_item_can_hold_is_told(ledger):
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
def test_a_table_that_is_not_there_is_told(account, call):
    with pytest.raises(HomeError, match=r"the table none cannot be .*: it is not there") as told:
        call(DynamoLedger("none"))
    assert "hundredfold deploy" in told.value.hint
