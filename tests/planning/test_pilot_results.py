"""A run takes the results of its plan's pilot only where they are those that it would compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Publish, Source
from hundredfold.cli.display import further_lines
from hundredfold.data.checksums import put_json
from hundredfold.data.layout import Layout
from hundredfold.data.row_digests import RowDigest
from hundredfold.local.filesystem import FileStore
from hundredfold.local.home import Home
from hundredfold.local.new_run import create_run
from hundredfold.local.runner import LocalRunner
from hundredfold.pipeline.budget import stored_seconds
from hundredfold.pipeline.runner import NullCallbacks, RunCallbacks
from hundredfold.ports.run_states import Event, State
from hundredfold.runs.backend import RunArguments
from hundredfold.runs.code_history import keep_code
from hundredfold.runs.efficiency import efficiency_of
from hundredfold.runs.job_code import read_job_code
from hundredfold.runs.pilot_results import FACTS, keep_pilot
from hundredfold.runs.resources import Resources
from hundredfold.runs.run import Run
from hundredfold.runs.summary import summarize
from hundredfold.testing import FaultInjector, InjectedFault
from support.in_process_pool import InProcessPool, published_bytes

UNITS, ROWS = 24, 3
CALLS: list[tuple[str, Any]] = []  # model and unit of each call of a function
BAD = 5  # the unit that fails


def level(rows: Any) -> Any:
    CALLS.append(("level", ()))
    return {"level": float(rows["x"].sum())}


def own(rows: Any, *, factor: int = 1) -> Any:
    """Return an integer or a float: the type of the column depends on all values."""
    key = rows["k"][0]
    CALLS.append(("own", int(key)))
    if key == BAD:
        raise ValueError("never")
    total = float(rows["x"].sum()) * factor
    return {"v": int(total) if total.is_integer() else total, "kind": str(rows["n"].dtype)}


def above(rows: Any, level: Any) -> Any:
    CALLS.append(("above", int(rows["k"][0])))
    return {"a": float(rows["x"].sum()) / level["level"]}


def job_of(factor: int = 1) -> Job:
    models = [
        Model("level", (), level, query="SELECT x FROM s"),
        Model("own", ("k",), partial(own, factor=factor)),
        Model("above", ("k",), above, query="SELECT k, x FROM s"),
    ]
    query = "SELECT o.*, a.a FROM own AS o JOIN above AS a USING (k) ORDER BY k"
    return Job("j", [Source("s")], models, publish=Publish("out", query, formats=("csv",)))


def rows_of(**changes: Any) -> pa.Table:
    columns = {
        "k": np.repeat(np.arange(UNITS), ROWS).tolist(),
        "x": [n / 2 if n % 6 < 3 else float(n) for n in range(UNITS * ROWS)],
        "n": list(range(UNITS * ROWS)),
    }
    return pa.table({**columns, **changes})


@pytest.fixture(scope="module", autouse=True)
def many_batches() -> Iterator[None]:
    """So few units would be in one batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hundredfold.pipeline.prepare.MIN_BATCH_COST", 1e-9)
        yield


def begin(folder: Path, rows: pa.Table, job: Job, **arguments: Any) -> Home:
    home = Home(folder)
    given = RunArguments(run_id="r", max_failed=1, **{"as_of": "2026-01-01", **arguments})
    create_run(home, job, "", {"s": rows}, given, read_job_code(job))
    return home


def drive(home: Home, job: Job, workers: int = 1, callbacks: RunCallbacks | None = None) -> None:
    """Do what a driver does with the run, in this process."""
    record = home.ledger.move("r", Event.START)
    places = {"s": home.folder / "runs/r/staged/s.parquet"}
    resources, calls = Resources(workers, 2**30), callbacks or NullCallbacks()
    LocalRunner(home, job, record, resources, places, calls, pool_factory=InProcessPool).run()


@dataclass(frozen=True)
class Kept:
    """A pilot whose results are in a folder."""

    folder: Path
    calls: int


