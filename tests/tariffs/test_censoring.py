"""Cells that are full: their minutes are a lower limit of the demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tariffs.demand.censored import censored_demand, hazard
from tariffs.demand.conditional import fit_censored_unit, fit_censored_units, fit_unit, fit_units
from tariffs.demand.panel import Panel, make_panel
from tariffs.pricing import voice
from tariffs.synthetic import Size
from tariffs.synthetic.scenarios import Switches

PHI = 2.5


@given(st.floats(-200, 200))
def test_the_hazard_of_the_normal_is_scipys(z: float) -> None:
    expected = np.exp(stats.norm.logpdf(z) - stats.norm.logsf(z))
    assert hazard(np.array([z]))[0] == pytest.approx(expected, rel=1e-5, abs=1e-300)


@given(st.floats(10, 5000), st.floats(-6, 6))
def test_what_is_unseen_is_the_upper_part_of_a_normal(mu: float, z: float) -> None:
    s = np.sqrt(PHI * mu)
    demand = censored_demand(np.array([mu + z * s]), np.array([mu]), np.array([PHI]))
    upper = stats.truncnorm(z, np.inf, mu, s)
    assert demand.mean[0] == pytest.approx(upper.mean(), rel=1e-6)
    assert demand.variance[0] == pytest.approx(upper.var(), rel=1e-3)
    assert 0 < demand.information[0] < 1


def hot_unit(
    seed: int, weeks: int = 26, beta: float = -1.5, full: float = 0.6
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return quantities below a ceiling that a share `full` of the weeks would exceed, x, exposure,
    and the ceiling."""
    rng = np.random.default_rng(seed)
    x, exposure = rng.choice(np.arange(-0.6, 0.01, 0.1), weeks), rng.uniform(800, 1200, weeks)
    demand = rng.poisson(rng.gamma(exposure * np.exp(beta * x) / (PHI - 1), PHI - 1)).astype(float)
    ceiling = np.full(weeks, np.round(np.quantile(demand, 1 - full)) if full else np.inf)
    return np.minimum(demand, ceiling), x, exposure, ceiling


def panel_of(units: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Panel:
    offsets = np.concatenate([[0], np.cumsum([len(u[0]) for u in units])])
    quantity, x, exposure, ceiling = (
        np.concatenate(columns) for columns in zip(*units, strict=True)
    )
    return make_panel(offsets, quantity, x, exposure, ceiling=ceiling)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 999),
            st.integers(1, 30),
            st.sampled_from([0.0, 0.3, 0.9, 1.0]),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_full_units_are_fitted_alone_as_in_the_batch_to_the_last_bit(
    drawn: list[tuple[int, int, float, bool]],
) -> None:
    units = [hot_unit(seed, weeks, full=full) for seed, weeks, full, _ in drawn]
    units = [
        (y, np.full_like(x, 0.1) if constant else x, e, c)
        for (y, x, e, c), (*_, constant) in zip(units, drawn, strict=True)
    ]
    panel, mean, noise = (
        panel_of(units),
        np.linspace(-2.5, -0.5, len(units)),
        np.linspace(2.5, 4.0, len(units)),
    )
    together = fit_censored_units(panel, mean, 0.12, noise, np.full(len(units), PHI))
    for u, unit in enumerate(units):
        alone = fit_censored_unit(panel_of([unit]), float(mean[u]), 0.12, float(noise[u]), PHI)
        assert [getattr(alone, f.name) for f in fields(alone)] == [
            getattr(together, f.name)[u] for f in fields(alone)
        ]


def test_where_nothing_is_full_not_a_bit_changes() -> None:
    units = [hot_unit(seed, full=0.0) for seed in range(20)]
    panel, mean, noise = panel_of(units), np.full(20, -1.2), np.full(20, PHI)
    plain, careful = (
        fit_units(panel, mean, 0.1, noise),
        fit_censored_units(panel, mean, 0.1, noise, noise),
    )
    assert all(
        np.array_equal(getattr(plain, f.name), getattr(careful, f.name)) for f in fields(plain)
    )


def test_a_week_above_its_ceiling_was_not_held_by_it() -> None:
    y, x, exposure, ceiling = hot_unit(1)
    panel = panel_of([(y * 1.01, x, exposure, ceiling)])
    assert not panel.full().any()
    assert panel_of([(y, x, exposure, ceiling)]).full().mean() == pytest.approx(0.6, abs=0.1)


