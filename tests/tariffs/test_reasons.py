"""Every reason code has one meaning: its condition holds on every row with it, in any world."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from tariffs.columns import Bools
from tariffs.optimise.reasons import reasons
from tariffs.optimise.rule import Demand, Terms, choose
from tariffs.pricing.voice import capacity_floor

SEEN = {
    "FLOOR_RAISED",
    "CEILING_LOWERED",
    "REG_ADJUSTED",
    "CAPACITY_RAISED",
    "CLIPPED_FLOOR",
    "CLIPPED_CEILING",
    "REG_CAP",
    "CAPACITY_CAP",
}


def conditions(price: Any, current: Any, floor: Any, ceiling: Any, bound: Any) -> dict[str, Bools]:
    """Return the condition of each code; on_limit: the price is the first one within a limit."""
    low, high = (
        np.isin(bound, ["FLOOR", "REG_FLOOR", "CAPACITY", "GRID"]),
        np.isin(bound, ["CEILING", "REG_CEILING", "GRID"]),
    )
    raised, lowered = (
        low & (current < floor) & (price >= floor - 1e-9),
        high & (current > ceiling) & (price <= ceiling + 1e-9),
    )
    stopped_low, stopped_high = (
        low & (current >= floor) & (price >= floor - 1e-9),
        high & (current <= ceiling) & (price <= ceiling + 1e-9),
    )
    return {
        "FLOOR_RAISED": raised,
        "CEILING_LOWERED": lowered,
        "REG_ADJUSTED": raised | lowered,
        "CAPACITY_RAISED": raised,
        "CLIPPED_FLOOR": stopped_low,
        "CLIPPED_CEILING": stopped_high,
        "REG_CAP": stopped_low | stopped_high,
        "CAPACITY_CAP": stopped_low,
        "CLIPPED_STEP": np.isin(bound, ["STEP_UP", "STEP_DOWN"]),
        "HOLD_PRICE_POINT": (bound == "TICK") & (price == current),
        "HOLD_NO_PRICE_POINT": (bound == "GRID") & (price == current),
        "HOLD_UNCERTAIN": (bound == "") & (price == current),
        "INCREASE_CONFIDENT": (bound == "") & (price > current),
        "DECREASE_CONFIDENT": (bound == "") & (price < current),
        "HOLD_CONTROL": price == current,
    }


prices, elasticities = st.floats(0.2, 5.0), st.floats(-5.0, -0.1)
units = st.tuples(
    prices,
    prices,
    st.floats(0.0, 3.0),
    elasticities,
    st.floats(0.01, 0.8),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.floats(0.0, 0.4),
    st.sampled_from([("FLOOR", "CEILING"), ("REG_FLOOR", "REG_CEILING"), ("CAPACITY", "CEILING")]),
    st.booleans(),
)


@given(st.lists(units, min_size=1, max_size=12))
def test_each_code_states_what_was_done_to_its_price(drawn: list[Any]) -> None:
    current, floor, span, b, sd, tick, step, names, control = (
        np.array(values) for values in zip(*drawn, strict=True)
    )
    one = np.ones(len(drawn))
    terms = Terms(
        current=current,
        reference=one,
        unit_cost=0.05 * one,
        tick=tick,
        floor=floor,
        ceiling=floor + span,
        step=step * current,
        z=0.84 * one,
        floor_name=names[:, 0].astype(object),
        ceiling_name=names[:, 1].astype(object),
    )
    choice = choose(terms, Demand(b, sd, 100.0 * one), control)
    codes = reasons(
        choice,
        terms,
        np.where(control, "HOLD_CONTROL", "").astype(object),
        np.zeros(len(drawn), dtype=np.bool_),
    )
    holds = conditions(choice.price, current, floor, floor + span, choice.bound)
    for row, code in enumerate(codes):
        assert holds[code][row], (
            code,
            choice.bound[row],
            choice.price[row],
            current[row],
            floor[row],
            (floor + span)[row],
        )
    sides = {"CAPACITY": "CAPACITY_RAISED", "FLOOR": "FLOOR_RAISED", "REG_FLOOR": "REG_ADJUSTED"}
    for row in np.flatnonzero((current < floor) & (choice.bound == names[:, 0])).tolist():
        assert codes[row] == sides[str(names[row, 0])]


LIMIT_NAMES = ("current", "reference", "unit_cost", "tick", "floor", "ceiling", "step", "z")


def test_every_code_of_a_limit_occurs_in_small_worlds() -> None:
    seen = set()
    for low, high in (("FLOOR", "CEILING"), ("REG_FLOOR", "REG_CEILING"), ("CAPACITY", "CEILING")):
        for current, best in ((0.5, 0.5), (1.2, 0.5), (1.8, 3.0), (3.0, 0.5), (3.0, 3.0)):
            limits = (current, 1.0, 0.0, 0.1, 1.0, 2.0, 9.0, 0.0)
            values = [np.array([value]) for value in limits]
            terms = Terms(
                **dict(zip(LIMIT_NAMES, values, strict=True)),
                floor_name=np.array([low], dtype=object),
                ceiling_name=np.array([high], dtype=object),
            )
            choice = choose(
                terms,
                Demand(np.array([-current / best]), np.array([0.01]), np.array([9.0])),
                np.array([False]),
            )
            seen |= set(reasons(choice, terms, np.array([""], dtype=object), np.array([False])))
    assert seen >= SEEN


def test_each_code_of_a_priced_market_states_what_was_done(demo: Any) -> None:
    """Return the prices of single units; later changes by ladders and limits have other codes."""
    for line, columns in (("bundles", demo.bundle_prices), ("voice", demo.voice_prices)):
        control_or_held = {
            "HOLD_MIN_SUPPORT",
            "HOLD_NO_VARIATION",
            "HOLD_FREQUENCY",
            "HOLD_NOT_SOLD",
        }
        outside = ~np.isin(
            columns["reason_code"], ["EXPLORE", "FALLBACK_SEGMENT", *control_or_held]
        )
        at = {
            name: columns[name][outside]
            for name in (
                "price",
                "current_price",
                "lowest",
                "highest",
                "constraint_bound",
                "reason_code",
            )
        }
        code, price, current = at["reason_code"], at["price"], at["current_price"]
        back = np.isin(code, ["FLOOR_RAISED", "CAPACITY_RAISED"])
        assert (price > current)[back].all(), line
        assert (price < current)[code == "CEILING_LOWERED"].all(), line
        stopped = np.isin(code, ["CLIPPED_FLOOR", "CAPACITY_CAP"])
        assert ((price <= current) & (price <= at["lowest"] + 1e-9))[stopped].all(), line
        assert ((price >= current) & (price >= at["highest"] - 1e-9))[
            code == "CLIPPED_CEILING"
        ].all(), line
        holds = np.char.startswith(code.astype(str), "HOLD")
        assert (price == current)[holds].all(), line


@given(
    elasticities,
    st.floats(0.01, 0.8),
    st.floats(0.0, 2.0),
    st.floats(0.3, 2.0),
    st.floats(0.02, 0.1),
)
def test_what_the_load_limit_allows_fits_at_the_end_that_sells_most(
    b: float, sd: float, z: float, room: float, current: float
) -> None:
    """Over the interval of beta, a cut sells most at the steep end, a raise at the flat one."""
    terms = Terms(*(np.array([v]) for v in (current, 0.1, 0.0, 0.005, 0.005, 0.1, 1.0, z)))
    demand = Demand(np.array([b]), np.array([sd]), np.array([100.0]))
    floor = float(capacity_floor(terms, demand, np.array([100.0 * room]))[0])
    assume(floor < 0.1)  # no discount is allowed always
    for slope in np.minimum(np.linspace(b - z * sd, b + z * sd, 7), -0.05):
        assert 100.0 * np.exp(slope * (floor / current - 1.0)) <= 100.0 * room * (1 + 1e-9)
