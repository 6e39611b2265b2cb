"""Whole runs on emulated AWS, as a user starts them: with the command line and the API, from the
deployed stack to the release.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from pyarrow import csv

import hundredfold
from hundredfold.aws.backend import AwsBackend
from hundredfold.errors import HundredfoldError, PublishRefused, StateError, Stopped
from hundredfold.pipeline.releases import releases
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.ports.run_facts import CodeEntry
from support.demo_operator import quarter_operator
from support.emulator import HANG_S, wait_until
from support.html_page import parse_page
from support.stacks import AS_OF, TROUBLE, Account, Stack, Tasks, account, published, trouble
from tariffs import demo

__all__ = ["account", "quarter_operator", "trouble"]
# of a run of one model, whatever the number of its batches
MAX_STATEMENTS_IN_SEQUENCE, MAX_CALLS_IN_SEQUENCE = 6, 12


@pytest.fixture
def tariffs(account: Account) -> Iterator[Stack]:
    with account.emulator.reached():
        yield account.stack("hundredfold-tariffs")


def test_tariffs_have_the_same_bytes_as_a_local_run(
    tariffs: Stack, quarter_operator: dict[str, Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"  # one, and one on AWS: a release names its parent
    sources = [
        word for name, path in quarter_operator.items() for word in ("--source", f"{name}={path}")
    ]
    for warehouse in ("athena", "duckdb"):
        name = f"parity-{warehouse}"
        arguments = ("--run-id", name, "--as-of", demo.AS_OF, "--warehouse", warehouse)
        completed = tariffs.cli("run", demo.JOB, *arguments, *sources)
        assert "done in" in completed.out
        assert "990" in completed.out
        here = hundredfold.run(demo.JOB, quarter_operator, home=home, run_id=name, as_of=demo.AS_OF)
        there = hundredfold.open_run(name, home=tariffs.home)
        assert published(there) == published(here)

        facts, expected = (
            json.loads(tariffs.cli("status", "--json").out),
            json.loads(cli_here(home, "status", "--json")),
        )
        assert {name: facts[name] for name in SAME} == {name: expected[name] for name in SAME}
        assert counted(facts) == counted(expected)
        listed = [line.split()[:3] for line in tariffs.cli("list").out.splitlines()]
        assert [name, "tariffs", "done"] in listed
        assert tariffs.cli("failures", name).out == "no unit failed\n"
        key = "CELL_00000,0,WEEKDAY"
        assert tariffs.cli("replay", "voice", key).out == cli_here(home, "replay", "voice", key)
    assert reported(tariffs.cli, tmp_path / "there.html") == reported(
        lambda *words: cli_here(home, *words), tmp_path / "here.html"
    )


def reported(cli: Callable[..., object], path: Path) -> dict[str, list[list[str]]]:
    """Return the tables of a report that do not depend on time, by their titles."""
    cli("report", "--out", str(path))
    page = parse_page(path.read_text("utf-8"))
    assert "could not be made" not in page.text
    titles = ("Rows of each source", "Columns of the published table price_table")
    return {title: page.table(title) for title in titles}


SAME = ("run", "job", "state", "step", "reason", "as_of", "sources", "sample")


def counted(facts: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the counts of each model; its times differ between runs."""
    names = ("units", "rows", "ok", "failed", "crashed", "rows_in", "rows_out")
    return {
        model: tuple(counts[name] for name in names) for model, counts in facts["models"].items()
    }


