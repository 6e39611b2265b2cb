"""The state machine of any job as a definition: every name in it refers to a state, and its stages
are in the pipeline's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hundredfold import Job, Model, Publish, Source
from hundredfold.aws.functions.poll_state import MAX_POLL_S, MIN_POLL_S, PollState
from hundredfold.aws.stack.state_machine_definition import definition
from hundredfold.aws.stage_order import later_stages, query_action
from hundredfold.pipeline.stages import stages
from support.javascript import problems_of
from tariffs.job import job as tariffs


def mean(rows):  # type: ignore[no-untyped-def]
    return {"mean": float(rows["x"].mean())}


ONE = Job(
    "one",
    [Source("sales")],
    [Model("fit", unit=("shop",), work=mean)],
    Publish("means", "SELECT * FROM fit"),
)
JOBS = {"one": ONE, "tariffs": tariffs}


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest) -> Job:
    return JOBS[request.param]


def made(job: Job) -> dict[str, Any]:
    return definition(
        job, step_function_arn="arn:step", workgroup="group", database="base", table="runs"
    )


def test_the_definition_has_the_schema_of_amazon_states_language() -> None:
    assert problems_of(machines=[made(job) for job in JOBS.values()]) == {}


def test_no_value_is_null_since_the_cdk_would_leave_it_out(job: Job) -> None:
    assert "null" not in json.dumps(made(job))


def leads_to(state: Mapping[str, Any]) -> Iterator[str]:
    yield from (state[key] for key in ("Next", "Default") if key in state)
    yield from (way["Next"] for key in ("Catch", "Choices") for way in state.get(key, ()))


def test_every_name_refers_to_a_state(job: Job) -> None:
    machine = made(job)
    named = {
        machine["StartAt"],
        *(name for state in machine["States"].values() for name in leads_to(state)),
    }
    assert named - set(machine["States"]) == set()


def test_every_state_is_reachable_and_has_a_successor_or_ends(job: Job) -> None:
    machine = made(job)
    reached, ahead = set(), [machine["StartAt"]]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += leads_to(machine["States"][name])
    assert reached == set(machine["States"])
    assert {state["Type"] for state in machine["States"].values() if not list(leads_to(state))} == {
        "Succeed",
        "Fail",
    }


def test_the_stages_follow_one_another_as_in_the_pipeline(job: Job) -> None:
    states = made(job)["States"]
    walked, name = [], states["Begin"]["Next"]
    while name != "Done":
        walked.append(name)
        choices = states[states[name]["Next"]]["Choices"]
        name = next(choice["Next"] for choice in choices if choice["StringEquals"] == "next")
    assert walked == [str(stage) for stage in stages(job)]


def test_every_action_has_a_target_and_an_unknown_one_fails(job: Job) -> None:
    states = made(job)["States"]
    for stage in stages(job):
        choice = states[f"{stage}: next action"]
        ways = {way["StringEquals"] for way in choice["Choices"]}
        assert ways >= {"next", "held", "failed", "cancelled", "superseded"}
        assert ("wait" in ways) == (stage.step in ("validate", "prepare", "publish", "work"))
        assert ("query" in ways) == (stage.step in ("validate", "prepare", "publish"))
        assert choice["Default"] == "Failed"


def test_every_task_catches_its_errors(job: Job) -> None:
    states = made(job)["States"]
    inner = [each["ItemProcessor"]["States"] for each in states.values() if each["Type"] == "Map"]
    for name, state in (*states.items(), *(item for each in inner for item in each.items())):
        if state["Type"] in ("Task", "Map"):
            assert [catch["ErrorEquals"] for catch in state["Catch"]] == [["States.ALL"]], name


def test_a_call_may_stop_at_a_query_of_a_later_stage(job: Job) -> None:
    every, states = list(stages(job)), made(job)["States"]
    for stage in every:
        ways = {
            way["StringEquals"]: way["Next"] for way in states[f"{stage}: next action"]["Choices"]
        }
        ahead = [each for each in later_stages(job, stage) if each is not None]
        for each in ahead:
            for kind in ("query", "queries"):
                target = ways.get(query_action(kind, each))
                expected = each.step in ("prepare", "publish")
                assert target == (f"{each}: {kind}" if expected else None), (stage, each)
                assert target is None or states[target]["Next"] == str(each)


# ---- when to poll the workers again


def test_polls_are_more_frequent_near_the_end() -> None:
    poll = PollState.of(None, 0.0).next(0, 1.0, left=1000, busy=True)
    assert poll.pause == MIN_POLL_S
    poll = poll.next(100, 11.0, left=900, busy=True)  # 10 units a second: 90 s are left
    assert poll.pause == 45
    assert poll.next(990, 61.0, left=10, busy=True).pause == MIN_POLL_S


def test_polls_without_progress_back_off_and_count_if_the_queue_is_empty() -> None:
    poll, pauses = PollState.of(None, 0.0), []
    for second in range(8):
        poll = poll.next(0, float(second), left=1000, busy=second < 5)
        pauses.append(poll.pause)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (MIN_POLL_S, MAX_POLL_S)
    assert poll.idle == 3
    assert poll.idle_s == 3.0  # from the fifth poll on, a second each
    assert poll.next(0, 9.0, left=1000, busy=True).idle_s == 0.0


@pytest.mark.parametrize("steady", [True, False])
def test_a_month_of_work_fits_into_the_history_of_an_execution(steady: bool) -> None:
    month = 30 * 86_400.0
    poll, now, polls = PollState.of(None, 1e9), 1e9, 0
    while now < 1e9 + month:
        now += max(poll.pause, 1)
        done = int(1e6 * (now - 1e9) / month) if steady else 0
        poll = poll.next(done, now, left=int(1e6) - done, busy=True)
        polls += 1
        assert poll.pause <= max(MAX_POLL_S, 0.01 * (now - 1e9) + 1)
    assert polls * 9 < 25_000 / 3  # events


def test_progress_resets_the_count_of_resent_messages() -> None:
    poll = PollState(0.0, done=5, pause=6, idle=1, resends=4)
    assert poll.next(5, 1.0, left=10, busy=False).resends == 4
    after = poll.next(6, 1.0, left=9, busy=False)
    assert (after.idle, after.resends) == (0, 0)
