"""The published table: complete, with reasons, and within its contract."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pytest

from tariffs.contracts import PriceRow
from tariffs.optimise import reasons
from tariffs.optimise.rule import MAX_P_GAIN
from tariffs.query_files import query_text


@pytest.fixture(scope="module")
def table(demo: Any) -> pa.Table:
    return demo.manual.duck.sql(query_text("price_table")).to_arrow_table()


def column(table: pa.Table, name: str) -> np.ndarray:
    found: np.ndarray = table[name].to_numpy(zero_copy_only=False)
    return found


def test_the_columns_are_those_of_the_contract_in_its_order(table: pa.Table) -> None:
    assert table.column_names == [field.name for field in fields(PriceRow)]


def test_only_what_the_contract_lets_be_null_is_null(table: pa.Table) -> None:
    nullable = {
        name for name, hint in get_type_hints(PriceRow).items() if type(None) in get_args(hint)
    }
    with_nulls = {name for name in table.column_names if table[name].null_count}
    assert with_nulls <= nullable


def test_every_unit_has_one_price(table: pa.Table, demo: Any) -> None:
    assert table.num_rows == len(demo.bundles) + len(demo.voice)
    assert len(set(table["unit_key"].to_pylist())) == table.num_rows


def test_every_price_has_a_known_reason_that_fits_its_move(table: pa.Table) -> None:
    code, price, current = (
        column(table, name) for name in ("reason_code", "price", "current_price")
    )
    known = {
        value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)
    }
    assert set(code) <= known
    assert (price > current)[code == reasons.INCREASE].all()
    assert (price < current)[code == reasons.DECREASE].all()
    assert (price == current)[np.char.startswith(code.astype(str), "HOLD")].all()
    assert {
        reasons.INCREASE,
        reasons.DECREASE,
        reasons.HOLD_UNCERTAIN,
        reasons.HOLD_NO_VARIATION,
        reasons.CLIPPED_STEP,
    } <= set(code)


def test_the_control_group_is_never_repriced(table: pa.Table) -> None:
    control = column(table, "control_flag").astype(bool)
    assert control.any()
    assert (column(table, "price") == column(table, "current_price"))[control].all()


def test_a_price_that_stays_has_no_probability_of_gain_and_no_effect(table: pa.Table) -> None:
    stays = column(table, "price") == column(table, "current_price")
    assert np.isnan(column(table, "p_gain")[stays].astype(float)).all()
    assert (column(table, "expected_revenue_delta")[stays] == 0).all()
    moved = column(table, "p_gain")[~stays].astype(float)
    assert (moved >= 0).all()
    assert (moved <= MAX_P_GAIN).all()  # nothing is certain


def test_the_rows_lie_in_the_order_of_their_keys(table: pa.Table) -> None:
    keys = list(zip(table["kind"].to_pylist(), table["unit_key"].to_pylist(), strict=True))
    assert keys == sorted(keys)


def test_the_prior_of_a_large_operator_uses_a_sample_of_every_stratum(demo: Any) -> None:
    """With 2 units per stratum instead of 400, the query keeps at most 2 of every stratum."""
    sql = query_text("prior")
    assert sql.count("400.0") == 1
    strata = (
        "SELECT segment, product, tier, count(DISTINCT location) AS n FROM ({}) AS q GROUP BY ALL"
    )
    whole, sample = (
        demo.manual.columns(strata.format(text)) for text in (sql, sql.replace("400.0", "2.0"))
    )
    assert len(whole["n"]) == len(sample["n"])
    assert sample["n"].max() == 2
