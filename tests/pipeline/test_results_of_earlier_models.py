"""Earlier results as parameters of a later model: its own rows if the keys match, else all of
them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Source, Unit, Units
from hundredfold.data import upstream_rows as upstream
from hundredfold.data.upstream_rows import CachedRowGroups, RowsOfUnits
from hundredfold.errors import HundredfoldError
from support.in_process import InProcessRun, InProcessRunner

TABLE = pa.table({"a": ["x", "x", "y", None], "b": [1, 2, 1, 1], "v": [1.0, 2.0, 3.0, 4.0]})


@dataclass
class Prior:
    mean: float
    weights: np.ndarray
    label: str | None


class PriorTuple(NamedTuple):
    mean: float
    weights: list[float]
    label: str | None


class PriorDict(TypedDict):
    mean: float
    weights: list[float]
    label: str | None


class PriorModel(pydantic.BaseModel):
    mean: float
    weights: list[float]
    label: str | None


def fit(rows: Unit) -> Prior:
    return Prior(float(rows["v"].sum()), rows["v"].copy(), None)


def run_job(
    runner: InProcessRunner,
    earlier: Any,
    later: Any,
    *,
    unit: tuple[str, ...] = (),
    batched: bool = False,
) -> InProcessRun:
    models = [
        Model("prior", unit=unit, work=earlier),
        Model("price", unit=("a", "b"), work=later, batched=batched),
    ]
    return runner.start(Job("two", sources=[Source("rows_in")], models=models), rows_in=TABLE).all()


def got(run: InProcessRun) -> list[Any]:
    assert run.failures("price") == []
    found: list[Any] = run.results("price").column("got").to_pylist()
    return found


def take_annotated(rows: Unit, prior: Prior) -> dict[str, Any]:
    return {"got": [prior.mean, *prior.weights]}


def take_bare(rows: Unit, prior) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    assert isinstance(prior, Prior)
    assert not prior.weights.flags.writeable
    return {"got": [prior.mean, *prior.weights]}


def take_tuple(rows: Unit, prior: PriorTuple) -> dict[str, Any]:
    return {"got": [prior[0], *prior.weights]}


def take_typed(rows: Unit, prior: PriorDict) -> dict[str, Any]:
    return {"got": [prior["mean"], *prior["weights"]]}


def take_pydantic(rows: Unit, prior: PriorModel) -> dict[str, Any]:
    return {"got": [prior.mean, *prior.weights]}


def take_dict(rows: Unit, prior: dict[str, Any]) -> dict[str, Any]:
    return {"got": [prior["mean"], *prior["weights"]]}


def take_list(rows: Unit, prior: list[Prior]) -> dict[str, Any]:
    return {"got": [prior[0].mean, *prior[0].weights]}


def take_pandas(rows: Unit, prior: pd.DataFrame) -> dict[str, Any]:
    return {"got": [prior["mean"].iloc[0], *prior["weights"].iloc[0]]}


def take_polars(rows: Unit, prior: pl.DataFrame) -> dict[str, Any]:
    return {"got": [prior["mean"][0], *prior["weights"][0]]}


def take_arrow(rows: Unit, prior: pa.Table) -> dict[str, Any]:
    return {"got": [prior["mean"][0].as_py(), *prior["weights"][0].as_py()]}


FORMS = [
    take_annotated,
    take_bare,
    take_tuple,
    take_typed,
    take_pydantic,
    take_dict,
    take_list,
    take_pandas,
    take_polars,
    take_arrow,
]


@pytest.mark.parametrize("take", FORMS)
def test_a_result_of_all_rows_is_passed_to_every_unit(runner: InProcessRunner, take: Any) -> None:
    assert got(run_job(runner, fit, take)) == [[10.0, 1.0, 2.0, 3.0, 4.0]] * 4


@pytest.mark.parametrize("take", FORMS)
def test_a_coarser_unit_receives_its_rows_also_for_a_null_key(
    runner: InProcessRunner, take: Any
) -> None:
    assert got(run_job(runner, fit, take, unit=("a",))) == [
        [3.0, 1.0, 2.0],
        [3.0, 1.0, 2.0],
        [3.0, 3.0],
        [4.0, 4.0],
    ]


def test_a_key_in_another_order_finds_its_own_rows(runner: InProcessRunner) -> None:
    assert got(run_job(runner, fit, take_annotated, unit=("b", "a"))) == [
        [1.0, 1.0],
        [2.0, 2.0],
        [3.0, 3.0],
        [4.0, 4.0],
    ]


def test_a_unit_whose_earlier_unit_failed_fails_with_that_reason(runner: InProcessRunner) -> None:
    def fragile(rows: Unit) -> Prior:
        if rows.key == ("y",):
            raise ValueError("no")
        return fit(rows)

    models = [
        Model("prior", unit=("a",), work=fragile),
        Model("price", unit=("a", "b"), work=take_annotated),
    ]
    run = runner.start(
        Job("two", sources=[Source("rows_in")], models=models, max_failed=1), rows_in=TABLE
    ).all()
    (failure,) = run.failures("price")
    assert (failure["a"], failure["b"]) == ("y", 1)
    assert (
        failure["message"]
        == "there is no prior for y: that unit of prior failed, or returned no row"
    )


def test_batched_units_receive_a_value_each_or_the_common_one(runner: InProcessRunner) -> None:
    def each(rows: Units, prior: Prior) -> dict[str, Any]:
        return {"got": [p.mean for p in prior]}  # type: ignore[attr-defined]

    def one(rows: Units, prior: Prior) -> dict[str, Any]:
        return {"got": [prior.mean] * len(rows)}

    assert got(run_job(runner, fit, each, unit=("a",), batched=True)) == [3.0, 3.0, 3.0, 4.0]
    assert got(run_job(runner, fit, one, batched=True)) == [10.0] * 4


def test_many_units_of_which_one_has_no_earlier_result_fail_one_by_one(
    runner: InProcessRunner,
) -> None:
    def each(rows: Units, prior: dict[str, Any]) -> dict[str, Any]:
        return {"got": [p["mean"] for p in prior]}  # type: ignore[index]

    def fragile(rows: Unit) -> Prior:
        if rows.key == ("y",):
            raise ValueError("no")
        return fit(rows)

    run = run_job(runner, fragile, each, unit=("a",), batched=True)
    assert run.results("price").column("got").to_pylist() == [3.0, 3.0, 4.0]
    assert [failure["a"] for failure in run.failures("price")] == ["y"]


def test_several_rows_want_a_list_or_a_table(runner: InProcessRunner) -> None:
    def two(rows: Unit) -> list[dict[str, Any]]:
        return [{"mean": 1.0}, {"mean": 2.0}]

    def take_one(rows: Unit, prior: dict[str, Any]) -> dict[str, Any]:
        return {"got": prior["mean"]}

    def take_all(rows: Unit, prior: list[dict[str, Any]]) -> dict[str, Any]:
        return {"got": [p["mean"] for p in prior]}

    assert got(run_job(runner, two, take_all)) == [[1.0, 2.0]] * 4
    failures = run_job(runner, two, take_one).failures("price")
    assert len(failures) == 4
    assert (
        "prior has 2 rows for this unit, and the parameter takes one; annotate it with a table"
        in failures[0]["message"]
    )


def test_the_results_of_a_finer_model_are_passed_whole(runner: InProcessRunner) -> None:
    models = [
        Model("price", unit=("a", "b"), work=lambda rows: {"p": float(rows["v"][0])}),
        Model("total", unit=("a",), work=total),
    ]
    run = runner.start(Job("two", sources=[Source("rows_in")], models=models), rows_in=TABLE).all()
    assert run.results("total").column("total").to_pylist() == [10.0, 10.0, 10.0]


def total(rows: Unit, price: pd.DataFrame) -> dict[str, Any]:
    return {"total": float(price["p"].sum())}


def test_a_later_query_may_read_an_earlier_models_results(runner: InProcessRunner) -> None:
    models = [
        Model("price", unit=("a", "b"), work=lambda rows: {"p": float(rows["v"][0])}),
        Model(
            "total",
            unit=("a",),
            query="SELECT a, p FROM price WHERE p > 1",
            work=lambda rows: {"total": float(rows["p"].sum())},
        ),
    ]
    run = runner.start(Job("two", sources=[Source("rows_in")], models=models), rows_in=TABLE).all()
    assert run.results("total").to_pylist() == [
        {"a": "x", "total": 2.0},
        {"a": "y", "total": 3.0},
        {"a": None, "total": 4.0},
    ]


def test_an_annotation_that_is_no_form_of_results_is_refused(runner: InProcessRunner) -> None:
    def odd(rows: Unit, prior: complex) -> dict[str, Any]:
        return {}

    with pytest.raises(
        HundredfoldError,
        match="a parameter that receives prior is annotated with <class 'complex'>, which is no "
        "form of results",
    ):
        run_job(runner, fit, odd)


KEYS = (
    st.sampled_from([None, "", "a", "b", "ä"]),
    st.sampled_from([None, 0.0, float("nan"), 1.5]),
    st.integers(0, 2),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(*KEYS, st.text("x", max_size=300)), max_size=40),
    wanted=st.lists(st.tuples(*KEYS), min_size=1, max_size=30),
    group=st.integers(1, 9),
    kept=st.sampled_from([0, 500, 2**25]),
    asked=st.randoms(use_true_random=False),
)
def test_each_unit_receives_the_rows_of_its_key(
    rows: list[Any],
    wanted: list[Any],
    group: int,
    kept: int,
    asked: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For any number of row groups, and any size of the cache."""
    monkeypatch.setattr(upstream, "MAX_CACHED_BYTES", kept)
    monkeypatch.setattr(upstream, "MAX_WINDOW_BYTES", kept)
    # as in results, the rows of one key are adjacent
    rows = sorted(rows, key=lambda row: repr(row[:3]))
    types = [pa.string(), pa.float64(), pa.int64(), pa.string()]
    table = pa.table(
        [pa.array([row[n] for row in rows], types[n]) for n in range(4)], names=["a", "b", "c", "v"]
    )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    keys = pa.table(
        [pa.array([key[n] for key in wanted], types[n]) for n in range(3)], names=["a", "b", "c"]
    )
    found = RowsOfUnits(CachedRowGroups(pq.ParquetFile(file)), keys, ("a", "b", "c"))
    for unit in asked.sample(range(len(wanted)), len(wanted)):
        own = found.rows(unit)
        expected = [row[3] for row in rows if repr(row[:3]) == repr(wanted[unit])]
        assert ([] if own is None else own.column("v").to_pylist()) == expected
