"""Fixtures: a home with runs, and the reports of two of them as trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from hundredfold.report.write import report_of
from support.html_page import Node, parse_page
from support.reported_runs import make_runs, open_run


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "home"
    make_runs(folder)
    return folder


@pytest.fixture(scope="session")
def first(home: Path) -> Node:
    return parse_page(report_of(open_run(home, "first")))


@pytest.fixture(scope="session")
def second(home: Path) -> Node:
    return parse_page(report_of(open_run(home, "second")))
