"""The results that `make test-matrix` counts as failures, and those that it only reports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import matrix

NOWHERE = "http://127.0.0.1:9/simple"


def pip(*options: str, package: str) -> Sequence[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"]
    return [*command, *options, package]


@pytest.fixture
def no_other_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.chdir(tmp_path)


def test_a_package_index_that_does_not_answer_is_no_failure(no_other_index: None) -> None:
    with pytest.raises(matrix.IndexUnreachable, match="does not answer"):
        matrix.call(pip("--index-url", NOWHERE, package="hundredfold-nowhere"))


def test_a_slow_package_index_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "INSTALL_LIMIT_S", 0.05)
    with pytest.raises(matrix.IndexUnreachable, match="the package index is slow"):
        matrix.call([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_version_that_does_not_exist_is_a_failure(no_other_index: None) -> None:
    with pytest.raises(matrix.NotInstalled, match="No matching distribution"):
        matrix.call(pip("--no-index", package="hundredfold-nowhere==1"))


def test_a_python_that_is_not_installed_is_reported() -> None:
    command = [sys.executable, matrix.__file__, "--python", "3.99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "3.99: not run: this Python is not installed" in done.stdout
    assert "nothing was run" in done.stdout + done.stderr
    assert done.returncode == 1


def test_a_row_of_the_table_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    versions = ("2.5.10", "3.1.10", "26.0.1", "2.0.1", "2.1.0")
    row = matrix.Outcome("3.13", "newest", versions, "fail", ("1834", "12", "3"))
    matrix.print_table([row, matrix.Outcome("3.14", note="not run: left out")])
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 80
    assert printed[-1] == "3.14: not run: left out"


def test_a_lower_bound_is_that_of_each_python() -> None:
    bounds = [bound for bound in matrix.lower_bounds() if bound.startswith("pydantic")]
    assert bounds == [
        "pydantic==2.10; (python_version < '3.14')",
        "pydantic==2.12; (python_version >= '3.14')",
    ]
