"""Guards on prices relative to one another, to prices paid, to competitors, and to later sales."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.price_tables import CATALOGUE, NOW, bundle, changed, table, voice
from tariffs.release import guards
from tariffs.release.decision_log import Finding
from tariffs.release.drift import Chart
from tariffs.release.guards.context import GuardContext, Limits

SIZES = pa.table(
    {
        "product": ["S", "M", "L", "LONG", "VOICE"],
        "list_price": [2.0, 4.0, 8.0, 5.0, 0.1],
        "price_tick": [0.1, 0.1, 0.1, 0.1, 0.005],
        "price_floor": [1.0, 1.0, 1.0, 1.0, 0.005],
        "price_ceiling": [9.0, 9.0, 9.0, 9.0, 0.1],
        "ladder": ["A", "A", "A", "B", None],
        "rung": [1.0, 2.0, 3.0, 1.0, None],
        "volume_mb": [100.0, 300.0, 1000.0, 300.0, None],
        "validity_days": [1.0, 1.0, 1.0, 30.0, None],
    }
)
USUAL = GuardContext(table(), table(), CATALOGUE, NOW)


def found(guard: Any, **changes: Any) -> Finding:
    found: Finding = guard(replace(USUAL, **changes))
    return found


def moved(key: str, **values: Any) -> pa.Table:
    return changed(table(), key, **values)


def sizes(today: tuple[float, ...], then: tuple[float, ...]) -> Finding:
    """Return the finding on the ladder S, M, L, LONG at these prices today, and then."""
    rows = [
        bundle("ACCRA", name, current_price=a, price=b)
        for name, a, b in zip(("S", "M", "L", "LONG"), today, then, strict=True)
    ]
    return found(guards.GUARDS_BY_CODE["LADDER"], table=table(*rows), catalogue=SIZES)


IN_ORDER = (2.0, 4.0, 8.0, 5.0)


def test_volume_finds_a_kind_that_will_sell_far_less_than_before() -> None:
    less = table(expected_volume_delta=-3.0)
    finding = found(guards.GUARDS_BY_CODE["VOLUME"], table=less)
    assert (finding.passed, finding.count) == (False, 2)
    assert finding.examples == ("all bundles: -30.0%", "all voice: -30.0%")
    assert found(guards.GUARDS_BY_CODE["VOLUME"], table=less, limits=Limits(volume_drop=0.3)).passed
    assert found(
        guards.GUARDS_BY_CODE["VOLUME"], table=less, active=less
    ).passed  # the last release expected as much


def test_volume_finds_one_location_that_falls_where_the_sum_does_not() -> None:
    finding = found(
        guards.GUARDS_BY_CODE["VOLUME"], table=moved("YOUTH/ACCRA/DAY", expected_volume_delta=-4.0)
    )
    assert (finding.passed, finding.examples) == (False, ("bundle in ACCRA: -40.0%",))


def test_volume_of_the_first_table_is_held_against_todays_prices() -> None:
    assert not found(
        guards.GUARDS_BY_CODE["VOLUME"], table=table(expected_volume_delta=-3.0), active=None
    ).passed
    assert found(guards.GUARDS_BY_CODE["VOLUME"], active=None).found.startswith(
        "expected against no change"
    )


def test_volume_that_is_not_recorded_cannot_pass() -> None:
    assert not found(
        guards.GUARDS_BY_CODE["VOLUME"], table=moved("YOUTH/ACCRA/DAY", expected_volume=None)
    ).passed


def paid(lo: float, hi: float, key: str = "YOUTH/ACCRA/DAY") -> pa.Table:
    return pa.table({"unit_key": [key], "support_lo": [lo], "support_hi": [hi]})


def test_support_finds_a_price_far_beyond_all_that_were_paid() -> None:
    dear = moved("YOUTH/ACCRA/DAY", price=2.5)
    finding = found(guards.GUARDS_BY_CODE["SUPPORT"], table=dear, support=paid(1.8, 2.1))
    assert (finding.passed, finding.examples) == (
        False,
        ("YOUTH/ACCRA/DAY: 2.5, and 1.8 to 2.1 were paid",),
    )
    assert found(guards.GUARDS_BY_CODE["SUPPORT"], table=dear, support=paid(1.8, 2.2)).passed
    assert not found(
        guards.GUARDS_BY_CODE["SUPPORT"],
        table=moved("YOUTH/ACCRA/DAY", price=1.5),
        support=paid(1.8, 2.1),
    ).passed


def test_support_counts_voice_in_points_and_permits_raises_of_full_cells() -> None:
    up = {"price": 0.08, "discount_class": 20}
    seen = paid(0.05, 0.05, "C1/07/WEEKDAY")
    assert not found(
        guards.GUARDS_BY_CODE["SUPPORT"], table=moved("C1/07/WEEKDAY", **up), support=seen
    ).passed
    assert found(
        guards.GUARDS_BY_CODE["SUPPORT"],
        table=moved("C1/07/WEEKDAY", price=0.07, discount_class=30),
        support=seen,
    ).passed
    full = found(
        guards.GUARDS_BY_CODE["SUPPORT"],
        table=moved("C1/07/WEEKDAY", **up, constraint_bound="CAPACITY"),
        support=seen,
    )
    assert (full.passed, full.found) == (True, "prices beyond: 0 (1 more for good reason)")


def test_limits_finds_a_kind_that_is_held_since_its_limits_cannot_be_met() -> None:
    unmet = {
        "line": "bundle",
        "limits": "min_volume",
        "outcome": "NOT MET, today's prices stay: cannot keep min_volume",
    }
    kept = {"line": "voice", "limits": "max_moved_share", "outcome": "kept"}
    finding = found(guards.GUARDS_BY_CODE["LIMITS"], portfolio=(unmet, kept))
    assert (finding.passed, finding.found) == (
        False,
        "limits of the policy cannot be met: 1 of 2 kinds keep today's prices",
    )
    assert finding.examples == (
        "bundle, min_volume: NOT MET, today's prices stay: cannot keep min_volume",
    )
    assert found(guards.GUARDS_BY_CODE["LIMITS"], portfolio=(kept,)).found == "voice: kept"
    assert found(guards.GUARDS_BY_CODE["LIMITS"]).passed
    held = found(
        guards.GUARDS_BY_CODE["LIMITS"],
        table=moved("YOUTH/TEMA/DAY", constraint_bound="LIMITS_NOT_MET"),
    )  # its digest is gone
    assert (held.passed, held.examples) == (False, ("YOUTH/TEMA/DAY: held",))


def test_control_states_what_to_do_where_a_kind_has_no_control_group() -> None:
    nobody = table(control_flag=False)
    few = found(guards.GUARDS_BY_CODE["CONTROL"], table=nobody, active=None)
    assert (few.passed, few.count) == (False, 2)
    assert (
        few.examples[0] == "bundles: 0 of 4 units are control;"
        " mark one of its 3 locations as control in `locations`, and run again"
    )
    alone = found(
        guards.GUARDS_BY_CODE["CONTROL"],
        table=table(bundle("HO"), bundle("HO", "WEEK")),
        active=None,
    )
    assert alone.examples[0].startswith(
        "bundles: 0 of 2 units are control;"
        " it has one location, too few for a control group; --override CONTROL"
    )


def test_support_reports_that_nothing_is_recorded() -> None:
    finding = found(guards.GUARDS_BY_CODE["SUPPORT"], support=None)
    assert (finding.passed, finding.found) == (True, "the prices paid before are not recorded")


def test_competitor_finds_prices_that_a_regulator_forbids() -> None:
    asked = CATALOGUE.append_column(
        "competitor_reference", pa.array([2.0, None, None], pa.float64())
    )
    asked = asked.append_column("competitor_min", pa.array([1.8, None, None], pa.float64()))
    dear = found(
        guards.GUARDS_BY_CODE["COMPETITOR"],
        catalogue=asked,
        table=moved("YOUTH/ACCRA/DAY", price=2.3),
    )
    assert (dear.passed, dear.examples) == (False, ("YOUTH/ACCRA/DAY: 2.3, and competitors ask 2",))
    cheap = found(
        guards.GUARDS_BY_CODE["COMPETITOR"],
        catalogue=asked,
        table=moved("YOUTH/ACCRA/DAY", price=1.7),
    )
    assert (cheap.passed, cheap.examples) == (
        False,
        ("YOUTH/ACCRA/DAY: 1.7, and the cheapest asks 1.8",),
    )
    assert found(
        guards.GUARDS_BY_CODE["COMPETITOR"],
        catalogue=asked,
        table=moved("YOUTH/ACCRA/DAY", price=2.2),
    ).passed
    on_its_way = moved("YOUTH/ACCRA/DAY", price=2.5, current_price=3.0)
    assert found(guards.GUARDS_BY_CODE["COMPETITOR"], catalogue=asked, table=on_its_way).passed


def test_competitor_reports_that_nothing_is_recorded() -> None:
    assert (
        found(guards.GUARDS_BY_CODE["COMPETITOR"]).found == "competitors' prices are not recorded"
    )


@pytest.mark.parametrize(
    ("beta", "passed"), [(-6.0, True), (-6.1, False), (-0.05, True), (-0.04, False), (0.3, False)]
)
def test_elasticity_finds_a_move_on_an_answer_that_is_no_demand(beta: float, passed: bool) -> None:
    rows = moved("YOUTH/ACCRA/DAY", price=2.1, elasticity=beta)
    assert found(guards.GUARDS_BY_CODE["ELASTICITY"], table=rows).passed is passed
    assert found(
        guards.GUARDS_BY_CODE["ELASTICITY"], table=moved("YOUTH/ACCRA/DAY", elasticity=beta)
    ).passed  # it does not move
    marked = moved("YOUTH/ACCRA/DAY", price=2.1, elasticity=beta, reason_code="FALLBACK_SEGMENT")
    assert found(guards.GUARDS_BY_CODE["ELASTICITY"], table=marked).passed


def test_elasticity_is_looked_at_as_it_is_at_the_list_price() -> None:
    half = {"price": 1.1, "current_price": 1.0}  # list price 2: -3.5 there is -7 at the list price
    assert not found(
        guards.GUARDS_BY_CODE["ELASTICITY"], table=moved("YOUTH/ACCRA/DAY", **half, elasticity=-3.5)
    ).passed
    assert found(
        guards.GUARDS_BY_CODE["ELASTICITY"], table=moved("YOUTH/ACCRA/DAY", **half, elasticity=-2.9)
    ).passed


@pytest.mark.parametrize(
    ("then", "cases"),
    [
        ((2.0, 1.9, 5.0, 5.0), 1),  # a larger one is cheaper
        ((2.0, 4.0, 14.0, 5.0), 1),  # its megabyte is dearer
        ((2.0, 6.5, 8.0, 7.0), 1),
        ((2.1, 4.1, 8.1, 5.1), 0),
        ((2.0, 4.0, 8.0, 3.9), 1),  # 30 days for less than one
    ],
)
def test_ladder_finds_sizes_and_validities_out_of_order(
    then: tuple[float, ...], cases: int
) -> None:
    finding = sizes(IN_ORDER, then)
    assert (finding.count, finding.passed) == (cases, not cases), finding


def test_ladder_leaves_what_is_out_of_order_today_and_does_not_move() -> None:
    out = (2.0, 1.9, 5.0, 1.0)
    finding = sizes(out, out)
    assert (finding.passed, finding.found) == (
        True,
        "put out of order: 0 sizes, 0 validities (out of order today, and left so: 1)",
    )
    assert not sizes(out, (2.0, 1.8, 5.0, 1.0)).passed


PRICES = st.lists(st.integers(10, 80), min_size=3, max_size=3)


@given(today=PRICES, then=PRICES)
def test_ladder_agrees_with_the_definition(today: list[int], then: list[int]) -> None:
    a, b, volume = ([n / 10 for n in today], [n / 10 for n in then], (100.0, 300.0, 1000.0))
    bad = any(
        (p2 < p1 or p2 / v2 > p1 / v1 + 1e-9) and (p1, p2) != (c1, c2)
        for ((p1, c1, v1), (p2, c2, v2)) in pairwise(list(zip(b, a, volume, strict=True)))
    )
    finding = sizes((*a, 9.0), (*b, 9.0))
    assert finding.passed is not bad


def test_ladder_states_when_the_catalogue_has_no_sizes() -> None:
    assert (
        found(guards.GUARDS_BY_CODE["LADDER"]).found == "sizes and ladders are not in the catalogue"
    )


def day(*discounts: int, today: tuple[int, ...] | None = None, **values: Any) -> pa.Table:
    """One cell's hours from 0, at these discounts."""
    before = today or (0,) * len(discounts)
    rows = [
        voice(
            "C1",
            hour,
            price=round(0.1 * (1 - d / 100), 6),
            discount_class=d,
            current_price=round(0.1 * (1 - c / 100), 6),
            **values,
        )
        for hour, (d, c) in enumerate(zip(discounts, before, strict=True))
    ]
    return table(*rows)


