"""Imports at the start of a command and of a worker: the largest part of the time of a short run.

A module that few runs need is imported where it is used, not at the top of a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SITE_PACKAGES = "site-packages"
# Prints, at the end of the process, the modules; and the large ones that the driver had when it
# started its first thread, which starts the fork server.
RECORDER = """
import atexit, json, os, sys, threading
early, start = [], threading.Thread.start
before = set(sys.modules)  # setuptools, where it is installed, adds a module to every process
def recorded_start(thread):
    early.append([name for name in ("pyarrow", "duckdb", "rich") if name in sys.modules])
    start(thread)
threading.Thread.start = recorded_start
def report():
    new = {n: m for n, m in sys.modules.copy().items() if n not in before}
    files = {n: getattr(m, "__file__", None) or "" for n, m in new.items()}
    with open(os.environ["MODULES_FILE"], "w") as file:
        json.dump({"files": files, "early": early}, file)
atexit.register(report)
"""
JOB = """
import sys
from hundredfold import Job, Model, Publish, Source

def modules(rows):
    return {"modules": " ".join(sorted(sys.modules))}

job = Job(
    "modules",
    sources=[Source("sales")],
    models=[Model("m", unit=("k",), work=modules)],
    publish=Publish("t", query="SELECT * FROM m ORDER BY k"),
)
"""


def imported_by(code: str, folder: Path) -> tuple[dict[str, str], list[list[str]]]:
    """Run code in a new process; return its modules with their files, and the early ones."""
    found = folder / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", RECORDER + code],
        cwd=folder,
        env={**os.environ, "MODULES_FILE": str(found), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(found.read_text())
    return facts["files"], facts["early"]


def command(*arguments: str) -> str:
    """Return code that runs a command line."""
    return f"from hundredfold.cli.main import main\nsys.argv[1:] = {list(arguments)}\nmain()\n"


def installed_packages(files: dict[str, str]) -> set[str]:
    """Return the top-level packages that are not of Python itself, nor ours."""
    return {name.partition(".")[0] for name, file in files.items() if SITE_PACKAGES in file}


@pytest.fixture(scope="module")
def run_modules(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, str], list[list[str]], set[str]]:
    """Run a small job on Parquet; return the modules of its driver and of a worker."""
    folder = tmp_path_factory.mktemp("run")
    pq.write_table(pa.table({"k": [1, 2], "v": [1.0, 2.0]}), folder / "sales.parquet")
    (folder / "job.py").write_text(JOB)
    arguments = ("run", "job.py:job", "--source", "sales=sales.parquet", "--workers", "1")
    files, early = imported_by(command(*arguments), folder)
    (release,) = folder.glob(".hundredfold/releases/modules/*/t.parquet")
    text = pq.read_table(release).column("modules")[0].as_py()
    return files, early, set(text.split())


def test_the_package_alone_imports_no_library(tmp_path: Path) -> None:
    files, _ = imported_by("import hundredfold", tmp_path)
    assert installed_packages(files) == set()


def test_help_imports_only_click(tmp_path: Path) -> None:
    files, _ = imported_by(command("--help"), tmp_path)
    assert installed_packages(files) == {"click"}
    assert not any(name.startswith(("hundredfold.api", "hundredfold.runs")) for name in files)


def test_a_run_imports_no_module_that_only_other_runs_need(
    run_modules: tuple[dict[str, str], list[list[str]], set[str]],
) -> None:
    files, _, _ = run_modules
    unneeded = [
        "annotated_types",
        "boto3",
        "difflib",
        "doctest",
        "matplotlib",
        "pandas",
        "pdb",
        "polars",
        "pydantic",
        "scipy",
        "sqlglot",
        "unittest",
        "hundredfold.aws",
        "hundredfold.bench",
        "hundredfold.finished_runs",
        "hundredfold.testing",
        "hundredfold.local.restore",
        "hundredfold.runs.replay",
        "hundredfold.sql.athena",
        "hundredfold.sql.sources.csv_dialect",
        "hundredfold.sql.sources.csv_files",
        "hundredfold.sql.sources.csv_reader",
        "hundredfold.sql.sources.csv_records",
        "hundredfold.sql.sources.frames",
        "hundredfold.sql.sources.json_lines",
        "hundredfold.sql.sources.json_reader",
    ]
    assert [name for name in unneeded if name in files] == []


def test_a_run_starts_its_workers_before_its_own_large_imports(
    run_modules: tuple[dict[str, str], list[list[str]], set[str]],
) -> None:
    """The fork server imports the same libraries: both do it at the same time."""
    files, early, _ = run_modules
    assert {"pyarrow", "duckdb", "rich"} <= set(files)
    assert early[0] == []


def test_a_worker_imports_nothing_of_the_steps_nor_of_the_commands(
    run_modules: tuple[dict[str, str], list[list[str]], set[str]],
) -> None:
    _, _, modules = run_modules
    ours = {".".join(name.split(".")[:3]) for name in modules if name.startswith("hundredfold.")}
    layers = [
        "annotations",
        "contract",
        "data",
        "errors",
        "job",
        "ports",
        "release_tables",
        "sql_types",
        "workers",
    ]
    higher = {name for name in ours if name.split(".")[1] not in layers}
    assert higher - {"hundredfold._package", "hundredfold.import_times"} == {
        "hundredfold.local",
        "hundredfold.local.filesystem",
        "hundredfold.sql",
        "hundredfold.sql.queries",
    }
    large = {"annotated_types", "click", "duckdb", "filelock", "pandas", "rich", "sqlite3"}
    assert modules & large == set()
