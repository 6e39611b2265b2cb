"""The rule table: prices without the model, ready for use."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from support.price_tables import SCHEMA, bundle, changed, table, voice
from tariffs.release.guards.context import Limits
from tariffs.release.rule import REASON, frozen_table, rule_table, step_to_rule


def rows_of(made: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["unit_key"]: row for row in rule_table(made).to_pylist()}


def test_it_asks_the_champion_price_of_every_unit() -> None:
    rows = rows_of(changed(table(), "YOUTH/ACCRA/DAY", price=1.8, champion_price=2.4))
    assert rows["YOUTH/ACCRA/DAY"]["price"] == 2.4
    assert rows["C1/07/WEEKDAY"]["price"] == 0.06


def test_the_discount_class_is_that_of_its_price() -> None:
    rows = rows_of(table())
    assert (rows["C1/07/WEEKDAY"]["discount_class"], rows["YOUTH/HO/DAY"]["discount_class"]) == (
        40,
        None,
    )


def test_where_the_rule_would_make_minutes_free_it_uses_the_deepest_class() -> None:
    row = rows_of(table(voice("C1", champion_price=0.0)))["C1/07/WEEKDAY"]
    assert (row["price"], row["discount_class"]) == (0.005, 95)


def test_a_control_unit_keeps_its_price() -> None:
    rows = rows_of(
        table(
            bundle("HO", control_flag=True, champion_price=3.0),
            voice("C1", control_flag=True, champion_price=0.0),
        )
    )
    assert rows["YOUTH/HO/DAY"]["price"] == 2.0
    assert (rows["C1/07/WEEKDAY"]["price"], rows["C1/07/WEEKDAY"]["discount_class"]) == (0.05, 50)


def test_it_has_the_columns_types_and_units_of_the_release() -> None:
    made = rule_table(table())
    assert made.schema.equals(SCHEMA)
    assert made["unit_key"].equals(table()["unit_key"])
    assert made["valid_from"].equals(table()["valid_from"])


def test_it_reports_that_it_is_the_rule_and_explains_nothing_of_the_model() -> None:
    row = rows_of(changed(table(), "YOUTH/ACCRA/DAY", p_gain=0.9, constraint_bound="STEP_UP"))[
        "YOUTH/ACCRA/DAY"
    ]
    assert (row["reason_code"], row["model_version"], row["status"]) == (REASON, "rule", "approved")
    assert [
        row[name] for name in ("p_gain", "elasticity", "constraint_bound", "expected_margin_delta")
    ] == [None] * 4


# the way there


WIDE = Limits(share_changed=1.0)


def jumps(made: pa.Table) -> dict[tuple[str, int], float]:
    """The jump of the discount from each hour to the next, in points."""
    at = {
        (r["cell"], r["hour"]): 100 - 1000 * r["price"]
        for r in made.to_pylist()
        if r["kind"] == "voice"
    }
    return {
        (cell, hour): abs(d - at[cell, (hour + 1) % 24])
        for (cell, hour), d in at.items()
        if (cell, (hour + 1) % 24) in at
    }


DISCOUNTS = st.lists(st.integers(0, 19), min_size=24, max_size=24)


@settings(max_examples=60, deadline=None)
@given(
    today=DISCOUNTS,
    rule=DISCOUNTS,
    held=st.sets(st.integers(0, 23), max_size=3),
    prices=st.lists(st.integers(10, 60), min_size=8, max_size=8),
)
def test_no_step_to_the_rule_is_beyond_a_step_or_makes_a_cliff(
    today: list[int], rule: list[int], held: set[int], prices: list[int]
) -> None:
    day = [
        voice(
            "C1",
            h,
            price=round(0.1 - 0.005 * today[h], 6),
            discount_class=5 * today[h],
            champion_price=round(0.1 - 0.005 * rule[h], 6),
            control_flag=h in held,
        )
        for h in range(24)
    ]
    sold = [
        bundle(f"L{n}", price=prices[n] / 10, champion_price=prices[n + 4] / 10) for n in range(4)
    ]
    made = table(*day, *sold)
    for _ in range(30):
        new, last = step_to_rule(made, WIDE, 1)
        before, after = (
            dict(zip(t["unit_key"].to_pylist(), t["price"].to_pylist(), strict=True))
            for t in (made, new)
        )
        for row in new.to_pylist():
            a, b = before[row["unit_key"]], after[row["unit_key"]]
            assert abs(b - a) <= (0.02 if row["kind"] == "voice" else 0.15 * a) + 1e-9
            assert not row["control_flag"] or a == b
            assert (
                row["kind"] != "voice"
                or abs(row["price"] - (0.1 - 0.001 * row["discount_class"])) < 1e-9
            )
        was, then = jumps(made), jumps(new)
        assert all(then[hour] <= max(20.0, was[hour]) + 1e-6 for hour in was)
        made = new
        if last:
            break
    assert last, "the way never ends"
    assert step_to_rule(made, WIDE, 1)[0]["price"].equals(made["price"])


def test_no_more_prices_change_at_once_than_may_and_locations_take_turns() -> None:
    made = table(
        *[
            bundle(f"L{n:02d}", name, champion_price=2.2)
            for n in range(10)
            for name in ("DAY", "WEEK")
        ]
    )
    first, last = step_to_rule(made, Limits(share_changed=0.5), 1)
    moved = {r["location"] for r in first.to_pylist() if r["price"] != 2.0}
    assert (len(moved), last) == (5, False)
    second, last = step_to_rule(first, Limits(share_changed=0.5), 1)
    assert (set(second["price"].to_pylist()), last) == ({2.2}, True)


def test_frozen_are_the_prices_that_are_asked_and_nothing_explains_them() -> None:
    asked = changed(table(), "C1/07/WEEKDAY", price=0.04, discount_class=60)
    made = frozen_table(asked)
    assert made.schema == asked.schema
    assert all(
        made[name].equals(asked[name])
        for name in ("price", "discount_class", "unit_key", "current_price")
    )
    assert set(made["reason_code"].to_pylist()) == {"HOLD_UNCHANGED"}
    assert made["p_gain"].null_count == made.num_rows
