"""`tariffs evidence` as people meet it: a real process, after `hundredfold demo`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click import Option

from support.waits import HANG_S
from tariffs.evaluation.commands import evidence

PAGE = Path(__file__).parents[2] / "docs" / "tariffs.md"


def run_tariffs(
    folder: Path, *words: str, before: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `tariffs` with these arguments; `before` is Python code that runs first."""
    environment = {
        **os.environ,
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "HUNDREDFOLD_HOME": str(folder / "home"),
    }
    program = [
        sys.executable,
        "-c",
        f"{before}\nimport sys; from tariffs.cli import main;"
        " sys.argv = ['tariffs', *sys.argv[1:]]; main()",
    ]
    done = subprocess.run(
        [*program, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG_S,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    words = [
        sys.executable,
        "-m",
        "hundredfold",
        "demo",
        "--home",
        str(folder / "home"),
        "--workers",
        "2",
    ]
    completed = subprocess.run(
        words, cwd=folder, capture_output=True, encoding="utf-8", timeout=HANG_S, check=True
    )
    (folder / "demo.txt").write_text(completed.stdout)
    return folder


def test_the_demo_names_the_commands_that_hold_its_promises(folder: Path) -> None:
    named = re.findall(r"tariffs evidence (\w+) --home", (folder / "demo.txt").read_text())
    assert named == ["truth", "calibration", "dial"]
    assert set(named) <= set(evidence.commands)


@pytest.mark.parametrize(
    "words",
    [["truth"], ["prior"], ["backtest"], ["loop", "--cycles", "3"]],
    ids=lambda words: words[0],
)
def test_a_table_fits_a_terminal_of_80_columns(folder: Path, words: list[str]) -> None:
    lines = run_tariffs(folder, "evidence", *words).stdout.splitlines()
    assert len(lines) > 8
    assert [line for line in lines if len(line.rstrip()) > 80] == []


def test_rho_is_shown_without_what_neighbours_take(folder: Path) -> None:
    shown = run_tariffs(folder, "evidence", "prior").stdout
    assert shown.count("sales that neighbouring products take: chi ") == 1  # of bundles
    assert shown.count("with these removed, rho is ") == 1


def test_json_states_what_the_table_states(folder: Path) -> None:
    table = run_tariffs(folder, "evidence", "truth").stdout
    found: list[dict[str, Any]] = json.loads(
        run_tariffs(folder, "evidence", "truth", "--json").stdout
    )
    assert [line["line"] for line in found] == ["bundle", "voice"]
    for line in found:
        assert f"{line['tau']:.3f} estimated" in table
        assert f"{line['scores'][0]['rmse']['shrunk']:.3f}" in table


def test_plots_come_as_svg_and_png_beside_the_json(folder: Path) -> None:
    completed = run_tariffs(folder, "evidence", "calibration", "--plots", "plots", "--json")
    assert set(json.loads(completed.stdout)) == {"bundle", "voice"}
    assert sorted(path.name for path in (folder / "plots").iterdir()) == [
        "calibration.png",
        "calibration.svg",
    ]
    assert "plots/calibration.svg" in completed.stderr


def test_without_matplotlib_the_way_to_it_is_reported(folder: Path) -> None:
    completed = run_tariffs(
        folder,
        "evidence",
        "calibration",
        "--plots",
        "plots-2",
        before="import sys; sys.modules['matplotlib'] = None",
        code=2,
    )
    assert "error: matplotlib is not installed" in completed.stderr
    assert "hint: pip install 'hundredfold[report]'" in completed.stderr


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (
            ["truth", "--truth", "nowhere"],
            "--truth nowhere is no folder",
            "the folder that the generator wrote",
        ),
        (["truth", "no-such-run"], "no-such-run", ""),
        (
            ["backtest", "--weeks", "25"],
            "--weeks is 25, and the run has 26 weeks of bundle sales",
            "hold out 1 to 22",
        ),
        (["dial", "--z", "-1"], "z is -1", "such as --z 0"),
        (["loop", "--cycles", "0"], "--cycles is 0, wanted 1 to 52", ""),
    ],
)
def test_words_that_cannot_be_are_answered_with_what_to_do(
    folder: Path, words: list[str], error: str, hint: str
) -> None:
    completed = run_tariffs(folder, "evidence", *words, code=2)
    assert error in completed.stderr
    assert hint in completed.stderr
    assert "Traceback" not in completed.stderr
    assert completed.stdout == ""


def test_a_home_without_a_run_states_how_to_make_one(tmp_path: Path) -> None:
    completed = run_tariffs(tmp_path, "evidence", "truth", code=1)
    assert "hundredfold demo" in completed.stderr


def test_every_command_and_every_option_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for name, command in evidence.commands.items():
        assert f"tariffs evidence {name}" in text, name
        own = {o for p in command.params if isinstance(p, Option) for o in p.opts} - {
            "--home",
            "--json",
        }
        assert [option for option in sorted(own) if option not in text] == []
