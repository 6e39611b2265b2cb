"""Retry, resume, publish and cancel, from every state and from every point at which a driver may
have died; homes that cannot be used.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Run, Source, open_run, resume, retry, run
from hundredfold.errors import HomeError, NoSuchRun, PublishRefused, StateError
from hundredfold.local.home import Home
from hundredfold.ports.run_facts import HOME_FORMAT
from hundredfold.ports.run_states import Event
from hundredfold.runs.retry import discard, plan_retry_of_run
from hundredfold.testing import FaultInjectorAfter, InjectedFault
from support.waits import HANG_S

ROOT = Path(__file__).parents[2]
ROWS = pa.table({"k": [k for k in range(4) for _ in range(2)], "x": [float(x) for x in range(8)]})


def base(rows: Any) -> Any:
    return {"b": float(rows["x"].mean())}


def base_broken(rows: Any) -> Any:
    if rows["k"][0] == 2:
        raise ValueError("not yet")
    return base(rows)


def above(rows: Any, base: Any) -> Any:
    return {"a": float(rows["x"].sum()) - base["b"].mean()}


def apart(rows: Any) -> Any:
    return {"c": float(rows["x"].max())}


def apart_broken(rows: Any) -> Any:
    if rows["k"][0] == 3:
        raise ValueError("not yet either")
    return apart(rows)


def job_of(base_: Any, apart_: Any, max_failed: int = 0) -> Job:
    import polars as pl

    def above_table(rows: Any, base: pl.DataFrame) -> Any:
        return {"a": float(rows["x"].sum()) - float(base["b"].sum())}

    models = [
        Model("base", ("k",), base_),
        Model("above", (), above_table, query="SELECT * FROM s"),
        Model("apart", ("k",), apart_),
    ]
    out = Publish(
        "out", "SELECT apart.k, c, a FROM apart CROSS JOIN above ORDER BY k", formats=("csv",)
    )
    return Job("j", [Source("s")], models, publish=out, max_failed=max_failed)


SOUND = job_of(base, apart)
BROKEN = job_of(base_broken, apart_broken, max_failed=1)
HELD = job_of(base_broken, apart_broken)


def begun(home: Path, job: Job, **options: Any) -> Any:
    return run(
        job,
        {"s": ROWS},
        home=home,
        run_id="r",
        workers=1,
        memory="1GB",
        as_of="2026-01-01",
        **options,
    )


def results(home: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes() for path in home.glob("runs/r/models/*/results.parquet")
    }


def released(run: Run) -> tuple[int, int | None]:
    """Return the version of a finished run's release, and its parent."""
    assert (run.state, run.release is not None) == ("done", True)
    assert run.release is not None
    return run.release.version, run.release.parent


def rounds(run: Any, model: str) -> list[tuple[str, int]]:
    return [(row["status"], row["attempt"]) for row in run.units(model).to_arrow().to_pylist()]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("sound")
    begun(home, SOUND)
    return results(home)


def test_a_retry_does_failed_units_again_and_all_models_that_build_on_them(
    tmp_path: Path, wanted: Any
) -> None:
    done = begun(tmp_path, BROKEN)
    assert released(done) == (1, None)
    assert rounds(done, "base") == [("ok", 1), ("ok", 1), ("failed", 1), ("ok", 1)]
    assert results(tmp_path)["above"] != wanted["above"]
    again = retry("r", home=tmp_path, job=SOUND, accept_new_code=True)
    assert rounds(again, "base") == [("ok", 1), ("ok", 1), ("ok", 2), ("ok", 1)]
    assert rounds(again, "above") == [("ok", 2)]
    assert rounds(again, "apart") == [("ok", 1), ("ok", 1), ("ok", 1), ("ok", 2)]
    assert results(tmp_path) == wanted
    assert (
        again.record.options["keys_to_delete"] == []
    )  # so that a later driver does not begin anew once more
    assert released(again) == (2, 1)
    with pytest.raises(StateError, match="run r has no failed unit to retry; it is done"):
        retry("r", home=tmp_path)


def test_a_run_that_is_held_back_is_retried_twice_until_its_code_is_fixed(
    tmp_path: Path, wanted: Any
) -> None:
    with pytest.raises(PublishRefused, match="more units failed than max_failed=0 allows"):
        begun(tmp_path, HELD)
    assert open_run("r", home=tmp_path).state == "held"
    with pytest.raises(PublishRefused):
        retry("r", home=tmp_path)
    assert rounds(open_run("r", home=tmp_path), "base")[2] == ("failed", 2)
    done = retry("r", home=tmp_path, job=SOUND, accept_new_code=True)
    assert rounds(done, "base")[2] == ("ok", 3)
    assert results(tmp_path) == wanted
    assert released(done) == (1, None)


def test_a_run_that_is_held_back_is_published_under_another_limit(tmp_path: Path) -> None:
    with pytest.raises(PublishRefused):
        begun(tmp_path, HELD)
    done = hundredfold.publish("r", home=tmp_path, max_failed=1)
    assert (done.state, len(done.published().read_text().splitlines())) == ("done", 4)
    with pytest.raises(StateError, match="only a run that is held back can be published"):
        hundredfold.publish("r", home=tmp_path)


