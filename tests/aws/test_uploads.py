"""Runs that an upload starts: S3 notifies EventBridge, and its rule starts the state machine,
without a user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hundredfold
from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.aws.adapters.session import client
from hundredfold.aws.functions import step_handler
from hundredfold.aws.runs import new_record
from hundredfold.aws.translation_checks import check_translates
from hundredfold.errors import QueryError
from hundredfold.pipeline.releases import releases
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import Event, State
from hundredfold.runs.job_loader import load_job
from support.emulator import wait_until
from support.stacks import ENDED, TROUBLE, Account, Stack, Tasks, account, published, uploads_stack
from tariffs import demo

NAMES = [source.name for source in load_job("jobs.refreshed:job").sources]
__all__ = ["account", "uploads_stack"]


def uploaded(stack: Stack, key: str, data: bytes) -> str:
    """Upload a file to the stack's bucket; return the run that it started, when it has ended."""
    before = {record.id for record in stack.home.ledger.runs("trouble")}
    stack.client("s3").put_object(Bucket=stack.outputs["Bucket"], Key=key, Body=data)

    def new() -> set[str]:
        return {
            record.id for record in stack.home.ledger.runs("trouble") if record.state in ENDED
        } - before

    wait_until(
        lambda: bool(new()),
        lambda: f"{stack.home.ledger.runs('trouble')[:1]}\n{stack.emulator.log()}",
    )
    (run,) = new()
    return run


def executions(stack: Stack, run: str) -> list[str]:
    """Return the final status of the executions of that run."""
    machine, client = stack.outputs["MachineArn"], stack.client("stepfunctions")
    found = client.list_executions(stateMachineArn=machine)["executions"]
    executions = [client.describe_execution(executionArn=e["executionArn"]) for e in found]
    return [
        execution["status"]
        for execution in executions
        if json.loads(execution["input"])["run"] == run
    ]


def test_an_uploaded_file_is_the_source_of_a_run_that_publishes(
    uploads_stack: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 5)
    name = uploaded(
        uploads_stack, "sources/tasks/erster März/tasks +1.csv", tasks.file.read_bytes()
    )
    record, run = uploads_stack.record(name), hundredfold.open_run(name, home=uploads_stack.home)
    assert name.startswith("upload-")
    assert (record.state, record.reason, record.options["uploaded"]) == (State.DONE, "", ["tasks"])
    assert record.options["sources"] == {
        "tasks": uploads_stack.home.where("sources/tasks/erster März/tasks +1.csv")
    }
    as_of = record.options["as_of"]
    assert published(run) == published(
        hundredfold.run(
            TROUBLE, {"tasks": tasks.file}, home=tmp_path / "home", run_id=name, as_of=as_of
        )
    )
    listed = [line.split()[:3] for line in uploads_stack.cli("list").out.splitlines()]
    assert [name, "trouble", "done"] in listed


def test_a_duplicate_event_starts_its_run_once(uploads_stack: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 3)
    name = uploaded(uploads_stack, "sources/tasks/twice.csv", tasks.file.read_bytes())
    before = uploads_stack.record(name)
    event = {"run": name, "sources": before.options["sources"]}
    uploads_stack.client("stepfunctions").start_execution(
        stateMachineArn=uploads_stack.outputs["MachineArn"], input=json.dumps(event)
    )
    wait_until(
        lambda: executions(uploads_stack, name) == ["SUCCEEDED"] * 2,
        lambda: f"{executions(uploads_stack, name)}",
    )
    assert uploads_stack.record(name) == before
    assert tasks.calls() == dict.fromkeys(range(3), 1)


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        (
            "negative.csv",
            b"k,how,log\n-1,fine,x\n",
            r"tasks cannot be run: 1 of 1 rows break its contract",
        ),
        ("notes.md", b"# Notes\n", "found no Parquet, CSV or JSON-lines object at s3://"),
        ("it's.csv", b"k,how,log\n", "the location is "),
        ("empty.csv", b"", "have 0 bytes"),
    ],
)
def test_an_invalid_upload_is_recorded_in_its_run(
    uploads_stack: Stack, key: str, data: bytes, reason: str
) -> None:
    name = uploaded(uploads_stack, f"sources/tasks/{key}", data)
    record = uploads_stack.record(name)
    assert record.state is State.FAILED
    assert reason in record.reason
    assert executions(uploads_stack, name) == ["FAILED"]
    assert reason in uploads_stack.cli("status", name).out


