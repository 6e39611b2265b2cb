"""Intervals, promises and totals in small worlds with an uncertain prior.

A short form of `benchmarks.tariffs_worlds`.
"""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.tariffs_exact import fractions_held, make_grid
from benchmarks.tariffs_worlds import WORLDS, Judged, World, judge, make, summary

from tariffs.demand.hyper import exchangeable_effects, integrate, quadrature
from tariffs.pricing import bundles

SEEDS = range(100, 106)


@pytest.fixture(scope="module", params=["54", "216"])
def small(request: pytest.FixtureRequest) -> list[Judged]:
    return [judge(WORLDS[request.param], seed) for seed in SEEDS]


def test_small_operators_have_intervals_and_promises_that_hold(small: list[Judged]) -> None:
    found = summary(small)
    assert 0.82 < found["cover"] < 0.98
    assert found["least"] > 0.70
    assert found["promised"] - found["kept"] < 0.08
    assert found["totals"] >= 0.66
    assert 0.8 < found["lift"] / found["true_lift"] < 1.2


def test_a_prior_states_how_well_it_knows_tau() -> None:
    market = make(World(1), 7)
    units, prior = market.units(), market.prior()
    assert prior.tau_se > 0.05
    assert prior.tau_weights.sum() == pytest.approx(1.0)
    labels = {name: units[name][units.offsets[:-1]] for name in bundles.FACTORS}
    assert (prior.spread(labels) > 0).all()
    assert prior.joint(
        {name: values[:1] for name, values in labels.items()}, np.ones(1)
    ) == pytest.approx(prior.spread(labels)[0])


def test_few_nodes_integrate_tau_as_the_grid_does() -> None:
    grid, weight = (
        np.linspace(0.05, 1.0, 40),
        np.linspace(1.0, 3.0, 40) / np.linspace(1.0, 3.0, 40).sum(),
    )
    at, share = quadrature(grid, weight, 5)
    for degree in range(10):
        assert share @ at**degree == pytest.approx(weight @ grid**degree, rel=1e-8)


def test_where_nothing_is_seen_of_tau_its_mode_is_zero_and_below_its_error() -> None:
    rng = np.random.default_rng(0)
    found = integrate(-1.5 + 0.4 * rng.standard_normal(40), np.ones(40), np.ones((40, 1)))
    assert found.mode == 0.0
    assert found.se > 0.05


def test_exact_intervals_are_calibrated_and_the_shipped_ones_are_near_them() -> None:
    """Parameters, elasticities and estimates are drawn from the prior: three kinds of eight."""
    design, effects = (
        np.hstack([np.ones((24, 1)), np.tile(np.eye(3), (8, 1))]),
        exchangeable_effects(4),
    )
    rng, grid, variance = np.random.default_rng(5), make_grid(effects), np.full(24, 0.3)
    held = np.array([fractions_held(rng, grid, effects, design, variance) for _ in range(60)])
    assert held[:, 0].mean() == pytest.approx(0.90, abs=0.03)
    assert held[:, 1].mean() == pytest.approx(held[:, 0].mean(), abs=0.015)
