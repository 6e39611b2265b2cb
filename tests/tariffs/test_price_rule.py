"""The price rule: against brute force, within its limits, and honest about its chances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tariffs.columns import EFFECT_COLUMNS
from tariffs.contracts import PRICE_COLUMNS
from tariffs.optimise.rule import (
    MAX_P_GAIN,
    Choice,
    Demand,
    Terms,
    choose,
    effect,
    effect_columns,
    robust_ratio,
)
from tariffs.pricing import bundles

FREE = {"floor": 0.01, "ceiling": 100.0, "step": 100.0, "tick": 0.0001}


def terms_of(current: float = 1.0, cost: float = 0.05, z: float = 0.84, **limits: float) -> Terms:
    at = FREE | limits
    values = (current, 1.0, cost, at["tick"], at["floor"], at["ceiling"], at["step"], z)
    return Terms(*(np.array([value]) for value in values))


def demand_of(elasticity: float, sd: float, volume: float = 100.0) -> Demand:
    return Demand(np.array([elasticity]), np.array([sd]), np.array([volume]))


def chosen(terms: Terms, demand: Demand, held: bool = False) -> float:
    return float(choose(terms, demand, np.array([held])).price[0])


@given(st.floats(-5.0, -0.3), st.floats(0.01, 1.0), st.floats(0.0, 0.6), st.floats(0.0, 2.0))
def test_the_closed_form_is_the_best_price_under_the_worst_elasticity(
    b: float, sd: float, kappa: float, z: float
) -> None:
    grid = np.arange(max(kappa, 0.05) + 0.001, 25, 0.001)
    worst = np.minimum(
        *((grid - kappa) * np.exp((b + sign * z * sd) * (grid - 1)) for sign in (-1, 1))
    )
    ratio = float(robust_ratio(demand_of(b, sd), np.array([kappa]), np.array([z]))[0])
    assume(0.06 < ratio < 24)
    assert ratio == pytest.approx(grid[np.argmax(worst)], abs=0.0011)


@given(st.floats(-5.0, -0.3), st.floats(0.05, 1.0), st.floats(0.0, 0.6), st.floats(0.1, 2.0))
def test_a_price_moves_exactly_when_the_interval_excludes_the_break_even(
    b: float, sd: float, kappa: float, z: float
) -> None:
    break_even = -1 / (1 - kappa)
    assume(abs(abs(b - break_even) - z * sd) > 1e-6)
    ratio = float(robust_ratio(demand_of(b, sd), np.array([kappa]), np.array([z]))[0])
    assert (ratio != 1.0) == (abs(b - break_even) > z * sd)
    assert ratio == 1.0 or (ratio > 1.0) == (b > break_even)


limits = st.fixed_dictionaries(
    {
        "floor": st.integers(2, 30),
        "width": st.integers(0, 60),
        "current": st.integers(1, 120),
        "step": st.floats(0.0, 0.5),
        "tick": st.sampled_from([0.05, 0.1, 0.25]),
        "b": st.floats(-5.9, -0.1),
        "sd": st.floats(0.01, 1.0),
        "z": st.floats(0.0, 2.0),
        "cost": st.floats(0.0, 0.5),
        "held": st.booleans(),
    }
)


@given(limits)
def test_a_price_is_a_price_point_within_its_limits_or_the_current_price(
    drawn: dict[str, float],
) -> None:
    tick, current = drawn["tick"], round(drawn["current"] * 0.05, 2)
    floor, ceiling = (
        round(drawn["floor"] * tick, 6),
        round((drawn["floor"] + drawn["width"]) * tick, 6),
    )
    terms = terms_of(
        current,
        drawn["cost"],
        drawn["z"],
        floor=floor,
        ceiling=ceiling,
        step=drawn["step"] * current,
        tick=tick,
    )
    price = chosen(terms, demand_of(drawn["b"], drawn["sd"]), bool(drawn["held"]))
    assert floor <= price <= ceiling
    if price != current:
        at_limit = not terms.floor[0] <= current <= terms.ceiling[0]
        assert round(price / tick) == pytest.approx(price / tick, abs=1e-6) or at_limit
        assert abs(price - current) <= terms.step[0] + 1e-9 or at_limit
        assert not drawn["held"] or at_limit


@given(limits)
def test_no_price_point_in_reach_is_better_for_sure(drawn: dict[str, float]) -> None:
    """Brute force over every point between the limits, on the robust margin."""
    tick, current = drawn["tick"], round(drawn["current"] * drawn["tick"], 6)
    terms = terms_of(
        current,
        drawn["cost"],
        drawn["z"],
        floor=tick,
        ceiling=200 * tick,
        step=drawn["step"] * current,
        tick=tick,
    )
    b, doubt, kappa = drawn["b"], drawn["z"] * drawn["sd"], drawn["cost"] / current
    price = chosen(terms, demand_of(b, drawn["sd"]))

    def worth(p: np.ndarray | float) -> np.ndarray:
        r = np.asarray(p) / current
        return np.minimum(
            (r - kappa) * np.exp((b - doubt) * (r - 1)), (r - kappa) * np.exp((b + doubt) * (r - 1))
        )

    points = np.round(np.arange(1, 201) * tick, 6)
    reach = points[
        (points >= current - terms.step[0] - 1e-9) & (points <= current + terms.step[0] + 1e-9)
    ]
    assume(kappa < 0.9)  # below cost both elasticities are favourable to opposite ends
    assert worth(price) >= worth(reach).max() - 2e-9


def test_the_limit_that_held_a_price_back_is_reported() -> None:
    elastic, inelastic = demand_of(-4.0, 0.1), demand_of(-0.4, 0.05)
    for demand, limit, bound in (
        (elastic, {"step": 0.15, "tick": 0.05}, "STEP_DOWN"),
        (inelastic, {"step": 0.15, "tick": 0.05}, "STEP_UP"),
        (elastic, {"floor": 0.9, "tick": 0.05}, "FLOOR"),
        (inelastic, {"ceiling": 1.1, "tick": 0.05}, "CEILING"),
        (demand_of(-1.3, 0.01), {}, ""),
    ):
        assert choose(terms_of(**limit), demand, np.array([False])).bound[0] == bound


def test_a_current_price_outside_its_limits_is_brought_back_even_if_held() -> None:
    assert (
        chosen(
            terms_of(2.0, floor=0.5, ceiling=1.5, step=0.1, tick=0.05),
            demand_of(-1.0, 0.3),
            held=True,
        )
        == 1.5
    )


def test_turning_the_dial_up_never_moves_more_prices() -> None:
    rng = np.random.default_rng(0)
    demand = Demand(rng.uniform(-3, -0.3, 500), rng.uniform(0.1, 0.6, 500), np.ones(500))
    everywhere = Terms(*(np.full(500, v) for v in (1.0, 1.0, 0.05, 0.01, 0.5, 2.0, 0.15, 0.0)))
    dials = [replace(everywhere, z=np.full(500, z)) for z in (0, 0.5, 0.84, 1.28, 1.96)]
    counts = [
        int((choose(dial, demand, np.zeros(500, dtype=bool)).price != 1.0).sum()) for dial in dials
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize(
    ("b", "sd", "price"), [(-1.6, 0.35, 0.85), (-0.7, 0.3, 1.15), (-1.1, 0.5, 1.05)]
)
def test_the_probability_of_gain_is_what_chance_states(b: float, sd: float, price: float) -> None:
    draws = np.random.default_rng(1).normal(b, sd, 400_000)
    gains = (price - 0.05) * np.exp(draws * (price - 1)) > 0.95
    promised = effect(np.array([price]), terms_of(), demand_of(b, sd)).p_gain[0]
    assert promised == pytest.approx(gains.mean(), abs=0.003)


def test_staying_has_no_effect_and_moving_has_the_one_of_the_curve() -> None:
    demand = demand_of(-1.6, 0.35)
    still = effect(np.array([1.0]), terms_of(), demand)
    assert (still.volume[0], still.revenue[0], still.margin[0], still.p_gain[0]) == (0, 0, 0, 0)
    moved = effect(np.array([0.9]), terms_of(), demand)
    assert moved.volume[0] == pytest.approx(100 * (np.exp(0.16) - 1))
    assert moved.revenue[0] == pytest.approx(90 * np.exp(0.16) - 100)
    assert moved.margin[0] == pytest.approx(85 * np.exp(0.16) - 95)


def test_a_price_below_cost_is_raised() -> None:
    terms = terms_of(current=1.0, cost=1.2, step=0.15, tick=0.05)
    choice: Choice = choose(terms, demand_of(-1.5, 0.3), np.array([False]))
    assert choice.price[0] == 1.15
    assert effect(choice.price, terms, demand_of(-1.5, 0.3)).p_gain[0] == MAX_P_GAIN


def test_what_the_catalogue_left_out_is_named() -> None:
    faults = terms_of(z=float("nan"), floor=2.0, ceiling=1.0).faults()
    assert faults == [
        "floor <= ceiling (competitors' prices counted in)",
        "z >= 0 (has the policy a row for this kind?)",
    ]


def test_the_closed_form_is_as_good_as_a_grid_of_a_ten_thousandth() -> None:
    rng, grid, worst = np.random.default_rng(2), np.arange(0.3, 6, 1e-4), 0.0
    for b, sd, kappa, z in zip(
        rng.uniform(-3, -0.4, 200),
        rng.uniform(0.05, 0.5, 200),
        rng.uniform(0, 0.3, 200),
        rng.uniform(0, 1.5, 200),
        strict=True,
    ):
        least = np.minimum(
            *((grid - kappa) * np.exp((b + sign * z * sd) * (grid - 1)) for sign in (-1, 1))
        )
        ratio = float(robust_ratio(demand_of(b, sd), np.array([kappa]), np.array([z]))[0])
        if 0.301 < ratio < 5.999:
            worst = max(worst, abs(ratio - grid[np.argmax(least)]))
    assert 0 < worst < 1e-4


@given(st.floats(-5.0, -0.3), st.floats(0.0, 0.5), st.floats(0.0, 0.3), st.floats(0.0, 0.4))
def test_added_cost_moves_the_price_as_unit_cost_does(
    b: float, cost: float, lost: float, value: float
) -> None:
    demand, added = demand_of(b, 0.2), np.array([lost - value])
    one = choose(replace(terms_of(cost=cost), added_cost=added), demand, np.array([False])).price
    other = choose(terms_of(cost=cost + lost - value), demand, np.array([False])).price
    assert one == pytest.approx(other, abs=2e-4)


def test_the_deltas_have_the_interval_of_their_elasticity() -> None:
    draws = np.random.default_rng(4).normal(-1.6, 0.3, 200_000)
    columns = effect_columns(np.array([0.85]), terms_of(), demand_of(-1.6, 0.3))
    assert set(columns) == set(EFFECT_COLUMNS) == set(EFFECT_COLUMNS) & set(PRICE_COLUMNS)
    sold = 100 * np.exp(draws * (0.85 - 1))
    for name, drawn in (
        ("volume", sold - 100),
        ("revenue", 0.85 * sold - 100),
        ("margin", 0.80 * sold - 95),
    ):
        lo, hi = columns[f"expected_{name}_delta_lo"][0], columns[f"expected_{name}_delta_hi"][0]
        assert (lo, hi) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=0.1)
        assert lo <= columns[f"expected_{name}_delta"][0] <= hi


@given(limits, st.sampled_from(["floor", "ceiling"]))
def test_a_move_beyond_the_step_is_reported_as_the_limit_that_forced_it(
    drawn: dict[str, float], side: str
) -> None:
    """Whatever the elasticity wants besides."""
    current, step = 1.0, drawn["step"] * 0.5
    limit = (
        {"floor": round(1.05 + step, 4), "ceiling": 3.0}
        if side == "floor"
        else {"floor": 0.01, "ceiling": round(0.95 - step, 4)}
    )
    choice = choose(
        terms_of(current, drawn["cost"], drawn["z"], step=step, **limit),
        demand_of(drawn["b"], drawn["sd"]),
        np.array([drawn["held"]]),
    )
    assert choice.price[0] == pytest.approx(limit[side], abs=1e-4)
    assert choice.bound[0] == side.upper()


@pytest.mark.parametrize(
    ("b", "current", "least", "most", "price", "bound"),
    [
        (-5.0, 0.80, 0.75, 9.0, 0.75, "STEP_DOWN"),  # a step from today's price would end at 0.68
        (-5.0, 0.80, 0.65, 9.0, 0.70, "STEP_DOWN"),
        (-5.0, 0.80, 0.90, 9.0, 0.80, "STEP_DOWN"),  # it is beyond already, and is not forced back
        (-0.3, 1.00, 0.10, 1.10, 1.10, "STEP_UP"),
        (-0.3, 1.00, 0.10, 0.90, 1.00, "STEP_UP"),
    ],
)
def test_a_step_ends_at_what_was_paid_and_a_step_more(
    b: float, current: float, least: float, most: float, price: float, bound: str
) -> None:
    terms = replace(
        terms_of(current, step=0.15 * current, tick=0.05),
        least=np.array([least]),
        most=np.array([most]),
    )
    found = choose(terms, demand_of(b, 0.01), np.array([False]))
    assert (found.price[0], found.bound[0]) == (pytest.approx(price), bound)


def test_a_list_price_that_no_one_has_paid_yet_is_no_ground_to_step_from(demo: Any) -> None:
    """The last week was sold at a trial's price; the list price below it was never paid."""
    further = 0
    for number in range(0, len(demo.bundles), 25):
        rows = {name: values.copy() for name, values in demo.bundles.unit(number).items()}
        paid = rows["price"].min()
        rows["posted_price"][-1] = max(
            np.floor(0.9 * paid / rows["price_tick"][-1]) * rows["price_tick"][-1],
            rows["price_floor"][-1],
        )
        found = bundles.price_bundle(rows, demo.prior)
        assert found.price >= min((1.0 - rows["max_step"][-1]) * paid, found.current_price) - 1e-9
        further += found.price < found.current_price
    assert further > 0
