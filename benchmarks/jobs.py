"""The workloads as Hundredfold jobs, with all that a job can have: a contract of the rows, one of
the results, and a publication.

    hundredfold run benchmarks/jobs.py:w1        # light form; w1_pandas is handed frames

The jobs stand as module attributes so that the command line finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from hundredfold import Job, Model, Publish, Source

from .workloads import KEYS, WORKLOADS, Workload

if TYPE_CHECKING:
    import pandas as pd

Number = Annotated[float, Gt(-1e9), Le(1e9)]
RULES: dict[str, Any] = {
    "segment": str,
    "location": Annotated[int, Ge(0)],
    "product": Annotated[int, Ge(0)],
    "week": Annotated[int, Ge(0), Le(103)],
    "price": Annotated[float, Gt(0)],
    "qty": Annotated[float, Ge(0)],
    "promo": Annotated[float, Ge(0), Le(1)],
    "holiday": Annotated[float, Ge(0), Le(1)],
    "cost": Annotated[float, Gt(0)],
    "weight": Annotated[float, Gt(0)],
    "channel": str,
}


def rows_of(workload: Workload) -> type:
    """The contract of a source: every column that the function reads, and the key."""
    return make_dataclass(
        f"{workload.name}Row", [(name, RULES[name]) for name in (*KEYS, *workload.columns)]
    )


def results_of(workload: Workload) -> type:
    counts = ("n", "web")
    return make_dataclass(
        f"{workload.name}Result",
        [(name, Annotated[int, Ge(0)] if name in counts else Number) for name in workload.results],
    )


def light(workload: Workload) -> Callable[..., Any]:
    core, (first, *others) = workload.core, workload.columns

    def one(rows):  # type: ignore[no-untyped-def]  # unannotated: the light form
        return core(rows[first])

    def several(rows):  # type: ignore[no-untyped-def]
        return core(rows[first], *[rows[name] for name in others])

    return several if others else one


def pandas(workload: Workload) -> Callable[..., Any]:
    core, columns = workload.core, workload.columns

    def work(rows: pd.DataFrame) -> Any:
        return core(*[rows[name].to_numpy() for name in columns])

    return work


def job_of(workload: Workload, form: Callable[[Workload], Callable[..., Any]]) -> Job:
    return Job(
        f"{workload.name.lower()}_{form.__name__}",
        [Source("sales", path=str(workload.path), contract=rows_of(workload))],
        [
            Model(
                "fits",
                unit=KEYS,
                work=form(workload),
                returns=results_of(workload),
                query=query_of(workload),
            )
        ],
        publish=Publish("table", query="SELECT * FROM fits", formats=("parquet",)),
    )


def query_of(workload: Workload) -> str:
    """The columns that the function reads; all of them where handing over many is the point."""
    return (
        "SELECT * FROM sales"
        if workload.name == "wide"
        else f"SELECT {', '.join((*KEYS, *workload.columns))} FROM sales"
    )


for _workload in WORKLOADS.values():
    for _form in (light, pandas):
        globals()[_workload.name.lower() + ("" if _form is light else f"_{_form.__name__}")] = (
            job_of(_workload, _form)
        )
