"""Code that another user could have written into a home is not executed."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

import hundredfold
from hundredfold import Job, Model, Source
from hundredfold.errors import HomeError
from hundredfold.local.home import Home

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes of files")


def double(rows: dict[str, Any]) -> dict[str, float]:
    return {"y": 2 * float(rows["x"][0])}


JOB = Job("owners", [Source("s")], [Model("m", ("k",), double, "SELECT * FROM s")])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "s.csv").write_text("k,x\n1,1\n2,2\n")
    hundredfold.run(
        JOB, sources={"s": folder / "s.csv"}, run_id="r", home=folder / "home", workers=1
    )
    return folder / "home"


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "home", copy_function=shutil.copy2)


def test_a_new_home_is_for_its_user_alone(home: Path) -> None:
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_home_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o750)
    Home(tmp_path / "shared")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o750


@pytest.mark.parametrize("part", ["", "runs", "runs/r", "runs/r/job.pickle"])
def test_a_pickled_job_that_everyone_may_write_is_refused(home: Path, part: str) -> None:
    path = home / part
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(HomeError, match="is not executed because another user") as caught:
        hundredfold.replay("m", "1", home=home)
    assert caught.value.problems == (f"everyone may write {path}",)
    assert "job=job" in str(caught.value.hint)
    assert hundredfold.open_run("r", home=home).results().table.num_rows == 2  # no code
    path.chmod(path.stat().st_mode & ~stat.S_IWOTH)
    assert hundredfold.replay("m", "1", home=home) == {"y": 2.0}


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("part", ["", "runs/r/job.pickle"])
def test_a_pickled_job_of_another_user_is_refused(home: Path, part: str) -> None:
    os.chown(home / part, 54321, -1)
    with pytest.raises(HomeError) as caught:
        hundredfold.replay("m", "1", home=home)
    assert caught.value.problems == (f"{home / part} belongs to the user with number 54321",)
