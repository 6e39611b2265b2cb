"""`hundredfold bench` on small jobs: counts and texts are checked, and no speed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Source
from hundredfold.bench import engine
from hundredfold.bench.baseline import Task
from hundredfold.bench.baseline_process import time_loops
from hundredfold.bench.compare import compare
from hundredfold.bench.frames import NumpyFrame, PandasFrame, PolarsFrame
from hundredfold.bench.sample import draw, estimate_total, expected_costs, extrapolate
from hundredfold.cli.bench import headline, show_comparison
from hundredfold.cli.display import TimingDisplay
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import ROWS_COLUMN, UnitList
from hundredfold.errors import JobError, UsageError
from hundredfold.local.home import Home
from hundredfold.workers.protocol import WorkerContext
from support.waits import HANG_S

UNITS = 60
JOBS = """
import time

import pandas as pd

from hundredfold import Job, Model, Publish, Source
from sizes import SLEEP


def naps(rows: pd.DataFrame) -> dict:
    print("output of the function")
    time.sleep(SLEEP)
    if rows["shop"].iloc[0] == 7:
        raise ValueError("no shop 7 today")
    return {"price": rows["price"].mean()}


job = Job(
    "shops",
    [Source("sales", path="sales.csv")],
    [Model("naps", unit=("shop",), work=naps)],
    publish=Publish("prices", "SELECT * FROM naps"),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with jobs.py, a module that it imports, and rows of 60 shops on 4 days."""
    folder = tmp_path_factory.mktemp("bench") / "jobs"
    folder.mkdir()
    (folder.parent / "temporary").mkdir()
    (folder / "jobs.py").write_text(JOBS)
    (folder / "sizes.py").write_text("SLEEP = 0.002\n")
    rows = [f"{shop},{day},{2.5 + shop}" for day in range(4) for shop in range(UNITS)]
    (folder / "sales.csv").write_text("\n".join(["shop,day,price", *rows]) + "\n")
    return folder


def bench(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder.parent / "temporary")}
    command = [sys.executable, "-m", "hundredfold", "bench", "jobs/jobs.py:job", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder.parent, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def files_left(folder: Path) -> list[str]:
    """Return files that a bench left in its folder and in the folder of temporary files."""
    here, temporary = folder.parent, folder.parent / "temporary"
    return [
        path.name
        for path in (*here.iterdir(), *temporary.iterdir())
        if path not in (folder, temporary)
    ]


def test_a_job_is_timed_as_loops_and_as_runs(folder: Path) -> None:
    process = bench(folder, "--seconds", "600", "--workers", "2", "--json")
    out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, err
    facts = json.loads(out)
    assert [(way["way"], way.get("workers")) for way in facts["ways"]] == [
        ("filter", None),
        ("groupby", None),
        ("single", 1),
        ("all", 2),
    ]
    assert facts["models"]["naps"] == {
        "units": UNITS,
        "rows": 4 * UNITS,
        "crashed": 0,
        "batched": False,
        "form": "pandas",
    }
    for way in facts["ways"]:
        naps = way["models"]["naps"]
        assert (naps["timed"], naps["units"], naps["failed"], naps["why"]) == (UNITS, UNITS, 1, "")
        assert 0.002 * UNITS / way.get("workers", 1) < naps["seconds"] < HANG_S
        assert way["whole"] > way["reading"] > 0
    assert facts["ways"][0]["models"]["naps"]["reason"] == "ValueError: no shop 7 today"
    assert facts["ways"][3]["publishing"] > 0
    assert "output of the function" not in err
    assert files_left(folder) == []


def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    process = bench(folder)
    assert process.stderr is not None
    assert "timing here" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert "stopped; nothing was kept" in err
    assert "Traceback" not in err
    assert files_left(folder) == []


def slow(rows: dict[str, Any]) -> dict[str, int]:
    """Return a row; the last units of a run never end, so that it always reaches its time limit."""
    time.sleep(0.01)
    if (
        multiprocessing.current_process().name != "hundredfold-loop"
        and rows["shop"][0] >= UNITS - 1
    ):
        time.sleep(3600)
    return {"n": len(rows["day"])}


def later(rows: dict[str, Any]) -> dict[str, int]:
    return {"n": len(rows["day"])}


def aborts(rows: dict[str, Any]) -> dict[str, int]:
    if multiprocessing.current_process().name == "hundredfold-loop" and rows["shop"][0] > 5:
        os.abort()
    return {"n": len(rows["day"])}


def hangs(rows: dict[str, Any]) -> dict[str, int]:
    if multiprocessing.current_process().name == "hundredfold-loop":
        time.sleep(600)
    return {"n": len(rows["day"])}


def job_of(folder: Path, *works: Any) -> Job:
    return Job(
        "jobs",
        [Source("sales", path=str(folder / "sales.csv"))],
        [Model(work.__name__, unit=("shop", "day"), work=work) for work in works],
    )


def test_a_run_over_the_time_limit_is_stopped_and_extrapolated(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # time for the first unit to be done, on a machine that starts slowly
    monkeypatch.setattr(engine, "MIN_IDLE_S", HANG_S)
    facts = compare(
        job_of(folder, slow, later), {}, workers=1, seconds=0.8, listener=TimingDisplay()
    )
    filtered, grouped, here = facts["ways"]
    stopped = here["models"]["slow"]
    assert 0 < stopped["timed"] < stopped["units"] == 4 * UNITS
    assert 0.01 * 4 * UNITS * 0.7 < stopped["seconds"] < HANG_S
    assert facts["left_out"] == ["later"]
    for way in (filtered, grouped):
        assert 0 < way["models"]["slow"]["timed"] < 4 * UNITS
        assert 0.01 * 4 * UNITS * 0.9 < way["models"]["slow"]["seconds"] < HANG_S
    show_comparison(facts)
    printed = " ".join(capsys.readouterr().out.split())
    assert headline(facts).startswith("jobs: ~")
    assert headline(facts) in printed
    assert "slow here with 1 worker: stopped, timed on " in printed
    timed = grouped["models"]["slow"]["timed"]
    assert f"slow as a groupby loop: from {timed} of 240 units" in printed
    assert "not timed: later; the timings before took the 0.8 s" in printed


def test_one_model_of_several_can_be_timed(folder: Path) -> None:
    facts = compare(
        job_of(folder, later, aborts),
        {},
        model="later",
        workers=1,
        seconds=5,
        listener=TimingDisplay(),
    )
    assert (facts["name"], list(facts["models"]), facts["left_out"], facts["before"]) == (
        "later",
        ["later"],
        [],
        [],
    )
    assert all(list(way["models"]) == ["later"] for way in facts["ways"])


def test_invalid_arguments_of_a_comparison_are_refused(folder: Path) -> None:
    job = job_of(folder, later)
    with pytest.raises(JobError, match="job jobs has no model 'late'; it has later"):
        compare(job, {}, model="late", listener=TimingDisplay())
    with pytest.raises(UsageError, match="--seconds is 0, wanted seconds above 0"):
        compare(job, {}, seconds=0, listener=TimingDisplay())


def test_a_loop_that_crashes_or_hangs_stops_only_itself(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, aborts, hangs, later)
    hundredfold.run(job, home=tmp_path, run_id="done", workers=1)
    home, tasks = Home(tmp_path), [Task("filter", model.name) for model in job.models]
    known = time_loops(
        WorkerContext(job, Layout("done"), home.store),
        tasks,
        {},
        0.3,
        2**32,
        tmp_path / "log",
        lambda _: None,
        grace=5.0,
    )
    crashed, hung, fine = (known[task] for task in tasks)
    assert crashed.why == "its process was killed by SIGABRT"
    assert (hung.why, hung.timed, hung.seconds) == ("a unit did not come back in time", 0, None)
    assert (fine.why, fine.failed) == ("", 0)
    assert fine.timed > 0


KEYS = [("a", 1), ("a", 2), ("b", 1), (None, 1)]
FORMS = [(PandasFrame, "pandas"), (PolarsFrame, "polars")] + [
    (kind, form)
    for kind in (PandasFrame, PolarsFrame, NumpyFrame)
    for form in ("light", "dict", "arrow")
]


@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize("cuts", ["filtered", "grouped"])
def test_both_loops_pass_the_rows_of_a_unit_in_its_form(kind: Any, form: str, cuts: str) -> None:
    numbers = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 5))
    keys = pa.table({"shop": [k for k, _ in KEYS], "size": [n for _, n in KEYS]})
    day = pa.array(np.arange(20)[::-1].astype(np.int32)).cast(pa.date32())
    rows = (
        keys.take(pa.array(numbers))
        .append_column("day", day)
        .append_column("price", pa.array(100.0 * numbers + np.arange(20)))
    )
    units = UnitList(keys.append_column(ROWS_COLUMN, pa.array([5] * 4)))
    frame = kind(form, False, rows, numbers, units, frozenset({"shop"}))
    frame.sort_once(("day",))
    if cuts == "grouped" and not frame.groups:
        return
    wanted = np.array([3, 0, 2])
    order, slices = getattr(frame, cuts)(wanted)
    assert sorted(order.tolist()) == [0, 2, 3]
    for unit, cut in zip(order.tolist(), slices, strict=True):
        formed = frame.in_form(cut, unit)
        assert list(np.asarray(formed["price"])) == sorted(
            100.0 * unit + np.flatnonzero(numbers == unit), reverse=True
        )
        if form == "light":
            assert (formed.key, formed.rows, list(formed)) == (
                KEYS[unit],
                5,
                ["shop", "size", "day", "price"],
            )
        if form in ("light", "dict"):
            assert formed["day"].dtype == np.dtype("datetime64[D]")
            assert list(formed["shop"]) == [KEYS[unit][0]] * 5
            formed["price"][0] = 0.0  # an array is the function's own


def test_the_estimate_is_right_on_average_for_units_of_any_size() -> None:
    rows = np.maximum(3, 100_000 / np.arange(1, 1001) ** 1.3).astype(np.int64)
    cases: list[Any] = [
        np.full(1000, 2e-3),
        1e-3 + 1e-6 * rows,
        1e-9 * rows**1.4,
    ]
    for seconds in cases:
        estimates = []
        for seed in range(100):
            drawn = draw(rows, seed)
            estimates.append(estimate_total(drawn, seconds[drawn.order[:60]])[0])
        assert abs(np.mean(estimates) / seconds.sum() - 1) < 0.05
        assert np.std(estimates) / seconds.sum() < 0.2
        assert estimate_total(drawn, seconds[drawn.order]) == pytest.approx((seconds.sum(), 0.0))


def test_a_stopped_run_is_scaled_by_the_cost_of_its_units() -> None:
    rows = np.repeat([10, 90], 50)
    done = np.arange(100) < 60  # most of the small ones, few of the large ones
    expected = expected_costs(rows, done, 2e-3 + 1e-3 * rows[done])
    assert expected == pytest.approx(2e-3 + 1e-3 * rows)
    assert extrapolate((10, 3.0), (60, 8.0), np.ones(100), done) == pytest.approx(12.0)
    assert extrapolate((60, 8.0), (60, 8.0), np.ones(100), done) == pytest.approx(8.0 * 100 / 60)
    assert extrapolate((10, 3.0), (60, 8.0), expected, done) > 15.0
