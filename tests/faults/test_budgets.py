"""`--budget`: a run ends when it is spent, keeps the units that are done, and can be resumed."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hundredfold import Job, Model, Publish, Source, open_run, resume, run
from hundredfold.errors import BudgetSpent, UsageError
from hundredfold.pipeline.budget import amount_text, budget_spent_error
from hundredfold.runs.budgets import core_time_budget, dollar_budget
from hundredfold.runs.prices import NoPrice, Price, Prices, read_prices
from hundredfold.runs.summary import summarize

UNITS, ROWS = 8, 25_000  # rows for a batch of each unit
SALES = pa.table({"k": np.repeat(np.arange(UNITS), ROWS), "x": np.ones(UNITS * ROWS)})


def slow(rows: Any) -> dict[str, float]:
    time.sleep(0.05)
    return {"sum": float(rows["x"].sum())}


def doubled(rows: Any) -> dict[str, float]:
    return {"double": 2 * float(rows["sum"][0])}


JOB = Job(
    "slow",
    [Source("sales")],
    [
        Model("m", unit=("k",), work=slow),
        Model("n", unit=("k",), work=doubled, query="SELECT * FROM m"),
    ],
    Publish("sums", "SELECT * FROM n"),
)


def test_a_run_stops_at_its_budget_and_resumes_with_a_higher_one(tmp_path: Path) -> None:
    options: Any = {"home": tmp_path, "workers": 1}
    with pytest.raises(BudgetSpent, match=r"of 8 units of m are done, and kept") as stopped:
        run(JOB, {"sales": SALES}, run_id="r", budget="0.08s", as_of="2026-01-01", **options)
    hint = re.fullmatch(r".* such as (\d+)s: (.*)", str(stopped.value.hint))
    assert hint is not None
    assert hint[2] == "hundredfold resume r --budget AMOUNT"
    first = open_run("r", home=tmp_path)
    done = summarize(first)["models"]["m"]["done"]
    assert first.state == "failed"
    assert 1 <= done < UNITS
    with pytest.raises(BudgetSpent, match=rf"{done} of 8 units of m are done"):
        resume("r", job=JOB, **options)
    # the first model ends within this budget, or spends more: nothing of the second is done
    spent = first.record.counts["spent"]
    assert 0.08 <= spent < float(hint[1])
    with pytest.raises(BudgetSpent, match=r"units of [mn] are done"):
        resume("r", job=JOB, budget=f"{spent + 0.05 * (UNITS - done) - 0.04:.3f}s", **options)
    ended = resume("r", job=JOB, budget="1h", **options)
    assert summarize(ended)["spent"].endswith("s of core time of 3,600.0 s of core time")
    assert ended.units("m").table.column("attempt").to_pylist() == [1] * UNITS
    plain = run(JOB, {"sales": SALES}, run_id="r", as_of="2026-01-01", home=tmp_path / "b")
    assert ended.published().read_bytes() == plain.published().read_bytes()
    assert summarize(plain)["spent"] == ""


def test_a_budget_has_the_unit_of_its_backend() -> None:
    assert core_time_budget(" 1.5m ") == {"limit": 90.0, "unit": "core-seconds"}
    for wrong in ("2", "2.5", 3, "", "0s", "-1s", "1w", "s"):
        with pytest.raises(UsageError, match="--budget is"):
            core_time_budget(wrong)
    prices = read_prices("us-east-1")
    assert dollar_budget("2.5", prices)["limit"] == 2.5
    assert dollar_budget(2, prices)["gb_second"].keys() == {"arm64", "x86_64"}
    for wrong in ("30m", "0", "-1", "nan", "inf", ""):
        with pytest.raises(UsageError, match="wanted dollars above 0"):
            dollar_budget(wrong, prices)
    with pytest.raises(NoPrice, match="no price lambda_arm64_gb_s in nowhere"):
        dollar_budget("1", Prices("nowhere", {"lambda_request": Price(1.0, "")}))
    assert amount_text(dollar_budget("2.50", prices), 0.00012) == "0.00012 dollars"
    with pytest.raises(UsageError, match="--prices is for --backend aws"):
        run(JOB, {"sales": SALES}, prices="prices.toml")


def test_the_amount_in_the_hint_is_above_the_dollars_that_are_spent() -> None:
    error = budget_spent_error("r", {"limit": 2.5, "unit": "dollars"}, 2.503125, "m", 5, 8)
    assert "such as 5.01: hundredfold resume r --budget AMOUNT" in str(error.hint)
