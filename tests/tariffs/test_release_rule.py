"""The rule table: what charging asks without the model, ready to be used."""

from __future__ import annotations

from test_release_bench import SCHEMA, bundle, changed, table, voice

from tariffs.release.rule import REASON, rule_table


def rows_of(made) -> dict[str, dict]:
    return {row["unit_key"]: row for row in rule_table(made).to_pylist()}


def test_it_asks_the_champion_price_of_every_unit() -> None:
    rows = rows_of(changed(table(), "YOUTH/ACCRA/DAY", price=1.8, champion_price=2.4))
    assert rows["YOUTH/ACCRA/DAY"]["price"] == 2.4
    assert rows["C1/07/WEEKDAY"]["price"] == 0.08


def test_the_discount_class_is_that_of_its_price() -> None:
    rows = rows_of(table())
    assert (rows["C1/07/WEEKDAY"]["discount_class"], rows["YOUTH/HO/DAY"]["discount_class"]) == (20, None)


def test_where_the_rule_would_give_minutes_away_it_asks_the_deepest_class_there_is() -> None:
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


def test_it_says_that_it_is_the_rule_and_explains_nothing_of_the_model() -> None:
    row = rows_of(changed(table(), "YOUTH/ACCRA/DAY", p_gain=0.9, constraint_bound="STEP_UP"))["YOUTH/ACCRA/DAY"]
    assert (row["reason_code"], row["model_version"], row["status"]) == (REASON, "rule", "approved")
    assert [row[name] for name in ("p_gain", "elasticity", "constraint_bound", "expected_margin_delta")] == [None] * 4
