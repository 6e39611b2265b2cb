"""Uploads that arrive close together start one run, in whatever order their executions are called.

Each execution is a sequence of first steps over the table of an emulated account; the clock is the
test's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, Unit
from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger, SupersededError
from hundredfold.aws.adapters.session import StackResources
from hundredfold.aws.adapters.uploads import MAX_QUIET_PERIODS, UploadTable
from hundredfold.aws.functions.uploads import UploadsExpected, start_run_of_uploads
from hundredfold.aws.runs import new_record
from hundredfold.cli.display import further_lines
from hundredfold.errors import JobError, SourceError
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import Event
from hundredfold.runs.summary import RunSummary
from support.in_process_aws import AwsRunner

QUIET = 60
NAMES = ("a", "b", "c", "d", "e", "f")
numbers = count()


def counted(rows: Unit) -> dict[str, int]:
    return {"n": rows.rows}


MODELS = [Model("m", unit=("k",), query="SELECT * FROM a", work=counted)]


def job_of(number: int) -> Job:
    sources = [Source(name, path=f"s3://lake/{name}.csv") for name in NAMES]
    return Job(f"together_{number}", sources, MODELS)


@dataclass
class Account:
    """The table of one stack, with the executions that events of uploads start."""

    resources: StackResources
    job: Job
    now: float = 1000.0
    records: list[Record] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    pauses: list[int] = field(default_factory=list)

    def step(self, event: dict[str, Any]) -> bool:
        """Call the first step of an event's execution; return whether it has ended."""
        ledger = DynamoLedger(self.resources.table, execution=f"arn:{event['run']}")
        try:
            self.records.append(
                start_run_of_uploads(
                    event["run"], event, self.job, self.resources, ledger, lambda: self.now
                )
            )
        except UploadsExpected as expected:
            self.pauses.append(expected.seconds)
            return False
        except SupersededError as error:
            self.reasons.append(str(error))
        return True


@pytest.fixture
def fresh(aws_runner: AwsRunner) -> Account:
    return make_account(aws_runner)


def make_account(aws_runner: AwsRunner) -> Account:
    """Return the account without uploads: they are kept for each table."""
    resources = replace(aws_runner.resources, quiet=QUIET)
    aws_runner.emulator.client("dynamodb").delete_item(
        TableName=resources.table, Key={"id": {"S": "#uploads"}}
    )
    return Account(resources, job_of(next(numbers)))


def event_of(name: str, number: int, *, time: str = "", sequencer: str = "") -> dict[str, Any]:
    return {
        "run": f"upload-{next(numbers)}-{name}",
        "sources": {name: f"s3://lake/new/{name}-{number}.csv"},
        "time": time or f"2026-01-01T00:00:{number:02d}Z",
        "sequencer": sequencer or f"{number:016X}",
    }


def test_six_sources_that_are_refreshed_together_start_one_run(fresh: Account) -> None:
    events = [event_of(name, number) for number, name in enumerate(NAMES)]
    for event in events:
        assert not fresh.step(event)
        fresh.now += 10
    fresh.now += QUIET
    assert all(fresh.step(event) for event in events)
    (record,) = fresh.records
    assert record.source_addresses == {
        name: f"s3://lake/new/{name}-{number}.csv" for number, name in enumerate(NAMES)
    }
    assert record.options["uploaded"] == list(NAMES)
    assert fresh.reasons == [f"{record.id} has taken the upload"] * 5


def test_an_upload_after_a_run_began_starts_the_next_with_all_sources(fresh: Account) -> None:
    first, second = event_of("a", 1), event_of("b", 2)
    fresh.step(first)
    fresh.now += QUIET
    assert fresh.step(first)
    assert not fresh.step(second)
    fresh.now += QUIET
    assert fresh.step(second)
    one, two = fresh.records
    assert one.source_addresses["a"] == two.source_addresses["a"] == "s3://lake/new/a-1.csv"
    assert one.source_addresses["b"] == "s3://lake/b.csv"
    assert two.source_addresses["b"] == "s3://lake/new/b-2.csv"


@pytest.mark.parametrize("when", ["before the run", "after the run", "while it is taken"])
def test_a_doubled_event_starts_nothing_under_whatever_id(fresh: Account, when: str) -> None:
    event = event_of("a", 1)
    again = {**event, "run": "upload-again"}
    fresh.step(event)
    if when == "before the run":
        assert not fresh.step(again)
    fresh.now += QUIET
    if when == "while it is taken":
        assert fresh.step(again)
        assert fresh.step(event)
    else:
        assert fresh.step(event)
        assert fresh.step(again)
    assert len(fresh.records) == 1
    assert len(fresh.reasons) == 1


def test_the_newest_file_of_a_source_counts_and_the_others_are_recorded(fresh: Account) -> None:
    older = event_of("a", 1)
    newer = event_of("a", 2)
    fresh.step(newer)  # events arrive in any order
    fresh.step(older)
    fresh.now += QUIET
    assert fresh.step(older)
    (record,) = fresh.records
    assert record.source_addresses["a"] == "s3://lake/new/a-2.csv"
    assert record.options["replaced_uploads"] == ["s3://lake/new/a-1.csv"]
    shown = further_lines(cast(RunSummary, record.options))
    assert shown == [
        "not read, since a newer upload of the source replaced it: s3://lake/new/a-1.csv"
    ]


