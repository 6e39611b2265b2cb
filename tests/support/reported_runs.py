"""A job whose runs have everything that a report shows: bad rows, failures, hostile texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import annotated_types
import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Run, Source

SCRIPT = "<script>alert('key')</script>"
REVERSED = "abc\u202egnp.exe"  # shown as abcexe.png where marks of direction are obeyed
SHOPS = ["A", "B", SCRIPT, REVERSED, 'x"onload="alert(1)']


@dataclass
class Sale:
    shop: str
    week: int
    price: Annotated[float, annotated_types.Gt(0)]


SALES = pa.table(
    {
        "shop": [shop for shop in SHOPS for _ in range(4)],
        "week": list(range(4)) * len(SHOPS),
        "price": [1.5 + week for _ in SHOPS for week in range(4)],
    }
)
BAD = pa.table({"shop": ["A", "<b>B</b>"], "week": [9, 10], "price": [-4.0, 0.0]})


def mean(rows: Any) -> Any:
    if rows.key[0] in (SCRIPT, REVERSED):
        raise ValueError(
            f"<img src=x onerror=alert(1)> \u202e broken for {len(rows['price'])} rows"
        )
    return {"mean": float(rows["price"].mean()), "note": f"<i>{rows.key[0]}</i>"}


JOB = Job(
    "weekly",
    sources=[
        Source(
            "sales", Sale, unique=("shop", "week"), max_rejected=10, clean={"shop": "trim(shop)"}
        )
    ],
    models=[Model("means", unit=("shop",), order_by=("week",), work=mean)],
    publish=Publish(
        "prices",
        query='SELECT shop, mean, note AS "<u>note</u>" FROM means ORDER BY shop',
        summaries={"Mean <price>": "SELECT count(*) AS shops, avg(mean) AS mean FROM prices"},
    ),
    max_failed=5,
)


def make_runs(home: Path) -> None:
    """Make four runs: `first` and `second`, of other prices; `held`; and `failed`."""
    dirty = pa.concat_tables([SALES, BAD])
    hundredfold.run(JOB, {"sales": dirty}, home=home, run_id="first", workers=2)
    price = pa.array([5.0 if p == 1.5 else p for p in SALES["price"].to_pylist()])
    changed = SALES.set_column(2, "price", price)
    hundredfold.run(JOB, {"sales": changed}, home=home, run_id="second", workers=2)
    stopped = replace(JOB, max_failed=0)
    with pytest.raises(hundredfold.HundredfoldError):
        hundredfold.run(stopped, {"sales": dirty}, home=home, run_id="held", workers=2)
    none = replace(JOB, sources=[replace(JOB.sources[0], max_rejected=0)])
    with pytest.raises(hundredfold.HundredfoldError):
        hundredfold.run(none, {"sales": dirty}, home=home, run_id="failed", workers=2)


def open_run(home: Path, run_id: str) -> Run:
    return hundredfold.open_run(run_id, home=home)
