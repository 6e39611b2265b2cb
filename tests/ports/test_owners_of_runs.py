"""On AWS one execution owns a run: the ledger of any other raises, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger, SupersededError
from hundredfold.aws.runs import execution_arn, execution_name
from hundredfold.ports.run_states import Event, State
from support.aws_account import Account
from support.ledger_records import RUN

OWNER, OTHER = (
    f"arn:aws:states:eu-west-1:123456789012:execution:machine:{name}" for name in ("one", "two")
)

CHANGES: dict[str, Callable[[DynamoLedger], object]] = {
    "own": lambda ledger: ledger.own(RUN.id),
    "move": lambda ledger: ledger.move(RUN.id, Event.FAIL, reason="a step failed"),
    "note": lambda ledger: ledger.note(RUN.id, step="publish"),
}


@pytest.fixture
def table(account: Account) -> str:
    table = account.table()
    DynamoLedger(table).create(RUN)
    return table


def test_the_first_execution_owns_a_run(table: str) -> None:
    assert DynamoLedger(table, execution=OWNER).own(RUN.id).execution == OWNER
    assert DynamoLedger(table, execution=OWNER).own(RUN.id).execution == OWNER
    with pytest.raises(SupersededError, match="one owns run"):
        DynamoLedger(table, execution=OTHER).own(RUN.id)


def test_one_of_many_executions_owns_a_run(table: str) -> None:
    def own(number: int) -> bool:
        try:
            DynamoLedger(table, execution=f"{OWNER}{number}").own(RUN.id)
        except SupersededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [*pool.map(own, range(8))]
    assert won.count(True) == 1
    assert DynamoLedger(table).read(RUN.id).execution == f"{OWNER}{won.index(True)}"


@pytest.mark.parametrize("change", CHANGES)
def test_an_execution_that_is_not_the_owner_changes_nothing(table: str, change: str) -> None:
    owner = DynamoLedger(table, execution=OWNER)
    owner.own(RUN.id)
    owner.move(RUN.id, Event.START)
    before = owner.read(RUN.id)
    with pytest.raises(SupersededError):
        CHANGES[change](DynamoLedger(table, execution=OTHER))
    assert owner.read(RUN.id) == before


def test_an_execution_loses_a_run_that_is_resumed_by_another(table: str) -> None:
    """The call of a function can outlive its execution, which was stopped."""
    first = DynamoLedger(table, execution=OWNER)
    first.own(RUN.id)
    DynamoLedger(table).note(RUN.id, options={"execution": OTHER})
    with pytest.raises(SupersededError):
        first.note(RUN.id, step="publish")
    assert DynamoLedger(table, execution=OTHER).move(RUN.id, Event.START).state is State.RUNNING


def test_people_and_workers_need_not_own_a_run(table: str) -> None:
    DynamoLedger(table, execution=OWNER).own(RUN.id)
    assert DynamoLedger(table).move(RUN.id, Event.CANCEL).state is State.CANCELLED


@pytest.mark.parametrize("characters", [1, 20, 77, 78, 79, 80])
def test_each_execution_of_a_run_has_a_name_of_its_own(characters: int) -> None:
    runs = ["r" * characters, "r" * (characters - 1) + "s"]
    names = [execution_name(run, number) for run in runs for number in (1, 2, 10, 11, 999)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 80


@pytest.mark.parametrize("partition", ["aws", "aws-us-gov", "aws-cn"])
def test_the_arn_of_an_execution_has_its_machine_and_name(partition: str) -> None:
    machine = f"arn:{partition}:states:eu-west-1:123456789012:stateMachine:hundredfold-tariffs"
    assert execution_arn(machine, "run-1") == (
        f"arn:{partition}:states:eu-west-1:123456789012:execution:hundredfold-tariffs:run-1"
    )