@cache
def pilot_home() -> TemporaryDirectory[str]:
    """Return a complete run of the job; deleted when the process ends."""
    folder = TemporaryDirectory(prefix="pilot-home-", ignore_cleanup_errors=True)
    drive(begin(Path(folder.name) / "home", rows_of(), job_of(), workers=2), job_of(), 2)
    return folder


def keep(folder: Path, executed: Callable[[int], bool] = lambda _: True) -> Path:
    """Keep the results of a pilot that executed these units of `own`."""
    copytree(Path(pilot_home().name) / "home", folder / "of_pilot")
    home = Home(folder / "of_pilot")
    for key in home.store.list("runs/r/models/own/outcomes/"):
        outcome = Layout("r").parse_outcome_key(key)
        if outcome is not None and not executed(outcome.first):
            home.store.delete(key)
    code, kept = read_job_code(job_of()).fingerprint, folder / "plan.pilot"
    keep_pilot(code, Layout("r"), job_of().models, home.store, FileStore(kept))
    return kept


def calls_of(model: str) -> list[int]:
    return sorted(unit for name, unit in CALLS if name == model)


def wanted(folder: Path, rows: pa.Table, job: Job) -> dict[str, bytes]:
    """Return the files of a run without a pilot."""
    home = begin(folder / "alone", rows, job)
    drive(home, job)
    return published_bytes(home.folder)


def test_all_results_of_a_pilot_are_taken_but_those_of_failed_units(tmp_path: Path) -> None:
    kept = keep(tmp_path)
    home = begin(tmp_path / "home", rows_of(), job_of(), pilot=kept)
    CALLS.clear()
    drive(home, job_of(), 3)
    assert CALLS == [("own", BAD)]
    assert published_bytes(home.folder) == wanted(tmp_path, rows_of(), job_of())
    record = home.ledger.read("r")
    assert [m.get("pilot_units", 0) for m in record.models.values()] == [1, UNITS - 1, UNITS]
    assert {m["pilot_refused"] for m in record.models.values()} == {""}
    facts = summarize(Run(home, "r"))
    line = next(line for line in further_lines(facts) if line.startswith("taken"))
    assert "1 of 1 units of level" in line
    assert f"{UNITS - 1} of {UNITS} units of own" in line


def test_seconds_of_a_pilot_are_not_those_of_the_run(tmp_path: Path) -> None:
    kept = keep(tmp_path)
    home = begin(tmp_path / "home", rows_of(), job_of(), pilot=kept)
    drive(home, job_of())
    record = home.ledger.read("r")
    own_ = record.models["own"]
    units = Run(home, "r").units("own").to_arrow().to_pylist()
    executed = [unit["seconds"] for unit in units if unit["attempt"] == 1]
    assert [unit["k"] for unit in units if unit["attempt"] == 1] == [BAD]
    assert own_["longest"] == pytest.approx(max(executed), abs=1e-6)
    assert own_["seconds"] - own_["pilot_seconds"] == pytest.approx(sum(executed), abs=2e-3)
    spent = stored_seconds(job_of().models, Layout("r"), home.store)
    assert spent == pytest.approx(sum(executed), abs=1e-9)
    seconds = {"ok": UNITS, "seconds": 10.0, "pilot_seconds": 8.0, "longest": 1.0, "cores": 1}
    times = {"seconds": {"work m": 4.0}, "stage": "", "since": 0.0, "complete": True}
    counts: Any = {"models": {"m": seconds}, "times": times}
    found = efficiency_of(replace(record, counts=counts, state=State.DONE))
    assert found is not None
    assert (found["work"], found["share"]) == (2.0, 0.5)


def edited(unit: int, edit: str) -> pa.Table:
    """Return the rows after an edit near a unit."""
    rows, at = rows_of(), unit * ROWS + 1
    x, n, k = (rows.column(name).to_pylist() for name in ("x", "n", "k"))
    if edit == "value":
        x[at] += 1.0
    elif edit == "negative zero":
        x[at] = -0.0 if unit == 0 else x[at]
        x[0] = -0.0
    elif edit == "null":
        n[at] = None
    elif edit == "removed":
        return rows.filter(pa.array([key != unit for key in k]))
    elif edit == "added":
        return pa.concat_tables([rows, pa.table({"k": [unit - 100], "x": [0.25], "n": [1]})])
    elif edit == "order":
        return rows.take(list(range(len(k)))[::-1])
    return rows.set_column(1, "x", pa.array(x)).set_column(2, "n", pa.array(n, pa.int64()))


