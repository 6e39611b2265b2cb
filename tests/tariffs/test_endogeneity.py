"""Prices that answer to demand: found by logged exploration, and taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from tariffs.demand.endogeneity import (
    ENDOGENOUS,
    EXOGENOUS,
    FORESIGHT_PROBABILITY,
    NOT_TESTED,
    assess_exogeneity,
    chosen_price_part,
    first_stage,
    two_sided,
)
from tariffs.demand.panel import Panel, make_panel
from tariffs.demand.season import fit_season
from tariffs.pricing import bundles
from tariffs.synthetic import Size
from tariffs.synthetic.scenarios import Switches

WEEKS = 20


def foreseen(
    rng: np.random.Generator,
    units: int,
    foresight: float,
    per_cluster: int = 1,
    shock: float = 0.15,
) -> Panel:
    """Return prices with plateaus, trials, and the foreseen part of the week's shock.

    `per_cluster` units share shocks, prices and trials.
    """
    clusters = units // per_cluster

    def shared(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, per_cluster, axis=0)

    eta = shared(rng.normal(0, shock, (clusters, WEEKS)))
    plateaus = shared(np.repeat(rng.uniform(-0.3, 0.3, (clusters, WEEKS // 5)), 5, axis=1))
    trial = shared(
        np.where(
            rng.random((clusters, WEEKS)) < 0.3, rng.choice([-0.1, 0.1], (clusters, WEEKS)), 0.0
        )
    )
    x = plateaus + foresight * eta + trial
    beta = -1.5 + 0.3 * rng.standard_normal((units, 1))
    quantity = rng.poisson(40 * rng.lognormal(0, 0.5, (units, 1)) * np.exp(beta * x + eta)).astype(
        float
    )
    return make_panel(
        np.arange(units + 1) * WEEKS, quantity.ravel(), x.ravel(), np.ones(x.size), trial.ravel()
    )


def looked_at(panel: Panel, per_cluster: int = 1) -> Any:
    everyone = np.zeros(panel.units, dtype=int)
    return assess_exogeneity(
        panel,
        everyone,
        np.tile(np.arange(WEEKS), panel.units),
        WEEKS,
        np.arange(panel.units) // per_cluster,
    )


def test_rho_equals_a_poisson_regression_with_dummies_and_control() -> None:
    panel = foreseen(np.random.default_rng(0), 12, 1.0)
    control = chosen_price_part(panel, first_stage(panel))
    week = np.tile(np.arange(WEEKS), panel.units)
    season = fit_season(panel, np.zeros(12, dtype=int), week, WEEKS, control)
    dummies = np.hstack(
        [np.eye(12)[panel.unit], np.eye(WEEKS)[week][:, 1:], panel.x[:, None], control[:, None]]
    )
    glm = sm.GLM(panel.quantity, dummies, family=sm.families.Poisson()).fit(tol=1e-14, maxiter=200)
    assert (season.beta[0], season.rho) == pytest.approx(tuple(glm.params[-2:]), abs=1e-7)


def test_the_first_stage_is_least_squares_with_unit_dummies() -> None:
    panel = foreseen(np.random.default_rng(1), 8, 1.0)
    assert panel.trial is not None
    pi = np.linalg.lstsq(
        np.hstack([np.eye(8)[panel.unit], panel.trial[:, None]]), panel.x, rcond=None
    )[0][-1]
    assert first_stage(panel) == pytest.approx(pi, abs=1e-12)
    control = chosen_price_part(panel, pi)
    assert np.abs(panel.sums(control)).max() < 1e-12
    assert abs(control @ panel.trial) < 1e-9


@pytest.mark.parametrize(("foresight", "verdict"), [(0.0, EXOGENOUS), (1.0, ENDOGENOUS)])
def test_the_test_distinguishes_foresight_from_innocence(foresight: float, verdict: str) -> None:
    seen = looked_at(foreseen(np.random.default_rng(2), 400, foresight))
    assert seen.verdict == verdict
    if verdict == ENDOGENOUS:
        assert seen.rho_used == pytest.approx(seen.rho, rel=0.1)
        assert seen.foresight_probability > 0.99
    else:
        assert abs(seen.rho_used) < 0.3 * abs(seen.rho)
        assert seen.foresight_probability < FORESIGHT_PROBABILITY
    assert 0 < seen.variance < seen.se**2


def test_the_standard_error_is_honest_where_units_share_their_shocks() -> None:
    """60 markets of 40 clusters of five: t values have unit spread, if clustered."""
    markets = [foreseen(np.random.default_rng(seed), 200, 0.0, per_cluster=5) for seed in range(60)]
    spread = {
        size: np.std([seen.rho / seen.se for seen in (looked_at(m, size) for m in markets)])
        for size in (1, 5)
    }
    assert 0.8 < spread[5] < 1.25
    assert spread[1] > 1.3 * spread[5]


@pytest.mark.parametrize("freedom", [7, 19, 200])
@pytest.mark.parametrize("t", [0.0, 0.5, 1.9, -2.6, 4.0])
def test_p_is_students(t: float, freedom: int) -> None:
    assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=1e-3)


@pytest.fixture(scope="module", params=[1.0, 2.0], ids=["foresight once", "foresight twice"])
def market(
    request: pytest.FixtureRequest, made: Callable[..., Any]
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Return the rows of prior and units, and true elasticities, where prices foresee demand."""
    size = Size(locations=100, cells=1, weeks=26, sales_format="parquet")
    manual = made(size, switches=Switches(endog=request.param))
    true = manual.columns(
        f"SELECT beta FROM '{Path(manual.truth) / 'bundles.parquet'}'"
        " ORDER BY segment, location, product"
    )["beta"]
    yield (
        manual.ask("prior", bundles.UNIT, ("week",)),
        manual.ask("bundles", bundles.UNIT, ("week",)),
        true,
    )
    manual.duck.close()


