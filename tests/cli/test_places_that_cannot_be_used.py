"""Homes and folders that are no folder, that vanish, and runs that nothing drives: one clear error, and what is shown is true."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.api import open_run
from hundredfold.cli.main import app
from hundredfold.errors import HomeError, JobError, QueryError, SourceError, UsageError
from hundredfold.local.home import Home
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.ports.run_states import Event
from hundredfold.runs.summary import summarize

ROWS = pa.table({"k": [1, 2], "x": [1.0, 2.0]})


def double(rows: Any) -> dict[str, float]:
    return {"y": 2 * float(rows["x"][0])}


JOB = Job(
    "places",
    [Source("s")],
    [Model("m", ("k",), double)],
    publish=Publish("out", "SELECT * FROM m", formats=("csv",)),
)


def go(home: Path, job: Job = JOB, **how: Any) -> Any:
    return hundredfold.run(job, {"s": ROWS}, home=home, workers=1, memory="1GB", **how)


def invoked(*words: str) -> None:
    with app.make_context("hundredfold", list(words)) as context:
        app.invoke(context)


NO_FOLDERS = {
    "file": "is a file, wanted a folder",
    "file/below": "file is a file, wanted a folder",
    "dangling": "is a broken link",
    "loop": "is a link: Too many levels of symbolic links",
    "pipe": "is a device, a pipe or a socket",
    "/dev/null": "is a device, a pipe or a socket",
}


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_home_that_is_no_folder_says_what_it_is(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for make in (False, True):
        with pytest.raises(HomeError) as raised:
            Home(tmp_path / name, make=make)
        assert NO_FOLDERS[name] in raised.value.message
        assert raised.value.hint == "name a folder with --home"


class Acts(NullCallbacks):
    """Does something to a home when a stage begins."""

    def __init__(self, stage: str, act: Any) -> None:
        self.wanted, self.act = stage, act

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.wanted:
            self.act()


def made_anew(home: Path) -> None:
    shutil.rmtree(home)
    Home(home)


@pytest.mark.parametrize(
    "stage", ["validate", "prepare m", "enqueue m", "work m", "collect m", "publish"]
)
@pytest.mark.parametrize("act", [shutil.rmtree, made_anew], ids=["removed", "made anew"])
def test_a_home_that_vanishes_ends_the_run_and_is_not_made_again(tmp_path, stage, act):
    home = tmp_path / "home"
    with pytest.raises(HomeError, match=f"the home {home} is gone") as raised:
        go(home, callbacks=Acts(stage, lambda: act(home)))
    assert raised.value.exit_code == 1
    assert home.exists() == (act is made_anew)


def test_a_run_that_no_process_drives_is_shown_as_stopped(tmp_path, capsys):
    def dies() -> None:
        raise KeyboardInterrupt

    go(tmp_path, run_id="whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, run_id="r", callbacks=Acts("work m", dies))
    home = Home(tmp_path)
    assert home.ledger.read("r").state.value == "running"
    assert (
        summarize(open_run("r", home=tmp_path))["state"],
        summarize(open_run("r", home=tmp_path))["active"],
    ) == ("stopped", False)
    invoked("status", "r", "--home", str(tmp_path), "--json")
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    with home.lock("r"):
        assert summarize(open_run("r", home=tmp_path))["state"] == "running"
        invoked("status", "--all", "--home", str(tmp_path), "--json")
        assert {run["id"]: run["state"] for run in json.loads(capsys.readouterr().out)} == {
            "r": "running",
            "whole": "done",
        }
    invoked("status", "r", "--home", str(tmp_path))
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert "(no process is executing it)" in shown
    assert "hundredfold resume r --home" in shown
    assert hundredfold.resume("r", home=tmp_path, job=JOB).state == "done"
    assert home.ledger.move("whole", Event.RETRY).state.value == "running"
    assert summarize(open_run("whole", home=tmp_path))["state"] == "stopped"


def test_a_run_that_was_never_recorded_says_how_to_begin_it(tmp_path):
    go(tmp_path, run_id="other")
    with pytest.raises(hundredfold.HundredfoldError, match="there is no run r;") as raised:
        hundredfold.resume("r", home=tmp_path)
    assert (
        "a run that was killed before it was recorded left nothing: run it again with --run-id r"
        in (raised.value.hint or "")
    )


@pytest.mark.parametrize("out", ["sales.csv", "sales.csv/below"])
@pytest.mark.parametrize(
    "words",
    [
        ["package", "job.py", "--out"],
        ["demo", "--data"],
        ["deploy", "job.py", "--stack", "x", "--synth"],
    ],
    ids=lambda w: w[0],
)
def test_a_folder_to_write_into_that_is_a_file_is_refused(tmp_path, monkeypatch, words, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sales.csv").write_text("k\n")
    with pytest.raises(
        UsageError, match=rf"{words[-1]} {out} cannot be written: .*sales\.csv: Not a directory"
    ):
        invoked(*words, out)
    assert (tmp_path / "sales.csv").read_text() == "k\n"


def test_numbers_of_a_command_that_make_no_sense_are_refused(tmp_path):
    go(tmp_path)
    for words in (["failures", "--limit", "-1"], ["run", "x:job", "--batches", "0"]):
        with pytest.raises(Exception, match="is not in the range"):
            invoked(*words)


@pytest.mark.parametrize("query", ["", "  \n", "SELECT 1\0"])
def test_a_query_that_is_blank_is_refused_where_it_is_declared(query):
    for declare in (
        lambda: Model("m", ("k",), double, query=query),
        lambda: Publish("p", query),
        lambda: Publish("p", "SELECT 1", summaries={"t": query}),
    ):
        with pytest.raises(JobError, match=r"wanted SQL, or the name of a \.sql file"):
            declare()


@pytest.mark.parametrize(
    "query", ["INSERT INTO s VALUES (1)", "DROP TABLE s", "COPY s TO 'x'", "PRAGMA version"]
)
def test_a_query_that_reads_nothing_is_refused_in_our_words(tmp_path, query):
    with pytest.raises(QueryError) as raised:
        go(tmp_path, Job("j", Source("s"), Model("m", ("k",), double, query=query)))
    assert "json" not in raised.value.message
    assert raised.value.message.startswith("model m: not a query")


def test_what_no_terminal_can_print_is_escaped_in_every_error():
    error = SourceError("bad\udcff", problems=["worse\udcfe"], hint="worst\udcfd")
    assert (str(error), error.hint) == ("bad\\udcff\n  worse\\udcfe", "worst\\udcfd")