EDITS = ("none", "value", "negative zero", "null", "removed", "added", "order")


@given(
    unit=st.integers(0, UNITS - 1),
    edit=st.sampled_from(EDITS),
    factor=st.sampled_from([1, 1, 2]),
    workers=st.integers(1, 4),
    dropped=st.sampled_from([0, 2, 3]),
    as_of=st.sampled_from(["2026-01-01", "2027-02-03"]),
)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example is two runs
)
def test_no_edit_makes_a_run_with_a_pilot_differ_from_one_without(
    unit: int, edit: str, factor: int, workers: int, dropped: int, as_of: str
) -> None:
    rows, job = edited(unit, edit), job_of(factor)
    with TemporaryDirectory() as folder:
        kept = keep(Path(folder), lambda unit: not dropped or unit % dropped > 0)
        options = {"workers": workers, "as_of": as_of}
        home = begin(Path(folder) / "home", rows, job, pilot=kept, **options)
        CALLS.clear()
        drive(home, job, workers)
        executed = {name: calls_of(name) for name in ("own", "above")}
        found = published_bytes(home.folder)
        alone = begin(Path(folder) / "alone", rows, job, **options)
        drive(alone, job, workers)
        assert found == published_bytes(alone.folder)
        models = home.ledger.read("r").models
        if factor > 1:  # other code
            assert [m.get("pilot_units", 0) for m in models.values()] == [0, 0, 0]
            assert models["own"]["pilot_refused"] == "the code is not that of the plan"
        elif edit in ("none", "order") and not dropped:  # nothing that matters was changed
            assert executed == {"own": [BAD], "above": []}
        elif edit == "value":
            assert unit in executed["own"]
            assert len(executed["own"]) < UNITS  # the units of other outcomes are taken
            assert executed["above"] == list(range(UNITS))  # each has another `level`
            assert "the results of level are not those" in models["above"]["pilot_refused"]


class FaultyStore(FaultInjector):
    """A store whose nth call fails; the location of a file is always known."""

    def path(self, key: Any) -> Any:
        return self.port.path(key)


class Until(NullCallbacks):
    """Ends the run where a stage would begin."""

    def __init__(self, stage: str) -> None:
        self.last = stage

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.last:
            raise InjectedFault(self.last)


def test_a_driver_that_ends_while_it_takes_results_is_continued(tmp_path: Path) -> None:
    kept, job = keep(tmp_path, lambda unit: unit % 4 == 1), job_of()
    whole = wanted(tmp_path, rows_of(), job)
    begun = begin(tmp_path / "begun", rows_of(), job, pilot=kept)
    with suppress(InjectedFault):
        drive(begun, job, callbacks=Until("enqueue own"))
    for n in count(1):
        copytree(tmp_path / "begun", tmp_path / str(n))
        home = Home(tmp_path / str(n))
        sound = home.store
        faulty = FaultyStore(sound, fail_at=n)
        home.store = faulty  # type: ignore[assignment]  # a wrapper
        with suppress(InjectedFault):
            drive(home, job, callbacks=Until("work own"))
        home.store = sound
        drive(home, job)
        assert published_bytes(home.folder) == whole, f"call {n}"
        if faulty.calls < n:
            break
    assert n > 20


