"""An empty text, a path or a misspelt name where a command takes a name: refused, before anything is looked up, locked or recorded."""

from __future__ import annotations

import json
import os
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

ROWS = pa.table({"k": [1, 2], "x": [1.0, 2.0]})
VALUES = {"job": "my_job.job:job", "model": "prices", "name": "my_job", "run": "r1", "key": "1"}


def double(rows):
    return {"y": 2 * float(rows["x"][0])}


JOB = Job(
    "names",
    [Source("s")],
    [Model("m", ("k",), double)],
    publish=Publish("out", "SELECT * FROM m", formats=("csv",)),
)


def go(home: Path, **how: Any) -> Any:
    return hundredfold.run(JOB, {"s": ROWS}, home=home, workers=1, memory="1GB", **how)


def everything_that_takes_a_text() -> list[Any]:
    """Each argument and option of each command that takes a text: the command line that gives it an empty one."""
    found = []
    for name, command in app.commands.items():
        needed = [
            VALUES[p.name] for p in command.params if isinstance(p, click.Argument) and p.required
        ]
        for position, parameter in enumerate(
            [p for p in command.params if isinstance(p, click.Argument)]
        ):
            if not (isinstance(parameter, Argument) and parameter.may_be_empty):
                words = needed.copy()
                words[position : position + 1] = [""]
                found.append(
                    pytest.param([name, *words], id=f"{name}-{parameter.human_readable_name}")
                )
        for parameter in command.params:
            if isinstance(parameter, click.Option) and isinstance(
                parameter.type, click.types.StringParamType
            ):
                option = max(parameter.opts, key=len)
                found.append(pytest.param([name, *needed, option, " "], id=f"{name}{option}"))
    return found


@pytest.mark.parametrize("words", everything_that_takes_a_text())
def test_no_command_takes_an_empty_text_for_one_left_out(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UsageError, match="is empty"),
        app.make_context("hundredfold", words) as context,
    ):
        app.invoke(context)
    assert list(tmp_path.iterdir()) == []


NO_RUN = ["", " ", "../../etc", "a/b", "..", "-x", "r 1", "r\n", "x" * 81, "a\0b", "\udcff", 5]


@pytest.mark.parametrize("name", NO_RUN, ids=ascii)
def test_no_verb_takes_for_a_run_what_can_be_none(tmp_path, name):
    run = go(tmp_path / "home")
    verbs = [
        hundredfold.open_run,
        hundredfold.resume,
        hundredfold.retry,
        hundredfold.publish,
        hundredfold.cancel,
    ]
    for verb in verbs:
        with pytest.raises(UsageError, match="cannot be used"):
            verb(name, home=tmp_path / "home")
    with pytest.raises(UsageError, match="cannot be used"):
        hundredfold.replay("m", "1", run_id=name, home=tmp_path / "home")
    with pytest.raises(UsageError, match="cannot be used"):
        go(tmp_path / "home", run_id=name)
    with pytest.raises(UsageError, match="cannot be used"), Home(tmp_path / "home").lock(name):
        pass
    assert [record.id for record in Home(tmp_path / "home").ledger.runs()] == [run.id]
    assert hundredfold.open_run(home=tmp_path / "home").state == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "name", ["", "../../etc", "a/b", "my_job.job:job", "Job", "a.b", "\udcff", "a\0b"], ids=ascii
)
def test_rollback_takes_no_path_for_a_job_and_makes_no_lock(tmp_path, name):
    home = tmp_path / "a" / "home"
    go(home)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="cannot be a job's name"):
        hundredfold.rollback(name, home=home)
    with pytest.raises(UsageError, match="cannot be a job's name"), Home(home).publishing(name):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@given(st.text(max_size=90))
def test_a_name_that_is_accepted_is_one_part_of_a_path(text):
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
def test_a_limit_of_a_source_that_is_none_records_no_run(tmp_path, named):
    with pytest.raises(JobError, match="has no source"):
        go(tmp_path, **named)
    assert list(Home(tmp_path).ledger.runs()) == []


def test_failures_of_a_model_without_a_name_are_not_those_of_all(tmp_path):
    run = go(tmp_path)
    with pytest.raises(UsageError, match="has no model ''"):
        run.failures("")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_rollback_in_a_home_that_is_read_only_names_what_it_lacks(tmp_path):
    go(tmp_path)
    for folder in (tmp_path / "locks", tmp_path):
        folder.chmod(0o555)
    (tmp_path / "locks" / "names.publish").unlink(missing_ok=True)
    try:
        with pytest.raises(HomeError, match=r"names\.publish cannot be written"):
            hundredfold.rollback("names", home=tmp_path)
    finally:
        for folder in (tmp_path, tmp_path / "locks"):
            folder.chmod(0o755)


def test_a_lock_that_is_a_folder_names_what_is_wrong(tmp_path):
    go(tmp_path)
    lock = tmp_path / "locks" / "names.publish"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(HomeError, match=r"names\.publish cannot be written"):
        hundredfold.rollback("names", home=tmp_path)


def test_the_command_line_refuses_empty_names_and_touches_no_run(say, tmp_path):
    assert say("run", "my_job.job:job", "--run-id", "r1").code == 0
    for words in (
        ["cancel", ""],
        ["status", ""],
        ["resume", ""],
        ["run", "my_job.job:job", "--run-id", ""],
    ):
        said = say(*words)
        assert (said.code, said.out) == (2, "")
        assert "is empty" in said.err
        assert "an unset shell variable" in said.err
    said = say("rollback", "../../etc")
    assert (said.code, "Traceback" in said.err, "cannot be a job's name" in said.err) == (
        2,
        False,
        True,
    )
    assert say("run", "my_job.job:job", "--max-rejected", "nosuch=5").code == 2
    assert [run["id"] for run in json.loads(say("status", "--all", "--json").out)] == ["r1"]
    assert not list(tmp_path.rglob("etc*"))
