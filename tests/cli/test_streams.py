"""Standard streams of a shell: full disks, closed descriptors, readers that exit early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.waits import HANG_S

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="redirections of a POSIX shell")
COMMAND = f'"{sys.executable}" -m hundredfold'
JOB = """
from hundredfold import Job, Model, Publish, Source

job = Job(
    "full",
    [Source("sales", path="sales.csv")],
    [Model("m", unit=("k",), work=lambda rows: {"s": int(rows["v"].sum())})],
    publish=Publish("out", query="SELECT * FROM m", formats=("csv",)),
)
"""


Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a line in a POSIX shell, in a folder with a job; return its exit status and output."""
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "sales.csv").write_text("k,v\na,1\nb,2\né ✓,3\n")

    def run(line: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", f'hf() {{ {COMMAND} "$@"; }}\n{line}'],
            cwd=tmp_path,
            env={**os.environ, "HUNDREDFOLD_HOME": "home", "NO_COLOR": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=HANG_S,
        )
        return done.returncode, done.stdout

    return run


def state(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hundredfold", "status", "--json", "--home", "home"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return str(json.loads(done.stdout)["state"])


@needs_full
def test_a_run_keeps_its_exit_status_when_stdout_is_full(shell: Shell, tmp_path: Path) -> None:
    code, printed = shell("hf run job.py --run-id r1 2>&1 >/dev/full")
    assert code == 0, printed
    assert (
        "error: the result cannot be written to standard output: No space left on device" in printed
    )
    assert "run r1 is done, release 1 is published" in printed
    assert "hint: hundredfold status r1" in printed
    assert "Traceback" not in printed
    assert state(tmp_path) == "done"


@needs_full
@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "status", "status --json", "failures", "run --help"]
)
def test_a_command_that_only_prints_fails_when_stdout_is_full(shell: Shell, arguments: str) -> None:
    assert shell("hf run job.py >/dev/null 2>&1")[0] == 0
    code, printed = shell(f"hf {arguments} 2>&1 >/dev/full")
    assert code == 1
    assert printed.splitlines() == [
        "error: the result cannot be written to standard output: No space left on device"
    ]


@needs_full
def test_a_run_continues_if_no_stream_can_be_written(shell: Shell, tmp_path: Path) -> None:
    assert shell("hf run job.py >/dev/full 2>&1") == (0, "")
    assert state(tmp_path) == "done"


@needs_shell
def test_a_run_continues_if_its_reader_closes_the_pipe(shell: Shell, tmp_path: Path) -> None:
    _, printed = shell("set -o pipefail; (hf run job.py 2>&1; echo $? > code) | head -1")
    assert len(printed.splitlines()) == 1
    assert (tmp_path / "code").read_text() == "0\n"
    assert state(tmp_path) == "done"
    assert shell("set -o pipefail; hf --help | head -1")[0] == 0


@needs_shell
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_neither_needed_nor_reused(
    shell: Shell, tmp_path: Path, closed: str
) -> None:
    code, printed = shell(f"hf run job.py {closed}")
    assert code == 0, printed
    # a ledger that was opened as descriptor 1 would contain the summary
    assert state(tmp_path) == "done"


@needs_shell
def test_names_outside_of_the_encoding_are_escaped(shell: Shell) -> None:
    code, printed = shell("hf run job.py && hf replay m 'é ✓'", PYTHONIOENCODING="ascii")
    assert code == 0, printed
    assert "{'s': 3}" in printed
    code, printed = shell("hf replay m 'é ? ✓'", PYTHONIOENCODING="ascii")
    assert code in (1, 2)
    assert "Traceback" not in printed


@needs_shell
def test_the_shell_completes_commands_and_run_ids(shell: Shell) -> None:
    assert shell("hf run job.py --run-id weekly-1 >/dev/null 2>&1")[0] == 0
    answers = [
        shell(f"_HUNDREDFOLD_COMPLETE=bash_complete COMP_WORDS='{arguments}' COMP_CWORD={at} hf")[1]
        for arguments, at in (
            ("hundredfold re", 1),
            ("hundredfold status week", 2),
            ("hundredfold status --backend ", 3),
        )
    ]
    named = ["plain,replay", "plain,retry", "plain,resume", "plain,report"]
    assert answers[0].split() == named
    assert answers[1].split() == ["plain,weekly-1"]
    assert answers[2].split() == ["plain,local", "plain,aws"]
    assert (
        "complete -o nosort -F _hundredfold_completion hundredfold"
        in shell("_HUNDREDFOLD_COMPLETE=bash_source hf")[1]
    )
