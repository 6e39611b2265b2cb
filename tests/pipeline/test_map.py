"""`hundredfold.map`: the units of a frame in one call, in the kind of frame that was given."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold.errors import QueryError, SourceError, UsageError

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

COLUMNS = {"shop": ["A", "B", "A", "C"], "sold": [1, 2, 3, 4]}


def mean(rows: Any) -> Any:
    if rows["shop"][0] == "B":
        raise ValueError("no sale")
    return {"mean": float(rows["sold"].mean())}


def die(rows: Any) -> Any:
    if rows["shop"][0] == "B":
        os.kill(os.getpid(), signal.SIGKILL)
    return mean(rows)


def fail(rows: Any) -> Any:
    raise ValueError(f"{len(rows['sold'])} rows")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, which is empty after the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (pd.DataFrame(COLUMNS), pd.DataFrame),
        (pl.DataFrame(COLUMNS), pl.DataFrame),
        (pa.table(COLUMNS), pa.Table),
        (COLUMNS, pa.Table),
    ],
    ids=["pandas", "polars", "arrow", "dict"],
)
def test_results_and_failures_are_of_the_kind_that_was_given(
    rows: Any, kind: type, scratch: Path
) -> None:
    results, failures = hundredfold.map(rows, ["shop"], mean, workers=1, memory="1GB")
    assert isinstance(results, kind)
    assert isinstance(failures, kind)
    assert pa.table(results).to_pylist() == [{"shop": "A", "mean": 2.0}, {"shop": "C", "mean": 4.0}]
    failed = pa.table(failures).to_pylist()
    assert [(f["shop"], f["status"], f["error"], f["message"]) for f in failed] == [
        ("B", "failed", "ValueError", "no sale")
    ]
    assert "in mean" in failed[0]["traceback"]
    assert list(scratch.iterdir()) == []


def test_a_file_is_read_and_gives_arrow_tables(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("shop,sold\nA,1\nC,2\nA,3\n")
    found = hundredfold.map(tmp_path / "sales.csv", "shop", mean, workers=1, memory="1GB")
    assert found.results.to_pylist() == [{"shop": "A", "mean": 2.0}, {"shop": "C", "mean": 2.0}]
    assert found.failures.num_rows == 0


def test_a_unit_that_ends_its_process_costs_no_other_unit() -> None:
    results, failures = hundredfold.map(COLUMNS, "shop", die, workers=2, memory="1GB")
    assert results.column("shop").to_pylist() == ["A", "C"]
    assert failures.select(["shop", "status"]).to_pylist() == [{"shop": "B", "status": "crashed"}]


def test_units_that_all_fail_are_failures_and_no_error(scratch: Path) -> None:
    results, failures = hundredfold.map(COLUMNS, "shop", fail, workers=1, memory="1GB")
    assert results.num_rows == 0
    assert failures.column("message").to_pylist() == ["2 rows", "1 rows", "1 rows"]
    assert list(scratch.iterdir()) == []


def test_no_column_is_one_unit_of_all_rows() -> None:
    results, failures = hundredfold.map(COLUMNS, [], lambda rows: int(rows["sold"].sum()))
    assert results.to_pylist() == [{"value": 10}]
    assert failures.num_rows == 0


@pytest.mark.parametrize(
    ("rows", "by", "error", "text"),
    [
        (None, "shop", UsageError, "rows is None, wanted a frame"),
        (3, "shop", SourceError, "int"),
        (COLUMNS, "store", QueryError, "have shop, sold; not among them"),
        ("no-such-file.csv", "shop", SourceError, "no-such-file.csv"),
    ],
    ids=["none", "number", "column", "path"],
)
def test_rows_that_cannot_be_mapped_are_one_error(
    rows: Any, by: str, error: type[Exception], text: str, scratch: Path
) -> None:
    with pytest.raises(error, match=text):
        hundredfold.map(rows, by, mean, workers=1, memory="1GB")
    assert list(scratch.iterdir()) == []
