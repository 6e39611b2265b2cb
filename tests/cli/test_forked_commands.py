"""Commands that tests fork have the output and the status of those that start Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import CliResult, run_command

MODULE = """
import os, signal, sys
import helper
print(helper.VALUE, os.getcwd(), os.environ["GIVEN"], sys.argv[1:], __name__)
print("warning", file=sys.stderr)
match sys.argv[1]:
    case "raise": raise ValueError("wrong")
    case "text": sys.exit("a text")
    case "kill": os.kill(os.getpid(), signal.SIGKILL)
    case code: sys.exit(int(code))
"""


@pytest.mark.parametrize(
    "arguments", [["--version"], ["status", "--home", "none"], ["dance"], ["clean", "--help"]]
)
def test_a_forked_command_prints_what_a_started_one_prints(
    arguments: list[str], tmp_path: Path
) -> None:
    assert forked("hundredfold", arguments, tmp_path) == started("hundredfold", arguments, tmp_path)


@pytest.mark.parametrize("ending", ["0", "3", "raise", "text", "kill"])
def test_a_forked_module_ends_as_a_started_one(ending: str, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "helper.py").write_text("VALUE = 7")
    (tmp_path / "program.py").write_text(MODULE)
    found, expected = (run("program", [ending], tmp_path) for run in (forked, started))
    assert (found.code, found.out) == (expected.code, expected.out)
    # a traceback begins with the frames of runpy, which differ
    assert found.err.splitlines()[-3:] == expected.err.splitlines()[-3:]
    assert f"7 {tmp_path} too" in found.out or ending == "kill"


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "GIVEN": "too", "PYTHONPATH": str(folder / "modules")}


def forked(program: str, arguments: list[str], folder: Path) -> CliResult:
    """Run a command twice; return the result of the second, which is forked."""
    run_command(program, *arguments, folder=folder, environment=environment(folder))
    return run_command(program, *arguments, folder=folder, environment=environment(folder))


def started(program: str, arguments: list[str], folder: Path) -> CliResult:
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        encoding="utf-8",
    )
    return CliResult(done.returncode, done.stdout, done.stderr)
