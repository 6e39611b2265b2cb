"""On data with known truth: elasticities are right, and intervals have their nominal coverage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tariffs.columns import key_offsets
from tariffs.demand.season import fit_season
from tariffs.pricing.bundles import price_bundles
from tariffs.pricing.estimation import observe
from tariffs.synthetic.bundles import TAU
from tariffs.synthetic.voice import TAU as VOICE_TAU

TRUTH = "SELECT t.* FROM '{}' AS t ORDER BY {}"


def truth(priced: Any, name: str, key: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = priced.manual.columns(
        TRUTH.format(priced.manual.truth / f"{name}.parquet", key)
    )
    return found


def beta_sd(prices: dict[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = prices["se"] * prices["reference_price"] / prices["current_price"]
    return found


def own(prices: dict[str, np.ndarray]) -> np.ndarray:
    """Units whose own estimate was used: where it fell back, the standard error is the prior's."""
    found: np.ndarray = np.isclose(
        prices["beta"], prices["elasticity"] * prices["reference_price"] / prices["current_price"]
    )
    return found


def rmse(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def test_bundle_elasticities_are_unbiased_and_their_intervals_cover(medium: Any) -> None:
    true, prices = (
        truth(medium, "bundles", "segment, location, product")["beta"],
        medium.bundle_prices,
    )
    error, kept = prices["beta"] - true, own(prices)
    assert abs(error.mean()) < 0.03
    assert 0.87 < (np.abs(error) <= 1.645 * beta_sd(prices))[kept].mean() < 0.93
    assert np.sqrt(medium.prior.tau2) == pytest.approx(TAU, rel=0.15)


def test_shrinkage_beats_the_prior_and_the_prior_beats_one_elasticity(
    medium: Any,
) -> None:
    true, slab = truth(medium, "bundles", "segment, location, product")["beta"], medium.bundles
    labels = {name: slab[name][slab.offsets[:-1]] for name in ("product", "segment", "tier")}
    seen = observe(slab, key_offsets(slab, slab.key))
    segment, when = (np.unique(c, return_inverse=True)[1] for c in (labels["segment"], seen.days))
    periods = int(when.max()) + 1
    pooled = fit_season(
        seen.panel,
        np.zeros(len(true), dtype=int),
        segment[seen.panel.unit] * periods + when,
        periods,
    ).beta[0]
    assert (
        rmse(medium.bundle_prices["beta"] - true)
        < rmse(medium.prior.mean(labels) - true)
        < rmse(pooled - true)
    )


def test_no_true_week_is_taken_for_a_spike(medium: Any) -> None:
    assert medium.bundle_prices["set_aside_n"].sum() == 0
    assert medium.voice_prices["set_aside_n"].sum() == 0


def test_the_season_is_recovered(medium: Any) -> None:
    true = truth(medium, "bundle_season", "scope, week")["gamma"]
    assert rmse(medium.prior.gamma - true) < 0.02


def test_voice_elasticities_are_unbiased_and_their_intervals_cover(medium: Any) -> None:
    true, prices = truth(medium, "voice", "cell, hour, day_type")["beta"], medium.voice_prices
    error, kept = prices["beta"] - true, own(prices)
    assert abs(error.mean()) < 0.03
    assert 0.87 < (np.abs(error) <= 1.645 * beta_sd(prices))[kept].mean() < 0.93
    assert np.sqrt(medium.voice_prior.tau2) == pytest.approx(VOICE_TAU, rel=0.15)


def test_the_promised_probability_of_gain_is_the_realised_one(medium: Any) -> None:
    true, prices = truth(medium, "bundles", "segment, location, product"), medium.bundle_prices
    moved = prices["price"] != prices["current_price"]
    ratio = prices["price"] / prices["current_price"]
    kappa = prices["unit_cost"] / prices["current_price"]
    at_current = true["beta"] * prices["current_price"] / prices["reference_price"]
    gained = (ratio - kappa) * np.exp(at_current * (ratio - 1)) > 1 - kappa
    assert gained[moved].mean() == pytest.approx(prices["p_gain"][moved].mean(), abs=0.02)


def true_lift(priced: Any, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true margin per week of each unit at its current price, and at `price`."""
    true, slab, prices = (
        truth(priced, "bundles", "segment, location, product"),
        priced.bundles,
        priced.bundle_prices,
    )
    scale = slab["active_subs"][slab.offsets[1:] - 1] * np.exp(true["level"])

    def margin(at: np.ndarray) -> np.ndarray:
        found: np.ndarray = (
            scale
            * np.exp(true["beta"] * (at / prices["reference_price"] - 1))
            * (at - prices["unit_cost"])
        )
        return found

    return margin(prices["current_price"]), margin(price)


@pytest.fixture(scope="module")
def dial(medium: Any) -> dict[float, dict[str, float]]:
    """Return by z: true lift in margin, share of units moved, share of units that lose."""
    turned = {}
    for z in (0.0, 0.5, 0.84, 1.28, 1.96):
        slab = replace(
            medium.bundles,
            columns=medium.bundles.columns | {"z": np.full(len(medium.bundles["week"]), z)},
        )
        prices = price_bundles(slab, medium.prior)
        before, after = true_lift(medium, prices["price"])
        turned[z] = {
            "lift": float(after.sum() / before.sum() - 1),
            "moved": float((prices["price"] != prices["current_price"]).mean()),
            "harmed": float((after < before).mean()),
        }
    return turned


def test_the_dial_trades_lift_for_harm(dial: dict[float, dict[str, float]]) -> None:
    for measure in ("lift", "moved", "harmed"):
        values = [at[measure] for at in dial.values()]
        assert values == sorted(values, reverse=True), measure
    assert dial[0.84]["lift"] > 0.6 * dial[0.0]["lift"]
    assert dial[0.84]["harmed"] < 0.4 * dial[0.0]["harmed"]


def test_the_promised_margin_is_the_true_one(medium: Any) -> None:
    before, after = true_lift(medium, medium.bundle_prices["price"])
    assert medium.bundle_prices["expected_margin_delta"].sum() == pytest.approx(
        (after - before).sum(), rel=0.15
    )


def test_the_expected_volume_is_the_true_one_on_average(medium: Any) -> None:
    true, slab, prices = (
        truth(medium, "bundles", "segment, location, product"),
        medium.bundles,
        medium.bundle_prices,
    )
    subscribers = slab["active_subs"][slab.offsets[1:] - 1]
    expected = subscribers * np.exp(
        true["level"] + true["beta"] * (prices["current_price"] / prices["reference_price"] - 1)
    )
    assert prices["volume"].sum() == pytest.approx(expected.sum(), rel=0.02)
