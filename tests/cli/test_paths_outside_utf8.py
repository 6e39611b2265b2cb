"""Paths that are not UTF-8, or that the C locale reads as ASCII, are refused; no run remains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hundredfold.errors import UsageError
from hundredfold.local.home import Home
from hundredfold.local.sqlite_ledger import SqliteLedger
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import Event, State

JOB = """
from hundredfold import Job, Model, Source
def work(rows): return {"y": float(rows["x"][0])}
job = Job("j", Source("s", path="s.csv"), Model("m", unit=("k",), work=work))
"""
BAD = os.fsdecode(b"bad\xffbyte")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for parent in (tmp_path, tmp_path / BAD):
        parent.mkdir(exist_ok=True)
        (parent / "j.py").write_text(JOB)
        (parent / "s.csv").write_text("k,x\n1,2\n")
    return tmp_path


def run_in(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hundredfold", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "COLUMNS": "200",
            "HUNDREDFOLD_HOME": str(folder.parent / "elsewhere"),
            **environment,
        },
        capture_output=True,
    )
    return done.returncode, done.stderr.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("run", "j.py", "--home", BAD), ""),
        (("status", "--home", BAD), ""),
        (("run", f"{BAD}/j.py"), ""),
        (("run", "j.py"), BAD),
        (("run", "j.py", "-s", f"s={BAD}/s.csv"), ""),
        (("run", "j.py", "-s", f"s={BAD}"), ""),
        (("run", "j.py", "-s", f"s={BAD}/*.csv"), ""),
    ],
    ids=["home", "status", "job", "here", "source", "folder", "glob"],
)
def test_a_path_that_is_not_utf8_is_refused(
    folder: Path, arguments: tuple[str, ...], where: str
) -> None:
    before = sorted(folder.rglob("*"))
    code, err = run_in(folder / where, *arguments)
    assert (code, "is not text in UTF-8" in err, "\nhint: rename it\n" in err) == (2, True, True), (
        err
    )
    assert "Traceback" not in err
    assert sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts) == before
    assert not list(Home(folder.parent / "elsewhere").ledger.runs())


def test_a_name_outside_the_locale_names_the_setting_to_change(folder: Path) -> None:
    for arguments in (("run", "j.py", "--home", "Größe"), ("status", "--home", "Größe")):
        code, err = run_in(folder, *arguments, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
        assert (code, "set LC_ALL=C.UTF-8" in err, err.isascii()) == (2, True, True), err


def test_an_invalid_path_raises_usage_error_in_python(tmp_path: Path) -> None:
    for name in (BAD, "a\udcffb", str(tmp_path / BAD)):
        with pytest.raises(UsageError, match="is not text in UTF-8"):
            Home(name)


def test_a_reason_that_is_not_utf8_is_recorded_escaped(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.create(Record("r", "j", "", State.NEW, "new", "2026", "2026"))
    ledger.move("r", Event.START)
    assert ledger.move("r", Event.FAIL, reason="bad\udcff").reason == "bad\\udcff"