def test_an_upload_without_locations_for_other_sources_fails_its_run(
    uploads_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = [source.name for source in load_job(demo.JOB).sources]
    event = {
        "run": "upload-alone",
        "sources": {first: f"s3://{uploads_stack.outputs['Bucket']}/sources/{first}/a.csv"},
    }
    replies: list[dict[str, Any]] = []
    with uploads_stack.as_function("Step", tmp_path):
        monkeypatch.setenv("HUNDREDFOLD_JOB", demo.JOB)
        while not replies or replies[-1]["action"] == "wait":
            replies.append(
                step_handler.step(
                    {
                        **event,
                        "input": event,
                        "execution": "e",
                        "step": "validate",
                        "model": "",
                        "token": "",
                        "query_result": {},
                    }
                )
            )
    assert replies[0]["action"] == "wait"
    reply = replies[-1]
    message = f"the sources {', '.join(others)} have no location"
    assert (reply["action"], reply["reason"].splitlines()[0]) == ("failed", message)
    assert uploads_stack.record("upload-alone").reason.startswith(message)


def test_a_query_that_athena_refuses_fails_an_uploads_run_at_once(
    uploads_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = uploads_stack.outputs["Bucket"]
    uploads_stack.client("s3").put_object(Bucket=bucket, Key="kept/a.csv", Body=b"k\n1\n")
    given = {"run": "upload-refused", "sources": {"tasks": f"s3://{bucket}/kept/a.csv"}}
    called = {"execution": "e", "step": "validate", "model": "", "token": "", "query_result": {}}
    event = {"run": "upload-refused", "input": given, **called}
    with uploads_stack.as_function("Step", tmp_path):
        monkeypatch.setenv("HUNDREDFOLD_JOB", "jobs.unplannable:job")
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0")  # too small for any source
        while (reply := step_handler.step(event))["action"] == "wait":
            pass
    with pytest.raises(QueryError) as refused:
        check_translates(load_job("jobs.unplannable:job"))
    assert (reply["action"], reply["reason"]) == ("failed", str(refused.value))
    assert "FULL JOIN" in reply["reason"]


def test_two_executions_of_one_upload_run_it_once(uploads_stack: Stack, tmp_path: Path) -> None:
    """S3 can deliver an event twice: both executions begin before there is a record."""
    tasks = Tasks.write(tmp_path, ["fine"] * 6)
    first = uploaded(uploads_stack, "sources/tasks/double.csv", tasks.file.read_bytes())
    machine = uploads_stack.outputs["MachineArn"]
    sources = uploads_stack.record(first).options["sources"]
    event = json.dumps({"run": "upload-double", "sources": sources})
    client = uploads_stack.client("stepfunctions")
    with ThreadPoolExecutor(2) as pool:
        started = pool.map(
            lambda _: client.start_execution(stateMachineArn=machine, input=event), range(2)
        )
        arns = [each["executionArn"] for each in started]
    wait_until(
        lambda: "RUNNING" not in executions(uploads_stack, "upload-double"),
        lambda: f"{executions(uploads_stack, 'upload-double')}",
    )
    assert executions(uploads_stack, "upload-double") == ["SUCCEEDED"] * 2
    run = uploads_stack.wait_for_end("upload-double")
    record = uploads_stack.record("upload-double")
    assert (record.state, record.reason) == (State.DONE, "")
    assert record.execution in arns
    assert tasks.calls() == dict.fromkeys(range(6), 2)  # of the first run, and of this one
    assert run.release is not None
    assert [r.run for r in releases("trouble", uploads_stack.home.store)].count(run.id) == 1


def test_an_execution_of_a_run_that_another_owns_ends_at_once(
    uploads_stack: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 3)
    name = uploaded(uploads_stack, "sources/tasks/owned.csv", tasks.file.read_bytes())
    before = uploads_stack.record(name)
    objects = set(uploads_stack.home.store.list(f"runs/{name}/"))
    client = uploads_stack.client("stepfunctions")
    arn = client.start_execution(
        stateMachineArn=uploads_stack.outputs["MachineArn"], input=json.dumps({"run": name})
    )["executionArn"]
    wait_until(lambda: client.describe_execution(executionArn=arn)["status"] != "RUNNING", str)
    ended = client.describe_execution(executionArn=arn)
    assert ended["status"] == "SUCCEEDED"
    assert json.loads(ended["output"])["stage"]["reply"]["action"] == "superseded"
    assert uploads_stack.record(name) == before
    assert set(uploads_stack.home.store.list(f"runs/{name}/")) == objects


def test_a_failing_call_of_an_execution_that_lost_its_run_changes_nothing(
    uploads_stack: Stack, tmp_path: Path
) -> None:
    """The run is resumed while a call of its first execution is active; then that call fails."""
    resources = uploads_stack.home.resources
    ledger = DynamoLedger(resources.table)
    missing = {"tasks": uploads_stack.home.where("sources/tasks/no-such-file.csv")}
    ledger.create(new_record("lost", load_job(TROUBLE), TROUBLE, missing, {}, resources.code))
    event = {
        "run": "lost",
        "input": {"run": "lost"},
        "execution": "arn:first",
        "step": "validate",
        "model": "",
        "token": "",
        "query_result": {},
    }
    resumed: list[Record] = []

    def resume(**_: object) -> None:
        if not resumed:
            ledger.note("lost", options={"execution": "arn:second"})
            resumed.append(ledger.move("lost", Event.FAIL, reason="of the second execution"))
            resumed.append(ledger.move("lost", Event.START))

    events = client("s3").meta.events
    events.register("before-call.s3", resume)
    try:
        with uploads_stack.as_function("Step", tmp_path):
            reply = step_handler.step(event)
    finally:
        events.unregister("before-call.s3", resume)
    assert reply["action"] == "superseded"
    assert "arn:second owns run lost" in reply["reason"]
    assert uploads_stack.record("lost") == resumed[-1]
    assert resumed[-1].state is State.RUNNING


@pytest.fixture
def refreshed(account: Account) -> Iterator[Stack]:
    with account.emulator.reached():
        yield account.stack("refreshed")


def test_six_files_that_are_uploaded_together_start_one_run(refreshed: Stack) -> None:
    s3, bucket = refreshed.client("s3"), refreshed.outputs["Bucket"]
    ledger = refreshed.home.ledger
    for number, name in enumerate(NAMES):
        rows = "".join(f"{k},{10**number}\n" for k in range(3))
        s3.put_object(Bucket=bucket, Key=f"sources/{name}/new.csv", Body=f"k,x\n{rows}".encode())
    wait_until(
        lambda: any(record.state in ENDED for record in ledger.runs("refreshed")),
        lambda: f"{ledger.runs('refreshed')}\n{refreshed.emulator.log()}",
    )
    client, machine = refreshed.client("stepfunctions"), refreshed.outputs["MachineArn"]
    wait_until(
        lambda: (
            not client.list_executions(stateMachineArn=machine, statusFilter="RUNNING")[
                "executions"
            ]
        ),
        refreshed.emulator.log,
    )
    (record,) = ledger.runs("refreshed")
    assert (record.state, record.reason) == (State.DONE, "")
    assert record.options["uploaded"] == list(NAMES)
    found = client.list_executions(stateMachineArn=machine)["executions"]
    assert [execution["status"] for execution in found] == ["SUCCEEDED"] * len(NAMES)
    run = hundredfold.open_run(record.id, home=refreshed.home)
    lines = run.published(format="csv").read_text().split()
    assert [float(line.partition(",")[2]) for line in lines[1:]] == [111_111.0] * 3


def test_a_file_that_is_uploaded_during_a_run_starts_the_next_run(
    uploads_stack: Stack, tmp_path: Path
) -> None:
    held = Tasks.write(tmp_path, ["held"])
    ledger = uploads_stack.home.ledger
    before = {record.id for record in ledger.runs("trouble")}
    uploads_stack.client("s3").put_object(
        Bucket=uploads_stack.outputs["Bucket"],
        Key="sources/tasks/held.csv",
        Body=held.file.read_bytes(),
    )
    wait_until(lambda: sum(held.calls().values()) > 0, uploads_stack.emulator.log)
    (first,) = {record.id for record in ledger.runs("trouble")} - before
    (tmp_path / "next").mkdir()
    fine = Tasks.write(tmp_path / "next", ["fine"] * 2)
    following = uploaded(uploads_stack, "sources/tasks/next.csv", fine.file.read_bytes())
    assert uploads_stack.record(first).state is State.RUNNING
    assert uploads_stack.record(following).state is State.DONE
    held.release()
    uploads_stack.wait_for_end(first)
    record = uploads_stack.record(first)  # the older run does not replace the newer release
    assert (record.state, "made by a newer run" in record.reason) == (State.HELD, True)
    assert [r.run for r in releases("trouble", uploads_stack.home.store)][-1] == following