def test_uploads_without_an_end_start_a_run_all_the_same(fresh: Account) -> None:
    for number in range(MAX_QUIET_PERIODS + 2):
        if fresh.step(event_of("a", number)):
            break
        fresh.now += QUIET - 1
    assert len(fresh.records) == 1
    assert number <= MAX_QUIET_PERIODS + 1


def test_one_object_may_be_the_source_of_several_names(fresh: Account) -> None:
    events = [event_of(name, 1) for name in "ab"]
    for event in events:
        event |= {
            "run": "upload-same",
            "sources": {next(iter(event["sources"])): "s3://lake/x.csv"},
        }
        fresh.step(event)
    fresh.now += QUIET
    assert all(fresh.step(event) for event in events)
    (record, *others) = fresh.records
    assert record.options["uploaded"] == ["a", "b"]
    assert {other.id for other in others} <= {record.id}


def test_other_sources_are_those_of_the_newest_run_that_did_not_fail(fresh: Account) -> None:
    ledger = DynamoLedger(fresh.resources.table)
    good = {name: f"s3://good/{name}.csv" for name in NAMES}
    ledger.create(new_record("known", fresh.job, "by_hand:job", good, {}))
    for name in "ab":
        event = event_of(name, 1)
        fresh.step(event)
        fresh.now += QUIET
        fresh.step(event)
        assert fresh.records[-1].source_addresses == good | event["sources"]
        ledger.move(event["run"], Event.FAIL, reason="it is no table")


def test_a_source_that_the_job_has_no_longer_is_left_out(fresh: Account) -> None:
    """Another version of the job was deployed after the newest run."""
    ledger = DynamoLedger(fresh.resources.table)
    good = {name: f"s3://good/{name}.csv" for name in NAMES}
    ledger.create(new_record("earlier", fresh.job, "by_hand:job", good, {}))
    fresh.job = Job(fresh.job.name, [Source(name) for name in "ab"], MODELS)
    event = event_of("a", 1)
    fresh.step(event)
    fresh.now += QUIET
    fresh.step(event)
    assert fresh.records[-1].source_addresses == {"b": good["b"]} | event["sources"]


def test_an_upload_for_a_source_that_the_job_has_no_longer_fails_its_run(fresh: Account) -> None:
    fresh.job = Job(fresh.job.name, [Source("a", path="s3://lake/a.csv")], MODELS)
    event = event_of("b", 1)
    fresh.step(event)
    fresh.now += QUIET
    with pytest.raises(JobError, match="has no source 'b'; it has a"):
        fresh.step(event)
    record = DynamoLedger(fresh.resources.table).read(event["run"])
    assert record.source_addresses == event["sources"]
    assert UploadTable(fresh.resources.table).read().uploads == ()


def test_a_folder_marker_starts_no_run(fresh: Account) -> None:
    event = event_of("a", 1)
    event["sources"] = {"a": "s3://lake/new/"}
    assert fresh.step(event)
    assert fresh.records == []


def test_a_run_without_all_locations_is_recorded_and_the_upload_is_taken(fresh: Account) -> None:
    fresh.job = Job("lacking", [Source("a"), Source("b")], MODELS)
    event = event_of("a", 1)
    fresh.step(event)
    fresh.now += QUIET
    with pytest.raises(SourceError, match="the sources b have no location"):
        fresh.step(event)
    assert DynamoLedger(fresh.resources.table).read(event["run"]).execution == f"arn:{event['run']}"
    assert UploadTable(fresh.resources.table).read().uploads == ()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_each_upload_is_in_one_run_in_any_order_of_calls(aws_runner: AwsRunner, seed: int) -> None:
    """Events are doubled, executions die, and time passes in between."""
    chance = random.Random(seed)
    account = make_account(aws_runner)
    events = [event_of(chance.choice(NAMES), number) for number in range(chance.randint(1, 8))]
    events += [{**event, "run": f"{event['run']}-again"} for event in chance.sample(events, 1)]
    ahead, waiting = list(events), list[dict[str, Any]]()
    chance.shuffle(ahead)
    while ahead or waiting:
        account.now += chance.choice([0, 1, QUIET / 2, QUIET])
        if ahead and (not waiting or chance.random() < 0.5):
            event = ahead.pop()
        else:
            event = waiting.pop(chance.randrange(len(waiting)))
        if not account.step(event) and chance.random() < 0.7:
            waiting.append(event)  # otherwise it dies, and leaves its upload to the others
    last = event_of("a", 59)
    events.append(last)
    while not account.step(last):
        account.now += QUIET
    assert all(1 <= pause <= QUIET for pause in account.pauses)
    for record in account.records:
        assert record.execution == f"arn:{record.id}"
    table = UploadTable(account.resources.table).read()
    assert table.uploads == ()
    assert {run for run, _ in table.taken.values()} == {record.id for record in account.records}
    addresses = {next(iter(event["sources"].values())) for event in events}
    used = [
        address
        for record in account.records
        for address in [
            *(record.source_addresses[name] for name in record.options["uploaded"]),
            *record.options.get("replaced_uploads", ()),
        ]
    ]
    assert sorted(used) == sorted(addresses)
