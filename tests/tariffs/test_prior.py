"""What is learnt from all units: the season, the noise, the spread of elasticities."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import lognorm, multivariate_normal
from statsmodels.stats.meta_analysis import combine_effects

from tariffs.demand import hyper
from tariffs.demand.conditional import Fit, fit_units
from tariffs.demand.linear import reml
from tariffs.demand.panel import Panel, make_panel
from tariffs.demand.prior import Prior, fit_pooled_prior
from tariffs.demand.season import fit_dispersion, fit_inflation, fit_season, long_run_ratio

UNITS, WEEKS = 12, 20


def small_panel(
    rng: np.random.Generator, dispersion: float = 1.0, units: int = UNITS, tau: float = 0.3
) -> tuple[Panel, np.ndarray]:
    """A panel and its units' true elasticities; one season for all."""
    x = rng.choice(np.arange(-0.3, 0.36, 0.05), (units, WEEKS))
    beta = -1.5 + tau * rng.standard_normal((units, 1))
    season = 0.3 * np.sin(np.arange(WEEKS))
    exposure = rng.uniform(800, 1200, (units, WEEKS))
    mu = exposure * np.exp(-3 + 0.5 * rng.standard_normal((units, 1)) + season + beta * x)
    y = rng.poisson(
        mu if dispersion == 1.0 else rng.gamma(mu / (dispersion - 1), dispersion - 1)
    ).astype(float)
    return make_panel(
        np.arange(units + 1) * WEEKS, y.ravel(), x.ravel(), exposure.ravel()
    ), beta.ravel()


def week_of(panel: Panel) -> np.ndarray:
    return np.tile(np.arange(WEEKS), panel.units)


@pytest.mark.parametrize(
    ("sales", "prices", "message"),
    [(0.0, 1.0, "found no sale in 240 weeks of 12 units"), (1.0, 0.0, "more than one price")],
)
def test_data_without_information_are_refused_with_the_reason(
    sales: float, prices: float, message: str
) -> None:
    panel, _ = small_panel(np.random.default_rng(0))
    mute = make_panel(
        np.arange(UNITS + 1) * WEEKS, sales * panel.quantity, prices * panel.x, panel.exposure
    )
    kind = np.full(UNITS, "A", dtype=object)
    with pytest.raises(ValueError, match=message):
        fit_pooled_prior(mute, {"product": kind}, "product", kind, week_of(mute))


def test_season_and_elasticity_equal_a_poisson_regression_with_dummies() -> None:
    panel, _ = small_panel(np.random.default_rng(0))
    dummies = np.hstack(
        [np.eye(UNITS)[panel.unit], np.eye(WEEKS)[week_of(panel)][:, 1:], panel.x[:, None]]
    )
    glm = sm.GLM(
        panel.quantity, dummies, family=sm.families.Poisson(), offset=np.log(panel.exposure)
    ).fit(tol=1e-13, maxiter=100)
    season = fit_season(panel, np.zeros(UNITS, dtype=int), week_of(panel), WEEKS)
    gamma = np.concatenate([[0.0], glm.params[UNITS:-1]])
    assert season.beta[0] == pytest.approx(glm.params[-1], abs=1e-8)
    assert season.gamma == pytest.approx(gamma - gamma.mean(), abs=1e-8)


def test_a_week_without_a_single_sale_is_expected_to_sell_nothing() -> None:
    panel, _ = small_panel(np.random.default_rng(1))
    quantity = np.where(week_of(panel) == 7, 0.0, panel.quantity)
    closed = Panel(panel.starts, panel.unit, quantity, panel.x, panel.exposure)
    season = fit_season(closed, np.zeros(UNITS, dtype=int), week_of(panel), WEEKS)
    assert np.isfinite(season.gamma).all()
    assert season.gamma[7] < -20


def test_noise_is_recovered_and_no_false_serial_correlation_is_found() -> None:
    panel, beta = small_panel(np.random.default_rng(2), dispersion=2.5, units=2000)
    group = np.zeros(panel.units, dtype=int)
    seasonal = panel.with_season((0.3 * np.sin(np.arange(WEEKS)))[week_of(panel)])
    dispersion = fit_dispersion(seasonal, beta, np.zeros(panel.units), group)
    assert dispersion[0] == pytest.approx(2.5, rel=0.05)
    assert fit_inflation(seasonal, beta, np.zeros(panel.units), dispersion, group)[
        0
    ] == pytest.approx(1.0, abs=0.06)


