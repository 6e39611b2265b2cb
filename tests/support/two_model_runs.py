"""A job of two models over two sources, and the actions of its drivers, all in this process.

One unit of the second model fails. Its files are all kinds of files that a home can have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import HundredfoldError
from hundredfold.local import backend
from hundredfold.local.home import Home
from hundredfold.local.new_run import create_run
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.pipeline.stages import stages
from hundredfold.ports.run_states import Event
from hundredfold.runs.backend import RunArguments
from hundredfold.runs.resources import Resources
from hundredfold.runs.retry import plan_retry_of_run
from support.in_process_pool import InProcessPool

SHOPS = 4


COSTS = pa.table({"shop": [str(s) for s in range(SHOPS)], "cost": [0.25 * s for s in range(SHOPS)]})


@dataclass
class Sale:
    shop: str
    week: int
    price: float


def mean(rows: Any) -> Any:
    return {"mean": float(rows["price"].mean())}


def worth(rows: Any, mean: Any) -> Any:
    if rows["shop"][0] == "2":
        raise ValueError("never comes out even")
    return {"worth": float(rows["price"].sum()) - mean["mean"] * float(rows["cost"][0])}


def worth_corrected(rows: Any, mean: Any) -> Any:
    return {"worth": float(rows["price"].sum()) - mean["mean"] * float(rows["cost"][0])}


def job_of(work: Callable[..., Any]) -> Job:
    query = "SELECT sales.shop, week, price, cost FROM sales JOIN costs ON sales.shop = costs.shop"
    return Job(
        "j",
        [Source("sales", Sale, clean={"shop": "trim(shop)"}, max_rejected=1), Source("costs")],
        [
            Model("mean", ("shop",), mean, query="SELECT * FROM sales"),
            Model("worth", ("shop",), work, query=query),
        ],
        publish=Publish(
            "out",
            "SELECT w.*, r.parent_version FROM worth AS w, run AS r ORDER BY shop",
            formats=("csv", "parquet", "jsonl"),
        ),
        max_failed=1,
    )


JOB, CORRECTED = job_of(worth), job_of(worth_corrected)


HELD = replace(JOB, max_failed=0)


STAGES = list(map(str, stages(JOB)))


def write_sales(path: Path) -> None:
    rows = [
        f"{' ' * (week == 1)}{shop},{week},{1 + shop / 7 + week:.3f}"
        for shop in range(SHOPS)
        for week in range(3)
    ]
    path.write_text("\n".join(["shop,week,price", *rows, "9,9,dear", ""]))


def begin(home: Home, job: Job, run: str) -> None:
    sources = {"sales": str(home.folder.parent / "sales.csv"), "costs": COSTS}
    create_run(home, job, "", sources, RunArguments(as_of="2026-01-01", run_id=run))


def drive(
    home: Home, job: Job, event: Event = Event.START, callbacks: Any = None, run: str = "r"
) -> None:
    backend.execute(
        home,
        run,
        job,
        Resources(1, 2**30),
        callbacks or NullCallbacks(),
        event,
        pool_factory=InProcessPool,
    )


def resume(home: Path, job: Job = JOB) -> None:
    there = Home(home, make=False)
    drive(there, job, backend.resume_event(there, there.ledger.read("r"), job))


def retry(home: Path) -> None:
    there = Home(home, make=False)
    with there.lock("r"):
        plan_retry_of_run(there, there.ledger.read("r"), CORRECTED)
    drive(there, CORRECTED, Event.RETRY)


def publish(home: Path) -> None:
    there = Home(home, make=False)
    there.ledger.note("r", options={"max_failed": 1})
    drive(there, HELD, Event.START)


def tried(action: Callable[[], Any]) -> tuple[Any, HundredfoldError | None]:
    """What an action gives, or the error of ours that it raises; any other error is a fault."""
    try:
        return action(), None
    except HundredfoldError as error:
        return None, error