def errors(prices: dict[str, np.ndarray], true: np.ndarray) -> tuple[float, float]:
    """Bias, and the share of 90 % intervals that hold the truth."""
    sd = prices["se"] * prices["reference_price"] / prices["current_price"]
    own = np.isclose(
        prices["beta"], prices["elasticity"] * prices["reference_price"] / prices["current_price"]
    )
    error = prices["beta"] - true
    return float(error.mean()), float((np.abs(error) <= 1.645 * sd)[own].mean())


def test_foresight_is_taken_out_of_prior_and_units(market: tuple[Any, Any, np.ndarray]) -> None:
    rows, units, true = market
    blind = bundles.fit_prior(rows.columns | {"explore_eps": np.zeros(len(rows["week"]))})
    prior = bundles.fit_prior(rows.columns)
    naive, naive_cover = errors(bundles.price_bundles(units, blind), true)
    bias, cover = errors(bundles.price_bundles(units, prior), true)
    assert (blind.exogeneity, blind.rho_used) == (NOT_TESTED, 0.0)
    assert (prior.exogeneity, prior.rho_p < 0.01) == (ENDOGENOUS, True)
    assert naive > 0.18
    assert naive_cover < 0.82
    assert abs(bias) < 0.06
    assert 0.87 < cover < 0.93


def test_units_with_foresight_are_priced_alone_as_in_the_batch(
    market: tuple[Any, Any, np.ndarray],
) -> None:
    rows, units, _ = market
    prior = bundles.fit_prior(rows.columns)
    part = units.part(0, 150)
    together = bundles.price_bundles(part, prior)
    for u in range(len(part)):
        alone = bundles.price_bundle(part.unit(u), prior)
        assert all(getattr(alone, f.name) == together[f.name][u] for f in fields(alone))


def test_innocent_prices_are_left_as_they_are(medium: Any) -> None:
    for prior in (medium.prior, medium.voice_prior):
        assert prior.exogeneity == EXOGENOUS
        assert abs(prior.rho_used) < 0.04
        assert prior.rho_variance < 0.04**2


def test_without_logged_trials_nothing_is_tested_and_nothing_taken_out() -> None:
    panel = foreseen(np.random.default_rng(3), 50, 1.0)
    assert panel.trial is not None
    for trial in (
        None,
        np.zeros(len(panel.unit)),
        np.where(np.arange(len(panel.unit)) < 60, panel.trial, 0.0),
    ):
        seen = looked_at(
            Panel(panel.starts, panel.unit, panel.quantity, panel.x, panel.exposure, trial)
        )
        assert (seen.verdict, seen.rho_used, seen.variance, seen.p) == (NOT_TESTED, 0.0, 0.0, 1.0)