def test_a_resumed_run_with_new_code_takes_nothing(tmp_path: Path) -> None:
    kept, new = keep(tmp_path), job_of(2)
    home = begin(tmp_path / "home", rows_of(), job_of(), pilot=kept)
    keep_code(home, home.ledger.read("r"), read_job_code(new))
    drive(home, new)
    assert published_bytes(home.folder) == wanted(tmp_path, rows_of(), new)
    assert home.ledger.read("r").models["own"]["pilot_refused"].startswith("the code is not")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("flip", "does not have the checksum with which it was written"),
        ("cut", "has no checksum"),
        ("part", "own/000000.arrow of its folder is missing"),
        ("facts", "pilot.json of its folder is missing"),
        ("folder", "pilot.json of its folder is missing"),
        ("file", "pilot.json of its folder is missing"),
        ("format", "written by another version of hundredfold"),
        ("machine", "on another kind of machine: Amiga m68k"),
        ("begun", "the pilot did not reach it"),
    ],
)
def test_a_damaged_folder_is_named_and_everything_is_computed(
    damage: str, reason: str, tmp_path: Path
) -> None:
    kept = keep(tmp_path)
    facts, part = kept / FACTS, kept / "own" / "000000.arrow"
    if damage == "flip":
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    elif damage == "cut":
        facts.write_bytes(facts.read_bytes()[:-9])
    elif damage in ("part", "facts"):
        (part if damage == "part" else facts).unlink()
    elif damage in ("folder", "file"):
        kept.rename(tmp_path / "elsewhere")
        if damage == "file":
            kept.write_text("")
    else:
        code = read_job_code(job_of()).fingerprint
        other = {"format": 1, "code": code, "machine": "Amiga m68k", "models": {}}
        begun = {"format": 9} if damage == "format" else {}
        if damage == "begun":
            keep_pilot(code, Layout("r"), (), FileStore(kept), FileStore(kept))
        else:
            put_json(FileStore(kept), FACTS, {**other, **begun})
    home = begin(tmp_path / "home", rows_of(), job_of(), pilot=kept)
    drive(home, job_of())
    assert reason in home.ledger.read("r").models["own"]["pilot_refused"]
    assert published_bytes(home.folder) == wanted(tmp_path, rows_of(), job_of())
    lines = [line for line in further_lines(summarize(Run(home, "r"))) if "pilot" in line]
    assert any(line.startswith("not taken from the pilot of the plan, for ") for line in lines)


VALUES: dict[str, pa.Array] = {
    "integer": pa.array([1, None, 3]),
    "text": pa.array(["x", None, "yz"]),
    "view": pa.array(["x", None, "yz"], pa.string_view()),
    "boolean": pa.array([True, None, False]),
    "list": pa.array([[1, 2], None, []]),
    "struct": pa.array([{"q": 1.5}, None, {"q": None}]),
    "time": pa.array([1, 2, None], pa.timestamp("ns")),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "codes": pa.array(["x", "y", None]).dictionary_encode(),
    "float": pa.array([0.0, None, float("nan")]),
    "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)),
    "nothing": pa.nulls(3),
}


def digest_of(*tables: pa.Table) -> str:
    digest = RowDigest()
    for table in tables:
        digest.add(table)
    return digest.hexdigest()


@pytest.mark.parametrize("kind", VALUES)
def test_a_digest_depends_on_values_and_not_on_chunks(kind: str) -> None:
    table = pa.table({"v": VALUES[kind]})
    whole = digest_of(table)
    twice = pa.concat_tables([table, table])
    assert [digest_of(table.slice(0, n), table.slice(n)) for n in range(4)] == [whole] * 4
    assert digest_of(twice.slice(3)) == whole
    others = [twice, table.slice(1), table.rename_columns(["w"])]
    if kind != "nothing":
        one, two, three = (table.slice(n, 1) for n in range(3))
        orders = [(two, one, three), (one, one, three), (three, two, one)]
        others += [pa.concat_tables(order) for order in orders]
    assert whole not in [digest_of(other) for other in others]


def test_a_digest_distinguishes_bits_and_types_but_not_bytes_below_nulls() -> None:
    def of(values: Any, kind: pa.DataType | None = None) -> str:
        return digest_of(pa.table({"v": pa.array(values, kind)}))

    assert of([0.0]) != of([-0.0])
    assert of([1], pa.int32()) != of([1], pa.int64())
    assert of(["a", "bc"]) != of(["ab", "c"])
    assert of([[1], [2, 3]]) != of([[1, 2], [3]])
    masked = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([7, 99]))]
    )
    assert digest_of(pa.table({"v": masked})) == of([7, None])
