"""Paths with a byte that is no UTF-8, or that a process under the C locale reads as ASCII: refused, with what to do; no run is left."""

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
    for place in (tmp_path, tmp_path / BAD):
        place.mkdir(exist_ok=True)
        (place / "j.py").write_text(JOB)
        (place / "s.csv").write_text("k,x\n1,2\n")
    return tmp_path


def said(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hundredfold", *words],
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
    ("words", "where"),
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
def test_a_path_with_a_byte_that_is_no_text_is_refused(folder, words, where):
    before = sorted(folder.rglob("*"))
    code, err = said(folder / where, *words)
    assert (code, "is not text in UTF-8" in err, "\nhint: rename it\n" in err) == (2, True, True), (
        err
    )
    assert "Traceback" not in err
    assert sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts) == before
    assert not list(Home(folder.parent / "elsewhere").ledger.runs())


def test_a_name_that_the_locale_cannot_read_says_which_setting_to_change(folder):
    for words in (("run", "j.py", "--home", "Größe"), ("status", "--home", "Größe")):
        code, err = said(folder, *words, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
        assert (code, "set LC_ALL=C.UTF-8" in err, err.isascii()) == (2, True, True), err


def test_no_path_makes_python_raise_an_error_of_its_own(tmp_path):
    for name in (BAD, "a\udcffb", str(tmp_path / BAD)):
        with pytest.raises(UsageError, match="is not text in UTF-8"):
            Home(name)


def test_a_reason_that_is_no_text_ends_on_the_record(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.create(Record("r", "j", "", State.NEW, "new", "2026", "2026"))
    ledger.move("r", Event.START)
    assert ledger.move("r", Event.FAIL, reason="bad\udcff").reason == "bad\\udcff"
