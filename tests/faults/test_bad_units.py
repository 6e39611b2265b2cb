"""One bad unit costs one unit, whatever it does: its neighbours are done, and its status has the
reason.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hundredfold import Job, Model, Source, open_run, run
from hundredfold.errors import PublishRefused
from support import faulty_units
from support.waits import LIMIT_S

FINE = [
    "print",
    "change folder",
    "start threads",
    "close stdout",
    "close low descriptors",
    "fork",
    "fork and stay",
]
FINE += [
    "own session",
    "remove its folder",
    "leave processes",
    "change its process",
    "change its signals",
    "replace its output",
]
BAD = {
    "raise": ("failed", "ValueError", "as it was told to"),
    "raise without words": (None, None, ""),
    "recurse": ("failed", "RecursionError", "maximum recursion depth"),
    "segfault": ("crashed", "WorkerDied", "killed by SIGSEGV"),
    "exit": ("crashed", "WorkerDied", "ended its process with exit code 3"),
    "SystemExit": (None, None, "enough"),
    "KeyboardInterrupt": (None, None, ""),
    "sleep": ("crashed", "WorkerDied", "exceeded its time_limit of 600 s"),
    "memory": ("failed", "MemoryError", ""),
    "memory, unlimited": ("crashed", "WorkerDied", "more than a worker's share of 440 MiB"),
    "SIGKILL": (
        "crashed",
        "WorkerDied",
        "killed by SIGKILL (the system's out-of-memory killer does that)",
    ),
    "SIGABRT": ("crashed", "WorkerDied", "killed by SIGABRT"),
    "forget a timer": ("crashed", "WorkerDied", "killed by SIGALRM"),
    "kill its group": ("crashed", "WorkerDied", "its supervisor process was killed"),
    "kill its parent": ("crashed", "WorkerDied", "its supervisor process was killed"),
    "close the pipe": ("crashed", "WorkerDied", "closed or replaced the pipe to its driver"),
    "return an object": ("failed", "ResultError", "object"),
    "return a number": ("failed", "ResultError", "twice missing and value too much"),
    "return None": ("failed", "ResultError", "returned None"),
    "return huge": ("failed", "ResultError", ""),
}
MANY = ["raise", "segfault", "exit", "SystemExit", "sleep", "memory"]


def rows_of(ways: list[str]) -> pa.Table:
    """Two rows for each unit, so that each way has fine neighbours on both sides."""
    hows = [how for way in ways for how in ("fine", way, "fine")]
    return pa.table(
        {
            "k": [k for k in range(len(hows)) for _ in range(2)],
            "how": [how for how in hows for _ in range(2)],
        }
    )


def run_of(model: Model, rows: pa.Table, home: Path) -> Any:
    job = Job("bad", [Source("told")], [model], max_failed=1.0)
    with suppress(PublishRefused):
        run(job, {"told": rows}, home=home, run_id="bad", workers=1, memory="600MB")
    return open_run("bad", home=home)


@pytest.fixture(scope="module")
def untimed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every way but the one that never ends: how long a unit takes on a busy machine is no part of
    what it is.
    """
    ways = [
        how for how in (*BAD, *FINE) if how != "sleep"
    ]  # the fine ones may leave a worker without its log
    return run_of(
        Model("twice", ("k", "how"), faulty_units.alone),
        rows_of(ways),
        tmp_path_factory.mktemp("alone") / "home",
    )


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The way that never ends, beside units that take microseconds."""
    model = Model("twice", ("k", "how"), faulty_units.alone, time_limit=LIMIT_S)
    return run_of(model, rows_of(["sleep"]), tmp_path_factory.mktemp("timed") / "home")


@pytest.fixture(scope="module")
def untimed_together(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = Model("twice", ("k", "how"), faulty_units.together, batched=True)
    return run_of(
        model,
        rows_of([how for how in MANY if how != "sleep"]),
        tmp_path_factory.mktemp("together") / "home",
    )


@pytest.fixture(scope="module")
def timed_together(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = Model("twice", ("k", "how"), faulty_units.together, batched=True, time_limit=LIMIT_S)
    return run_of(model, rows_of(["sleep"]), tmp_path_factory.mktemp("timed-together") / "home")


@pytest.fixture
def done(how: str, request: pytest.FixtureRequest) -> Any:
    """The run that has a unit of this way."""
    return request.getfixturevalue("timed" if how == "sleep" else "untimed")


@pytest.fixture
def done_together(how: str, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("timed_together" if how == "sleep" else "untimed_together")


def by_key(table: pa.Table) -> dict[int, dict[str, Any]]:
    return {row["k"]: row for row in table.to_pylist()}


def neighbours(run: Any, how: str) -> tuple[int, list[dict[str, Any]]]:
    """The number of the unit that is `how`, and the accounts of it and of those beside it."""
    accounts = by_key(run.units().to_arrow())
    (k,) = [k for k, row in accounts.items() if row["how"] == how]
    return k, [accounts[k + beside] for beside in (-1, 0, 1)]


@pytest.mark.parametrize("how", BAD)
def test_a_bad_unit_is_reported_with_its_reason_and_the_others_are_done(
    done: Any, how: str
) -> None:
    k, (before, bad, after) = neighbours(done, how)
    status, error, message = BAD[how]
    assert bad["status"] in ({status} if status else {"failed", "crashed"})
    assert bad["error"] == (error or bad["error"])
    assert message in f"{bad['error']}: {bad['message']}"
    assert (before["status"], after["status"]) == ("ok", "ok")
    results = by_key(done.results().to_arrow())
    assert (results[k - 1]["twice"], results[k + 1]["twice"]) == (2 * k - 2, 2 * k + 2)
    assert k not in results


@pytest.mark.parametrize("how", FINE)
def test_a_unit_that_is_only_strange_is_done_like_any_other(done: Any, how: str) -> None:
    k, accounts = neighbours(done, how)
    assert [account["status"] for account in accounts] == ["ok", "ok", "ok"]
    assert [by_key(done.results().to_arrow())[k + beside]["twice"] for beside in (-1, 0, 1)] == [
        2 * k - 2,
        2 * k,
        2 * k + 2,
    ]


def test_every_unit_is_in_the_results_or_in_the_failures_and_in_none_twice(
    untimed: Any, timed: Any
) -> None:
    for done, ways, bad in ((untimed, len([*FINE, *BAD]) - 1, len(BAD) - 1), (timed, 1, 1)):
        keys = done.results().to_arrow().column("k").to_pylist()
        failed = [
            int(unit.split(",")[0])
            for unit in done.failures().to_arrow().column("unit").to_pylist()
        ]
        assert sorted(keys + failed) == list(range(3 * ways))
        assert len(failed) == bad


def test_what_a_unit_prints_is_in_the_log_of_its_worker(untimed: Any) -> None:
    log = (untimed.folder / "logs" / "worker-0.log").read_text()
    assert "a unit that is print\n" in log
    assert log.count("words, words, words\n") >= 100_000
    assert "Fatal Python error: Segmentation fault" in log


@pytest.mark.parametrize("how", MANY)
def test_a_bad_unit_among_many_is_found_by_halves(done_together: Any, how: str) -> None:
    k, (before, bad, after) = neighbours(done_together, how)
    assert bad["status"] == {
        "raise": "failed",
        "memory": "failed",
        "SystemExit": bad["status"],
    }.get(how, "crashed")
    assert bad["status"] != "ok"
    message = {
        "raise": "ValueError: as it was told to",
        "segfault": "killed by SIGSEGV",
        "exit": "exit code 3",
        "SystemExit": "enough",
    }
    assert (
        message.get(how, "exceeded its time_limit of 600 s" if how == "sleep" else "MemoryError")
        in f"{bad['error']}: {bad['message']}"
    )
    assert (before["status"], after["status"]) == ("ok", "ok")
    results = by_key(done_together.results().to_arrow())
    assert (results[k - 1]["twice"], results[k + 1]["twice"]) == (2 * k - 2, 2 * k + 2)
    assert k not in results
