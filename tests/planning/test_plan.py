"""`hundredfold plan`: a pilot of real units, the ways, the choice, and refused options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hundredfold import Job, Model, Source
from hundredfold.bench.engine import TimeLimitReached
from hundredfold.cli.plan import excluded_lines, parse_duration
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Batch
from hundredfold.errors import UsageError
from hundredfold.figures import money
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.pipeline.stages import Stage
from hundredfold.pipeline.work import Progress
from hundredfold.planning.comparison import compare_stages
from hundredfold.planning.fits import count_running
from hundredfold.planning.fleets import COLD_START_S, MESSAGE_S
from hundredfold.planning.outlooks import Outlook, Wishes, outlook_here, outlook_of
from hundredfold.planning.pilot import ModelPilot, Pilot
from hundredfold.planning.pilot_watch import PilotWatch
from hundredfold.planning.plan import PlanOptions, choose, make_plan
from hundredfold.planning.samples import typical_first
from hundredfold.planning.ways import QUOTAS, ways
from hundredfold.runs.prices import read_prices
from hundredfold.testing import ManualClock
from support.cli import CliResult, run_hundredfold

JOBS = """
from hundredfold import Job, Model, Publish, Source

def mean(rows):
    if rows["shop"][0] == 7:
        raise ValueError("no shop 7 today")
    return {"price": rows["price"].mean()}

def fail(rows):
    raise ValueError("never")

def twice(rows):
    return {"price": 2 * rows["price"]}

def of(work, **options):
    return [Model("m", unit=("shop",), work=work), *options.get("more", [])]

sales = [Source("sales", path="sales.csv")]
job = Job("shops", sales, of(mean, more=[Model("n", unit=("shop",), work=twice,
    query="SELECT shop, price FROM m")]), publish=Publish("prices", "SELECT * FROM n"))
