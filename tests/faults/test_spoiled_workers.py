"""A unit that corrupts its worker's process for later units: it is found and named, and a fresh
process executes the others.
"""

from __future__ import annotations

import builtins
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Source
from hundredfold.errors import HomeError, ResultError
from hundredfold.local.home import Home
from hundredfold.workers import unit_runner as desk
from support.waits import LIMIT_S

UNITS = 6
ROWS = pa.table({"k": range(UNITS), "x": [float(k) for k in range(UNITS)]})
CULPRIT = 3


def breaks(name: str, error: Exception) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    setattr(desk, name, broken)


def isinstance_is_false() -> None:
    builtins.isinstance = lambda *_: False


def results_cannot_be_packed() -> None:
    breaks("pack_results", ResultError("spoiled"))


def results_raise() -> None:
    breaks("pack_results", KeyError("spoiled"))


def no_batch_can_be_read() -> None:
    breaks("open_batch", HomeError("000002.arrow cannot be read: Cannot allocate memory"))


def reading_raises() -> None:
    breaks("open_batch", AttributeError("spoiled"))


def no_memory_is_left() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))


class Spoils:
    """Doubles x; the culprit (every unit, if it is None) first calls `how`."""

    def __init__(self, how: Any, culprit: Any = CULPRIT) -> None:
        self.how, self.culprit = how, culprit

    def __call__(self, rows: Any) -> Any:
        if self.culprit in (None, int(rows["k"][0])):
            self.how()
        return {"y": 2 * float(rows["x"][0])}


class SpoilsMany(Spoils):
    def __call__(self, rows: Any) -> Any:
        if self.culprit in rows["k"]:
            self.how()
        return {"y": 2 * rows["x"]}


def double(rows: Any) -> Any:
    return {"z": 2 * float(rows["y"][0])}


def go(home: Path, work: Any, **how: Any) -> hundredfold.Run:
    models = [
        Model("m", ("k",), work, **how),
        Model("n", ("k",), double, query="SELECT k, y FROM m"),
    ]  # one worker does both
    job = Job("spoiled", [Source("s")], models, max_failed=1)
    return hundredfold.run(job, {"s": ROWS}, home=home, workers=1, memory="1GB")


@pytest.mark.parametrize(
    "how", [isinstance_is_false, results_cannot_be_packed, results_raise], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("many", [False, True], ids=["each", "many"])
def test_a_unit_that_spoils_its_own_result_is_named_and_no_other(
    tmp_path: Path, how: str, many: int
) -> None:
    run = go(tmp_path, (SpoilsMany if many else Spoils)(how), batched=many)
    assert run.state == "done"
    [bad] = run.failures().to_arrow().to_pylist()
    assert (bad["unit"], bad["status"]) == (str(CULPRIT), "crashed")
    assert "its worker failed outside of the function, and so did a fresh one" in bad["message"]
    assert run.results("m").to_arrow().to_pydict() == {
        "k": [k for k in range(UNITS) if k != CULPRIT],
        "y": [2.0 * k for k in range(UNITS) if k != CULPRIT],
    }


@pytest.mark.parametrize(
    "how", [no_batch_can_be_read, reading_raises, no_memory_is_left], ids=lambda f: f.__name__
)
def test_a_worker_that_units_spoil_for_later_ones_is_replaced(tmp_path: Path, how: str) -> None:
    run = go(tmp_path, Spoils(how, culprit=None), time_limit=LIMIT_S)
    assert (run.state, len(run.failures())) == ("done", 0)
    assert run.results().to_arrow().to_pydict() == {
        "k": list(range(UNITS)),
        "z": [4.0 * k for k in range(UNITS)],
    }


def test_a_file_that_no_worker_can_read_ends_the_run_with_its_name(tmp_path: Path) -> None:
    class Unreadable:
        def __reduce__(self) -> Any:
            return unreadable, ()

        def __call__(self, rows: Any) -> Any:  # noqa: ARG002
            return {"y": 1.0}

    with pytest.raises(HomeError, match=r"000002\.arrow cannot be read"):
        go(tmp_path, Unreadable())
    [record] = Home(tmp_path).ledger.runs()
    assert (record.state.value, "000002.arrow cannot be read" in record.reason) == ("failed", True)


def unreadable() -> Spoils:
    """What a worker unpacks, and finds that it can read no batch from the beginning."""
    no_batch_can_be_read()
    return Spoils(no_batch_can_be_read)