def cli_here(home: Path, *arguments: str) -> str:
    """Return what the same command prints for the runs of this machine."""
    return subprocess.run(
        [*Stack.program, *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    ).stdout


# ---- a user starts and leaves


def test_a_run_continues_when_its_client_is_interrupted(trouble: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * 12)
    arguments = (
        "run",
        TROUBLE,
        "--run-id",
        "left",
        "--as-of",
        AS_OF,
        "--batches",
        "2",
        "--source",
        f"tasks={tasks.file}",
    )
    client = subprocess.Popen(
        trouble.command(*arguments),
        env=trouble.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(tasks.calls()), lambda: trouble.emulator.log())
    client.send_signal(signal.SIGINT)
    _, printed = client.communicate(timeout=HANG_S)
    assert client.returncode == 130
    assert "run left continues on AWS" in printed
    assert "status left --watch --backend aws" in printed
    tasks.release()
    watched = trouble.cli("status", "left", "--watch")
    assert "12 of 12 units done" in watched.err
    assert tasks.calls() == dict.fromkeys(range(12), 1)
    assert published(hundredfold.open_run("left", home=trouble.home)) == tasks.local_release("left")


def test_a_cancelled_run_stops_its_execution_and_publishes_nothing(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * 120)
    run = trouble.run(tasks, "regretted", batches=8, wait=False)  # for four workers
    wait_until(lambda: len(tasks.calls()) > 2, trouble.emulator.log)
    record = hundredfold.cancel("regretted", backend="aws", stack=trouble.name)
    assert trouble.home.status_of(record.options["execution"]) == "ABORTED"
    wait_until(lambda: not any(trouble.depth()), lambda: f"{trouble.depth()}")
    # the active worker has stopped, and queued messages are dropped
    assert 2 < len(tasks.calls()) < 60
    assert (run.state, run.release) == ("cancelled", None)
    with pytest.raises(Stopped, match="run regretted was cancelled"):
        AwsBackend(trouble.name).watch("regretted", NullCallbacks())
    with pytest.raises(HundredfoldError, match="it was cancelled: run the job again"):
        hundredfold.resume("regretted", backend="aws", stack=trouble.name)


# ---- failures are recorded with their reason


def test_a_broken_contract_fails_the_run(trouble: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "fine"])
    tasks.file.write_text(tasks.file.read_text().replace("1,fine", "-1,fine"))
    with pytest.raises(
        HundredfoldError,
        match=(
            r"tasks cannot be run: 1 of 2 rows break its contract, and the limit is 0\n +k +must "
            r"be >= 0"
        ),
    ):
        trouble.run(tasks, "broken")
    assert trouble.record("broken").state == "failed"
    printed = trouble.cli("publish", "broken", code=1).err
    assert "hint: hundredfold status broken --backend aws --stack hundredfold-trouble" in printed
    assert (
        "hint: hundredfold list --backend aws --stack hundredfold-trouble"
        in trouble.cli("status", "unheard-of", code=2).err
    )


def test_a_run_resumes_after_a_rejected_query_is_fixed(trouble: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "no number", "fine"])
    with pytest.raises(HundredfoldError, match="INVALID_CAST_ARGUMENT"):
        trouble.run(tasks, "refused")
    assert "INVALID_CAST_ARGUMENT" in trouble.record("refused").reason
    corrected = {"JOB_IS_MENDED": "yes"}
    with (
        trouble.changed_function("Step", Environment=corrected),
        trouble.changed_function("Work", Environment=corrected),
    ):
        assert (
            len(hundredfold.resume("refused", backend="aws", stack=trouble.name).published_rows())
            == 3
        )


def test_a_run_resumes_after_athena_denied_access(trouble: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "fine"])
    with (
        trouble.denied("Machine", "athena:StartQueryExecution"),
        pytest.raises(HundredfoldError, match="is not authorized to perform"),
    ):
        trouble.run(tasks, "denied")
    assert "athena:StartQueryExecution" in trouble.record("denied").reason
    assert published(
        hundredfold.resume("denied", backend="aws", stack=trouble.name)
    ) == tasks.local_release("denied")


def test_a_run_resumes_after_its_job_could_not_be_loaded(trouble: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "fine"])
    with (
        trouble.changed_function("Step", Handler="nothing.here"),
        pytest.raises(HundredfoldError, match="ImportModuleError"),
    ):
        trouble.run(tasks, "unloaded")
    assert trouble.record("unloaded").state == "failed"
    with (
        trouble.changed_function("Step", Environment={"HUNDREDFOLD_JOB": "jobs.nowhere:job"}),
        pytest.raises(HundredfoldError) as raised,
    ):
        hundredfold.resume("unloaded", backend="aws", stack=trouble.name)
    assert raised.value.message.startswith("there is no module 'jobs.nowhere'")
    assert published(
        hundredfold.resume("unloaded", backend="aws", stack=trouble.name)
    ) == tasks.local_release("unloaded")


