"""The demo through the whole pipeline: one price table for any workers and form of functions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import hundredfold
from tariffs import demo
from tariffs.job import job, per_unit

FILES = ("price_table.csv", "price_table.parquet")


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(demo.make("demo", tmp_path_factory.mktemp("operator")))


def prices(
    home: Path, declared: hundredfold.Job, operator: dict[str, Path], workers: int
) -> tuple[hundredfold.Run, list[str]]:
    run = hundredfold.run(
        declared, operator, home=home, workers=workers, as_of=demo.AS_OF, run_id="one"
    )
    folder = home / "releases" / "tariffs" / "000001"
    return run, [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


@pytest.fixture(scope="module")
def priced(
    operator: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[hundredfold.Run, list[str]]:
    """Return a run by two workers, with many units per call, and the digests of its files."""
    return prices(tmp_path_factory.mktemp("priced"), job, operator, 2)


def test_the_price_table_has_the_same_bytes_for_any_workers_and_form(
    operator: dict[str, Path], priced: tuple[hundredfold.Run, list[str]], tmp_path: Path
) -> None:
    run, expected = priced
    assert run.counts["models"]["bundles"]["ok"] == 1080
    assert run.counts["models"]["voice"]["ok"] == 2880
    for name, declared, workers in (
        ("many-1", job, 1),
        ("many-8", job, 8),
        ("each-1", per_unit, 1),
        ("each-2", per_unit, 2),
        ("each-8", per_unit, 8),
    ):
        assert prices(tmp_path / name, declared, operator, workers)[1] == expected, name


def test_every_row_of_the_operator_is_accounted_for(
    priced: tuple[hundredfold.Run, list[str]],
) -> None:
    run, _ = priced
    sales = run.counts["sources"]["bundle_sales"]
    assert sales["rows"] == sales["accepted"] + sales["rejected"] + sales["dropped"]
    assert len(run.rejects("bundle_sales")) == sales["rejected"] + sales["dropped"]
    table = hundredfold.open_run("one", home=run.folder.parents[1])
    assert table.release is not None
    assert table.release.rows == {"price_table": 1080 + 2880}
    assert len(table.failures()) == 0
    assert [r["line"] for r in next(iter(table.release.summaries.values()))] == [
        "bundle",
        "voice",
        "all",
    ]
