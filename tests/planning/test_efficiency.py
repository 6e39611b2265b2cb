"""The efficiency of a run: its record has the seconds of each step, whoever its drivers were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, resume, run
from hundredfold.cli.display import further_lines
from hundredfold.local.home import Home
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.pipeline.stage_times import StageTimes
from hundredfold.pipeline.stages import Stage
from hundredfold.planning import fleets
from hundredfold.planning.simulator import Work, play
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_facts import ModelCounts
from hundredfold.ports.run_states import State
from hundredfold.runs.efficiency import efficiency_of
from hundredfold.runs.summary import summarize

STEPS = ["validate", "prepare m", "enqueue m", "work m", "collect m", "publish"]


def record_of(models: dict[str, ModelCounts], times: StageTimes) -> Record:
    counts: Any = {"models": models, **times.counts}
    return Record("r", "j", "", State.DONE, "done", "", "", counts=counts)


def model(seconds: float, longest: float, cores: int) -> ModelCounts:
    return {"ok": 1, "seconds": seconds, "longest": longest, "cores": cores}


def test_times_add_up_over_drivers_and_a_killed_one_leaves_them_open() -> None:
    first = StageTimes().begin("validate", 10.0).begin("work m", 12.0).end(15.0)
    assert first.seconds == {"validate": 2.0, "work m": 3.0}
    second = StageTimes.of(first.counts).restart().begin("work m", 100.0)
    assert second.end(104.0).seconds["work m"] == 7.0
    assert second.end(104.0).complete
    assert second.end(90.0).seconds["work m"] == 3.0  # the clock was set back
    assert not StageTimes.of(second.counts).restart().begin("work m", 200.0).complete


def test_an_efficiency_is_the_shortest_time_over_that_of_all_steps() -> None:
    times = StageTimes({"validate": 5.0, "work m": 30.0, "work n": 15.0})
    even, giant = model(80.0, 1.0, 4), model(12.0, 10.0, 4)
    found = efficiency_of(record_of({"m": even, "n": giant}, times))
    assert found is not None
    assert (found["best"], found["wall"], found["share"]) == (30.0, 50.0, 0.6)
    assert efficiency_of(record_of({"m": even}, StageTimes(times.seconds, complete=False))) is None
    older: ModelCounts = {"ok": 1, "seconds": 1.0}
    assert efficiency_of(record_of({"m": older}, times)) is None
    assert efficiency_of(record_of({"m": even}, StageTimes())) is None


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.integers(1, 9))
def test_no_schedule_is_more_efficient_than_one(seconds: list[float], cores: int) -> None:
    each = np.array(seconds)
    played = play(
        fleets.local(cores, 0.0),
        Work(each, each, np.ones(len(each), np.int64)),
        np.random.default_rng(1),
    )
    times = StageTimes({"work m": played.wall})
    counts = model(float(each.sum()), float(each.max()), cores)
    found = efficiency_of(record_of({"m": counts}, times))
    assert found is not None
    assert found["share"] <= 1 + 1e-9


class InterruptOnce(NullCallbacks):
    """Interrupts the run, as Ctrl-C does, when the results are to be collected."""

    def stage_started(self, stage: Stage) -> None:
        if stage.step == "collect":
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_and_resumed_shows_its_efficiency(tmp_path: Path) -> None:
    rows = pa.table({"k": [n // 3 for n in range(30)], "x": range(30)})
    job = Job("j", [Source("s")], [Model("m", unit=("k",), work=lambda rows: {"n": rows["x"][0]})])
    options: Any = {"home": tmp_path, "workers": 2}
    with pytest.raises(KeyboardInterrupt):
        run(job, {"s": rows}, run_id="r", callbacks=InterruptOnce(), **options)
    ledger = Home(tmp_path).ledger
    before = StageTimes.of(ledger.read("r").counts)
    assert before.complete
    assert list(before.seconds) == STEPS[:5]
    done = resume("r", job=job, **options)
    facts = summarize(done)
    found = facts["efficiency"]
    assert found is not None
    assert list(found["stages"]) == STEPS
    assert found["stages"]["validate"] >= before.seconds["validate"]
    assert found["cores"] == 2
    assert 0 < found["longest"] <= found["work"] + 1e-3
    assert further_lines(facts)[0].startswith("efficiency ")
