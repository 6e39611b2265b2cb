"""The command line as a person meets it: a real process, in a folder with a project made by `hundredfold init`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.waits import HANG_S

VARIANTS = """
from dataclasses import replace
from typing import Any
from my_job.contracts import Answer
from my_job.job import job

MODEL = job.models[0]

def returns_none(rows): return None
def returns_number(rows): return 3.5
def other_columns(rows): return {"a": 1.0, "c": 2} if rows.key[0] == "S003" else {"a": 1.0, "b": 2}
def breaks_contract(rows) -> Answer:
    if rows.key == ("S003", "rice"):
        return {"elasticity": 1.0, "rows": 3, "profit": 4}
    return {"elasticity": -1.0, "best_price": 2.0, "rows": 3}
def one_raises(rows):
    if rows.key == ("S003", "rice"):
        raise ValueError("no rice today")
    return {"best_price": float(rows["price"].mean()), "elasticity": -1.0}

def variant(work: Any, **changes: Any) -> Any:
    return replace(job, models=(replace(MODEL, work=work, inputs=(), **changes),))

none, number, columns, contract, raises = map(variant, (returns_none, returns_number, other_columns, breaks_contract, one_raises))
mistake = variant(MODEL.work, query="SELECT shop product FRM sales")
unknown_column = variant(MODEL.work, query="SELECT shop, product, week, prise FROM sales")
no_key = variant(MODEL.work, query="SELECT shop, price FROM sales")
unknown_table = variant(MODEL.work, query="SELECT * FROM nowhere")
"""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package my_job in it, and variants of its job."""
    folder = tmp_path_factory.mktemp("project")
    made = subprocess.run(
        [sys.executable, "-m", "hundredfold", "init", "my_job"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    (folder / "variants.py").write_text(VARIANTS)
    return folder


@pytest.fixture
def say(project: Path, tmp_path: Path) -> Callable[..., Said]:
    """Run `hundredfold` with these words, in the project, with a home of the test's own."""

    def run(*words: str, home: str | None = None) -> Said:
        environment = {
            **os.environ,
            "HUNDREDFOLD_HOME": home or str(tmp_path / "home"),
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "hundredfold", *words],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run