def test_full_weeks_do_not_bias_elasticities_and_inform_less_than_others() -> None:
    naive, careful, uncensored = [], [], []
    for seed in range(200):
        y, x, exposure, ceiling = hot_unit(seed)
        free, *_ = hot_unit(seed, full=0.0)
        naive.append(fit_unit(y, x, exposure, -1.5, 0.25, PHI))
        careful.append(
            fit_censored_unit(panel_of([(y, x, exposure, ceiling)]), -1.5, 0.25, PHI, PHI)
        )
        uncensored.append(fit_unit(free, x, exposure, -1.5, 0.25, PHI))
    bias = [np.mean([fit.beta for fit in fits]) + 1.5 for fits in (naive, careful, uncensored)]
    assert bias[0] > 0.5
    assert abs(bias[1]) < 0.05
    assert all(fit.sd > seen.sd for fit, seen in zip(careful, uncensored, strict=True))
    assert np.mean([abs(fit.beta + 1.5) < 1.645 * fit.sd for fit in careful]) > 0.85


def test_a_cell_that_is_always_full_keeps_the_prior() -> None:
    panel = panel_of([hot_unit(5, full=1.0)])
    fit = fit_censored_unit(panel, -1.5, 0.25, PHI, PHI)
    assert panel.full().all()
    assert (fit.beta, fit.sd, fit.shrink, fit.demand) == (-1.5, 0.5, 1.0, panel.quantity.sum())


@dataclass
class Full:
    """A market whose cells are full at times, with blocked calls counted or not."""

    prior: Any
    units: Any
    true: np.ndarray
    hot: np.ndarray


@pytest.fixture(scope="module")
def markets(made: Callable[..., Any]) -> dict[bool, Full]:
    size = Size(locations=20, cells=60, weeks=26, sales_format="csv")
    manual = made(size, switches=Switches(cap=True))
    true = manual.columns(
        f"SELECT beta FROM '{Path(manual.truth) / 'voice.parquet'}' ORDER BY cell, hour, day_type"
    )["beta"]
    markets = {}
    for counted in (True, False):
        if not counted:
            manual.duck.execute("UPDATE voice_usage SET attempts = NULL, blocked = NULL")
        prior, units = (
            manual.ask(query, voice.UNIT, ("week",)) for query in ("voice_prior", "voice")
        )
        full = np.abs(units["quantity"] / units["capacity"] - 1) < 0.001
        markets[counted] = Full(
            prior, units, true, np.add.reduceat(full.astype(int), units.offsets[:-1]) >= 6
        )
    return {
        counted: Full(m.prior, m.units, m.true, markets[False].hot)
        for counted, m in markets.items()
    }


def bias_of_hot(market: Full, rows: dict[str, np.ndarray], units: Any) -> float:
    prices = voice.price_voices(units, voice.fit_voice_prior(rows))
    return float((prices["beta"] - market.true)[market.hot].mean())


def test_full_cells_are_not_taken_for_customers_who_do_not_mind(markets: dict[bool, Full]) -> None:
    market = markets[False]
    assert market.hot.sum() > 100
    taken_as_seen = {"counted": np.ones(len(market.prior["week"]), dtype=bool)}
    blind = replace(
        market.units,
        columns=market.units.columns | {"counted": np.ones(len(market.units["week"]), dtype=bool)},
    )
    assert bias_of_hot(market, market.prior.columns | taken_as_seen, blind) > 0.5
    assert abs(bias_of_hot(market, market.prior.columns, market.units)) < 0.10


def test_where_blocked_calls_are_counted_demand_is_what_was_asked_for(
    markets: dict[bool, Full],
) -> None:
    market = markets[True]
    assert abs(bias_of_hot(market, market.prior.columns, market.units)) < 0.05
    assert voice.fit_voice_prior(market.prior.columns).censored == 0.0


def test_full_cells_are_priced_alone_as_in_the_batch(markets: dict[bool, Full]) -> None:
    market = markets[False]
    prior = voice.fit_voice_prior(market.prior.columns)
    assert prior.censored > 0.03
    part = market.units.of(np.flatnonzero(market.hot)[:40])
    together = voice.price_voices(part, prior)
    for u in range(len(part)):
        alone = voice.price_voice(part.unit(u), prior)
        assert all(getattr(alone, f.name) == together[f.name][u] for f in fields(alone))