def test_smooth_finds_a_cliff_between_two_hours() -> None:
    finding = found(guards.GUARDS_BY_CODE["SMOOTH"], table=day(0, 0, 50, 50))
    assert (finding.passed, finding.count) == (False, 1)
    assert finding.examples == ("C1/01/WEEKDAY: 0 % at 01, 50 % at 02 (today 0 and 0)",)
    assert found(guards.GUARDS_BY_CODE["SMOOTH"], table=day(0, 20, 40, 50)).passed


def test_smooth_looks_over_midnight_too() -> None:
    flat = [0] * 24
    assert found(
        guards.GUARDS_BY_CODE["SMOOTH"], table=day(*flat), limits=Limits(cliffs_made=0.0)
    ).passed
    flat[23] = 25
    finding = found(
        guards.GUARDS_BY_CODE["SMOOTH"], table=day(*flat), limits=Limits(cliffs_made=0.0)
    )
    assert (finding.count, [case.split(":")[0] for case in finding.examples]) == (
        2,
        ["C1/22/WEEKDAY", "C1/23/WEEKDAY"],
    )


def test_smooth_permits_present_cliffs_and_those_of_full_cells() -> None:
    assert found(guards.GUARDS_BY_CODE["SMOOTH"], table=day(10, 50, today=(0, 50))).passed
    assert not found(guards.GUARDS_BY_CODE["SMOOTH"], table=day(0, 60, today=(0, 50))).passed
    assert found(
        guards.GUARDS_BY_CODE["SMOOTH"],
        table=day(0, 60, today=(0, 50), constraint_bound="CAPACITY"),
    ).passed


