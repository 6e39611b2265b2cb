"""Fixtures: a project made by `hundredfold init`, and the command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import CliResult, RunCli, run_hundredfold

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

none = variant(returns_none)
number = variant(returns_number)
columns = variant(other_columns)
contract = variant(breaks_contract)
raises = variant(one_raises)
mistake = variant(MODEL.work, query="SELECT shop product FRM sales")
unknown_column = variant(MODEL.work, query="SELECT shop, product, week, prise FROM sales")
no_key = variant(MODEL.work, query="SELECT shop, price FROM sales")
unknown_table = variant(MODEL.work, query="SELECT * FROM nowhere")
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package my_job and variants of its job."""
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
def run_cli(project: Path, tmp_path: Path) -> RunCli:
    """Run `hundredfold` with arguments, in the project, with a home for this test alone."""

    def run(*arguments: str, home: str | None = None) -> CliResult:
        environment = {
            "HUNDREDFOLD_HOME": home or str(tmp_path / "home"),
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        return run_hundredfold(*arguments, folder=project, environment=environment)

    return run