def test_independent_weeks_are_recognised_although_the_fit_absorbs_some() -> None:
    """With price plateaus and weak units, errors last for weeks, and residuals are small."""
    rng = np.random.default_rng(6)
    units, tau = 3000, 0.6
    x = np.repeat(rng.choice([-0.3, 0.0, 0.3], (units, WEEKS // 5)), 5, axis=1)
    beta = -1.5 + tau * rng.standard_normal((units, 1))
    quantity = rng.poisson(8 * np.exp(beta * x)).astype(float)
    panel = make_panel(np.arange(units + 1) * WEEKS, quantity.ravel(), x.ravel(), np.ones(x.size))
    fit = fit_units(panel, np.full(units, -1.5), tau**2, np.ones(units))
    ratio = long_run_ratio(panel, fit.beta, fit.sd, np.ones(1), np.zeros(units, dtype=int))
    assert ratio[0] == pytest.approx(1.0, abs=0.03)


def test_shocks_that_last_inflate_the_noise() -> None:
    rng = np.random.default_rng(3)
    panel, _ = small_panel(rng, units=1000)
    x = np.repeat(rng.choice([-0.2, 0.0, 0.2], (1000, WEEKS // 5)), 5, axis=1).ravel()
    shocks = np.repeat(rng.normal(0, 0.5, (1000, WEEKS // 5)), 5, axis=1).ravel()
    quantity = rng.poisson(panel.exposure * np.exp(-3 - 1.5 * x + shocks)).astype(float)
    moved = Panel(panel.starts, panel.unit, quantity, x, panel.exposure)
    group = np.zeros(1000, dtype=int)
    dispersion = fit_dispersion(moved, np.full(1000, -1.5), np.zeros(1000), group)
    assert fit_inflation(moved, np.full(1000, -1.5), np.zeros(1000), dispersion, group)[0] > 1.5


def estimates(
    rng: np.random.Generator, units: int, tau: float = 0.45
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The units' true elasticities, what each says by itself, and the variance of that."""
    variance = rng.uniform(0.02, 0.5, units)
    true = rng.normal(-1.5, tau, units)
    return true, rng.normal(true, np.sqrt(variance)), variance


@pytest.mark.parametrize("seed", range(5))
def test_the_density_of_tau_integrates_delta_out(seed: int) -> None:
    """Held against the density of one normal vector, whose covariance has delta's prior in it."""
    rng = np.random.default_rng(seed)
    _, estimate, variance = estimates(rng, 30)
    kind = rng.integers(0, 3, 30)
    design = np.column_stack([np.ones(30), np.eye(3)[kind]])
    kinds = hyper.EffectsPrior(np.array([-1, 0, 0, 0]), np.array([0.0, -0.5, 0.1, 0.4]))
    prior = kinds.precision(np.array([0.4]))
    level = hyper._SecondLevel(estimate, variance, design)
    mean = design @ np.array([hyper.INTERCEPT_MEAN, 0.0, 0.0, 0.0])
    taus = np.array([0.05, 0.2, 0.5, 1.1])
    log_prior = lognorm.logpdf(taus, hyper.TAU_LOG_SD, scale=hyper.TAU_MEDIAN)
    covariances = [
        np.diag(variance + tau * tau) + design @ np.linalg.inv(prior) @ design.T for tau in taus
    ]
    wanted = (
        np.array(
            [multivariate_normal.logpdf(estimate, mean, covariance) for covariance in covariances]
        )
        + log_prior
    )
    found = np.array([level.density(float(tau), prior) for tau in taus])
    assert found - found[0] == pytest.approx(wanted - wanted[0], abs=1e-8)


def test_tau_of_many_units_is_that_of_restricted_likelihood() -> None:
    _, estimate, variance = estimates(np.random.default_rng(9), 4000)
    found = hyper.integrate(estimate, variance, np.ones((4000, 1)))
    assert found.mode == pytest.approx(np.sqrt(reml(estimate, variance)[1]), rel=0.02)
    assert found.tau2 == pytest.approx(reml(estimate, variance)[1], rel=0.05)
    assert found.delta[0] == pytest.approx(
        combine_effects(estimate, variance, method_re="iterated").mean_effect_re, abs=0.01
    )


def test_estimates_that_differ_less_than_their_errors_show_no_spread() -> None:
    found = hyper.integrate(np.array([-1.0, -1.1, -0.9, -1.0]), np.ones(4), np.ones((4, 1)))
    assert found.mode == 0.0
    assert found.tau2 > 0.0  # but none of them is sure to be like the others


@pytest.mark.parametrize("units", [6, 10, 30])
def test_intervals_of_few_units_have_their_coverage(units: int) -> None:
    """With tau and delta taken as known, 90 % intervals of few units would have less coverage."""
    rng = np.random.default_rng(10)
    averaged, known = [], []
    for _ in range(150):
        true, estimate, variance = estimates(rng, units, tau=0.4)
        found = hyper.integrate(estimate, variance, np.ones((units, 1)))
        mean, tau2 = np.full(units, found.delta[0]), found.tau2
        shrink = variance / (variance + tau2)
        fit = Fit(
            shrink * mean + (1 - shrink) * estimate,
            np.sqrt(shrink * tau2),
            shrink,
            np.ones(units),
            np.ones(units),
            np.zeros(units),
        )
        whole = hyper.average_over_tau(
            fit, mean, tau2, found.tau, found.weight, np.full(units, found.covariance[0, 0])
        )
        averaged.append(np.mean(np.abs(whole.beta - true) <= 1.645 * whole.sd))
        plugged = paule_mandel(estimate, variance)
        shrunken = (plugged * estimate + variance * found.delta[0]) / (plugged + variance)
        known.append(
            np.mean(
                np.abs(shrunken - true)
                <= 1.645 * np.sqrt(plugged * variance / (plugged + variance))
            )
        )
    assert 0.86 < np.mean(averaged) < 0.96
    assert np.mean(averaged) > np.mean(known) + (0.05 if units < 30 else 0.0)


def paule_mandel(estimate: np.ndarray, variance: np.ndarray) -> float:
    """Another's point estimate of tau2, which is zero for some."""
    return float(combine_effects(estimate, variance, method_re="iterated").tau2)


def prior_of(panel: Panel, product: np.ndarray) -> Prior:
    segment = np.array(["ALL"] * panel.units, dtype=object)
    return fit_pooled_prior(panel, {"product": product}, "product", segment, week_of(panel))


def test_a_level_no_one_has_seen_gets_the_intercept_and_the_greatest_noise() -> None:
    panel, _ = small_panel(np.random.default_rng(4), units=200, dispersion=2.0)
    prior = prior_of(panel, np.array(["A", "B"] * 100, dtype=object))
    labels = {"product": np.array(["A", "NEW"], dtype=object)}
    assert prior.mean(labels)[1] == prior.intercept
    assert prior.mean(labels)[0] != prior.intercept
    assert prior.noise(labels)[1] == (prior.dispersion * prior.inflation).max()
    unseen = prior.season(
        np.array(["ALL", "NOBODY"], dtype=object), np.array([0, 999, 0]), np.array([0, 0, 1])
    )
    assert unseen[0] != 0
    assert unseen[1:].tolist() == [0, 0]


def test_units_without_information_make_no_prior_and_the_error_reports_it() -> None:
    panel, _ = small_panel(np.random.default_rng(5))
    constant = Panel(
        panel.starts, panel.unit, panel.quantity, np.zeros_like(panel.x), panel.exposure
    )
    with pytest.raises(ValueError, match="found no elasticity with a standard error below"):
        prior_of(constant, np.array(["A"] * UNITS, dtype=object))


@pytest.mark.parametrize("seed", range(3))
def test_omega_is_integrated_out_as_on_a_fine_grid_of_it(seed: int) -> None:
    """A factor of eight rare levels: delta's mean and spread against 200 values of omega."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(8), 5)
    design, kinds = np.column_stack([np.ones(40), np.eye(8)[kind]]), hyper.exchangeable_effects(9)
    variance = np.full(40, 0.3)
    estimate = rng.normal(-1.5 + rng.normal(0, 0.2, 8)[kind], np.sqrt(variance + 0.16))
    found = hyper.integrate(estimate, variance, design)
    omegas = np.array([0.01 * (n + 0.5) for n in range(200)])
    level = hyper._SecondLevel(estimate, variance, design)
    priors = np.array([kinds.precision(np.array([omega])) for omega in omegas])
    taus = np.linspace(0.02, 1.5, 75)
    each = [level.at(float(tau), priors) for tau in taus]
    log_density = np.array([one.density for one in each]) + hyper.omega_log_prior(omegas)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    deltas = np.array([one.delta for one in each])
    delta = np.einsum("to,toi->i", weight, deltas)
    variances = np.einsum(
        "to,toi->i",
        weight,
        np.array(
            [np.diagonal(level.covariance(float(tau), priors), axis1=1, axis2=2) for tau in taus]
        )
        + (deltas - delta) ** 2,
    )
    assert found.delta == pytest.approx(delta, abs=0.02)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(np.sqrt(variances), rel=0.06)
    assert found.weight @ found.tau == pytest.approx(weight.sum(axis=1) @ taus, rel=0.03)