def test_a_run_that_failed_in_its_last_step_is_resumed_with_a_fixed_query(
    tmp_path: Path, wanted: Any
) -> None:
    from dataclasses import replace

    bad = replace(
        SOUND,
        publish=(
            replace(
                SOUND.releases[0],
                query="SELECT k, c / (k - k) AS c, a FROM apart, above WHERE nothing",
            ),
        ),
    )
    with pytest.raises(hundredfold.HundredfoldError):
        begun(tmp_path, bad)
    failed = open_run("r", home=tmp_path)
    assert (failed.state, failed.release) == ("failed", None)
    assert "nothing" in failed.record.reason
    done = resume("r", home=tmp_path, job=SOUND, accept_new_code=True)
    assert (done.state, results(tmp_path)) == ("done", wanted)


def test_a_retry_killed_between_writes_of_its_plan_is_finished_next_time(
    tmp_path: Path, wanted: Any
) -> None:
    begun(tmp_path / "home", HELD, max_failed=1)
    import shutil

    for n in count(1):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "home", folder)
        home = Home(folder)
        if calls_until_death(home, n) < n:
            break
        with suppress(StateError):
            resume("r", home=folder, job=SOUND, accept_new_code=True)
        with suppress(StateError):
            retry("r", home=folder, job=SOUND, accept_new_code=True)
        assert results(folder) == wanted, f"write {n}"
        assert open_run("r", home=folder).state == "done"
    assert n > 5


def calls_until_death(home: Home, n: int) -> int:
    """Plan a retry as far as its driver would begin; call n to the store or the ledger, counted
    together, is the last. Return the number of calls.
    """
    calls = count(1)
    made = 0

    class Dying(FaultInjectorAfter):
        def _count(self) -> int:
            nonlocal made
            made += 1
            return next(calls)

        def __getattr__(self, name: str) -> Any:
            reads = name in ("read", "get", "list", "path")
            return getattr(self.port, name) if reads else super().__getattr__(name)

    store: Any = Dying(home.store, n)
    ledger: Any = Dying(home.ledger, n)
    home.store, home.ledger = store, ledger
    with suppress(InjectedFault):
        plan_retry_of_run(home, home.ledger.read("r"), SOUND)
        discard(home, home.ledger.move("r", Event.RETRY))
    return made


def test_a_refused_retry_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(PublishRefused):
        begun(tmp_path, HELD)
    hundredfold.cancel("r", home=tmp_path)
    before = open_run("r", home=tmp_path).record
    with pytest.raises(StateError, match="it was cancelled: run the job again"):
        retry("r", home=tmp_path)
    assert open_run("r", home=tmp_path).record == before


def test_what_is_done_or_unknown_is_not_resumed(tmp_path: Path) -> None:
    begun(tmp_path, SOUND)
    with pytest.raises(StateError, match="run r cannot start: it is done"):
        resume("r", home=tmp_path)
    with pytest.raises(NoSuchRun, match="there is no run other; the newest are r"):
        resume("other", home=tmp_path)
    with pytest.raises(StateError, match="run r exists already") as error:
        begun(tmp_path, SOUND)
    assert error.value.hint == "hundredfold resume r"
    with pytest.raises(HomeError, match="there is no run in"):
        resume("r", home=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_home_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    Home(tmp_path)
    (tmp_path / "format").write_text(f"{HOME_FORMAT + 1}\n")
    with pytest.raises(
        HomeError, match=f"has format {HOME_FORMAT + 1}, and this program reads up to {HOME_FORMAT}"
    ) as error:
        begun(tmp_path, SOUND)
    assert "install a newer hundredfold" in (error.value.hint or "")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("location", ["a file", "/proc/home"])
def test_a_home_that_cannot_be_made_is_reported_with_what_to_do(
    tmp_path: Path, location: str
) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(HomeError, match=r"cannot be (read or )?written") as error:
        begun(tmp_path / location, SOUND)
    assert "--home" in (error.value.hint or "")


FULL = """
import resource, sys
import pyarrow as pa
import hundredfold
from hundredfold import Job, Model, Source
from hundredfold.pipeline.runner import NullCallbacks

def double(rows):
    return {"y": rows["x"].tolist() * 400}

class Filling(NullCallbacks):
    def stage_started(self, stage):
        if str(stage) == sys.argv[2]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))

job = Job("full", [Source("s")], [Model("m", ("k",), double)])
table = pa.table({"k": range(200), "x": [k / 7 for k in range(200)]})
try:
    options = {"run_id": "r", "workers": 1, "memory": "1GB", "callbacks": Filling()}
    hundredfold.run(job, {"s": table}, home=sys.argv[1], **options)
except hundredfold.HundredfoldError as error:
    print(type(error).__name__, "|", error, "|", error.hint)
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no limits on files")
@pytest.mark.parametrize("stage", ["prepare m", "work m", "collect m"])
def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_space(
    tmp_path: Path, stage: str
) -> None:
    (tmp_path / "script.py").write_text(FULL)
    command = [
        sys.executable,
        "-W",
        "error",
        str(tmp_path / "script.py"),
        str(tmp_path / "home"),
        stage,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("HomeError | ")
    assert "--home" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    again = resume("r", home=tmp_path / "home")
    assert len(again.results()) == 200
