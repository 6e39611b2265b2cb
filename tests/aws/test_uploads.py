"""Runs that an upload starts: S3 tells EventBridge, and its rule starts the state machine. Nobody
is there to watch.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hundredfold
from hundredfold.aws.functions import handlers
from hundredfold.aws.runs import begin_upload, new_record
from hundredfold.ports.run_states import Event, State
from hundredfold.runs.job_loader import load_job
from support.emulator import wait_until
from support.stacks import ENDED, TROUBLE, Stack, Tasks, account, by_uploads, published
from tariffs import demo

__all__ = ["account", "by_uploads"]


def uploaded(stack: Stack, key: str, data: bytes) -> str:
    """A file comes to the stack's bucket; the run that this has started, at its end."""
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
    """How the executions ended that were given that run."""
    machine, client = stack.outputs["MachineArn"], stack.client("stepfunctions")
    found = client.list_executions(stateMachineArn=machine)["executions"]
    told = [client.describe_execution(executionArn=e["executionArn"]) for e in found]
    return [
        execution["status"] for execution in told if json.loads(execution["input"])["run"] == run
    ]


def test_an_uploaded_file_is_the_source_of_a_run_that_publishes(
    by_uploads: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 5)
    name = uploaded(by_uploads, "sources/tasks/erster März/tasks +1.csv", tasks.file.read_bytes())
    record, run = by_uploads.record(name), hundredfold.open_run(name, home=by_uploads.home)
    assert name.startswith("upload-")
    assert (record.state, record.reason, record.options["uploaded"]) == (State.DONE, "", ["tasks"])
    assert record.options["sources"] == {
        "tasks": by_uploads.home.where("sources/tasks/erster März/tasks +1.csv")
    }
    as_of = record.options["as_of"]
    assert published(run) == published(
        hundredfold.run(
            TROUBLE, {"tasks": tasks.file}, home=tmp_path / "home", run_id=name, as_of=as_of
        )
    )
    assert f"{name}  trouble  done" in by_uploads.cli("status", "--all").stdout


def test_an_event_that_comes_twice_starts_its_run_once(by_uploads: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 3)
    name = uploaded(by_uploads, "sources/tasks/twice.csv", tasks.file.read_bytes())
    before = by_uploads.record(name)
    event = {"run": name, "sources": before.options["sources"]}
    by_uploads.client("stepfunctions").start_execution(
        stateMachineArn=by_uploads.outputs["MachineArn"], input=json.dumps(event)
    )
    wait_until(
        lambda: executions(by_uploads, name) == ["SUCCEEDED"] * 2,
        lambda: f"{executions(by_uploads, name)}",
    )
    assert by_uploads.record(name) == before
    assert tasks.calls() == dict.fromkeys(range(3), 1)


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        (
            "negative.csv",
            b"k,how,log\n-1,fine,x\n",
            r"tasks cannot be run: 1 of 1 rows break its contract",
        ),
        ("notes.md", b"# Notes\n", "there is no Parquet, CSV or JSON-lines object at s3://"),
        ("it's.csv", b"k,how,log\n", "the place is "),
        ("empty.csv", b"", "has no byte"),
    ],
)
def test_a_bad_upload_ends_in_the_record_of_its_run(
    by_uploads: Stack, key: str, data: bytes, reason: str
) -> None:
    name = uploaded(by_uploads, f"sources/tasks/{key}", data)
    record = by_uploads.record(name)
    assert record.state is State.FAILED
    assert reason in record.reason
    assert executions(by_uploads, name) == ["FAILED"]
    assert reason in by_uploads.cli("status", name).stdout


def test_where_nobody_knows_where_the_other_sources_are_the_record_says_so(
    by_uploads: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = [source.name for source in load_job(demo.JOB).sources]
    event = {
        "run": "upload-alone",
        "sources": {first: f"s3://{by_uploads.outputs['Bucket']}/sources/{first}/a.csv"},
    }
    with by_uploads.as_function("Step", tmp_path):
        monkeypatch.setenv("HUNDREDFOLD_JOB", demo.JOB)
        said = handlers.step(
            {
                **event,
                "input": event,
                "execution": "e",
                "step": "validate",
                "model": "",
                "asked": "",
                "heard": {},
            }
        )
    words = f"the sources {', '.join(others)} have no place"
    assert (said["do"], said["reason"].splitlines()[0]) == ("failed", words)
    assert by_uploads.record("upload-alone").reason.startswith(words)


def test_the_other_sources_are_where_the_newest_run_had_them_that_did_not_fail(
    by_uploads: Stack,
) -> None:
    job, ledger, place = load_job(demo.JOB), by_uploads.home.ledger, by_uploads.home.place
    first, second, *_ = [source.name for source in job.sources]
    good = {source.name: f"s3://good/{source.name}/" for source in job.sources}
    ledger.create(new_record("known", job, demo.JOB, good, {}))
    spoilt = begin_upload("upload-spoilt", {first: "s3://bad/x.csv"}, job, place, ledger)
    assert spoilt.options["sources"] == good | {first: "s3://bad/x.csv"}
    ledger.move("upload-spoilt", Event.FAIL, reason="it is no table")
    following = begin_upload("upload-following", {second: "s3://next/x.csv"}, job, place, ledger)
    assert following.options["sources"] == good | {second: "s3://next/x.csv"}
