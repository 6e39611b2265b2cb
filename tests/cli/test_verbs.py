"""The verbs, in the order in which a person needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import hundredfold
from support.waits import HANG_S

JOB = "my_job.job:job"
SCRIPT = """
from beside import mean

from hundredfold import Job, Model, Source


def middle(rows) -> dict:
    if rows.key == ("S003", "rice"):
        raise ValueError(rows["week"])
    return {"week": mean(rows["week"])}


job = Job("middles", [Source("sales", path="../my_job/data/sales.csv")], [Model("middles", unit=("shop", "product"), work=middle)])
"""


def test_a_run_ends_with_a_summary_and_a_release(say):
    said = say("run", JOB)
    assert said.code == 0, said.err
    assert "15,600" in said.out
    assert "price_list.csv" in said.out
    assert "hundredfold status" in said.out
    assert "prices: 300 of 300 units done" in said.err


def test_json_is_all_that_stdout_holds(say):
    facts = json.loads(say("run", JOB, "--json").out)
    assert facts["state"] == "done"
    assert facts["models"]["prices"]["ok"] == 300
    assert facts["sources"]["sales"] == {
        "rows": 15600,
        "accepted": 15597,
        "rejected": 3,
        "dropped": 0,
        "repaired": 0,
    }
    assert json.loads(say("status", "--json").out)["run"] == facts["run"]
    assert json.loads(say("failures", "--json").out) == []
    assert [r["id"] for r in json.loads(say("status", "--all", "--json").out)] == [facts["run"]]


def test_a_held_run_keeps_everything_until_it_is_retried(say, project):
    assert say("run", "variants:raises", "--run-id", "held").code == 1
    listed = say("failures", "--traceback").out
    assert "prices  S003,rice  failed  ValueError: no rice today" in listed
    assert 'raise ValueError("no rice today")' in listed
    assert "hundredfold replay prices S003,rice --pdb" in listed
    source = (project / "variants.py").read_text()
    try:
        (project / "variants.py").write_text(
            source.replace('raise ValueError("no rice today")', "pass")
        )
        refused = say("retry")
        mended = say("retry", "--accept-new-code")
    finally:
        (project / "variants.py").write_text(source)
    assert (refused.code, "variants: edited" in refused.err) == (1, True)
    assert mended.code == 0, mended.err
    assert "price_list.csv" in mended.out
    assert json.loads(say("status", "--json").out)["models"]["prices"]["ok"] == 300


def test_a_held_run_can_be_published_without_the_failed_units(say):
    assert say("run", "variants:raises").code == 1
    said = say("publish", "--max-failed", "1")
    assert said.code == 0, said.err
    assert json.loads(say("status", "--json").out)["release"]["rows"] == {"price_list": 299}


def test_replay_calls_the_function_on_that_units_rows(say):
    assert say("run", JOB).code == 0
    said = say("replay", "prices", "S001,bread")
    assert said.out.startswith("Answer(elasticity=-")
    assert "rows=52" in said.out


def test_replay_under_the_debugger_stops_in_the_users_function(project, say, tmp_path):
    assert say("run", JOB).code == 0
    words = [
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
        words,
        cwd=project,
        input="p len(rows['price'])\nc\n",
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert "my_job/model.py" in done.stdout.replace("\\", "/")
    assert "52" in done.stdout
    assert "Answer(" in done.stdout


def test_replay_shows_the_exception_that_the_unit_raised(say):
    assert say("run", "variants:raises").code == 1
    said = say("replay", "prices", "S003,rice")
    assert said.code == 1
    assert said.err.startswith("Traceback (most recent call last)")
    assert said.err.endswith("ValueError: no rice today\n")
    assert "cli.py" not in said.err


def test_replay_under_the_debugger_ends_with_what_the_function_raises(project, say, tmp_path):
    assert say("run", "variants:raises").code == 1
    words = [
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
        words, cwd=project, input="c\n", capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("ValueError: no rice today\n")
    assert "bdb.py" not in done.stderr


def test_a_job_is_named_by_its_file(say, project, tmp_path):
    assert say("run", "my_job/job.py").code == 0
    assert say("run", "my_job.job").code == 0
    scripts = project / "scripts"
    scripts.mkdir()
    (scripts / "beside.py").write_text("def mean(values): return float(values.mean())\n")
    (scripts / "middles.py").write_text(SCRIPT)
    said = say("run", "scripts/middles.py:job")
    assert said.code == 0
    assert "units done, 1 failed" in said.err
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
    mended = subprocess.run(
        [sys.executable, "-m", "hundredfold", "retry", "--accept-new-code"],
        **elsewhere,
        capture_output=True,
        text=True,
    )
    assert mended.returncode == 0, mended.stderr
    assert "failed" not in mended.stderr


def test_rollback_moves_back_and_to_a_version(say):
    for number in range(3):
        assert say("run", JOB, "--run-id", f"run{number}").code == 0
    assert "release 2 of my_job is current again (run run1" in say("rollback", "my_job").out
    assert "release 1 of my_job is current again" in say("rollback", "my_job").out
    assert say("rollback", "my_job").code == 1
    assert "release 3 of my_job is current again" in say("rollback", "my_job", "--to", "3").out


def test_a_cancelled_run_cannot_go_on(say):
    assert say("run", "variants:raises").code == 1
    assert "is cancelled" in say("cancel").out
    said = say("resume")
    assert said.code == 1
    assert "it was cancelled: run the job again" in said.err


def test_the_project_that_init_makes_passes_its_own_test(project):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my_job"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert "2 passed" in done.stdout, done.stdout


VERBS = (
    "run",
    "status",
    "failures",
    "replay",
    "retry",
    "resume",
    "cancel",
    "publish",
    "rollback",
    "bench",
    "init",
    "demo",
    "deploy",
    "destroy",
    "package",
    "doctor",
)


def test_help_answers_for_every_verb(say):
    for verb in VERBS:
        said = say(verb, "--help")
        assert said.code == 0
        assert f"Usage: hundredfold {verb}" in said.out
        assert said == say(verb, "-h")


def test_without_words_the_verbs_are_told_in_the_order_of_their_use(say):
    said = say()
    assert (said.code, said.err) == (0, "")
    assert said == say("--help")
    assert (
        tuple(
            line.split()[0]
            for line in said.out.split("Commands:\n")[1].splitlines()
            if line[2] != " "
        )
        == VERBS
    )
    assert "or another version, the current release." in " ".join(said.out.split())


def test_help_tells_what_a_word_means_and_what_it_is_without_it(say):
    said = " ".join(say("run", "--help").out.split())
    assert "Arguments: JOB The job, as module:attribute" in said
    assert "-s, --source NAME=PATH" in said
    assert (
        "--home FOLDER Folder that keeps the runs. "
        "[env var: HUNDREDFOLD_HOME; default: .hundredfold]"
    ) in said
    assert "--workers N Number of worker processes. [default: (one per core)]" in said


def test_the_version_is_told(say):
    said = say("--version")
    assert (said.code, said.out) == (0, f"hundredfold {hundredfold.__version__}\n")


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_reasons_of_rejection_stand_below_the_table_one_a_line(project, tmp_path, columns):
    environment = {
        **os.environ,
        "HUNDREDFOLD_HOME": str(tmp_path / "home"),
        "COLUMNS": columns,
        "NO_COLOR": "1",
    }
    words = [sys.executable, "-m", "hundredfold", "run", JOB]
    printed = subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, check=True
    ).stdout
    table, _, rest = printed.partition("why rows were rejected\n")
    assert "sales  15,600    15,597         -         3        -\n" in table
    assert rest.startswith(
        "  sales  1  shop must not be null\n         1  price must be a number\n         1  price must be > 0\n\n"
    )
    assert not [line for line in printed.splitlines() if line != line.rstrip()]


def test_how_a_csv_file_was_read_is_printed_and_kept_with_the_run(say, tmp_path):
    (tmp_path / "sales.csv").write_bytes(
        'shop;name;sold\nS0;Müller;1\nS0;"torn;2\nS1;x;3\n'.encode("utf-16")
    )
    job = "from hundredfold import Job, Model, Source\njob = Job('j', [Source('sales', path='sales.csv', max_rejected=1)],"
    (tmp_path / "odd.py").write_text(
        f"{job} [Model('m', unit=('shop',), work=lambda rows: {{'n': int(rows['sold'].sum())}})])\n"
    )
    said = say("run", str(tmp_path / "odd.py"), "--home", str(tmp_path / "home"))
    assert said.code == 0, said.err
    assert 'read sales as CSV with delimiter ";", encoding utf-16' in said.err
    facts = json.loads(say("status", "--home", str(tmp_path / "home"), "--json").out)
    (found,) = facts["csv"]["sales"]
    assert (found["delimiter"], found["encoding"], found["files"]) == (";", "utf-16", 1)
    assert facts["sources"]["sales"]["rejected"] == 1
