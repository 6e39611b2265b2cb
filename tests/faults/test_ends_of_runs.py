"""The ends of runs: with an unexpected error, without a unit that is ok, after a newer run, after a
rollback; and homes that must not be modified.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source, open_run
from hundredfold.errors import HomeError, PublishRefused, UsageError
from hundredfold.local.home import Home
from hundredfold.pipeline.releases import current_version
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.ports.run_facts import HOME_FORMAT
from hundredfold.ports.run_states import Event
from hundredfold.runs.summary import summarize
from support.waits import HANG_S

ROWS = pa.table({"k": [1, 2], "x": [1.0, 2.0]})


def double(rows: Any) -> Any:
    return {"y": 2 * float(rows["x"][0])}


def fails(rows: Any) -> Any:
    raise ValueError("never")


def given_fails(rows: Any, base: Any) -> Any:
    raise ValueError("never")


OUT = Publish("out", "SELECT * FROM m ORDER BY k", formats=("csv",))
JOB = Job("ends", [Source("s")], [Model("m", ("k",), double)], publish=OUT)


def go(home: Path, job: Job = JOB, **how: Any) -> Any:
    return hundredfold.run(job, {"s": ROWS}, home=home, workers=1, memory="1GB", **how)


def raising(callback: str) -> NullCallbacks:
    def act(*_: object) -> None:
        raise KeyError("not ours")

    callbacks = NullCallbacks()
    setattr(callbacks, callback, act)
    return callbacks


@pytest.mark.parametrize(
    "callback", ["run_started", "stage_started", "validated", "progress", "collected"]
)
def test_an_error_of_a_callback_ends_on_the_record_as_failed(tmp_path: Path, callback: str) -> None:
    with pytest.raises(KeyError, match="not ours") as error:
        go(tmp_path, run_id="r", callbacks=raising(callback))
    run = open_run("r", home=tmp_path)
    assert (run.state, run.record.reason) == ("failed", "an unexpected error: KeyError: 'not ours'")
    log = run.folder / "logs" / "driver.log"
    assert "KeyError: 'not ours'" in log.read_text()
    assert error.value.__notes__ == [f"its traceback is kept in {log}"]
    assert hundredfold.resume("r", home=tmp_path, job=JOB).state == "done"


def test_an_unexpected_error_reaches_the_command_line_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        dedent("""
        from hundredfold import Job, Model, Source

        from hundredfold.pipeline.runner import StageRunner

        def broken(*_):
            raise RuntimeError("a fault\\nof our own")

        StageRunner.validate = broken
        job = Job("own", [Source("s", path="s.csv")], [Model("m", ("k",), lambda rows: {"y": 1})])
        """)
    )
    (tmp_path / "s.csv").write_text("k\n1\n")
    done = hundredfold_cli(tmp_path, "run", "own.py")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    run = open_run(home=tmp_path / ".hundredfold")
    assert run.state == "failed"
    assert f"hint: its traceback is kept in {run.folder}/logs/driver.log" in done.stderr
    assert "error: unexpected RuntimeError: a fault of our own\n" in done.stderr


def hundredfold_cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hundredfold", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_driver_that_is_terminated_prints_how_to_go_on(tmp_path: Path, number: int) -> None:
    (tmp_path / "own.py").write_text(
        dedent("""
        import time
        from pathlib import Path
        from hundredfold import Job, Model, Source

        def slow(rows):
            Path("begun").touch()
            time.sleep(60)

        job = Job("own", [Source("s", path="s.csv")], [Model("m", ("k",), slow)])
        """)
    )
    (tmp_path / "s.csv").write_text("k\n1\n")
    command = [sys.executable, "-m", "hundredfold", "run", "own.py", "--workers", "1"]
    # below nohup, a hang-up is ignored
    heeded = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeded,
    )
    try:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "hint: hundredfold resume" in errors


@pytest.mark.parametrize("publish", [OUT, ()])
@pytest.mark.parametrize("limit", [1.0, 1000])
def test_a_run_of_which_every_unit_failed_is_held_back(
    tmp_path: Path, publish: Any, limit: Any
) -> None:
    job = Job("none", [Source("s")], [Model("m", ("k",), fails)], publish=publish, max_failed=limit)
    with pytest.raises(PublishRefused, match="none is held back: all 2 units of m failed") as error:
        go(tmp_path, job, run_id="r", max_failed=limit)
    assert (
        error.value.hint == "hundredfold failures r   then: hundredfold retry r --accept-new-code"
    )
    assert open_run("r", home=tmp_path).state == "held"
    with pytest.raises(PublishRefused, match="all 2 units of m failed"):
        hundredfold.publish("r", home=tmp_path, job=job, max_failed=1.0)
    assert current_version("none", Home(tmp_path).store) is None


@pytest.mark.parametrize("last", [False, True])
def test_a_model_of_which_every_unit_failed_holds_back_the_run(tmp_path: Path, last: Any) -> None:
    failing, other = Model("base", ("k",), fails), Model("m", ("k",), double)
    models = [other, failing] if last else [failing, other]
    with pytest.raises(PublishRefused, match="all 2 units of base failed"):
        go(tmp_path, Job("none", [Source("s")], models, publish=() if last else OUT))


def test_a_limit_that_allows_all_units_of_one_model_lets_the_others_go_on(tmp_path: Path) -> None:
    models = [Model("base", ("k",), fails), Model("m", ("k",), double)]
    run = go(tmp_path, Job("some", [Source("s")], models, publish=OUT, max_failed=1.0))
    assert (run.state, len(run.failures()), run.release.version) == ("done", 2, 1)


def test_an_older_run_does_not_replace_the_release_of_a_newer_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(KeyError):
        go(tmp_path, run_id="older", callbacks=raising("collected"))
    while go(tmp_path).record.created == open_run("older", home=tmp_path).record.created:
        pass  # created within the same second
    version = current_version("ends", home.store)
    with pytest.raises(
        PublishRefused, match=f"release {version} is current, and it was made by a newer run"
    ) as error:
        hundredfold.resume("older", home=tmp_path, job=JOB)
    assert (
        error.value.hint == "to replace it all the same: hundredfold publish older --replace-newer"
    )
    assert (open_run("older", home=tmp_path).state, current_version("ends", home.store)) == (
        "held",
        version,
    )
    assert summarize(open_run("older", home=tmp_path))["newer_release"] == version
    command = [sys.executable, "-m", "hundredfold", "status", "older", "--home", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"hundredfold publish older --replace-newer --home {tmp_path}\n" in shown
    assert version is not None
    done = hundredfold.publish("older", home=tmp_path, job=JOB, replace_newer=True)
    assert done.release is not None
    assert (done.state, done.release.version, current_version("ends", home.store)) == (
        "done",
        version + 1,
        version + 1,
    )


def test_resume_does_not_undo_a_rollback(tmp_path: Path) -> None:
    """The driver died after it had moved the pointer; then the release was rolled back."""
    home = Home(tmp_path)
    go(tmp_path)
    go(tmp_path, run_id="second")
    home.ledger.move(
        "second", Event.RESTORE, step="publish"
    )  # running, as the killed driver left it
    assert hundredfold.rollback("ends", home=tmp_path).version == 1
    done = hundredfold.resume("second", home=tmp_path, job=JOB)
    assert (done.state, current_version("ends", home.store)) == ("done", 1)
    assert done.release is not None
    assert done.release.version == 2
    go(tmp_path)
    assert current_version("ends", home.store) == 3  # a new run may publish
    assert hundredfold.rollback("ends", home=tmp_path, to=2).version == 2
    assert json.loads((tmp_path / "releases/ends/current.json").read_text())["withdrawn"] == [3]


def test_a_missing_mark_of_the_format_locks_no_home_out(tmp_path: Path) -> None:
    run = go(tmp_path)
    (tmp_path / "format").unlink()
    assert (open_run(home=tmp_path).id, len(open_run(home=tmp_path).results())) == (run.id, 2)
    assert go(tmp_path).state == "done"
    assert (tmp_path / "format").read_text().strip() == str(HOME_FORMAT)


@pytest.mark.parametrize(
    "content", [{"README.md": "mine"}, {".gitignore": "build/", "job.py": ""}, {"runs": None}]
)
def test_a_folder_that_is_not_ours_is_not_touched(
    tmp_path: Path, content: dict[str, str | None]
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).mkdir() if text is None else (folder / name).write_text(text)
    with pytest.raises(HomeError, match="is not empty and not a home") as error:
        go(folder)
    assert "--home" in (error.value.hint or "")
    assert {p.name: p.read_text() if p.is_file() else None for p in folder.iterdir()} == content


def test_an_existing_gitignore_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("!*\n")
    go(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "!*\n"


def test_a_home_that_another_process_is_creating_is_not_foreign(tmp_path: Path) -> None:
    (tmp_path / ".~0123456789abcdef").write_text("3\n")  # its format file, not yet renamed
    go(tmp_path)
    assert (tmp_path / "format").is_file()


@pytest.mark.parametrize("home", ["", "  ", None, 3])
def test_a_home_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="wanted a folder"):
        go(home)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with blanks", 'it\'s "quoted"', "Größe-日本", "a;b&c", "[x]*"])
def test_a_home_may_have_any_name(tmp_path: Path, name: Any) -> None:
    done = go(tmp_path / name)
    assert (done.state, len(done.results()), len(done.published_rows())) == ("done", 2, 2)
    assert hundredfold.replay("m", "1", home=tmp_path / name) == {"y": 2.0}


READING = """
import sys
import hundredfold
from hundredfold.cli import main as cli