def test_a_run_continues_with_other_code_only_if_that_is_accepted(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "raise", "fine"])
    with pytest.raises(PublishRefused):
        trouble.run(tasks, "older")
    deployed = trouble.outputs["Code"]
    assert trouble.record("older").options["code"] == [
        {"attempt": 1, "fingerprint": deployed, "commit": ""}
    ]
    earlier = CodeEntry(attempt=1, fingerprint="earlier", commit="")
    # as if another package had been deployed since
    trouble.home.ledger.note("older", options={"code": [earlier]})
    tasks.fix()
    for verb in (hundredfold.retry, hundredfold.publish):
        with pytest.raises(StateError, match=f"{deployed} in place of earlier") as caught:
            verb("older", backend="aws", stack=trouble.name)
        assert (
            f"{verb.__name__} older --accept-new-code --backend aws --stack {trouble.name}"
            in str(caught.value.hint)
        )
    assert tasks.calls() == {}
    retried = hundredfold.retry("older", backend="aws", stack=trouble.name, accept_new_code=True)
    assert trouble.record("older").options["code"] == [
        earlier,
        {"attempt": 2, "fingerprint": deployed, "commit": ""},
    ]
    assert published(retried) == tasks.local_release("older")
    (release,) = [r for r in releases("trouble", trouble.home.store) if r.run == "older"]
    assert set(release.code) == {"earlier", deployed}
    assert release.code["earlier"]["doubled"] == 2
    assert release.code[deployed]["doubled"] == 1


def test_code_that_is_deployed_during_a_run_ends_it(trouble: Stack, tmp_path: Path) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "fine"])
    with (
        trouble.changed_function("Step", Environment={"HUNDREDFOLD_CODE": "later"}),
        pytest.raises(
            HundredfoldError, match="other code was deployed while run replaced was active: later"
        ) as caught,
    ):
        trouble.run(tasks, "replaced")
    assert "resume replaced --accept-new-code --backend aws" in str(caught.value.hint)
    assert trouble.record("replaced").state == "failed"
    assert tasks.calls() == {}
    assert published(
        hundredfold.resume("replaced", backend="aws", stack=trouble.name)
    ) == tasks.local_release("replaced")


def test_a_run_completes_though_athena_first_fails_each_query(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "fine"])
    with trouble.emulator.settings(athena_failures=1):
        assert published(trouble.run(tasks, "exhausted")) == tasks.local_release("exhausted")
    athena = trouble.client("athena")
    found = athena.list_query_executions(WorkGroup=trouble.outputs["Workgroup"])
    queries = athena.batch_get_query_execution(QueryExecutionIds=found["QueryExecutionIds"])
    states = {
        query["Status"]["State"]
        for query in queries["QueryExecutions"]
        if "exhausted" in query["Query"]
    }
    assert states == {"FAILED", "SUCCEEDED"}


def test_many_batches_take_few_statements_and_calls_in_sequence(
    trouble: Stack, tmp_path: Path
) -> None:
    """The same as for 3,000 batches, since every part of 100 is split at the same time."""
    tasks = Tasks.write(tmp_path, ["fine"] * 210)
    file = tmp_path / "tasks.parquet"
    pq.write_table(csv.read_csv(tasks.file), file)
    with trouble.emulator.settings(open_writers=100):
        run = trouble.run(replace(tasks, file=file), "rounds", batches=210)
    counts = run.counts["models"]["doubled"]
    assert 100 < counts["batches"] <= 210
    assert published(run) == tasks.local_release("rounds")
    names = states_entered(trouble, trouble.record("rounds").execution)
    statements = [name for name in names if name.endswith((": query", ": queries"))]
    assert statements == [
        "validate: queries",  # rows and repeated keys
        "prepare doubled: query",  # the units
        "prepare doubled: query",  # parts of 100 batches
        "prepare doubled: queries",  # the batches of each
        "prepare doubled: query",  # their objects
        "prepare summed: query",
        "prepare summed: query",
        "prepare summed: query",
        "publish: queries",  # violations and rows
    ]
    of_one_model = [name for name in statements if "summed" not in name]
    assert len(of_one_model) <= MAX_STATEMENTS_IN_SEQUENCE
    calls = [name for name in names if not name.startswith("work") and ": " not in name]
    of_one_model = [name for name in calls if "summed" not in name]
    assert len(of_one_model) + 1 <= MAX_CALLS_IN_SEQUENCE  # and one that finds the workers done


