"""The commands, in the order of their use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hundredfold
from support.cli import RunCli
from support.waits import HANG_S

JOB = "my_job.job:job"
SCRIPT = """
from beside import mean

from hundredfold import Job, Model, Source


def middle(rows) -> dict:
    if rows.key == ("S003", "rice"):
        raise ValueError(rows["week"])
    return {"week": mean(rows["week"])}


job = Job(
    "middles",
    [Source("sales", path="../my_job/data/sales.csv")],
    [Model("middles", unit=("shop", "product"), work=middle)],
)
"""


def test_a_run_ends_with_a_summary_and_a_release(run_cli: RunCli) -> None:
    result = run_cli("run", JOB)
    assert result.code == 0, result.err
    assert "15,600" in result.out
    assert "price_list.csv" in result.out
    assert "hundredfold status" in result.out
    assert "prices: 300 of 300 units done" in result.err


def test_with_json_stdout_has_nothing_else(run_cli: RunCli) -> None:
    facts = json.loads(run_cli("run", JOB, "--json").out)
    assert facts["state"] == "done"
    assert facts["models"]["prices"]["ok"] == 300
    assert facts["sources"]["sales"] == {
        "rows": 15600,
        "accepted": 15597,
        "rejected": 3,
        "dropped": 0,
        "repaired": 0,
    }
    assert json.loads(run_cli("status", "--json").out)["run"] == facts["run"]
    assert json.loads(run_cli("failures", "--json").out) == []
    [listed] = json.loads(run_cli("list", "--json").out)
    shared = ("run", "job", "state", "step", "reason", "created", "updated", "active")
    assert {name: listed[name] for name in shared} == {name: facts[name] for name in shared}
    assert (listed["units"], listed["ok"], listed["release"]) == (300, 300, 1)


def test_runs_are_listed_by_job_and_state_the_newest_first(run_cli: RunCli) -> None:
    for name in ("first", "second"):
        assert run_cli("run", JOB, "--run-id", name).code == 0
    assert run_cli("run", "variants:raises", "--run-id", "held").code == 1
    lines = run_cli("list").out.splitlines()
    assert lines[0].split() == ["run", "job", "state", "units", "ok", "release", "created", "(UTC)"]
    found = [line.split() for line in lines[1:]]
    assert [row[:6] for row in found] == [
        ["held", "my_job", "held", "299", "of", "300"],
        ["second", "my_job", "done", "300", "of", "300"],
        ["first", "my_job", "done", "300", "of", "300"],
    ]
    assert [row[6] for row in found] == ["-", "2", "1"]
    assert [line.split()[0] for line in run_cli("list", "--state", "held").out.splitlines()] == [
        "run",
        "held",
    ]
    shown = run_cli("list", "--state", "done", "--limit", "1").out
    assert "first" not in shown
    assert "1 of 2 runs; --limit N shows more" in shown
    assert run_cli("list", "--job", "none").out == "no run of that kind\n"


def test_a_held_run_keeps_everything_until_it_is_retried(run_cli: RunCli, project: Path) -> None:
    assert run_cli("run", "variants:raises", "--run-id", "held").code == 1
    listed = run_cli("failures", "--traceback").out
    assert "prices  S003,rice  failed  ValueError: no rice today" in listed
    assert 'raise ValueError("no rice today")' in listed
    assert "hundredfold replay prices S003,rice --pdb" in listed
    source = (project / "variants.py").read_text()
    try:
        (project / "variants.py").write_text(
            source.replace('raise ValueError("no rice today")', "pass")
        )
        refused = run_cli("retry")
        fixed = run_cli("retry", "--accept-new-code")
    finally:
        (project / "variants.py").write_text(source)
    assert (refused.code, "variants: edited" in refused.err) == (1, True)
    assert fixed.code == 0, fixed.err
    assert "price_list.csv" in fixed.out
    assert json.loads(run_cli("status", "--json").out)["models"]["prices"]["ok"] == 300


def test_a_held_run_can_be_published_without_the_failed_units(run_cli: RunCli) -> None:
    assert run_cli("run", "variants:raises").code == 1
    result = run_cli("publish", "--max-failed", "1")
    assert result.code == 0, result.err
    assert json.loads(run_cli("status", "--json").out)["release"]["rows"] == {"price_list": 299}


def test_replay_calls_the_function_on_that_units_rows(run_cli: RunCli) -> None:
    assert run_cli("run", JOB).code == 0
    result = run_cli("replay", "prices", "S001,bread")
    assert result.out.startswith("Answer(elasticity=-")
    assert "rows=52" in result.out


def test_replay_under_the_debugger_stops_in_the_users_function(
    project: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    assert run_cli("run", JOB).code == 0
    arguments = [
        sys.executable,
        "-m",
        "hundredfold",
        "replay",
        "prices",
        "S001,bread",
        "--pdb",
        "--home",
        str(tmp_path / "home"),
    ]
    done = subprocess.run(
        arguments,
        cwd=project,
        input="p len(rows['price'])\nc\n",
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert "my_job/model.py" in done.stdout.replace("\\", "/")
    assert "52" in done.stdout
    assert "Answer(" in done.stdout


def test_replay_shows_the_exception_that_the_unit_raised(run_cli: RunCli) -> None:
    assert run_cli("run", "variants:raises").code == 1
    result = run_cli("replay", "prices", "S003,rice")
    assert result.code == 1
    assert result.err.startswith("Traceback (most recent call last)")
    assert result.err.endswith("ValueError: no rice today\n")
    assert "cli.py" not in result.err


def test_replay_under_the_debugger_ends_with_what_the_function_raises(
    project: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    assert run_cli("run", "variants:raises").code == 1
    arguments = [
        sys.executable,
        "-m",
        "hundredfold",
        "replay",
        "prices",
        "S003,rice",
        "--pdb",
        "--home",
        str(tmp_path / "home"),
    ]
    done = subprocess.run(
        arguments, cwd=project, input="c\n", capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("ValueError: no rice today\n")
    assert "bdb.py" not in done.stderr


def test_a_job_is_named_by_its_file(run_cli: RunCli, project: Path, tmp_path: Path) -> None:
    assert run_cli("run", "my_job/job.py").code == 0
    assert run_cli("run", "my_job.job").code == 0
    scripts = project / "scripts"
    scripts.mkdir()
    (scripts / "beside.py").write_text("def mean(values): return float(values.mean())\n")
    (scripts / "middles.py").write_text(SCRIPT)
    result = run_cli("run", "scripts/middles.py:job")
    assert result.code == 0
    assert "units done, 1 failed" in result.err
    elsewhere: dict[str, Any] = {
        "env": {**os.environ, "HUNDREDFOLD_HOME": str(tmp_path / "home")},
        "cwd": tmp_path,
    }
    replayed = subprocess.run(
        [sys.executable, "-m", "hundredfold", "replay", "middles", "S001,bread"],
        **elsewhere,
        capture_output=True,
        text=True,
    )
    assert "{'week': 2" in replayed.stdout, replayed.stderr
    (scripts / "middles.py").write_text(SCRIPT.replace("raise ValueError", "mean"))
    fixed = subprocess.run(
        [sys.executable, "-m", "hundredfold", "retry", "--accept-new-code"],
        **elsewhere,
        capture_output=True,
        text=True,
    )
    assert fixed.returncode == 0, fixed.stderr
    assert "failed" not in fixed.stderr


def test_rollback_moves_back_and_to_a_version(run_cli: RunCli) -> None:
    for number in range(3):
        assert run_cli("run", JOB, "--run-id", f"run{number}").code == 0
    assert "release 2 of my_job is current again (run run1" in run_cli("rollback", "my_job").out
    assert "release 1 of my_job is current again" in run_cli("rollback", "my_job").out
    assert run_cli("rollback", "my_job").code == 1
    assert "release 3 of my_job is current again" in run_cli("rollback", "my_job", "--to", "3").out


def test_a_cancelled_run_cannot_be_resumed(run_cli: RunCli) -> None:
    assert run_cli("run", "variants:raises").code == 1
    assert "is cancelled" in run_cli("cancel").out
    result = run_cli("resume")
    assert result.code == 1
    assert "it was cancelled: run the job again" in result.err


def test_the_project_of_init_passes_its_own_tests(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my_job"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert "2 passed" in done.stdout, done.stdout


COMMANDS = (
    "run",
    "status",
    "failures",
    "replay",
    "retry",
    "resume",
    "cancel",
    "adjust",
    "publish",
    "rollback",
    "bench",
    "init",
    "demo",
    "list",
    "clean",
    "diff",
    "plan",
    "report",
    "deploy",
    "destroy",
    "package",
    "doctor",
    "worker",
)


def test_every_command_has_help(run_cli: RunCli) -> None:
    for command in COMMANDS:
        result = run_cli(command, "--help")
        assert result.code == 0
        assert f"Usage: hundredfold {command}" in result.out
        assert result == run_cli(command, "-h")


def test_without_arguments_the_commands_are_listed(run_cli: RunCli) -> None:
    result = run_cli()
    assert (result.code, result.err) == (0, "")
    assert result == run_cli("--help")
    assert (
        tuple(
            line.split()[0]
            for line in result.out.split("Commands:\n")[1].splitlines()
            if line[2] != " "
        )
        == COMMANDS
    )
    assert "or another version, the current release." in " ".join(result.out.split())


def test_help_shows_arguments_options_and_defaults(run_cli: RunCli) -> None:
    result = " ".join(run_cli("run", "--help").out.split())
    assert "Arguments: JOB The job, as module:attribute" in result
    assert "-s, --source NAME=PATH" in result
    assert (
        "--home FOLDER Folder that keeps the runs. "
        "[env var: HUNDREDFOLD_HOME; default: .hundredfold]"
    ) in result
    assert "--workers N Number of worker processes. [default: (one per core)]" in result


def test_the_version_is_printed(run_cli: RunCli) -> None:
    result = run_cli("--version")
    assert (result.code, result.out) == (0, f"hundredfold {hundredfold.__version__}\n")


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_reasons_of_rejection_are_printed_one_per_line(
    project: Path, tmp_path: Path, columns: str
) -> None:
    environment = {
        **os.environ,
        "HUNDREDFOLD_HOME": str(tmp_path / "home"),
        "COLUMNS": columns,
        "NO_COLOR": "1",
    }
    arguments = [sys.executable, "-m", "hundredfold", "run", JOB]
    printed = subprocess.run(
        arguments, cwd=project, env=environment, capture_output=True, text=True, check=True
    ).stdout
    table, _, rest = printed.partition("why rows were rejected\n")
    assert "sales  15,600    15,597         -         3        -\n" in table
    assert rest.startswith(
        "  sales  1  shop must not be null\n         1  price must be a number\n"
        "         1  price must be > 0\n\n"
    )
    assert not [line for line in printed.splitlines() if line != line.rstrip()]


def test_the_dialect_of_a_csv_file_is_printed_and_recorded(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_bytes(
        'shop;name;sold\nS0;Müller;1\nS0;"torn;2\nS1;x;3\n'.encode("utf-16")
    )
    (tmp_path / "odd.py").write_text(
        "from hundredfold import Job, Model, Source\n"
        "def total(rows): return {'n': int(rows['sold'].sum())}\n"
        "source = Source('sales', path='sales.csv', max_rejected=1)\n"
        "job = Job('j', [source], [Model('m', unit=('shop',), work=total)])\n"
    )
    result = run_cli("run", str(tmp_path / "odd.py"), "--home", str(tmp_path / "home"))
    assert result.code == 0, result.err
    assert 'read sales as CSV with delimiter ";", encoding utf-16' in result.err
    facts = json.loads(run_cli("status", "--home", str(tmp_path / "home"), "--json").out)
    (found,) = facts["csv"]["sales"]
    assert (found["delimiter"], found["encoding"], found["files"]) == (";", "utf-16", 1)
    assert facts["sources"]["sales"]["rejected"] == 1