def test_smooth_allows_the_share_that_was_set() -> None:
    cliff = day(*([0] * 12), *([50] * 8), 40, 30, 20, 10)
    assert found(
        guards.GUARDS_BY_CODE["SMOOTH"], table=cliff, limits=Limits(cliffs_made=0.05)
    ).passed  # one of 24
    assert not found(
        guards.GUARDS_BY_CODE["SMOOTH"], table=cliff, limits=Limits(cliffs_made=0.04)
    ).passed


@given(
    st.lists(st.sampled_from(range(0, 100, 5)), min_size=24, max_size=24),
    st.lists(st.sampled_from(range(0, 100, 5)), min_size=24, max_size=24),
)
def test_smooth_counts_what_the_definition_counts(then: list[int], today: list[int]) -> None:
    pairs = [(h, (h + 1) % 24) for h in range(24)]
    made = sum(
        abs(then[a] - then[b]) > 20 and abs(then[a] - then[b]) > abs(today[a] - today[b])
        for a, b in pairs
    )
    finding = found(
        guards.GUARDS_BY_CODE["SMOOTH"],
        table=day(*then, today=tuple(today)),
        limits=Limits(cliffs_made=0.0),
    )
    assert finding.count == made


def segments(**prices: tuple[float, float]) -> pa.Table:
    """One product in one location, at today's and the new price of each segment."""
    rows = [
        bundle("ACCRA", segment=name, unit_key=f"{name}/ACCRA/DAY", current_price=now, price=then)
        for name, (now, then) in prices.items()
    ]
    return table(*rows)