def states_entered(stack: Stack, execution: str) -> list[str]:
    """Return the states of an execution in order, without those of the items of a Map."""
    pages = stack.client("stepfunctions").get_paginator("get_execution_history")
    return [
        event["stateEnteredEventDetails"]["name"]
        for page in pages.paginate(executionArn=execution)
        for event in page["events"]
        if event["type"] in ("TaskStateEntered", "MapStateEntered")
        and not event["stateEnteredEventDetails"]["name"].endswith(": run")
    ]


def test_the_step_may_look_up_a_failed_query(trouble: Stack) -> None:
    """It does so with the permissions of its role, where the error of the state is cut."""
    roles = trouble.client("iam").get_paginator("list_roles").paginate()
    role = next(
        role["Arn"]
        for page in roles
        for role in page["Roles"]
        if f"{trouble.name}-JobStepRole" in role["RoleName"]
    )
    credentials = trouble.client("sts").assume_role(RoleArn=role, RoleSessionName="step")[
        "Credentials"
    ]
    athena = trouble.emulator.client_of(
        "athena",
        credentials["AccessKeyId"],
        credentials["SecretAccessKey"],
        credentials["SessionToken"],
    )
    trouble.client("athena").start_query_execution(
        QueryString="SELECT 1",
        WorkGroup=trouble.outputs["Workgroup"],
        ResultConfiguration={"OutputLocation": trouble.home.where("athena/x") + "/"},
    )
    ids = athena.list_query_executions(WorkGroup=trouble.outputs["Workgroup"])["QueryExecutionIds"]
    athena.get_query_execution(QueryExecutionId=ids[0])
    with pytest.raises(ClientError, match="not authorized"):
        athena.list_query_executions(WorkGroup="primary")


def test_workers_of_other_code_return_their_messages(trouble: Stack, tmp_path: Path) -> None:
    """A deployment has changed the workers and not yet the step; then it is rolled back."""
    tasks = Tasks.write(tmp_path, ["fine"] * 6)
    with trouble.changed_function("Work", Environment={"HUNDREDFOLD_CODE": "later"}):
        trouble.run(tasks, "between", batches=1, wait=False)
        wait_until(
            lambda: (
                sum(
                    "returned to the queue: other code" in line
                    for line in trouble.log_events("Work")
                )
                >= 2
            ),
            trouble.emulator.log,
        )
        assert (trouble.record("between").state, tasks.calls()) == ("running", {})
    run = trouble.wait_for_end("between")
    assert trouble.record("between").state == "done"
    assert tasks.calls() == dict.fromkeys(range(6), 1)
    assert published(run) == tasks.local_release("between")
    assert not [body for body in trouble.dead_letters() if "between" in body]


def test_a_deployment_in_the_middle_of_a_run_leaves_no_mixed_result(
    trouble: Stack, tmp_path: Path
) -> None:
    """All functions change while a unit is done; the earlier code is deployed again later."""
    tasks = Tasks.write(tmp_path, ["fine", "held"])
    trouble.run(tasks, "middle", batches=2, wait=False)
    wait_until(lambda: set(tasks.calls()) == {0, 1}, trouble.emulator.log)
    later = {"HUNDREDFOLD_CODE": "later"}
    with (
        trouble.changed_function("Work", Environment=later),
        trouble.changed_function("Step", Environment=later),
    ):
        trouble.wait_for_end("middle")
        record = trouble.record("middle")
        assert record.state == "failed"
        assert "other code was deployed while run middle was active: later" in record.reason
        tasks.release()
    resumed = hundredfold.resume("middle", backend="aws", stack=trouble.name)
    assert published(resumed) == tasks.local_release("middle")
    (release,) = [r for r in releases("trouble", trouble.home.store) if r.run == "middle"]
    assert set(release.code) == {trouble.outputs["Code"]}
