"""Each guard passes correct tables, and finds its own violation."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from support.price_tables import CATALOGUE, MONDAY, NOW, bundle, changed, table, voice
from tariffs.release import guards
from tariffs.release.decision_log import Finding
from tariffs.release.guards import CODES, GUARDS, run_guards
from tariffs.release.guards.context import GuardContext, Limits

USUAL = GuardContext(table(), table(), CATALOGUE, NOW)
SOLD = pa.table(
    {
        "unit_key": USUAL.table["unit_key"],
        "posted": [p / (0.1 if p < 1 else 1) for p in USUAL.table["price"].to_pylist()],
    }
)


def found(guard: Any, **changes: Any) -> Finding:
    found: Finding = guard(replace(USUAL, **changes))
    return found


def moved(key: str, **values: Any) -> pa.Table:
    return changed(table(), key, **values)


def test_a_table_without_fault_passes_every_guard() -> None:
    findings = run_guards(USUAL)
    assert [f.code for f in findings] == list(CODES)
    assert all(f.passed for f in findings), findings


def test_so_does_the_first_table_of_all() -> None:
    assert all(f.passed for f in run_guards(replace(USUAL, active=None, sold=SOLD)))


def test_every_guard_has_its_own_code_and_states_what_it_allows() -> None:
    assert len(set(CODES)) == len(GUARDS)
    assert all(f.found and f.limit for f in run_guards(USUAL))


def test_a_guard_states_one_sentence_of_what_must_be_true() -> None:
    assert all((guard.__doc__ or "").strip() for guard in GUARDS)


def test_change_size_finds_a_bundle_that_is_far_from_the_active_table() -> None:
    finding = found(guards.change_size, table=moved("YOUTH/ACCRA/DAY", price=2.6))
    assert (finding.passed, finding.count, finding.examples) == (
        False,
        1,
        ("YOUTH/ACCRA/DAY: +30.0%",),
    )
    assert finding.found == "largest: bundles +30.0%, voice none"
    assert found(
        guards.change_size, table=moved("YOUTH/ACCRA/DAY", price=2.5)
    ).passed  # the limit that is met exactly is met


def test_change_size_finds_a_discount_that_is_far_from_the_active_table() -> None:
    finding = found(
        guards.change_size, table=moved("C1/07/WEEKDAY", price=0.005, discount_class=95)
    )
    assert (finding.passed, finding.examples) == (False, ("C1/07/WEEKDAY: +45 points of discount",))
    assert found(
        guards.change_size, table=moved("C1/07/WEEKDAY", price=0.01, discount_class=90)
    ).passed


def test_change_size_sees_a_tariff_that_moves_under_its_discounts() -> None:
    assert not found(guards.change_size, table=moved("C1/07/WEEKDAY", price=0.5)).passed


def test_change_size_asks_nothing_of_units_that_are_new() -> None:
    assert found(
        guards.change_size, table=table(*USUAL.table.to_pylist(), bundle("KUMASI", price=99.0))
    ).passed


def test_change_share_finds_nearly_all_prices_moving_at_once() -> None:
    finding = found(
        guards.change_share,
        table=table(*[bundle(f"L{n}", price=2.1) for n in range(10)]),
        active=table(*[bundle(f"L{n}") for n in range(10)]),
    )
    assert (finding.passed, finding.found) == (False, "10 of 10 prices change (100.0%)")
    eight = [bundle(f"L{n}", price=2.1 if n < 8 else 2.0) for n in range(10)]
    assert found(
        guards.change_share,
        table=table(*eight),
        active=table(*[bundle(f"L{n}") for n in range(10)]),
    ).passed


def test_units_finds_a_unit_that_lost_its_price() -> None:
    finding = found(guards.units, table=table().slice(1))
    assert (finding.passed, finding.examples, finding.count) == (False, ("YOUTH/ACCRA/DAY",), 1)
    assert found(guards.units, table=table().slice(1), limits=Limits(units_lost=1)).passed


def test_units_finds_a_unit_with_two_prices() -> None:
    finding = found(guards.units, table=pa.concat_tables([table(), table().slice(0, 2)]))
    assert (finding.passed, finding.found) == (False, "units with more than one price: 2")


def test_units_finds_an_empty_table() -> None:
    assert not found(guards.units, table=table().slice(0, 0), active=None).passed


def test_units_welcomes_new_ones() -> None:
    finding = found(guards.units, table=table(*USUAL.table.to_pylist(), bundle("KUMASI")))
    assert (finding.passed, finding.found) == (
        True,
        "7 units, 1 new, 0 of the active table left out",
    )


def test_step_finds_a_bundle_that_moves_too_far_from_what_customers_pay() -> None:
    finding = found(guards.step, table=moved("YOUTH/TEMA/WEEK", price=12.0))
    assert (finding.passed, finding.examples) == (False, ("YOUTH/TEMA/WEEK: +20.0%",))
    assert found(guards.step, table=moved("YOUTH/TEMA/WEEK", price=11.5)).passed


def test_step_counts_voice_in_points_of_discount() -> None:
    assert not found(
        guards.step, table=moved("C1/07/WEEKDAY", price=0.025, discount_class=75)
    ).passed
    assert found(guards.step, table=moved("C1/07/WEEKDAY", price=0.03, discount_class=70)).passed


def test_step_lets_a_full_cell_raise_a_price_further_but_not_lower_it() -> None:
    up = moved("C1/07/WEEKDAY", price=0.08, discount_class=20, constraint_bound="CAPACITY")
    assert (
        found(guards.step, table=up).found == "prices beyond the step: 0 (1 more for good reason)"
    )
    assert not found(
        guards.step,
        table=moved("C1/07/WEEKDAY", price=0.02, discount_class=80, constraint_bound="CAPACITY"),
    ).passed


def test_step_lets_a_price_come_back_to_its_floor_and_no_further() -> None:
    below = {"current_price": 3.0}
    assert found(guards.step, table=moved("YOUTH/TEMA/WEEK", **below, price=5.0)).passed
    assert not found(guards.step, table=moved("YOUTH/TEMA/WEEK", **below, price=5.5)).passed
    above = {"current_price": 20.0}
    assert found(guards.step, table=moved("YOUTH/TEMA/WEEK", **above, price=16.0)).passed
    assert not found(guards.step, table=moved("YOUTH/TEMA/WEEK", **above, price=15.5)).passed


@pytest.mark.parametrize(
    ("price", "words"), [(4.5, "4.5, wanted 5 to 16"), (16.5, "16.5, wanted 5 to 16")]
)
def test_bounds_finds_prices_beyond_floor_and_ceiling(price: float, words: str) -> None:
    finding = found(guards.bounds, table=moved("YOUTH/TEMA/WEEK", price=price))
    assert (finding.passed, finding.found, finding.examples) == (
        False,
        "prices out of bounds: 1",
        (f"YOUTH/TEMA/WEEK: {words}",),
    )


def test_bounds_finds_a_product_that_the_catalogue_has_not() -> None:
    finding = found(guards.bounds, catalogue=CATALOGUE.slice(1))
    assert (finding.passed, finding.count) == (False, 3)
    assert "its product is not in the catalogue" in finding.examples[0]


@pytest.mark.parametrize("guard", [guards.bounds, guards.price_points])
def test_without_a_catalogue_it_cannot_pass(guard: Any) -> None:
    assert not found(guard, catalogue=None).passed


def test_price_points_finds_a_price_between_two_of_them() -> None:
    finding = found(guards.price_points, table=moved("YOUTH/ACCRA/DAY", price=2.05))
    assert (finding.passed, finding.examples) == (
        False,
        ("YOUTH/ACCRA/DAY: 2.05, wanted a multiple of 0.1",),
    )
    assert found(
        guards.price_points, table=moved("YOUTH/ACCRA/DAY", price=0.1 * 3)
    ).passed  # the dust of binary fractions is no fault


def test_price_points_leaves_a_price_that_does_not_move_where_it_is() -> None:
    assert found(
        guards.price_points, table=moved("YOUTH/ACCRA/DAY", price=2.05, current_price=2.05)
    ).passed


def test_price_points_finds_a_discount_class_that_states_another_price() -> None:
    finding = found(
        guards.price_points, table=moved("C1/07/WEEKDAY", price=0.045, discount_class=50)
    )
    assert (finding.passed, finding.examples) == (
        False,
        ("C1/07/WEEKDAY: 0.045 is not the price of its discount class",),
    )


def test_control_finds_a_control_unit_that_moves() -> None:
    finding = found(guards.control, table=moved("YOUTH/HO/DAY", price=2.1))
    assert (finding.passed, finding.found) == (
        False,
        "control units: 2, of them moved 1, joined or left 0",
    )


def test_control_finds_a_unit_that_joins_or_leaves() -> None:
    joins, leaves = (
        moved("YOUTH/TEMA/DAY", control_flag=True),
        moved("YOUTH/HO/DAY", control_flag=False),
    )
    assert found(guards.control, table=joins).examples == ("YOUTH/TEMA/DAY: joined",)
    assert found(guards.control, table=leaves, limits=Limits(control_share=0)).examples == (
        "YOUTH/HO/DAY: left",
    )


@pytest.mark.parametrize(("days", "passed"), [(0, True), (13, True), (14, False), (-5, False)])
def test_stale_finds_data_that_are_too_old_or_from_the_future(days: int, passed: bool) -> None:
    assert found(guards.stale, now=NOW + dt.timedelta(days=days)).passed is passed


def test_stale_asks_for_the_oldest_of_the_data() -> None:
    assert (
        found(guards.stale, table=moved("C1/08/WEEKDAY", data_cutoff=dt.date(2026, 5, 1))).found
        == "the data end on 2026-05-01, 59 days ago"
    )


def test_validity_finds_what_is_over() -> None:
    finding = found(guards.validity, now=NOW + dt.timedelta(days=9))
    assert (finding.passed, finding.found) == (
        False,
        "from 2026-06-30 00:00 to 2026-07-07 00:00 UTC: it is over",
    )


def test_validity_finds_times_that_are_out_of_order() -> None:
    assert (
        "it ends before it begins"
        in found(guards.validity, table=table(valid_from=MONDAY + dt.timedelta(days=8))).found
    )
    later = found(guards.validity, active=table(valid_from=MONDAY + dt.timedelta(days=1)))
    assert (later.passed, later.found.split(": ")[1]) == (
        False,
        "the active table begins later, at 2026-07-01 00:00",
    )


def test_validity_finds_several_times_in_one_zone() -> None:
    finding = found(
        guards.validity, table=moved("YOUTH/HO/DAY", valid_from=MONDAY - dt.timedelta(days=1))
    )
    assert (finding.passed, "one time zone has several times" in finding.found) == (False, True)


def test_many_cases_are_counted_and_the_first_shown() -> None:
    rows = [voice(f"C{n}", price=0.001) for n in range(9)]
    finding = found(guards.bounds, table=table(*rows), active=None)
    assert (len(finding.examples), finding.count) == (5, 9)


def test_limits_that_were_set_are_the_ones_that_count() -> None:
    assert guards.limits_with({"data_age": 21.0, "gone": 1.0}) == Limits(data_age=21.0)
    assert set(guards.UNITS_OF) == set(Limits.__dataclass_fields__)
