"""`hundredfold report`, and the report at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path

from support.cli import RunCli
from support.html_page import parse_page


def test_a_run_ends_with_its_report_and_prints_the_path(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("run", "my_job.job:job", "--run-id", "one")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    path = Path(lines[lines.index("Report") + 1].strip())
    assert path.name == "report.html"
    page = parse_page((tmp_path / path).read_text("utf-8"))
    assert "published 300 rows" in page.one("header").text


def test_a_held_run_and_a_failed_run_have_a_report(run_cli: RunCli) -> None:
    held = run_cli("run", "variants:raises", "--run-id", "held")
    assert held.code == 1
    assert "held/report.html" in held.out
    failed = run_cli("run", "variants:unknown_column", "--run-id", "failed")
    assert failed.code == 1
    (line,) = [line for line in failed.err.splitlines() if line.startswith("report: ")]
    text = Path(line.removeprefix("report: "))
    assert text.name == "report.html"


def test_no_report_leaves_it_out_and_report_makes_it(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("run", "my_job.job:job", "--run-id", "one", "--no-report")
    assert "Report" not in done.out
    assert list(tmp_path.rglob("report.html")) == []
    made = run_cli("report", "one", "--json")
    assert json.loads(made.out)["run"] == "one"
    assert Path(json.loads(made.out)["report"]).is_file()
    other = run_cli("report", "--out", str(tmp_path / "own.html"))
    assert other.code == 0, other.err
    commands = parse_page((tmp_path / "own.html").read_text("utf-8")).all("code", "command")
    assert all(command.text.startswith("hundredfold ") for command in commands)


def test_a_report_that_cannot_be_made_fails_no_run(run_cli: RunCli, tmp_path: Path) -> None:
    first = run_cli("run", "my_job.job:job", "--run-id", "one")
    (path,) = tmp_path.rglob("report.html")
    path.unlink()
    path.mkdir()
    assert first.code == 0
    (path.parent / "models" / "prices" / "units.parquet").unlink()
    again = run_cli("resume", "one")
    assert again.code == 0, again.err
    (line,) = [line for line in again.err.splitlines() if line.startswith("warning: ")]
    assert "the report could not be made" in line
    assert "Report" not in again.out


def test_a_report_of_an_unknown_run_is_one_clear_error(run_cli: RunCli) -> None:
    run_cli("run", "my_job.job:job", "--run-id", "one", "--no-report")
    unknown = run_cli("report", "other")
    assert unknown.code == 2
    assert "there is no run other" in unknown.err
    nowhere = run_cli("report", "one", "--out", "no/such/folder.html")
    assert nowhere.code == 2
    assert "cannot be written" in nowhere.err


def test_a_run_with_a_plan_shows_the_prediction_beside_the_times(
    run_cli: RunCli, tmp_path: Path
) -> None:
    assert run_cli("plan", "my_job.job:job", "--out", "plan.json").code == 0
    done = run_cli("run", "my_job.job:job", "--run-id", "one", "--plan", "plan.json")
    assert done.code == 0, done.err
    (path,) = tmp_path.rglob("report.html")
    section = parse_page(path.read_text("utf-8")).one("section", id="plan")
    assert "Predicted by the plan that the run took" in section.text
    heads, *steps = section.table("Plan and run, step by step")
    assert heads == ["step", "time", "predicted", "measured", "measured / predicted"]
    assert [step[0] for step in steps] == [
        "validate",
        "prepare prices",
        "work prices",
        "collect prices",
        "publish",
    ]
    # the results of all units may be those of the pilot, so that no work is predicted
    others = [step for step in steps if step[0] != "work prices"]
    assert all("-" not in step[2:] for step in others)
    assert all(float(step[4]) > 0 for step in others)
