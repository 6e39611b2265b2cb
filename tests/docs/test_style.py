"""Rules of style that no linter has: names of tests, and lists of exceptions that only shrink."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
CODE = ("src", "tests", "examples", "benchmarks", "docs")
MAX_TEST_NAME_CHARACTERS = 70
MAX_LINE_CHARACTERS = 100

# folders of tests with longer names: no folder enters this list
LONG_TEST_NAMES: set[str] = set()
FOLDERS = sorted({path.parent.name for path in TESTS.glob("*/test_*.py")})


def configuration() -> dict[str, Any]:
    tools: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    return tools


def names_of_tests(path: Path) -> Iterator[str]:
    """Yield the names of the tests in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_of_tests_are_sentences_that_fit_a_line(folder: str) -> None:
    names = [name for path in TESTS.glob(f"{folder}/**/test_*.py") for name in names_of_tests(path)]
    long = [name for name in names if len(name) > MAX_TEST_NAME_CHARACTERS]
    if folder in LONG_TEST_NAMES:
        assert long, f"tests/{folder} passes: take it out of LONG_TEST_NAMES"
    else:
        assert not long


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_of_tests_are_unique_within_a_file(folder: str) -> None:
    for path in TESTS.glob(f"{folder}/**/test_*.py"):
        counts = Counter(names_of_tests(path))
        assert [name for name, count in counts.items() if count > 1] == [], path.name


def test_the_linter_checks_the_length_of_lines() -> None:
    settings = configuration()["ruff"]
    assert settings["line-length"] == MAX_LINE_CHARACTERS
    excepted = [*settings["lint"]["ignore"], *settings["lint"]["per-file-ignores"].values()]
    assert "E501" not in str(excepted)


def test_no_code_is_hidden_from_the_formatter() -> None:
    mark = "# fmt" + ":"
    paths = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in paths if mark in path.read_text("utf-8")] == []


def test_mypy_checks_every_folder_of_tests() -> None:
    checked = {name for name in configuration()["mypy"]["files"] if name.startswith("tests/")}
    found = {f"tests/{path.name}" for path in TESTS.iterdir() if any(path.rglob("*.py"))}
    found |= {f"tests/{path.name}" for path in TESTS.glob("*.py")}
    assert checked == found


def test_the_changelog_has_each_entry_once() -> None:
    """Two branches that add entries are merged line by line, which can repeat some."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    beginnings = [" ".join(entry.split())[:60] for entry in re.split(r"^- ", text, flags=re.M)[1:]]
    headings = re.findall(r"^## .+|^### .+", text, re.MULTILINE)
    assert [entry for entry, count in Counter(beginnings).items() if count > 1] == []
    assert [heading for heading, count in Counter(headings).items() if count > 1] == []
