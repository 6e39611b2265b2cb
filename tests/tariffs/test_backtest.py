"""The gate: held-out weeks choose between the units' own elasticities and the prior mean."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tariffs.demand.backtest import EB, POOLED, UNTESTED, backtest, held_out
from tariffs.demand.panel import Panel, make_panel
from tariffs.demand.pooling import Layout
from tariffs.demand.prior import fit_pooled_prior
from tariffs.pricing import bundles

FOLDER = os.environ.get("HUNDREDFOLD_REFERENCE_DATA")
WEEKS, UNITS = 40, 200


def drifting(rng: np.random.Generator, drift: float, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Return quantities and x of units with prices that fall and rise over half a year.

    Their levels `drift` like random walks.
    """
    start = rng.uniform(0, 2 * np.pi, (UNITS, 1))
    x = 0.3 * np.sin(2 * np.pi * np.arange(WEEKS) / 26 + start) + 0.05 * rng.standard_normal(
        (UNITS, WEEKS)
    )
    walk = drift * rng.standard_normal((UNITS, WEEKS)).cumsum(axis=1)
    beta = -1.5 + tau * rng.standard_normal((UNITS, 1))
    return rng.poisson(60 * np.exp(beta * x + walk)).astype(float), x


def two_groups(seed: int, weeks: int = WEEKS) -> tuple[Panel, Layout]:
    """Group 0: units that differ only in elasticity.  Group 1: equal elasticities, and levels that
    drift as prices do."""
    rng = np.random.default_rng(seed)
    parts = [drifting(rng, 0.0, 0.6), drifting(rng, 0.1, 0.0)]
    quantity, x = (np.vstack(columns)[:, :weeks] for columns in zip(*parts, strict=True))
    units, group = len(x), np.repeat([0, 1], UNITS)
    panel = make_panel(np.arange(units + 1) * weeks, quantity.ravel(), x.ravel(), np.ones(x.size))
    design = np.column_stack([np.ones(units), group == 0, group == 1]).astype(float)
    return panel, Layout(
        design, 2, group, np.zeros(units, dtype=int), np.tile(np.arange(weeks), units), weeks
    )


@pytest.mark.parametrize("seed", range(3))
def test_units_that_differ_keep_own_fits_and_drifting_levels_do_not(seed: int) -> None:
    gate = backtest(*two_groups(seed))
    assert gate.choice.tolist() == [EB, POOLED]
    assert gate.tested.tolist() == [UNITS, UNITS]
    assert gate.eb[0] < gate.pooled[0]
    assert gate.eb[1] > gate.pooled[1]


def test_too_few_weeks_or_units_decide_nothing_and_the_choice_reports_it() -> None:
    panel, layout = two_groups(0, weeks=14)
    assert set(backtest(panel, layout).choice) == {UNTESTED}
    panel, layout = two_groups(0)
    few = np.isin(panel.unit, np.r_[0:UNITS, UNITS : UNITS + 15])
    part, left = panel.select_rows(few)
    gate = backtest(part, layout.subset(left, few))
    assert gate.choice.tolist() == [EB, UNTESTED]
    assert gate.tested.tolist() == [UNITS, 15]


def test_held_out_deviance_is_conditional_on_unit_and_week_totals() -> None:
    """It is 0 for units with proportional weeks, and the multinomial's with one season cell."""
    panel, layout = two_groups(1)
    deviance = held_out(panel, np.full(panel.units, -1.5), layout.cell(panel))
    assert deviance.min() > 0
    alike = make_panel(
        np.array([0, 3, 6]),
        np.array([6.0, 2.0, 4.0, 3.0, 1.0, 2.0]),
        np.tile([0.1, 0.0, 0.2], 2),
        np.ones(6),
    )
    assert held_out(alike, np.array([-1.0, -1.0]), np.tile(np.arange(3), 2)) == pytest.approx(
        [0.0, 0.0], abs=1e-12
    )  # proportional rows
    lone = make_panel(np.array([0, 2]), np.array([3.0, 5.0]), np.array([0.0, 0.5]), np.ones(2))
    share = np.array([1.0, np.exp(-0.5)]) / (1 + np.exp(-0.5))
    expected = 2 * np.sum([3, 5] * np.log([3, 5] / (8 * share)))
    assert held_out(lone, np.array([-1.0]), np.zeros(2, dtype=int))[0] == pytest.approx(
        expected, abs=1e-9
    )


def test_stage_two_obeys_the_gate_alone_and_in_the_batch(demo: Any) -> None:
    prior = demo.prior
    choice = prior.gate_choice.copy()
    choice[0] = POOLED
    ruled = replace(prior, gate_choice=choice)
    slab = demo.bundles
    product = slab["product"][slab.offsets[:-1]]
    labels = {name: slab[name][slab.offsets[:-1]] for name in bundles.FACTORS}
    pooled, prices = product == prior.groups[0], bundles.price_bundles(slab, ruled)
    beta, se = prices["beta"], prices["se"] * prices["reference_price"] / prices["current_price"]
    assert np.array_equal(beta[pooled], prior.mean(labels)[pooled])
    assert se[pooled] == pytest.approx(
        np.sqrt(
            prior.variance({name: values[pooled] for name, values in labels.items()})
            + prior.rho_variance
        )
    )
    assert (prices["shrink_weight"][pooled] == 1.0).all()
    assert np.array_equal(beta[~pooled], demo.bundle_prices["beta"][~pooled])
    for u in np.flatnonzero(pooled)[:50]:
        alone = bundles.price_bundle(slab.unit(u), ruled)
        assert (alone.beta, alone.se, alone.price) == (beta[u], prices["se"][u], prices["price"][u])


def test_a_product_never_seen_is_not_ruled_by_the_choice_for_another(demo: Any) -> None:
    ruled = replace(demo.prior, gate_choice=np.full(len(demo.prior.groups), POOLED, dtype=object))
    labels = {name: np.array([name.upper()], dtype=object) for name in bundles.FACTORS}
    assert np.isfinite(ruled.noise(labels)[0])


def test_the_choice_and_its_figures_are_part_of_the_prior() -> None:
    panel, layout = two_groups(0)
    product = np.array(["A", "B"], dtype=object)[layout.group]
    prior = fit_pooled_prior(
        panel,
        {"product": product},
        "product",
        np.full(panel.units, "ALL", dtype=object),
        layout.period,
    )
    assert prior.gate_choice.tolist() == [EB, POOLED]
    assert (prior.gate_units == UNITS).all()
    assert prior.gate_eb[0] / prior.gate_pooled[0] < 0.95
    assert np.isinf(prior.noise({"product": np.array(["B"], dtype=object)})[0])


@pytest.mark.skipif(
    not FOLDER, reason="set HUNDREDFOLD_REFERENCE_DATA to the folder of the reference data sets"
)
def test_on_real_panels_shrinkage_foretells_better_than_pooling() -> None:
    """Cheese at every length of training by deviance and RMSE, orange juice at a year's; the
    gate keeps both."""
    panels = pytest.importorskip(
        "benchmarks.tariffs_panels", reason="run from the root of the repository"
    )
    cheese, juice = panels.cheese(Path(FOLDER or ".")), panels.orange_juice(Path(FOLDER or "."))
    for data, windows in ((cheese, cheese.windows), (juice, juice.windows[1:2])):
        for training, horizon in windows:
            line = panels.measure(data, training, horizon)
            for score in (line.deviance, line.rmse):
                assert score["EB"] < min(score["pooled"], score["group"])
                assert score["gate"] < min(score["pooled"], score["group"])