failing = Job("failing", sales, of(fail))
"""
UNITS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "temporary").mkdir()
    (folder / "jobs.py").write_text(JOBS)
    rows = [f"{shop},{2.5 + shop}" for _ in range(4) for shop in range(UNITS)]
    (folder / "sales.csv").write_text("\n".join(["shop,price", *rows]) + "\n")
    return folder


def plan(folder: Path, *arguments: str) -> CliResult:
    environment = {"TMPDIR": str(folder / "temporary"), "COLUMNS": "80"}
    return run_hundredfold("plan", *arguments, folder=folder, environment=environment)


class Silent(NullCallbacks):
    def timing(self, what: str) -> None: ...


def work_pilot(seconds: float, units: int = 3_000, job: str = "j") -> Pilot:
    """Return the pilot of a job of one model with even units."""
    model = ModelPilot(
        Model("m", unit=("k",), work=lambda rows: rows),
        np.full(units, 10),
        np.full(units, seconds / units),
        0.2,
        0.05,
        0.0,
        100,
        0,
        1.0,
        0.01,
        0.5,
        (Batch(0, 0, units - 1, 10 * units, 30.0 * units),),
    )
    declared = Job(job, [Source("s")], [model.model])
    return Pilot(declared, (model,), (), 2.0, 0.5, 200 * 2**20, (10**7,), 0, "")


def wishes(workers: int = 4, **options: Any) -> Wishes:
    return Wishes(workers, QUOTAS, "arm64", read_prices("us-east-1"), **options)


def test_a_plan_of_two_models_measures_all_units_and_keeps_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = plan(folder, "jobs.py:job", "--json", "--deadline", "10h", "--workers", "2")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    models = {m["model"]: (m["units"], m["timed"], m["failed"]) for m in facts["models"]}
    assert models == {"m": (UNITS, UNITS, 1), "n": (UNITS - 1, UNITS - 1, 0)}
    assert facts["left_out"] == []
    assert facts["choice"] == "local"
    here, *others = facts["ways"]
    assert here["slots"] == 2
    assert 0 < here["wall"][0] <= here["wall"][1] <= here["wall"][2]
    assert {way["way"].split("-")[0] for way in others} == {"lambda", "fargate", "batch", "ecs"}
    assert [way["way"] for way in others if not way["wall"]] == []
    assert [way["way"] for way in others if not way["dollars"]] == ["batch-spot"]
    assert sorted(p for p in folder.iterdir() if p.name != "__pycache__") == before
    assert list((folder / "temporary").iterdir()) == []


def test_a_run_is_compared_with_a_plan_that_is_made_afterwards(folder: Path) -> None:
    home = str(folder / "home")
    arguments = ("--workers", "2", "--home", home)
    ran = run_hundredfold(
        "run",
        "jobs.py:job",
        "--run-id",
        "r",
        "--max-failed",
        "1",
        *arguments,
        folder=folder,
        environment={},
    )
    assert ran.code == 0, ran.err
    done = plan(folder, "--compare", "r", "--home", home, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    steps = [f"{step} {m}" for m in "mn" for step in ("prepare", "work", "collect")]
    assert [row["stage"] for row in facts["stages"]] == ["validate", *steps, "publish"]
    assert all(row["measured"] > 0 and row["predicted"] > 0 for row in facts["stages"])
    assert sum(row["measured"] for row in facts["stages"]) == pytest.approx(facts["measured"])
    assert facts["taken"] is False
    # a plan that the run takes is kept with it, with its number of workers
    planned = make_plan(work_pilot(10.0, job="shops"), wishes(workers=1))
    (folder / "plan.json").write_text(json.dumps(planned))
    taken = run_hundredfold(
        "run",
        "jobs.py:job",
        "--run-id",
        "planned",
        "--max-failed",
        "1",
        "--home",
        home,
        "--plan",
        "plan.json",
        folder=folder,
        environment={},
    )
    assert taken.code == 0, taken.err
    done = plan(folder, "--compare", "planned", "--home", home, "--json")
    facts = json.loads(done.out)
    assert (facts["taken"], facts["title"]) == (True, "this machine, 1 worker")
    assert facts["efficiency"]["cores"] == 1
    assert "Predicted by the plan" in plan(folder, "--compare", "planned", "--home", home).out
    wrong: list[tuple[tuple[str, ...], str]] = [
        (("--compare", "r", "jobs.py:job", "--home", home), "--compare takes the job"),
        (("--compare", "q", "--home", home), "there is no run q"),
        ((), "no job is given"),
    ]
    for given, message in wrong:
        refused = plan(folder, *given)
        assert message in refused.err, refused.err
        assert "hint:" in refused.err


def test_a_run_takes_the_results_of_the_pilot_of_a_plan_that_was_kept(folder: Path) -> None:
    own = folder / "kept"
    own.mkdir()
    done = plan(folder, "jobs.py:job", "--json", "--workers", "2", "--out", "kept/plan.json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert json.loads((own / "plan.json").read_text()) == facts
    assert facts["pilot"] == "plan.pilot"
    assert sorted(p.name for p in own.iterdir()) == ["plan.json", "plan.pilot"]
    options = ("--run-id", "r", "--max-failed", "1", "--home", str(own / "home"), "--json")
    ran = run_hundredfold(
        "run", "jobs.py:job", "--plan", "kept/plan.json", *options, folder=folder, environment={}
    )
    assert ran.code == 0, ran.err
    models = json.loads(ran.out)["models"]
    assert (models["m"]["pilot_units"], models["m"]["failed"]) == (UNITS - 1, 1)
    assert (models["n"]["pilot_units"], models["n"]["pilot_refused"]) == (UNITS - 1, "")
    compared = json.loads(plan(folder, "--compare", "r", "--home", str(own / "home"), "--json").out)
    assert compared["from_pilot"] == 2 * (UNITS - 1)
    before = {s["stage"]: s["predicted"] for s in compared["stages"]}
    assert before["work n"] == pytest.approx(0.0, abs=1e-6)
    assert before["collect n"] == pytest.approx(facts["ways"][0]["stages"]["collect n"])
    again = plan(folder, "--compare", "r", "--home", str(own / "home"))
    assert "198 units were taken from the pilot of the plan" in again.out


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("plan.pilot", "wanted a file, such as plan.json"),
        (".", "wanted a file, such as plan.json"),
        ("none/plan.json", "there is no folder"),
        ("taken.json", "and it has other files"),
    ],
)
def test_a_plan_is_not_written_over_other_files(
    output: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.pilot").mkdir()
    (tmp_path / "taken.pilot" / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match=message):
        PlanOptions(output=output).check()


def test_of_a_way_on_aws_the_steps_beside_the_work_are_compared_together() -> None:
    measured = {"validate": 2.0, "prepare m": 1.0, "enqueue m": 0.5, "work m": 7.0, "publish": 1.5}
    way = {
        "way": "lambda-fat-direct",
        "title": "t",
        "wall": [9.0, 12.0, 13.0],
        "start": 0.0,
        "stages": {"work m": 8.0, "other steps": 4.0},
    }
    facts = compare_stages(way, measured)
    assert facts["stages"] == [
        {"stage": "work m", "predicted": 8.0, "measured": 7.5},
        {"stage": "other steps", "predicted": 4.0, "measured": 4.5},
    ]
    assert (facts["measured"], facts["inside"]) == (12.0, True)


def test_a_job_whose_every_unit_fails_has_no_plan(folder: Path) -> None:
    done = plan(folder, "jobs.py:failing", "--workers", "1")
    assert done.code == 1
    assert "failed" in done.err
    assert "Traceback" not in done.err


def test_wrong_options_are_refused(folder: Path) -> None:
    done = plan(folder, "jobs.py:job", "--quota", "lambda=none", "--deadline", "1m")
    assert done.code == 2
    assert "--quota lambda is 'none', wanted a whole number above 0" in done.err
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"quotas": {"ec3": 5}}, "no quota is named ec3"),
        ({"budget": -1.0}, "--budget is -1, wanted dollars, 0 or more"),
        ({"budget": float("nan")}, "--budget is nan"),
        ({"pilot_seconds": 0.0}, "--pilot-seconds is 0, wanted seconds above 0"),
    ]
    for options, message in wrong:
        with pytest.raises(UsageError, match=message):
            PlanOptions(**options).check()


def test_ways_have_the_times_and_dollars_of_even_work() -> None:
    pilot = work_pilot(2_400.0)
    wanted = {"lambda-thin-direct", "lambda-thin-mapping", "lambda-fat-mapping"}
    every = [way for way in ways(QUOTAS, "arm64", 0, 1.0) if way.key in wanted or way.gb == 2.0]
    seen = {way.key: outlook_of(way, pilot, wishes()) for way in every}
    direct = seen["lambda-thin-direct"]
    seconds = 2_400 + direct.cores * COLD_START_S[0] * 1.08 + direct.batches * MESSAGE_S
    assert direct.items["compute"] == pytest.approx(seconds * 1769 / 1024 * 1.33334e-5, rel=0.05)
    assert direct.items["requests"] == pytest.approx(direct.batches * 2e-7)
    assert direct.dollars[1] == pytest.approx(sum(direct.items.values()), rel=0.05)
    assert seen["lambda-thin-mapping"].work > 1.5 * direct.work
    assert seen["lambda-thin-mapping"].work > 1.5 * seen["lambda-fat-mapping"].work
    assert seen["fargate-spot"].dollars[1] < seen["fargate"].dollars[1] / 2
    here = outlook_here(pilot, 4)
    assert here.wall[1] == pytest.approx(2_400 / 4 + 4.0, rel=0.1)
    assert here.limit == "cores"


def test_with_a_deadline_no_more_slots_are_used_than_needed() -> None:
    mapped = next(way for way in ways(QUOTAS, "arm64", 0, 1.0) if way.key == "lambda-fat-mapping")
    pilot = work_pilot(2_400.0)
    widest, timely = (outlook_of(mapped, pilot, wishes(deadline=d)) for d in (None, 300.0))
    assert timely.slots < widest.slots
    assert timely.dollars[1] <= widest.dollars[1]
    assert timely.wall[-1] <= 300.0


def test_a_unit_that_no_function_can_finish_is_named_with_the_reason() -> None:
    facts = make_plan(work_pilot(2_000.0, units=2), wishes())
    functions = [way for way in facts["ways"] if "thin" in way["way"] or "fat" in way["way"]]
    assert {way["why"] for way in functions} == {"a unit takes 1,000 s; a function ends after 900"}
    assert {way["wall"] for way in functions} == {None}
    assert all(way["wall"] for way in facts["ways"] if way not in functions)


def test_a_unit_that_is_too_long_is_named_with_the_ways_that_can() -> None:
    pilot = work_pilot(2_000.0, units=2)
    named = replace(pilot, models=(replace(pilot.models[0], longest_key="Oslo,7"),))
    facts = make_plan(named, wishes())
    (line,) = excluded_lines(facts)
    assert line.startswith("Not on Lambda thin, SQS mapping, Lambda thin, S3 events, ")
    assert ": the unit Oslo,7 of m takes 1,000 s; a function ends after 900; these can " in line
    assert line.endswith(
        "execute it: Fargate, Fargate Spot, Batch, EC2, Batch, EC2 Spot, ECS Managed Instances, "
        "Lambda Managed Instances."
    )
    large = replace(pilot, models=work_pilot(10.0).models, worker_bytes=3 * 2**30)
    (line,) = excluded_lines(make_plan(large, wishes()))
    assert "5 processes need 19,970 MB; a function has at most 10,240; these can" in line
    assert "execute it: Lambda thin, SQS mapping" in line
    assert list(excluded_lines(make_plan(work_pilot(10.0), wishes()))) == []


def test_a_unit_that_is_still_running_at_the_end_of_the_pilot_counts() -> None:
    clock = ManualClock()
    model = work_pilot(1.0).models[0].model
    watch = PilotWatch(Silent(), lambda *_: 3.0, 1.0, clock=clock)
    watch.now, watch.allowed, watch.since = Stage("work", model), 3.0, clock()
    clock.advance(1.0)
    watch.progress(Progress("m", 5, 10, 0))
    clock.advance(2.5)
    with pytest.raises(TimeLimitReached):
        watch.progress(Progress("m", 5, 10, 0))
    assert watch.running_s == {"m": 2.5}
    rows, left = np.array([1, 5, 9, 2]), np.array([0, 2, 3])
    expected = np.full(4, 0.01)
    assert count_running(2.5, left, rows, expected) == 2.5
    assert expected.tolist() == [0.01, 0.01, 2.5, 0.01]
    assert count_running(0.4, left, rows, np.full(4, 0.01)) == 0.0  # the pause of a commit
    assert count_running(2.5, left, rows, np.full(4, 2.0)) == 0.0  # as long as the others
    assert count_running(2.5, left[:0], rows, expected) == 0.0


def test_the_start_of_workers_is_part_of_the_time_here() -> None:
    pilot = work_pilot(10.0)
    slow = replace(pilot, models=(replace(pilot.models[0], wait_s=3.0),))
    before, after = (outlook_here(each, 4) for each in (pilot, slow))
    assert after.wall[1] - before.wall[1] == pytest.approx(3.0, rel=0.2)
    assert after.stages["work m"] - before.stages["work m"] == pytest.approx(3.0)


def test_more_memory_than_a_function_has_excludes_it() -> None:
    every = {way.key: way for way in ways(QUOTAS, "arm64", 3 * 2**30, 1.0)}
    assert every["lambda-thin-mapping"].why_not == ""
    assert every["lambda-thin-mapping"].gb > 3.5
    assert "a function has at most 10,240" in every["lambda-fat-mapping"].why_not


def outlook(way: str, seconds: float, dollars: float, *, deployable: bool = True) -> Outlook:
    found = Outlook(way, way, deployable, wall=(seconds,) * 3, dollars=(dollars,) * 3)
    return found if way != "local" else Outlook(way, way, True, wall=(seconds,) * 3)


def test_a_deadline_chooses_the_cheapest_and_a_budget_the_fastest() -> None:
    local, slow = outlook("local", 600, 0), outlook("slow", 100, 0.5)
    fast, soon = outlook("fast", 20, 2.0), outlook("soon", 10, 0.1, deployable=False)
    every = [local, slow, fast, soon]

    def chosen(deadline: float | None, budget: float | None) -> str | None:
        found = choose(every, deadline, budget)
        return found.way if found else None

    assert chosen(None, None) is None
    assert chosen(1_000, None) == "local"
    assert chosen(150, None) == "slow"
    assert chosen(50, None) == "fast"
    assert chosen(15, None) == "soon"
    assert chosen(5, None) is None
    assert chosen(None, 3.0) == "fast"
    assert chosen(None, 1.0) == "slow"
    assert chosen(None, 0.0) == "local"
    assert chosen(50, 1.0) == "soon"
    # dollars that differ by less than the simulation knows: the faster way
    every = [outlook("slow", 100, 0.1262), outlook("fast", 20, 0.1263)]
    assert chosen(1_000, None) == "fast"


def test_durations_and_dollars_are_read_and_written_briefly() -> None:
    assert [parse_duration(text) for text in ("30s", "1.5m", "2h", "90", " 5 min ", "1d")] == [
        30,
        90,
        7_200,
        90,
        300,
        86_400,
    ]
    for text in ("", "0s", "-1s", "1w", "s"):
        with pytest.raises(UsageError):
            parse_duration(text)
    assert [money(d) for d in (0, 0.00042, 0.0555, 2.5, 1234.5)] == [
        "0.00",
        "0.00042",
        "0.056",
        "2.50",
        "1,234.50",
    ]


def test_the_pilot_of_a_batched_model_begins_with_a_typical_batch() -> None:
    costs = [100.0, 90.0, 95.0, 2.0]
    batches = tuple(Batch(n, n * 10, n * 10 + 9, 10, cost) for n, cost in enumerate(costs))
    manifest = Manifest("m", ("k",), (), 40, 40, (), batches)
    assert [batch.cost for batch in typical_first(manifest)] == [90.0, 95.0, 100.0, 2.0]
