"""Trials: the same units and draws on any machine, within every limit and the permitted loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tariffs.optimise.exploration import draw_elasticity, hash_uniform, margin_at_risk
from tariffs.optimise.rule import Demand, Terms, expected_loss
from tariffs.pricing import bundles, voice


def with_share(slab: Any, share: float, loss: float = 0.05) -> Any:
    count = len(slab["week"])
    return replace(
        slab,
        columns=slab.columns
        | {"explore_share": np.full(count, share), "explore_loss": np.full(count, loss)},
    )


@pytest.fixture(scope="module")
def tried(medium: Any) -> dict[str, np.ndarray]:
    return bundles.price_bundles(with_share(medium.bundles, 0.05), medium.prior)


def test_the_share_of_units_on_trial_is_what_the_policy_states(
    medium: Any, tried: dict[str, np.ndarray]
) -> None:
    may = ~medium.bundles["control"][medium.bundles.offsets[:-1]].astype(bool)
    assert tried["explore_flag"][may].mean() == pytest.approx(0.05, abs=0.01)
    assert ((tried["reason_code"] == "EXPLORE") == tried["explore_flag"]).all()
    assert not medium.bundle_prices["explore_flag"].any()


def test_a_control_unit_is_never_on_trial(medium: Any, tried: dict[str, np.ndarray]) -> None:
    control = medium.bundles["control"][medium.bundles.offsets[:-1]].astype(bool)
    assert not tried["explore_flag"][control].any()


def test_trials_touch_no_other_price(medium: Any, tried: dict[str, np.ndarray]) -> None:
    others = ~tried["explore_flag"]
    for name, values in medium.bundle_prices.items():
        assert np.array_equal(tried[name][others], values[others]), name
    assert (tried["price"] != medium.bundle_prices["price"]).any()


def test_a_trial_stays_within_the_limits_of_its_unit_and_of_its_cost(
    medium: Any, tried: dict[str, np.ndarray]
) -> None:
    flag, slab = tried["explore_flag"], medium.bundles
    last = slab.offsets[1:] - 1
    change = np.abs(tried["price"] / tried["current_price"] - 1)
    assert (change <= slab["max_step"][last] + 1e-9)[flag].all()
    assert (tried["price"] >= slab["price_floor"][last] - 1e-9)[flag].all()
    assert (tried["price"] <= slab["price_ceiling"][last] + 1e-9)[flag].all()
    at = np.flatnonzero(flag)
    terms, demand = known(tried, at)
    margin = demand.volume * (terms.current - terms.cost)
    assert (margin_at_risk(tried["price"][at], terms, demand) <= 0.05 * margin + 1e-9).all()


def known(prices: dict[str, np.ndarray], at: np.ndarray) -> tuple[Terms, Demand]:
    names = (
        "current_price",
        "reference_price",
        "unit_cost",
        "current_price",
        "lowest",
        "highest",
        "z",
        "z",
    )
    return Terms(*(prices[name][at] for name in names)), Demand(
        *(prices[name][at] for name in ("elasticity", "se", "volume"))
    )


def test_a_smaller_loss_allowed_brings_trials_nearer_to_todays_prices(
    medium: Any, tried: dict[str, np.ndarray]
) -> None:
    careful = bundles.price_bundles(with_share(medium.bundles, 0.05, loss=0.002), medium.prior)
    flag = tried["explore_flag"]
    assert np.array_equal(careful["explore_flag"], flag)
    near, far = (np.abs(p["price"] - p["current_price"])[flag] for p in (careful, tried))
    assert (near <= far + 1e-9).all()
    assert near.sum() < far.sum()


def test_a_trial_alone_is_the_trial_in_the_batch_to_the_last_bit(demo: Any) -> None:
    slab = with_share(demo.bundles, 0.1)
    together = bundles.price_bundles(slab, demo.prior)
    on_trial = np.flatnonzero(together["explore_flag"])
    assert len(on_trial) > 50
    for u in (*on_trial[:40], *range(20)):
        alone = bundles.price_bundle(slab.unit(u), demo.prior)
        for name, values in together.items():
            assert getattr(alone, name) == values[u], (u, name)


def test_voice_hours_are_tried_within_what_their_cell_can_carry(demo: Any) -> None:
    prices = voice.price_voices(with_share(demo.voice, 0.1), demo.voice_prior)
    flag, last = prices["explore_flag"], demo.voice.offsets[1:] - 1
    room = (demo.voice["load_limit"] * demo.voice["capacity"])[last]
    upper = prices["volume"] * np.exp(
        (prices["elasticity"] - prices["z"] * prices["se"])
        * (prices["price"] / prices["current_price"] - 1)
    )
    assert flag.sum() > 100
    assert (upper <= room * (1 + 1e-6))[flag & (prices["discount_class"] > 0)].all()


def test_another_week_is_another_draw_and_the_same_week_the_same() -> None:
    key = [np.array(["YOUTH"] * 4000, dtype=object), np.arange(4000).astype(str).astype(object)]
    one, other = (hash_uniform(key, np.full(4000, day)) for day in (20_000, 20_007))
    assert np.array_equal(one, hash_uniform(key, np.full(4000, 20_000)))
    assert stats.kstest(one[:, 0], "uniform").pvalue > 0.001
    assert stats.kstest(one[:, 1], "uniform").pvalue > 0.001
    assert abs(np.corrcoef(one[:, 0], one[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.06


def test_draws_are_of_the_posterior_cut_off_at_zero() -> None:
    b, sd, count = -0.8, 0.6, 4000
    chance = (np.arange(count) + 0.5) / count
    drawn = draw_elasticity(
        Demand(np.full(count, b), np.full(count, sd), np.ones(count)), chance, np.ones(count)
    )
    wanted = stats.truncnorm(-np.inf, -b / sd, b, sd)
    inside = drawn < -0.05  # nearer to 0 no estimate is plausible
    assert drawn[inside] == pytest.approx(wanted.ppf(chance)[inside])
    assert drawn.max() == -0.05


@pytest.mark.parametrize(
    ("before", "after", "spread"), [(100.0, 104.0, 0.2), (100.0, 96.0, 0.05), (100.0, 130.0, 0.01)]
)
def test_the_expected_loss_is_what_chance_states(
    before: float, after: float, spread: float
) -> None:
    draws = after * np.exp(np.random.default_rng(5).normal(0, spread, 400_000))
    loss = expected_loss(np.array([before]), np.array([after]), np.array([spread]))[0]
    assert loss == pytest.approx(np.maximum(before - draws, 0).mean(), abs=0.05)
