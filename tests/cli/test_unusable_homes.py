"""Homes that are no folder or vanish, and runs without a driver: one error, and a true state."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
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


def start_run(home: Path, job: Job = JOB, **options: Any) -> Any:
    return hundredfold.run(job, {"s": ROWS}, home=home, workers=1, memory="1GB", **options)


def invoke(*arguments: str) -> None:
    with app.make_context("hundredfold", list(arguments)) as context:
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
def test_a_home_that_is_not_a_folder_is_described(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for make in (False, True):
        with pytest.raises(HomeError) as raised:
            Home(tmp_path / name, make=make)
        assert NO_FOLDERS[name] in raised.value.message
        assert raised.value.hint == "name a folder with --home"


class ActAtStage(NullCallbacks):
    """Callbacks that act on a home when a stage starts."""

    def __init__(self, stage: str, act: Any) -> None:
        self.wanted, self.act = stage, act

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.wanted:
            self.act()


def recreate(home: Path) -> None:
    shutil.rmtree(home)
    Home(home)


@pytest.mark.parametrize(
    "stage", ["validate", "prepare m", "enqueue m", "work m", "collect m", "publish"]
)
@pytest.mark.parametrize("act", [shutil.rmtree, recreate], ids=["removed", "recreated"])
def test_a_home_that_vanishes_ends_the_run_and_stays_removed(
    tmp_path: Path, stage: str, act: Callable[[Path], None]
) -> None:
    home = tmp_path / "home"
    with pytest.raises(HomeError, match=f"the home {home} is gone") as raised:
        start_run(home, callbacks=ActAtStage(stage, lambda: act(home)))
    assert raised.value.exit_code == 1
    assert home.exists() == (act is recreate)


def test_a_run_without_a_driver_is_shown_as_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies() -> None:
        raise KeyboardInterrupt

    start_run(tmp_path, run_id="whole")
    with pytest.raises(KeyboardInterrupt):
        start_run(tmp_path, run_id="r", callbacks=ActAtStage("work m", dies))
    home = Home(tmp_path)
    assert home.ledger.read("r").state.value == "running"
    assert (
        summarize(open_run("r", home=tmp_path))["state"],
        summarize(open_run("r", home=tmp_path))["active"],
    ) == ("stopped", False)
    invoke("status", "r", "--home", str(tmp_path), "--json")
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    with home.lock("r"):
        assert summarize(open_run("r", home=tmp_path))["state"] == "running"
        invoke("list", "--home", str(tmp_path), "--json")
        assert {run["run"]: run["state"] for run in json.loads(capsys.readouterr().out)} == {
            "r": "running",
            "whole": "done",
        }
    invoke("status", "r", "--home", str(tmp_path))
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert "(no process is executing it)" in shown
    assert "hundredfold resume r --home" in shown
    assert hundredfold.resume("r", home=tmp_path, job=JOB).state == "done"
    assert home.ledger.move("whole", Event.RETRY).state.value == "running"
    assert summarize(open_run("whole", home=tmp_path))["state"] == "stopped"


def test_a_run_that_was_never_recorded_names_the_way_to_start_it(tmp_path: Path) -> None:
    start_run(tmp_path, run_id="other")
    with pytest.raises(hundredfold.HundredfoldError, match="there is no run r;") as raised:
        hundredfold.resume("r", home=tmp_path)
    assert (
        "a run that was killed before it was recorded left nothing: start it again with --run-id r"
        in (raised.value.hint or "")
    )


@pytest.mark.parametrize("out", ["sales.csv", "sales.csv/below"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["package", "job.py", "--out"],
        ["demo", "--data"],
        ["deploy", "job.py", "--stack", "x", "--synth"],
    ],
    ids=lambda w: w[0],
)
def test_a_file_in_place_of_an_output_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sales.csv").write_text("k\n")
    with pytest.raises(
        UsageError, match=rf"{arguments[-1]} {out} cannot be written: .*sales\.csv: Not a directory"
    ):
        invoke(*arguments, out)
    assert (tmp_path / "sales.csv").read_text() == "k\n"


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    start_run(tmp_path)
    for arguments in (["failures", "--limit", "-1"], ["run", "x:job", "--batches", "0"]):
        with pytest.raises(Exception, match="is not in the range"):
            invoke(*arguments)


@pytest.mark.parametrize("query", ["", "  \n", "SELECT 1\0"])
def test_a_blank_query_is_refused_in_its_declaration(query: str) -> None:
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
def test_a_statement_that_is_no_query_is_refused(tmp_path: Path, query: str) -> None:
    with pytest.raises(QueryError) as raised:
        start_run(tmp_path, Job("j", [Source("s")], [Model("m", ("k",), double, query=query)]))
    assert "json" not in raised.value.message
    assert raised.value.message.startswith("model m: not a query")


def test_characters_that_utf8_lacks_are_escaped_in_errors() -> None:
    error = SourceError("bad\udcff", problems=["worse\udcfe"], hint="worst\udcfd")
    assert (str(error), error.hint) == ("bad\\udcff\n  worse\\udcfe", "worst\\udcfd")