def test_fairness_finds_a_segment_that_pays_far_more_than_another() -> None:
    finding = found(
        guards.GUARDS_BY_CODE["FAIRNESS"], table=segments(YOUTH=(1.0, 1.0), HEAVY=(1.9, 2.1))
    )
    assert (finding.passed, finding.examples) == (
        False,
        ("HEAVY/ACCRA/DAY: 2.10 times the cheapest segment's price",),
    )
    assert found(
        guards.GUARDS_BY_CODE["FAIRNESS"], table=segments(YOUTH=(1.0, 1.0), HEAVY=(1.9, 2.0))
    ).passed


def test_fairness_lets_a_ratio_shrink_and_asks_nothing_of_prices_that_stay() -> None:
    assert found(
        guards.GUARDS_BY_CODE["FAIRNESS"], table=segments(YOUTH=(1.0, 1.1), HEAVY=(3.0, 3.0))
    ).passed
    assert found(
        guards.GUARDS_BY_CODE["FAIRNESS"], table=segments(YOUTH=(1.0, 1.0), HEAVY=(3.0, 3.0))
    ).passed
    assert not found(
        guards.GUARDS_BY_CODE["FAIRNESS"], table=segments(YOUTH=(1.0, 0.9), HEAVY=(3.0, 3.0))
    ).passed


