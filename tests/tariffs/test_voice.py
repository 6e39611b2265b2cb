"""Voice discounts: classes, steps in points, and the capacity of cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tariffs.optimise.rule import Demand, Terms
from tariffs.pricing import voice

TARIFF = 0.10


def terms_of(discount: float, z: float = 0.84) -> Terms:
    values = (TARIFF * (1 - discount), TARIFF, 0.004, 0.005, 0.005, TARIFF, 0.02, z)
    return Terms(*(np.array([v]) for v in values))


@given(
    st.floats(0.0, 0.9),
    st.floats(0.2, 4.0),
    st.floats(0.01, 0.5),
    st.floats(10, 5000),
    st.floats(10, 10_000),
)
def test_at_the_capacity_floor_even_the_upper_end_of_demand_fits(
    discount: float, b: float, sd: float, volume: float, room: float
) -> None:
    ratio = 1 - discount
    terms, demand = (
        terms_of(discount),
        Demand(np.array([-b * ratio]), np.array([sd * ratio]), np.array([volume])),
    )
    lowest = float(voice.capacity_floor(terms, demand, np.array([room]))[0])
    slope = (
        -b + (0.84 if volume > room else -0.84) * sd
    ) * ratio  # a raise must fit at the flat end, a cut at the steep one
    slope = min(slope, -0.05)
    filled = volume * np.exp(slope * (lowest / terms.current[0] - 1))
    assert filled <= room * (1 + 1e-6) or lowest == TARIFF
    below = volume * np.exp(slope * ((lowest - 0.005) / terms.current[0] - 1))
    assert below > room * (1 - 1e-6) or lowest == terms.floor[0]


def test_discounts_are_multiples_of_five_and_move_at_most_twenty_points(
    demo: Any,
) -> None:
    prices = demo.voice_prices
    assert set(prices["discount_class"] % 5) == {0}
    assert prices["discount_class"].min() >= 0
    assert prices["discount_class"].max() <= 95
    change = prices["discount_class"] - prices["current_discount"]
    assert change.max() <= 20
    assert (change >= -20)[prices["constraint_bound"] != "CAPACITY"].all()
    assert prices["price"] == pytest.approx(TARIFF * (1 - prices["discount_class"] / 100))


def test_a_published_discount_fits_the_cell_or_is_none_or_is_the_control(demo: Any) -> None:
    prices, slab = demo.voice_prices, demo.voice
    last = slab.offsets[1:] - 1
    room = (slab["load_limit"] * slab["capacity"])[last]
    ratio = prices["price"] / prices["current_price"]
    doubt = (
        np.where(ratio > 1, 1, -1) * prices["z"] * prices["se"]
    )  # the end of the interval at which the price sells most
    upper = prices["volume"] * np.exp((prices["elasticity"] + doubt) * (ratio - 1))
    free = (prices["discount_class"] > 0) & ~slab["control"][last].astype(bool)
    assert (upper <= room * (1 + 1e-6))[free].all()
    capped, raised = (prices["reason_code"] == code for code in ("CAPACITY_CAP", "CAPACITY_RAISED"))
    assert capped.any()
    assert raised.any()
    assert (ratio[capped] <= 1).all()
    assert (ratio[raised] > 1).all()
    assert (prices["volume"] > room)[raised].all()


def test_an_empty_hour_without_latent_demand_gets_less_than_the_rule_gives(
    medium: Any,
) -> None:
    """Quiet nights on the highway gain nothing at any price: the rule gives 75 points there."""
    prices, slab = medium.voice_prices, medium.voice
    first = slab.offsets[:-1]
    dead = (
        (slab["cell_class"][first] == "HIGHWAY")
        & (slab["day_part"][first] == "NIGHT")
        & ~slab["control"][first].astype(bool)
    )
    dead &= prices["reason_code"] != "HOLD_NO_VARIATION"
    assert prices["discount_class"][dead].mean() < prices["current_discount"][dead].mean() - 15


@pytest.mark.parametrize("z", [0.0, 0.3, 1.5])
def test_a_full_cell_is_the_reason_given_for_every_move_beyond_the_step(
    demo: Any, z: float
) -> None:
    """Also where the elasticity wants to go further still."""
    slab = replace(
        demo.voice, columns=demo.voice.columns | {"z": np.full(len(demo.voice["week"]), z)}
    )
    prices = voice.price_voices(slab, demo.voice_prior)
    beyond = np.abs(prices["discount_class"] - prices["current_discount"]) > 20
    assert beyond.any()
    assert set(prices["constraint_bound"][beyond]) == {"CAPACITY"}
    assert set(prices["reason_code"][beyond]) == {"CAPACITY_RAISED"}


def test_capacity_has_a_price_exactly_where_a_full_cell_limits_a_discount(
    demo: Any,
) -> None:
    prices = demo.voice_prices
    full = prices["constraint_bound"] == "CAPACITY"
    assert (prices["capacity_price"][~full] == 0).all()
    paid = prices["capacity_price"] > 0
    assert paid.sum() > 0.5 * full.sum()
    # at that cost of a minute the enforced price is the best one: its margin is 1 / |elasticity|
    margin = prices["price"] - prices["unit_cost"] - prices["capacity_price"]
    assert margin[paid] == pytest.approx(-(prices["current_price"] / prices["elasticity"])[paid])
