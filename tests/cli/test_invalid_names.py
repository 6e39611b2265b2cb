"""Empty, invalid and misspelt names of runs and jobs are refused, before a look-up or a lock."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.cli.main import app
from hundredfold.cli.options import Argument
from hundredfold.errors import HomeError, JobError, UsageError
from hundredfold.local.home import Home
from hundredfold.runs.names import check_job_name, check_run_id
from support.cli import RunCli

ROWS = pa.table({"k": [1, 2], "x": [1.0, 2.0]})
VALUES = {"job": "my_job.job:job", "model": "prices", "name": "my_job", "run": "r1", "key": "1"}
VALUES |= {"a": "r1", "b": "r2"}  # the runs that diff compares


def double(rows: Any) -> dict[str, float]:
    return {"y": 2 * float(rows["x"][0])}


JOB = Job(
    "names",
    [Source("s")],
    [Model("m", ("k",), double)],
    publish=Publish("out", "SELECT * FROM m", formats=("csv",)),
)


def start_run(home: Path, **options: Any) -> Any:
    return hundredfold.run(JOB, {"s": ROWS}, home=home, workers=1, memory="1GB", **options)


def empty_values() -> list[Any]:
    """Return a command line with an empty value for each text parameter of each command."""
    found = []
    for name, command in app.commands.items():
        needed = [
            VALUES[p.name] for p in command.params if isinstance(p, click.Argument) and p.required
        ]
        for position, parameter in enumerate(
            [p for p in command.params if isinstance(p, click.Argument)]
        ):
            if not (isinstance(parameter, Argument) and parameter.may_be_empty):
                arguments = needed.copy()
                arguments[position : position + 1] = [""]
                found.append(
                    pytest.param([name, *arguments], id=f"{name}-{parameter.human_readable_name}")
                )
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(
                option.type, click.types.StringParamType
            ):
                flag = max(option.opts, key=len)
                found.append(pytest.param([name, *needed, flag, " "], id=f"{name}{flag}"))
    return found


@pytest.mark.parametrize("arguments", empty_values())
def test_an_empty_value_is_not_taken_for_an_omitted_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UsageError, match="is empty"),
        app.make_context("hundredfold", arguments) as context,
    ):
        app.invoke(context)
    assert list(tmp_path.iterdir()) == []


NO_RUN = ["", " ", "../../etc", "a/b", "..", "-x", "r 1", "r\n", "x" * 81, "a\0b", "\udcff", 5]


@pytest.mark.parametrize("name", NO_RUN, ids=ascii)
def test_no_action_accepts_an_invalid_run_id(tmp_path: Path, name: Any) -> None:
    run = start_run(tmp_path / "home")
    actions: list[Callable[..., Any]] = [
        hundredfold.open_run,
        hundredfold.resume,
        hundredfold.retry,
        hundredfold.publish,
        hundredfold.cancel,
    ]
    for action in actions:
        with pytest.raises(UsageError, match="cannot be used"):
            action(name, home=tmp_path / "home")
    with pytest.raises(UsageError, match="cannot be used"):
        hundredfold.replay("m", "1", run_id=name, home=tmp_path / "home")
    with pytest.raises(UsageError, match="cannot be used"):
        start_run(tmp_path / "home", run_id=name)
    with pytest.raises(UsageError, match="cannot be used"), Home(tmp_path / "home").lock(name):
        pass
    assert [record.id for record in Home(tmp_path / "home").ledger.runs()] == [run.id]
    assert hundredfold.open_run(home=tmp_path / "home").state == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "name", ["", "../../etc", "a/b", "my_job.job:job", "Job", "a.b", "\udcff", "a\0b"], ids=ascii
)
def test_rollback_refuses_a_path_as_job_name_and_makes_no_lock(tmp_path: Path, name: str) -> None:
    home = tmp_path / "a" / "home"
    start_run(home)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="cannot be a job's name"):
        hundredfold.rollback(name, home=home)
    with pytest.raises(UsageError, match="cannot be a job's name"), Home(home).publishing(name):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@given(st.text(max_size=90))
def test_an_accepted_name_is_one_part_of_a_path(text: str) -> None:
    for check in (check_run_id, check_job_name):
        try:
            name = check(text)
        except UsageError:
            continue
        assert name == text
        assert Path("x", name).parts == ("x", text)
        assert name not in ("", ".", "..")
        assert not name.startswith("-")


@pytest.mark.parametrize("named", [{"max_rejected": {"nosuch": 5}}, {"max_rejected": {"": 5}}])
def test_a_limit_for_an_unknown_source_records_no_run(
    tmp_path: Path, named: dict[str, Any]
) -> None:
    with pytest.raises(JobError, match="has no source"):
        start_run(tmp_path, **named)
    assert list(Home(tmp_path).ledger.runs()) == []


def test_failures_of_an_empty_model_name_are_refused(tmp_path: Path) -> None:
    run = start_run(tmp_path)
    with pytest.raises(UsageError, match="has no model ''"):
        run.failures("")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_rollback_in_a_read_only_home_names_the_file(tmp_path: Path) -> None:
    start_run(tmp_path)
    for folder in (tmp_path / "locks", tmp_path):
        folder.chmod(0o555)
    (tmp_path / "locks" / "names.publish").unlink(missing_ok=True)
    try:
        with pytest.raises(HomeError, match=r"names\.publish cannot be written"):
            hundredfold.rollback("names", home=tmp_path)
    finally:
        for folder in (tmp_path, tmp_path / "locks"):
            folder.chmod(0o755)


def test_a_folder_in_place_of_a_lock_is_reported(tmp_path: Path) -> None:
    start_run(tmp_path)
    lock = tmp_path / "locks" / "names.publish"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(HomeError, match=r"names\.publish cannot be written"):
        hundredfold.rollback("names", home=tmp_path)


def test_the_command_line_refuses_empty_names_and_touches_no_run(
    run_cli: RunCli, tmp_path: Path
) -> None:
    assert run_cli("run", "my_job.job:job", "--run-id", "r1").code == 0
    for arguments in (
        ["cancel", ""],
        ["status", ""],
        ["resume", ""],
        ["run", "my_job.job:job", "--run-id", ""],
    ):
        result = run_cli(*arguments)
        assert (result.code, result.out) == (2, "")
        assert "is empty" in result.err
        assert "an unset shell variable" in result.err
    result = run_cli("rollback", "../../etc")
    assert (result.code, "Traceback" in result.err, "cannot be a job's name" in result.err) == (
        2,
        False,
        True,
    )
    assert run_cli("run", "my_job.job:job", "--max-rejected", "nosuch=5").code == 2
    assert [run["run"] for run in json.loads(run_cli("list", "--json").out)] == ["r1"]
    assert not list(tmp_path.rglob("etc*"))
