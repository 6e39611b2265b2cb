"""`hundredfold adjust`: the limits of a run, changed while it goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import hundredfold
from hundredfold import Job, Model, Source
from hundredfold.errors import JobError, PublishRefused, StateError, UsageError
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.pipeline.work import Progress


def fails_for_some(rows: Any) -> dict[str, int]:
    k = int(rows["k"][0])
    if k < 3:
        raise ValueError("as its row requests")
    return {"twice": 2 * k}


JOB = Job("some", [Source("s")], [Model("m", ("k",), fails_for_some)])
ROWS = {"s": pd.DataFrame({"k": range(10)})}


class AdjustOnce(NullCallbacks):
    """Adjusts the run when its work begins, as another terminal would."""

    def __init__(self, home: Path, limit: float) -> None:
        self.home, self.limit, self.done = home, limit, threading.Event()

    def progress(self, progress: Progress) -> None:  # noqa: ARG002
        if not self.done.is_set():
            self.done.set()
            hundredfold.adjust(home=self.home, max_failed=self.limit)


def test_a_higher_limit_lets_a_run_end_that_would_be_held(tmp_path: Path) -> None:
    callbacks = AdjustOnce(tmp_path / "home", 3)
    run = hundredfold.run(JOB, ROWS, home=tmp_path / "home", workers=1, callbacks=callbacks)
    assert run.record.state.value == "done"
    assert run.record.max_failed == 3


def test_a_lower_limit_holds_a_run_that_would_end(tmp_path: Path) -> None:
    callbacks = AdjustOnce(tmp_path / "home", 2)
    with pytest.raises(PublishRefused, match="more units failed than max_failed=2"):
        hundredfold.run(
            JOB, ROWS, home=tmp_path / "home", workers=1, max_failed=5, callbacks=callbacks
        )


def test_a_run_that_has_ended_is_not_adjusted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    hundredfold.run(JOB, ROWS, home=home, workers=1, max_failed=3, run_id="ended")
    with pytest.raises(StateError, match="only a run in progress") as found:
        hundredfold.adjust(home=home, max_failed=4)
    assert found.value.hint == "hundredfold status ended"
    with pytest.raises(PublishRefused):
        hundredfold.run(JOB, ROWS, home=home, workers=1, run_id="held", max_failed=0)
    with pytest.raises(StateError) as found:
        hundredfold.adjust("held", home=home, max_failed=4)
    assert found.value.hint == "hundredfold publish held --max-failed 4"


def test_what_cannot_be_adjusted_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(UsageError, match="nothing to adjust"):
        hundredfold.adjust(home=home)
    with pytest.raises(UsageError, match="--concurrency is for --backend aws"):
        hundredfold.adjust(home=home, concurrency=5)
    callbacks = AdjustOnce(home, -1)
    with pytest.raises(JobError, match="max_failed"):
        hundredfold.run(JOB, ROWS, home=home, workers=1, callbacks=callbacks)
