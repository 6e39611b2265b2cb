"""Fleets: tasks that a run starts for itself, replaces, and stops at its end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import hundredfold
from hundredfold.aws.fleets.run_fleets import FLEETS_ENV
from hundredfold.errors import HundredfoldError, PublishRefused
from support.emulator import wait_until
from support.fleets import (
    fleet_run_name,
    processes_of,
    tasks_of,
    wait_for_calls,
    wait_for_no_tasks,
)
from support.stacks import ENDED, Stack, Tasks, account, fleet_stack, published

__all__ = ["account", "fleet_stack"]
pytestmark = pytest.mark.slow
UNITS = 12
NO_SUBNET = "The subnet ID 'subnet-0123456a' does not exist"
NO_JOB_QUEUE = "JobQueue worker not found"


@pytest.fixture
def name() -> str:
    return fleet_run_name()


def test_a_run_starts_its_fleet_and_ends_it(fleet_stack: Stack, tmp_path: Path, name: str) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    idle = set(fleet_stack.workers_alive())  # of the functions of an earlier run
    fleet_stack.run(tasks, name, "duckdb", batches=6, fleets=["fargate:2"], wait=False)
    wait_for_calls(fleet_stack, tasks, 2)
    assert len(processes_of(fleet_stack)) == 2
    assert set(fleet_stack.workers_alive()) <= idle  # no function has a message
    tasks.release()
    done = fleet_stack.wait_for_end(name)
    ended = wait_for_no_tasks(fleet_stack, name)
    assert [task["stoppedReason"] for task in ended] == ["the run has ended"] * 2
    # they were told to end, and ended by themselves
    assert [task["containers"][0]["exitCode"] for task in ended] == [143, 143]
    assert {task["capacityProviderName"] for task in ended} == {"FARGATE"}
    assert processes_of(fleet_stack) == []
    assert tasks.calls() == Counter(range(UNITS))
    assert published(done) == tasks.local_release(name)
    assert fleet_stack.depth() == (0, 0)


def test_spot_tasks_that_are_missing_are_started_on_demand(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    started = len(spot_tasks(fleet_stack))
    with fleet_stack.emulator.settings(spot_tasks=started + 1):
        fleet_stack.run(tasks, name, "duckdb", batches=6, fleets=["fargate-spot:2"], wait=False)
        wait_for_calls(fleet_stack, tasks, 2)
        providers = [task["capacityProviderName"] for task in tasks_of(fleet_stack, name)]
        assert sorted(providers) == ["FARGATE", "FARGATE_SPOT"]
        tasks.release()
        done = fleet_stack.wait_for_end(name)
    wait_for_no_tasks(fleet_stack, name)
    assert published(done) == tasks.local_release(name)


def spot_tasks(stack: Stack) -> list[dict[str, Any]]:
    """Return all tasks of Spot that the account has started."""
    ecs = stack.client("ecs")
    found = []
    for cluster in ecs.list_clusters()["clusterArns"]:
        for status in ("RUNNING", "STOPPED"):
            arns = ecs.list_tasks(cluster=cluster, desiredStatus=status)["taskArns"]
            if arns:
                found += ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"]
    return [task for task in found if task["capacityProviderName"] == "FARGATE_SPOT"]


def test_tasks_that_are_interrupted_or_killed_are_replaced(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    fleet_stack.run(tasks, name, "duckdb", batches=6, fleets=["fargate-spot:2"], wait=False)
    wait_for_calls(fleet_stack, tasks, 2)
    killed, interrupted = processes_of(fleet_stack)
    killed.kill()
    interrupted.terminate()  # as Spot does, two minutes before
    interrupted.terminate()  # ends the grace
    wait_until(lambda: len(tasks_of(fleet_stack, name)) == 2, fleet_stack.emulator.log)
    tasks.release()
    done = fleet_stack.wait_for_end(name)
    ended = wait_for_no_tasks(fleet_stack, name)
    codes = sorted(task["containers"][0]["exitCode"] for task in ended)
    assert codes == [137, 143, 143, 143]
    counts = done.counts["models"]["doubled"]
    assert (counts["units"], counts["ok"], counts["rows_out"]) == (UNITS, UNITS, UNITS)
    assert published(done) == tasks.local_release(name)


@pytest.mark.parametrize("end", ["cancel", "stop"])
def test_the_tasks_of_a_run_that_is_ended_by_hand_are_stopped(
    fleet_stack: Stack, tmp_path: Path, name: str, end: str
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    fleet_stack.run(tasks, name, "duckdb", batches=6, fleets=["fargate:2"], wait=False)
    wait_for_calls(fleet_stack, tasks, 2)
    if end == "cancel":
        fleet_stack.cli("cancel", name)
    else:  # in the console
        execution = fleet_stack.record(name).execution
        fleet_stack.client("stepfunctions").stop_execution(executionArn=execution)
    tasks.release()
    ended = wait_for_no_tasks(fleet_stack, name)
    assert [task["stoppedReason"] for task in ended] == ["the run has ended"] * 2
    assert fleet_stack.record(name).state in ENDED


def test_functions_and_a_fleet_work_on_one_queue(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["held in a task"] * UNITS)
    with fleet_stack.changed_mapping(Enabled=False):  # the task is the first to get a message
        fleets = ["fargate:1", "lambda"]
        fleet_stack.run(tasks, name, "duckdb", batches=UNITS, fleets=fleets, wait=False)
        wait_for_calls(fleet_stack, tasks, 1)
    wait_for_calls(fleet_stack, tasks, UNITS)  # it has one core: the functions did the others
    [task] = processes_of(fleet_stack)
    assert task.is_running()
    tasks.release()
    done = fleet_stack.wait_for_end(name)
    wait_for_no_tasks(fleet_stack, name)
    assert done.state == "done", done.failures().to_arrow().to_pylist()
    assert published(done) == tasks.local_release(name)


def test_managed_instances_run_the_tasks_of_a_run(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * UNITS)
    done = fleet_stack.run(tasks, name, "duckdb", batches=4, fleets=["managed:2"])
    [task, *_] = wait_for_no_tasks(fleet_stack, name)
    assert "ManagedProvider" in task["capacityProviderName"]
    assert "ManagedTask" in task["taskDefinitionArn"]
    assert tasks.calls() == Counter(range(UNITS))
    assert published(done) == tasks.local_release(name)


def jobs_of(stack: Stack, run: str) -> list[dict[str, Any]]:
    """Return the jobs of a run."""
    step = stack.outputs["StepFunction"]
    found = stack.client("lambda").get_function_configuration(FunctionName=step)
    fleets = json.loads(found["Environment"]["Variables"][FLEETS_ENV])["fleets"]
    named = [{"name": "JOB_NAME", "values": [f"run-{run}"]}]
    jobs = stack.client("batch").list_jobs(jobQueue=fleets["batch"]["queue"], filters=named)
    return list(jobs["jobSummaryList"])


def test_the_jobs_of_a_run_are_replaced_and_terminated(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    fleet_stack.run(tasks, name, "duckdb", batches=6, fleets=["batch:2"], wait=False)
    wait_for_calls(fleet_stack, tasks, 2)
    assert [job["status"] for job in jobs_of(fleet_stack, name)] == ["RUNNING"] * 2
    processes_of(fleet_stack)[0].kill()
    wait_until(lambda: len(jobs_of(fleet_stack, name)) == 3, fleet_stack.emulator.log)
    tasks.release()
    done = fleet_stack.wait_for_end(name)
    wait_until(lambda: processes_of(fleet_stack) == [], fleet_stack.emulator.log)
    reasons = sorted(job["statusReason"] for job in jobs_of(fleet_stack, name))
    assert reasons == ["Essential container in task exited", *["the run has ended"] * 2]
    assert published(done) == tasks.local_release(name)


def test_a_budget_that_is_spent_stops_the_tasks(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["500 ms"] * 40)
    with pytest.raises(HundredfoldError, match=r"the budget of .* is spent"):
        fleet_stack.run(tasks, name, "duckdb", batches=2, budget=0.00002, fleets=["fargate:1"])
    wait_for_no_tasks(fleet_stack, name)
    assert 0 < len(tasks.calls()) < 40


def test_tasks_that_cannot_start_end_the_run_with_the_reason(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 2)
    with (
        fleet_stack.emulator.settings(worker_program=None),
        pytest.raises(HundredfoldError, match="no task of the fleet fargate can start") as refused,
    ):
        fleet_stack.run(tasks, name, "duckdb", batches=2, fleets=["fargate:1"])
    assert "CannotPullContainerError" in str(refused.value)
    assert "--worker-image; its processor" in (refused.value.hint or "")
    assert len(tasks_of(fleet_stack, name, "STOPPED")) == 1
    done = hundredfold.resume(name, backend="aws", stack=fleet_stack.name)
    wait_for_no_tasks(fleet_stack, name)
    assert published(done) == tasks.local_release(name)


@pytest.mark.parametrize(
    ("fleet", "role", "action"),
    [
        ("fargate", "Step", "ecs:RunTask"),
        ("fargate-spot", "Step", "iam:PassRole"),
        ("managed", "Step", "ecs:ListTasks"),
        ("fargate", "TaskStart", "ecr:BatchGetImage"),
        ("batch", "Step", "batch:SubmitJob"),
        ("batch", "Step", "batch:ListJobs"),
        ("batch", "TaskStart", "ecr:GetDownloadUrlForLayer"),
    ],
)
def test_a_missing_right_ends_the_run_at_once_with_its_name(
    fleet_stack: Stack, tmp_path: Path, name: str, fleet: str, role: str, action: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 2)
    with (
        fleet_stack.denied(role, action),
        pytest.raises(HundredfoldError, match=f"no task of the fleet {fleet} can start") as refused,
    ):
        fleet_stack.run(tasks, name, "duckdb", batches=2, fleets=[f"{fleet}:1"])
    assert f"not authorized to perform: {action}" in str(refused.value)
    hint = str(refused.value.hint)
    assert "remove the policy that denies it" in hint
    assert f"; then hundredfold resume {name} --backend aws" in hint


@pytest.mark.parametrize(
    ("fleet", "code", "message", "remedy"),
    [
        ("fargate-spot", "InvalidParameterException", NO_SUBNET, "a --subnet and a --security-gr"),
        (
            "managed",
            "ClusterNotFoundException",
            "Cluster not found.",
            "creates its resources again",
        ),
        ("batch", "ClientException", NO_JOB_QUEUE, "creates its resources again"),
    ],
)
def test_a_wrong_setting_ends_the_run_at_once_with_its_remedy(
    fleet_stack: Stack, tmp_path: Path, name: str, fleet: str, code: str, message: str, remedy: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 2)
    with (
        fleet_stack.emulator.settings(refused_tasks=[code, message]),
        pytest.raises(HundredfoldError, match=f"no task of the fleet {fleet} can start") as refused,
    ):
        fleet_stack.run(tasks, name, "duckdb", batches=2, fleets=[f"{fleet}:1"])
    assert message in str(refused.value)
    assert remedy in str(refused.value.hint)


def test_functions_go_on_without_a_fleet_that_is_refused(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 2)
    with fleet_stack.emulator.settings(refused_tasks=["InvalidParameterException", NO_SUBNET]):
        done = fleet_stack.run(tasks, name, "duckdb", batches=2, fleets=["lambda", "fargate:1"])
    assert published(done) == tasks.local_release(name)


def test_a_run_is_resumed_on_another_fleet(fleet_stack: Stack, tmp_path: Path, name: str) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 4)
    with (
        fleet_stack.emulator.settings(refused_tasks=["InvalidParameterException", NO_SUBNET]),
        pytest.raises(HundredfoldError, match="no task of the fleet fargate can start"),
    ):
        fleet_stack.run(tasks, name, "duckdb", batches=2, budget=5, fleets=["fargate:1"])
    before = fleet_stack.record(name).options
    refused = fleet_stack.cli("resume", name, "--fleet", "slurm", code=2)
    assert "has no fleet 'slurm'; its fleets are lambda, fargate" in refused.err
    without_price = fleet_stack.cli("resume", name, "--fleet", "batch:2", code=2)
    assert "ec2_spot_x86_64_vcpu_h" in without_price.err  # the run has a budget
    assert fleet_stack.record(name).options["fleets"] == before["fleets"]
    fleet_stack.cli("resume", name, "--fleet", "managed:2")
    assert {task["startedBy"] for task in wait_for_no_tasks(fleet_stack, name)} == {name}
    [fleet] = fleet_stack.record(name).options["fleets"]
    assert (fleet["name"], fleet["tasks"], len(fleet["hourly"])) == ("managed", 2, 1)
    assert tasks.calls() == Counter(range(4))
    assert published(hundredfold.open_run(name, home=fleet_stack.home)) == tasks.local_release(name)


def test_failed_units_are_retried_on_a_fleet_and_by_functions(
    fleet_stack: Stack, tmp_path: Path, name: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "raise", "raise"])
    with pytest.raises(PublishRefused):
        fleet_stack.run(tasks, name, "duckdb", batches=1)
    how: dict[str, Any] = {"backend": "aws", "stack": fleet_stack.name}
    with pytest.raises(PublishRefused):
        hundredfold.retry(name, fleets=["fargate:1"], **how)
    assert len(wait_for_no_tasks(fleet_stack, name)) == 1
    assert tasks.calls() == Counter({0: 1, 1: 2, 2: 2})
    assert [each["name"] for each in fleet_stack.record(name).options["fleets"]] == ["fargate"]
    tasks.fix()
    done = hundredfold.retry(name, fleets=["lambda"], **how)
    assert fleet_stack.record(name).options["fleets"] == []
    assert len(wait_for_no_tasks(fleet_stack, name)) == 1  # no other was started
    assert tasks.calls() == Counter({1: 1, 2: 1})
    assert published(done) == tasks.local_release(name)


@pytest.mark.parametrize(
    ("fleets", "message"),
    [
        (["fargate:0"], "--fleet is 'fargate:0', wanted NAME or NAME:TASKS"),
        (["fargate:99999"], "wanted at most 5,000 tasks"),
        (["lambda:5"], "functions are not tasks"),
        (["fargate", "fargate:2"], "the fleet fargate is given twice"),
        (
            ["slurm"],
            "has no fleet 'slurm'; its fleets are lambda, fargate, fargate-spot, managed, batch",
        ),
    ],
)
def test_a_fleet_that_cannot_be_had_is_refused_before_the_run(
    fleet_stack: Stack, tmp_path: Path, name: str, fleets: list[str], message: str
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"])
    with pytest.raises(hundredfold.errors.UsageError, match=message):
        fleet_stack.run(tasks, name, fleets=fleets)
