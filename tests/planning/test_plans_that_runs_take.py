"""`run --plan FILE` and `--confirm-above`: the settings of a plan, and the files that are none."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.fleets import requests
from hundredfold.cli.confirmation import confirm_cost
from hundredfold.cli.plan_plot import HEIGHT, check_plot_file, plot_lines, write_plot
from hundredfold.errors import UsageError
from hundredfold.planning.ways import QUOTAS, ways
from hundredfold.runs.backend import RunArguments
from hundredfold.runs.plans import (
    FLEETS,
    deploy_options,
    read_plan,
    recommended,
    setting_problems,
    take_plan,
    way_of,
)


def way(name: str, seconds: float, **options: Any) -> dict[str, Any]:
    return {
        "way": name,
        "title": name.title(),
        "wall": [seconds] * 3,
        "start": 0.0,
        "stages": {},
        "dollars": [0.5, 1.0, 2.0],
        "slots": 3,
        "batches": 8,
        "memory": 1769,
        "timeout": 60,
        "pollers": None,
        "deployable": True,
        **options,
    }


LOCAL = way("local", 9.0, timeout=None, memory=None, dollars=None)
DIRECT, POLLED = way("lambda-fat-direct", 5.0), way("lambda-thin-pollers", 4.0, pollers=[2, 10])
SOON = way("batch-ec2", 1.0, title="Batch", deployable=False, timeout=None)
PLAN: dict[str, Any] = {
    "job": "j",
    "models": [{}, {}],
    "choice": None,
    "ways": [LOCAL, DIRECT, POLLED, SOON],
}


def plan_file(folder: Path, **changes: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps({**PLAN, **changes}))
    return path


@pytest.mark.parametrize(
    ("name", "fleet"),
    [
        ("fargate", "fargate"),
        ("fargate-spot", "fargate-spot"),
        ("batch-spot", "batch"),
        ("ecs-managed", "managed"),
    ],
)
def test_a_run_takes_the_fleet_of_a_plan(tmp_path: Path, name: str, fleet: str) -> None:
    found = way(name, 90.0, timeout=None, memory=4096, slots=12)
    asked = RunArguments(plan=plan_file(tmp_path, ways=[LOCAL, DIRECT, found], choice=name))
    taken = take_plan(asked, "j", on_aws=True)
    assert taken.fleets == (f"{fleet}:12",)
    given = replace(asked, fleets=("lambda",))
    assert take_plan(given, "j", on_aws=True).fleets == ("lambda",)
    assert setting_problems(found, "direct", 8845, 60) == []
    options = deploy_options(found)
    settings = dict(zip(options[::2], options[1::2], strict=True))
    assert (settings["--fleet"], settings["--task-memory"]) == (fleet, "4096")
    assert settings.get("--batch-cores") == ("12" if fleet == "batch" else None)
    assert {"--worker-image", "--subnet", "--security-group"} <= set(settings)


def test_each_fleet_of_a_stack_is_a_way_of_a_plan() -> None:
    found = {each.key for each in ways(QUOTAS, "arm64", 200 * 2**20, 0.1) if each.deployable}
    assert {key for key in found if not key.startswith("lambda-")} == set(FLEETS)
    assert set(FLEETS.values()) == set(requests.FLEETS)


def test_a_run_takes_the_settings_of_a_plan_unless_they_are_given(tmp_path: Path) -> None:
    asked = RunArguments(plan=plan_file(tmp_path, choice="lambda-fat-direct"))
    here, there = (take_plan(asked, "j", on_aws=on_aws) for on_aws in (False, True))
    assert (here.workers, here.batches) == (3, None)
    assert (there.workers, there.batches) == (None, 4)
    assert there.way is not None
    assert there.way["way"] == "lambda-fat-direct"
    given = RunArguments(plan=asked.plan, workers=2, batches=7)
    assert take_plan(given, "j", on_aws=False).workers == 2
    assert take_plan(given, "j", on_aws=True).batches == 7
    assert take_plan(RunArguments(), "j", on_aws=True) == RunArguments()


def test_a_plan_recommends_the_chosen_way_or_the_fastest() -> None:
    found = [
        recommended({**PLAN, "choice": name}) for name in (None, "lambda-fat-direct", "fargate")
    ]
    assert found == [POLLED, DIRECT, POLLED]
    assert recommended({**PLAN, "ways": [LOCAL, SOON]}) is None
    assert deploy_options(POLLED)[4:] == ["--pollers", "2,10", "--raise-pollers"]
    assert deploy_options(DIRECT)[4:] == ["--concurrency", "3", "--trigger", "direct"]


def test_a_stack_with_other_settings_than_the_plan_is_described() -> None:
    assert setting_problems(DIRECT, "direct", 1769, 60) == []
    assert setting_problems(DIRECT, "direct", 1769, 900) == []  # never reached
    assert setting_problems(DIRECT, "messages", 8845, 30) == [
        "trigger: the plan has direct, the stack messages",
        "memory of a worker: the plan has 1,769 MB, the stack 8,845 MB",
        "timeout: the plan has 60 s, the stack 30 s",
    ]


def test_a_plot_shows_each_way_by_time_and_dollars(tmp_path: Path) -> None:
    ways = [LOCAL, DIRECT, {**POLLED, "dollars": [9.0] * 3}, SOON, {**SOON, "title": "Spot"}]
    lines = plot_lines({**PLAN, "ways": ways}, 80)
    plot = lines[:HEIGHT]
    assert plot[0].split() == ["9.00", "|", "b"]
    assert plot[-1].lstrip().startswith("1.00 | *")
    assert plot[-1].endswith("a")
    assert [line.split(",")[0].strip() for line in lines[-5:]] == [
        "a  Lambda-Fat-Direct",
        "b  Lambda-Thin-Pollers",
        "c  Batch",
        "d  Spot",
        "*  several",
    ]
    for name, start in (("plan.svg", "<svg"), ("plan.HTML", "<!DOCTYPE html>")):
        write_plot({**PLAN, "ways": ways}, str(tmp_path / name))
        text = (tmp_path / name).read_text("utf-8")
        assert text.lstrip().startswith(start)
        assert "Spot" in text
    assert plot_lines({**PLAN, "ways": [LOCAL]}, 80)[0].startswith("no way has both")
    with pytest.raises(UsageError, match="wanted a name that ends with"):
        check_plot_file("plan.pdf")
    with pytest.raises(UsageError, match="cannot be written"):
        write_plot(PLAN, str(tmp_path / "none" / "plan.svg"))


def test_a_plot_as_png_has_each_way_or_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.PNG"
    check_plot_file(str(path))
    few, many = ([LOCAL, *[DIRECT] * n] for n in (1, 12))
    sizes = []
    for shown in (few, many):
        write_plot({**PLAN, "ways": shown}, str(path))
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        sizes.append(path.stat().st_size)
    assert sizes[0] < sizes[1]
    with pytest.raises(UsageError, match="nothing to plot"):
        write_plot({**PLAN, "ways": [LOCAL]}, str(path))
    with pytest.raises(UsageError, match="cannot be written"):
        write_plot(PLAN, str(tmp_path / "none" / "plan.png"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    with pytest.raises(UsageError, match="matplotlib is not installed") as refused:
        check_plot_file("plan.png")
    assert "hundredfold[report]" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not the plan of a job"),
        ('{"job": "j", "models": [{}], "ways": [{"way": "local"}]}', "is not the plan of a job"),
        (json.dumps({**PLAN, "models": []}), "is not the plan of a job"),
        (json.dumps({**PLAN, "job": "other"}), "is the plan of other, and the job is j"),
        (json.dumps({**PLAN, "ways": [LOCAL]}), "has no way for this backend"),
    ],
)
def test_a_file_that_is_no_plan_of_the_job_is_refused(
    text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as refused:
        take_plan(RunArguments(plan=path), "j", on_aws=True)
    assert "hundredfold plan JOB --out plan.json" in str(refused.value.hint)


def test_an_expensive_run_needs_a_confirmation(tmp_path: Path) -> None:
    cheap = RunArguments(plan=plan_file(tmp_path))
    confirm_cost(cheap, 2.0, on_aws=True)  # its interval ends there
    with pytest.raises(UsageError, match=r"up to 2\.00 dollars, which is above 1\.99"):
        confirm_cost(cheap, 1.99, on_aws=True)
    unknown = RunArguments(
        plan=plan_file(tmp_path, ways=[LOCAL, way("lambda-fat-mapping", 1.0, dollars=None)])
    )
    with pytest.raises(UsageError, match="has an unknown price, and no terminal is there"):
        confirm_cost(unknown, 100.0, on_aws=True)
    for arguments, on_aws in ((cheap, False), (RunArguments(), True)):
        with pytest.raises(UsageError, match="--confirm-above is for --backend aws with --plan"):
            confirm_cost(arguments, 1.0, on_aws=on_aws)


def test_the_facts_that_a_run_keeps_of_a_plan_are_those_of_one_way(tmp_path: Path) -> None:
    kept = way_of(read_plan(plan_file(tmp_path)), on_aws=False)
    assert kept == {name: value for name, value in LOCAL.items() if name != "deployable"}
