"""The report of a run whose files are on another machine, such as in S3."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from hundredfold import Run
from hundredfold.ports.interfaces import RunHome
from hundredfold.report.write import report_of, write_report
from support.html_page import parse_page
from support.reported_runs import open_run


class DistantStore:
    """A store with the methods of the port only: it has no files."""

    def __init__(self, store: Any) -> None:
        self.get, self.get_with_etag = store.get, store.get_with_etag
        self.list, self.parts = store.list, store.parts

    def where(self, key: str) -> str:
        return f"s3://bucket/{key}"


class DistantHome:
    """A home that has addresses in place of paths, and copies of its objects."""

    description = "the stack weekly"

    def __init__(self, home: RunHome, copies: Path) -> None:
        self.ledger, self.holds, self.is_active = home.ledger, home.holds, home.is_active
        self.store = DistantStore(home.store)
        self.where, self._home, self._copies = self.store.where, home, copies
        self.fetched: list[str] = []

    def fetch(self, key: str) -> Path:
        self.fetched.append(key)
        copy = self._copies / f"{len(self.fetched)}{Path(key).suffix}"
        return Path(shutil.copyfile(self._home.fetch(key), copy))


def test_a_distant_run_has_the_same_report_and_one_copy_of_a_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = open_run(home, "second")
    distant = DistantHome(near.home, tmp_path)
    run = Run(cast(RunHome, distant), "second")
    page, own = parse_page(report_of(run)), parse_page(report_of(near))
    for caption in ("Units of each model", "Difference of prices", "Seconds per unit"):
        assert page.table(caption) == own.table(caption)
    assert page.all("p", "problem") == []
    models = [key for key in distant.fetched if "/models/" in key]
    assert len(models) == len(set(models)) == 2
    monkeypatch.chdir(tmp_path)
    assert write_report(run) == Path("report-second.html")