def test_fairness_compares_nothing_between_places_or_products() -> None:
    assert found(
        guards.GUARDS_BY_CODE["FAIRNESS"],
        table=table(bundle("ACCRA", price=2.1), bundle("TEMA", price=9.0)),
    ).passed


def chart(name: str, *up: float) -> Chart:
    return Chart(name, tuple("w" for _ in up), up, up, tuple(np.zeros(len(up)).tolist()), 0.3)


def test_drift_finds_a_segment_whose_customers_do_not_answer_as_expected() -> None:
    finding = found(
        guards.GUARDS_BY_CODE["DRIFT"], charts=(chart("YOUTH", 2.0, 5.5), chart("HEAVY", 0.0, 1.0))
    )
    assert (finding.passed, finding.found) == (
        False,
        "2 weeks since, 2 segments; furthest YOUTH: 5.5",
    )
    assert finding.examples == ("YOUTH: CUSUM 5.5, volume +30.0% against the expectation",)
    assert found(guards.GUARDS_BY_CODE["DRIFT"], charts=(chart("YOUTH", 2.0, 4.9),)).passed


def test_drift_states_when_nothing_was_sold_since() -> None:
    assert found(guards.GUARDS_BY_CODE["DRIFT"]).found.startswith("nothing was sold yet")
    assert found(guards.GUARDS_BY_CODE["DRIFT"], active=None, charts=(chart("YOUTH", 9.0),)).passed


def test_a_table_whose_data_do_not_determine_tau_is_stopped() -> None:
    total = {"line": "bundle", "tau": 0.2, "tau_se": 0.1}
    assert found(guards.prior, totals=(total,)).passed
    weak = found(guards.prior, totals=(total, total | {"line": "voice", "tau": 0.05}))
    assert not weak.passed
    assert weak.examples[0].startswith("voice: ")
    assert found(guards.prior).passed  # nothing said of it, as of a rule table


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("support_n", -3),
        ("shrink_weight", 5.0),
        ("capacity_price", -1.0),
        ("opportunity_cost", float("nan")),
        ("status", "sold"),
        ("explore_draw", 1.0),
        ("expected_blocked_minutes", -5.0),
        ("explore_flag", None),
        ("reason_code", None),
        ("expected_margin_delta_hi", float("inf")),
    ],
)
def test_values_holds_each_column_to_the_contract_of_the_table(column: str, value: object) -> None:
    whole = (
        USUAL.table.drop_columns([column]) if column in USUAL.table.column_names else USUAL.table
    )
    spoilt = whole.append_column(column, pa.array([value, *[None] * (whole.num_rows - 1)]))
    finding = guards.values(replace(USUAL, table=spoilt))
    assert not finding.passed
    assert f"{column} is no value" in finding.found


def test_values_finds_an_interval_that_does_not_hold_its_value() -> None:
    at = USUAL.table.column_names.index("expected_margin_delta_lo")
    outside = USUAL.table.set_column(
        at, "expected_margin_delta_lo", pa.array([1e6] * USUAL.table.num_rows)
    )
    assert (
        "expected_margin_delta is outside its interval"
        in guards.values(replace(USUAL, table=outside)).found
    )
