"""One unit's posterior: against textbooks, against its own batched form, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tariffs.demand.conditional import fit_unit, fit_units
from tariffs.demand.panel import Panel, make_panel, offsets_of_kept, plausible

WEEKS = 30


def some_unit(
    seed: int, weeks: int = WEEKS, level: float = 2.0, beta: float = -1.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.choice(np.arange(-0.3, 0.36, 0.05), weeks)
    exposure = rng.uniform(500, 1500, weeks)
    return rng.poisson(exposure * np.exp(level - 6 + beta * x)).astype(float), x, exposure


@pytest.mark.parametrize("seed", range(20))
def test_with_a_flat_prior_a_unit_is_a_poisson_regression(seed: int) -> None:
    y, x, exposure = some_unit(seed, level=4.0)
    glm = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson(), offset=np.log(exposure)).fit(
        tol=1e-14, maxiter=200
    )
    fit = fit_unit(y, x, exposure, mean=-1.0, tau2=math.inf, noise=1.0)
    assert fit.beta == pytest.approx(glm.params[1], abs=1e-8)
    assert fit.sd == pytest.approx(glm.bse[1], rel=1e-6)
    assert fit.shrink == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_a_tight_prior_leaves_the_pooled_elasticity(seed: int) -> None:
    fit = fit_unit(*some_unit(seed), mean=-2.0, tau2=1e-12, noise=2.5)
    assert fit.beta == pytest.approx(-2.0, abs=1e-9)
    assert fit.shrink == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("seed", range(10))
def test_newton_finds_the_maximum_of_the_penalised_conditional_likelihood(seed: int) -> None:
    y, x, exposure = some_unit(seed)
    mean, tau2, noise = -1.0, 0.35**2, 2.5

    def negative_log_posterior(beta: float) -> float:
        share = exposure * np.exp(beta * x)
        return float(
            -np.sum(y * np.log(share / share.sum())) / noise + (beta - mean) ** 2 / (2 * tau2)
        )

    best = minimize_scalar(negative_log_posterior, bracket=(-4, 0), options={"xtol": 1e-12})
    assert fit_unit(y, x, exposure, mean, tau2, noise).beta == pytest.approx(best.x, abs=1e-6)


@pytest.mark.parametrize(
    ("y", "x"),
    [
        ([0.0, 0.0, 0.0], [-0.1, 0.0, 0.1]),  # nothing sold
        ([3.0, 5.0, 4.0], [0.1, 0.1, 0.1]),  # one price only
        ([7.0], [0.2]),  # one week only
    ],
)
def test_a_unit_that_states_nothing_keeps_the_prior_exactly(y: list[float], x: list[float]) -> None:
    exposure = np.array([813.0, 777.0, 1021.0])[: len(y)]
    fit = fit_unit(np.array(y), np.array(x), exposure, mean=-1.7, tau2=0.1, noise=2.5)
    assert (fit.beta, fit.sd, fit.shrink) == (-1.7, math.sqrt(0.1), 1.0)


def test_more_data_make_a_unit_more_certain() -> None:
    y, x, exposure = some_unit(1)
    sds = [
        fit_unit(np.tile(y, n), np.tile(x, n), np.tile(exposure, n), -1.0, 0.1, 2.5).sd
        for n in (1, 2, 4, 8)
    ]
    assert sds == sorted(sds, reverse=True)
    assert len(set(sds)) == 4


@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(-4.0, 4.0), st.integers(2, 5))
def test_more_of_the_same_weeks_never_make_a_unit_less_certain(
    seed: int, weeks: int, level: float, times: int
) -> None:
    y, x, exposure = some_unit(seed, weeks, level)
    once = fit_unit(y, x, exposure, -1.2, 0.15, 2.0)
    more = fit_unit(np.tile(y, times), np.tile(x, times), np.tile(exposure, times), -1.2, 0.15, 2.0)
    assert more.sd < once.sd or (more.sd == once.sd and once.shrink == 1.0)


@given(st.integers(0, 10_000), st.integers(3, 30))
def test_a_wider_prior_leads_from_the_pooled_elasticity_to_the_units_own(
    seed: int, weeks: int
) -> None:
    y, x, exposure = some_unit(seed, weeks, level=4.0)
    fits = [fit_unit(y, x, exposure, -1.2, tau2, 2.0) for tau2 in (1e-12, 1e-3, 0.1, 10.0, 1e9)]
    if fits[0].shrink == 1.0:
        return  # one price, or no sale: every prior is kept
    own = fit_unit(y, x, exposure, -1.2, math.inf, 2.0).beta
    assert fits[0].beta == pytest.approx(-1.2, abs=1e-6)
    assert fits[-1].beta == pytest.approx(own, abs=1e-5)
    away = [abs(fit.beta + 1.2) for fit in fits]
    assert away == sorted(away)
    assert [fit.sd for fit in fits] == sorted(fit.sd for fit in fits)


def panel_of(units: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Panel:
    offsets = np.concatenate([[0], np.cumsum([len(y) for y, _, _ in units])])
    return make_panel(offsets, *(np.concatenate(columns) for columns in zip(*units, strict=True)))


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(1, 40), st.floats(-6.0, 4.0), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_the_batched_fit_equals_the_fit_of_each_unit_to_the_last_bit(
    drawn: list[tuple[int, int, float, bool]],
) -> None:
    units = [some_unit(seed, weeks, level) for seed, weeks, level, _ in drawn]
    units = [
        (y, np.full_like(x, 0.1) if constant else x, e)
        for (y, x, e), (*_, constant) in zip(units, drawn, strict=True)
    ]
    mean = np.linspace(-2.5, -0.5, len(units))
    noise = np.linspace(1.0, 4.0, len(units))
    together = fit_units(panel_of(units), mean, 0.12, noise)
    for u, (y, x, exposure) in enumerate(units):
        alone = fit_unit(y, x, exposure, float(mean[u]), 0.12, float(noise[u]))
        assert (alone.beta, alone.sd, alone.shrink, alone.exposed) == (
            together.beta[u],
            together.sd[u],
            together.shrink[u],
            together.exposed[u],
        )


def test_a_unit_does_not_depend_on_its_batch() -> None:
    units = [some_unit(seed, 5 + seed % 30) for seed in range(60)]
    mean, noise = np.full(60, -1.2), np.full(60, 2.0)
    whole = fit_units(panel_of(units), mean, 0.12, noise).beta
    halves = [
        fit_units(panel_of(part), mean[: len(part)], 0.12, noise[: len(part)]).beta
        for part in (units[:17], units[17:])
    ]
    assert np.array_equal(whole, np.concatenate(halves))


def test_a_load_that_counted_a_hundredfold_is_set_aside_and_nothing_else() -> None:
    y, x, _ = some_unit(3)
    spoilt = y.copy()
    spoilt[[4, 20]] = 100 * y[[4, 20]] + 1000
    offsets = np.array([0, len(y), 2 * len(y)])
    keep = plausible(np.concatenate([spoilt, y]), np.tile(x, 2), offsets)
    assert np.flatnonzero(~keep).tolist() == [4, 20]
    assert offsets_of_kept(keep, offsets).tolist() == [0, len(y) - 2, 2 * len(y) - 2]


def test_a_good_week_of_a_small_unit_is_no_spike() -> None:
    assert plausible(np.array([0.0, 1.0, 0.0, 14.0]), np.zeros(4), np.array([0, 4])).all()


def test_a_week_of_deep_discount_is_no_spike() -> None:
    """Ninety points off, with demand e^(-2.5 x): nine times the minutes, which is no spike."""
    x = np.array([0.0, 0.0, 0.0, 0.0, -0.9])
    assert plausible(4000 * np.exp(-2.5 * x), x, np.array([0, 5])).all()


@given(st.lists(st.lists(st.integers(0, 100_000), min_size=1, max_size=6), min_size=1, max_size=6))
def test_no_unit_loses_all_its_weeks(quantities: list[list[int]]) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(q) for q in quantities])])
    flat = np.array([float(v) for q in quantities for v in q])
    keep = plausible(flat, np.zeros_like(flat), offsets)
    assert np.all(np.add.reduceat(keep.astype(int), offsets[:-1]) > 0)
