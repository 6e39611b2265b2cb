"""The estimator against other implementations: glum for posterior modes, pyfixest for stage 1.

The extra `anchors` has both.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from tariffs.demand.conditional import fit_units
from tariffs.demand.endogeneity import assess_exogeneity, chosen_price_part, first_stage
from tariffs.demand.panel import Panel, make_panel
from tariffs.demand.season import fit_season

UNITS, WEEKS = 40, 26


@pytest.fixture(scope="module")
def panel() -> Panel:
    rng = np.random.default_rng(11)
    trial = np.where(rng.random((UNITS, WEEKS)) < 0.3, rng.choice([-0.1, 0.1], (UNITS, WEEKS)), 0.0)
    x = rng.choice(np.arange(-0.3, 0.36, 0.05), (UNITS, WEEKS)) + trial
    exposure = rng.uniform(800, 1200, (UNITS, WEEKS))
    level = -3 + 0.7 * rng.standard_normal((UNITS, 1)) + 0.2 * np.sin(np.arange(WEEKS))
    beta = np.where(np.arange(UNITS) % 2, -1.0, -2.0)[:, None] + 0.3 * rng.standard_normal(
        (UNITS, 1)
    )
    quantity = rng.poisson(rng.gamma(exposure * np.exp(level + beta * x) / 1.5, 1.5)).astype(float)
    return make_panel(
        np.arange(UNITS + 1) * WEEKS, quantity.ravel(), x.ravel(), exposure.ravel(), trial.ravel()
    )


def test_posterior_modes_are_glums_ridge_with_the_prior_mean_as_offset(panel: Panel) -> None:
    """glum minimises deviance / 2 per row + alpha / 2 |b|^2: alpha = noise / (tau2 rows)."""
    glum = pytest.importorskip("glum", reason="the extra `anchors` is not installed")
    mean, tau2, noise = np.linspace(-2.2, -0.8, UNITS), 0.12, np.linspace(1.0, 4.0, UNITS)
    ours = fit_units(panel, mean, tau2, noise).beta
    for u in range(0, UNITS, 4):
        rows = panel.unit == u
        y, x = panel.quantity[rows], panel.x[rows]
        ridge = glum.GeneralizedLinearRegressor(
            family="poisson",
            alpha=noise[u] / (tau2 * len(y)),
            l1_ratio=0,
            gradient_tol=1e-12,
            max_iter=500,
            solver="irls-ls",
            scale_predictors=False,
        )
        ridge.fit(x[:, None], y, offset=np.log(panel.exposure[rows]) + mean[u] * x)
        assert mean[u] + ridge.coef_[0] == pytest.approx(ours[u], abs=1e-8)


def frame_of(panel: Panel) -> pd.DataFrame:
    control = chosen_price_part(panel, first_stage(panel))
    columns = {
        "y": panel.quantity,
        "unit": panel.unit,
        "week": np.tile(np.arange(WEEKS), UNITS),
        "v": control,
        "offset": np.log(panel.exposure),
    }
    odd = panel.unit % 2
    return pd.DataFrame(
        columns | {"x0": panel.x * (1 - odd), "x1": panel.x * odd, "location": panel.unit // 4}
    )


def fepois(formula: str, frame: pd.DataFrame, clusters: str | None = None) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # its compiled parts warn at import, about their own sources
        pyfixest = pytest.importorskip("pyfixest", reason="the extra `anchors` is not installed")
        how = {"CRV1": clusters} if clusters else "iid"
        found: pd.DataFrame = pyfixest.fepois(
            formula,
            frame,
            vcov=how,
            offset="offset",
            iwls_tol=1e-13,
            iwls_maxiter=100,
            fixef_tol=1e-12,
        ).tidy()
        return found


def test_stage_one_is_pyfixests_poisson_with_unit_and_week_effects(panel: Panel) -> None:
    theirs = fepois("y ~ x0 + x1 | unit + week", frame_of(panel))
    ours = fit_season(panel, np.arange(UNITS) % 2, np.tile(np.arange(WEEKS), UNITS), WEEKS)
    assert ours.beta == pytest.approx(theirs["Estimate"].to_numpy(), abs=1e-8)


def test_the_exogeneity_test_is_pyfixests_coefficient_of_the_control(panel: Panel) -> None:
    """Its clustered error takes the control as known; ours includes the error of pi, and is close
    where that is small."""
    theirs = fepois("y ~ x0 + x1 + v | unit + week", frame_of(panel), clusters="location").loc["v"]
    ours = assess_exogeneity(
        panel, np.arange(UNITS) % 2, np.tile(np.arange(WEEKS), UNITS), WEEKS, np.arange(UNITS) // 4
    )
    assert ours.rho == pytest.approx(theirs["Estimate"], abs=1e-7)
    assert ours.se == pytest.approx(theirs["Std. Error"], rel=0.05)