HOME = sys.argv[1]
run = hundredfold.open_run(home=HOME)
tables = (run.results(), run.units(), run.failures(), run.published_rows())
print(run.state, *map(len, tables))
print(hundredfold.replay("m", "1", home=HOME))
for words in (["status"], ["list"], ["failures"], ["replay", "m", "1"]):
    sys.argv[1:] = [*words, "--home", HOME]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
for verb in (hundredfold.retry, hundredfold.cancel):
    try:
        verb(home=HOME)
    except hundredfold.HundredfoldError as error:
        print(type(error).__name__)
"""
WITHOUT_RIGHTS = (
    ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]
    if sys.platform == "linux" and os.geteuid() == 0
    else []
)


@pytest.mark.skipif(os.name == "nt", reason="rights are other things there")
@pytest.mark.skipif(
    bool(WITHOUT_RIGHTS) and not shutil.which("setpriv"), reason="root may write everywhere"
)
def test_a_home_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    text = (
        "from hundredfold import Job, Model, Publish, Source\n\ndef double(rows):\n    return"
        " {'y': 2 * float(rows['x'][0])}\n\n"
    )
    text += (
        "job = Job('ends', [Source('s', path='s.csv')], [Model('m', ('k',), double)],"
        " publish=Publish('out', 'SELECT * FROM m'))\n"
    )
    (tmp_path / "reading_job.py").write_text(text)
    (tmp_path / "s.csv").write_text("k,x\n1,1\n2,2\n")
    assert hundredfold_cli(tmp_path, "run", "reading_job.py", "--home", "home").returncode == 0
    home = tmp_path / "home"
    (tmp_path / "reading.py").write_text(READING)
    paths = [home, *home.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        command = [*WITHOUT_RIGHTS, sys.executable, str(tmp_path / "reading.py"), str(home)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False
        )
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("done 2 2 0 2\n{'y': 2.0}\n")
    assert done.stdout.endswith("HomeError\nStateError\n")
    assert {path: path.stat().st_mtime_ns for path in (home, *home.rglob("*"))} == before
