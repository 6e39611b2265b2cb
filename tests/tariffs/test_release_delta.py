"""The delta: applied to the old table it gives the new one, and it has no other changes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.price_tables import MONDAY, SCHEMA, bundle, changed, table, voice
from tariffs.contracts import CHARGING_COLUMNS
from tariffs.release.delta import InvalidTable, apply_delta, delta
from tariffs.release.tables import in_published_order, read_parquet, to_csv, to_parquet

KEYS = [("bundle", f"YOUTH/{location}/DAY") for location in ("ACCRA", "HO", "TEMA", "Töme")] + [
    ("voice", f"C1/{hour:02d}/WEEKDAY") for hour in range(4)
]
PRICES = st.sampled_from([0.05, 0.1, 2.0, 2.3, 0.1 + 0.2, 4.0])


def row(
    key: str,
    kind: str,
    price: float,
    discount: int | None,
    why: str | None,
    gain: float | None,
    start: dt.datetime,
) -> dict[str, Any]:
    made = bundle(key.split("/")[1]) if kind == "bundle" else voice("C1", int(key.split("/")[1]))
    return {
        **made,
        "unit_key": key,
        "price": price,
        "discount_class": discount,
        "constraint_bound": why,
        "p_gain": gain,
        "valid_from": start,
    }


@st.composite
def tables(draw: Any, one_time: bool) -> pa.Table:
    """Any rows with any of a few keys, each once; valid from one moment, or from several."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    start = draw(st.sampled_from([MONDAY, MONDAY + dt.timedelta(days=7)]))
    starts = (
        st.just(start) if one_time else st.sampled_from([MONDAY, MONDAY + dt.timedelta(days=1)])
    )
    rows = [
        row(
            key,
            kind,
            draw(PRICES),
            draw(st.sampled_from([None, 0, 50])),
            draw(st.sampled_from([None, "STEP_UP"])),
            draw(st.sampled_from([None, 0.5, float("nan")])),
            draw(starts),
        )
        for kind, key in keys
    ]
    version = draw(st.integers(1, 3))
    return in_published_order(
        pa.Table.from_pylist([{**r, "table_version": version} for r in rows], schema=SCHEMA)
    )


def alike(one: pa.Table, other: pa.Table) -> bool:
    """Equal, with NaN equal to NaN."""
    return one.schema.equals(other.schema) and str(one.to_pylist()) == str(other.to_pylist())


@given(
    tables(one_time=True) | tables(one_time=False), tables(one_time=True) | tables(one_time=False)
)
def test_the_delta_done_to_the_old_table_makes_the_new_one(old: pa.Table, new: pa.Table) -> None:
    assert alike(apply_delta(old, delta(old, new)), new.select(list(CHARGING_COLUMNS)))


@given(
    tables(one_time=True) | tables(one_time=False), tables(one_time=True) | tables(one_time=False)
)
def test_so_it_does_for_all_columns(old: pa.Table, new: pa.Table) -> None:
    assert alike(apply_delta(old, delta(old, new, old.column_names)), new)


@given(tables(one_time=True), tables(one_time=True))
def test_it_has_no_row_for_a_unit_that_stays_as_it_is(old: pa.Table, new: pa.Table) -> None:
    before = {r["unit_key"]: r for r in old.to_pylist()}
    after = {r["unit_key"]: r for r in new.to_pylist()}
    found = {
        r["unit_key"]: (r["change"], r["old_price"], r["new_price"])
        for r in delta(old, new).rows.to_pylist()
    }
    what = ("price", "discount_class")
    wanted = {key: ("added", None, after[key]["price"]) for key in after.keys() - before.keys()}
    wanted |= {key: ("removed", before[key]["price"], None) for key in before.keys() - after.keys()}
    wanted |= {
        key: ("changed", before[key]["price"], after[key]["price"])
        for key in before.keys() & after.keys()
        if any(before[key][name] != after[key][name] for name in what)
    }
    assert found == wanted


@given(tables(one_time=True), tables(one_time=True), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_that_come_does_not_matter(
    old: pa.Table, new: pa.Table, chance: Any
) -> None:
    def shuffled(made: pa.Table) -> pa.Table:
        order = list(range(made.num_rows))
        chance.shuffle(order)
        return made.take(pa.array(order, pa.int64()))

    assert to_parquet(delta(shuffled(old), shuffled(new)).rows) == to_parquet(delta(old, new).rows)


def test_a_new_week_alone_is_no_reason_for_a_row() -> None:
    week = dt.timedelta(days=7)
    found = delta(
        table(),
        table(valid_from=MONDAY + week, valid_to=MONDAY + 2 * week, table_version=2, run_id="r2"),
    )
    assert found.rows.num_rows == 0
    assert found.facts == {
        "valid_from": MONDAY + week,
        "valid_to": MONDAY + 2 * week,
        "table_version": 2,
    }


def test_explanations_make_no_row_unless_all_columns_are_compared() -> None:
    old, new = table(), changed(table(), "YOUTH/HO/DAY", reason_code="HOLD_MIN_SUPPORT")
    assert delta(old, new).rows.num_rows == 0
    assert delta(old, new, old.column_names).rows["unit_key"].to_pylist() == ["YOUTH/HO/DAY"]


def test_a_row_shows_the_old_price_and_the_new_one() -> None:
    found = delta(table(), changed(table(), "YOUTH/ACCRA/DAY", price=2.2))
    (only,) = found.rows.to_pylist()
    assert (only["change"], only["old_price"], only["new_price"], only["product"]) == (
        "changed",
        2.0,
        2.2,
        "DAY",
    )
    assert found.counts() == {"added": 0, "changed": 1, "removed": 0}


def test_it_reads_the_same_from_csv_and_from_parquet() -> None:
    rows = delta(table(), changed(table(), "C1/07/WEEKDAY", price=0.045, discount_class=55)).rows
    assert read_parquet(to_parquet(rows)).equals(rows)
    header, line = to_csv(rows).decode().splitlines()
    assert header.split(",")[:5] == ["change", "unit_key", "old_price", "new_price", "kind"]
    assert (
        line == "changed,C1/07/WEEKDAY,0.05,0.045,voice,,TEMA,VOICE,C1,7,WEEKDAY,VOICE@C1,GHS,55,"
        "2026-06-30 00:00:00,2026-07-07 00:00:00,1"
    )


def test_a_key_twice_is_refused() -> None:
    twice = pa.concat_tables([table(), table().slice(0, 1)])
    with pytest.raises(
        InvalidTable, match="the new table has keys more than once: 1, such as YOUTH/ACCRA/DAY"
    ):
        delta(table(), twice)


def test_a_column_that_is_missing_is_reported() -> None:
    with pytest.raises(InvalidTable, match="the old table has no column currency"):
        delta(table().drop_columns(["currency"]), table())


def test_removed_rows_show_what_they_were() -> None:
    found = delta(table(), table().filter(pc.not_equal(table()["kind"], "voice"))).rows
    assert found["change"].to_pylist() == ["removed", "removed"]
    assert found["discount_class"].to_pylist() == [50, 50]
