"""`hundredfold clean`: which runs lose their files, and that nothing else does."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import DamagedFile, PublishRefused, UsageError
from hundredfold.local.cleaning import TRASH, CleanOptions, clean_home
from hundredfold.local.home import Home
from support.cli import CliResult, run_hundredfold

ROWS = {"k": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]}


def double(rows: Any) -> dict[str, float]:
    return {"y": 2 * float(rows["x"][0])}


def fails(rows: Any) -> dict[str, float]:
    raise ValueError("no")


def job(name: str = "j", work: Callable[..., Any] = double) -> Job:
    output = Publish("t", "SELECT * FROM m ORDER BY k", formats=("csv",))
    return Job(name, [Source("s")], [Model("m", ("k",), work)], publish=output)


def run(home: Path, run_id: str, made: Job | None = None) -> None:
    hundredfold.run(made or job(), {"s": ROWS}, home=home, run_id=run_id, workers=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with four runs of one job that are done, one of another, and one that is held."""
    home = tmp_path_factory.mktemp("clean") / "home"
    for number in (1, 2, 3, 4):
        run(home, f"r{number}")
    run(home, "other", job("other"))
    with pytest.raises(PublishRefused):
        run(home, "held", job(work=fails))
    return home


@pytest.fixture
def home(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / "home"))


def cli(home: Path, *arguments: str) -> CliResult:
    return run_hundredfold(*arguments, "--home", str(home), folder=home.parent, environment={})


def left(home: Path) -> set[str]:
    return {path.name for path in (home / "runs").iterdir()}


def test_the_newest_runs_and_those_of_the_last_releases_are_kept(home: Path) -> None:
    found = hundredfold.clean(home=home, keep=1)  # the newest is held
    assert [(each.run, each.job, each.state) for each in found] == [
        ("r1", "j", "done"),
        ("r2", "j", "done"),
    ]
    assert all(each.size > 1_000 for each in found)
    assert left(home) == {"r3", "r4", "held", "other"}
    assert not (home / TRASH).exists()
    assert hundredfold.clean(home=home, keep=1) == []
    assert {record.id for record in Home(home).ledger.runs()} == {*left(home), "r1", "r2"}
    assert hundredfold.open_run("r1", home=home).state == "done"
    assert "r1" in cli(home, "status", "r1").out


def test_a_dry_run_removes_nothing(home: Path) -> None:
    before = {path: path.stat().st_size for path in home.rglob("*") if path.is_file()}
    assert len(hundredfold.clean(home=home, keep=0, unfinished=True, dry_run=True)) == 3
    after = {path: path.stat().st_size for path in home.rglob("*") if path.is_file()}
    ignored = {path for path in {*before, *after} if ".sqlite" in path.name or "lock" in path.name}
    assert {p: s for p, s in before.items() if p not in ignored} == {
        p: s for p, s in after.items() if p not in ignored
    }


def test_unfinished_runs_are_removed_only_on_request(home: Path) -> None:
    hundredfold.clean(home=home, keep=0)
    assert "held" in left(home)
    assert [each.run for each in hundredfold.clean(home=home, keep=0, unfinished=True)] == ["held"]


def test_only_runs_of_a_job_and_of_an_age_are_removed(home: Path) -> None:
    options = CleanOptions(keep=0, older_than=3600.0, job="j")
    opened, now = Home(home), dt.datetime.now(dt.UTC)
    assert clean_home(opened, options, now) == []
    later = now + dt.timedelta(hours=2)
    assert [each.run for each in clean_home(opened, options, later)] == ["r1", "r2"]
    assert "other" in left(home)


def test_a_run_that_a_process_executes_is_left_alone(home: Path) -> None:
    with Home(home).lock("r1"):
        assert [each.run for each in hundredfold.clean(home=home, keep=0)] == ["r2"]
    assert "r1" in left(home)


def test_files_of_a_cleaning_that_was_killed_are_removed_by_the_next(home: Path) -> None:
    (home / TRASH).mkdir()
    (home / "runs" / "r1").rename(home / TRASH / "r1-0")  # killed after this
    assert hundredfold.clean(home=home, keep=10) == []
    assert not (home / TRASH).exists()


def test_rows_of_units_that_were_removed_come_back_with_resume(home: Path) -> None:
    def content(name: str) -> dict[str, bytes]:
        root = home / "runs" / name / "models"
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.parquet")}

    before = content("r1")
    (found, _) = hundredfold.clean(home=home, keep=0, job="j", rows_only=True)
    assert (found.run, found.files) == ("r1", "rows of units")
    assert content("r1") == before
    assert hundredfold.open_run("r1", home=home).results().to_arrow().num_rows == 3
    with pytest.raises(DamagedFile, match="missing") as caught:
        hundredfold.replay("m", "a", run_id="r1", home=home, job=job())
    assert "hundredfold resume r1" in (caught.value.hint or "")
    hundredfold.resume("r1", home=home, job=job(), accept_new_code=True)
    assert hundredfold.replay("m", "a", run_id="r1", home=home, job=job()) == {"y": 2.0}


def test_the_command_prints_the_runs_and_the_space(home: Path) -> None:
    arguments = ("clean", "--keep", "0", "--job", "j")
    shown = cli(home, *arguments, "--dry-run")
    assert shown.code == 0, shown.err
    assert [line.split()[:3] for line in shown.out.splitlines()[1:3]] == [
        ["r1", "j", "done"],
        ["r2", "j", "done"],
    ]
    assert "MiB would be freed: all files of 2 runs" in shown.out
    facts = json.loads(cli(home, *arguments, "--json").out)
    assert [each["run"] for each in facts] == ["r1", "r2"]
    assert "no run to clean" in cli(home, *arguments).out
    wrong = cli(home, *arguments, "--older-than", "soon")
    assert wrong.code == 2
    assert "--older-than is 'soon', wanted a time" in wrong.err


def test_a_negative_number_of_runs_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="--keep is -1"):
        hundredfold.clean(home=home, keep=-1)
