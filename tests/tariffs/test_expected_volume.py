"""The volume that is expected at a new price: the posterior's mean, not its mode."""

from __future__ import annotations

import numpy as np
import pytest

from tariffs.demand.conditional import fit_unit
from tariffs.optimise.expected_volume import MAX_SD, expected_log_change

TODAY, TAU, NOISE = 1.0, 0.35, 2.5


def change_on_a_grid(
    quantity: np.ndarray, x: np.ndarray, exposure: np.ndarray, mean: float, price: float
) -> float:
    """Return E[volume at `price`] - E[volume today], as a share of it, without approximation of
    the posterior: the elasticity on a grid, with the level that its weeks imply at each.
    """
    beta = np.linspace(mean - 3, mean + 3, 4001)
    exposed = np.exp(beta[:, None] * x) @ exposure
    log = (beta * (quantity @ x) - quantity.sum() * np.log(exposed)) / NOISE
    log -= (beta - mean) ** 2 / (2 * TAU**2)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    now, new = (
        weight @ (quantity.sum() / exposed * np.exp(beta * (p - 1))) for p in (TODAY, price)
    )
    return float(new / now - 1)


@pytest.mark.parametrize("centre", [0.8, 0.95, 1.2])
@pytest.mark.parametrize("price", [0.85, 1.15])
@pytest.mark.parametrize("sales", [40, 400, 4_000])
def test_the_expected_change_is_that_of_the_posterior_on_a_grid(
    centre: float, price: float, sales: int
) -> None:
    rng = np.random.default_rng(sales)
    x = centre - 1 + rng.uniform(-0.12, 0.12, 26)
    exposure = np.full(26, sales / 26)
    quantity = rng.poisson(exposure * np.exp(-1.6 * (x - x.mean()))).astype(float)
    fit = fit_unit(quantity, x, exposure, -1.5, TAU**2, NOISE)
    beyond = expected_log_change(
        *(np.array([value]) for value in (price, TODAY, 1 + fit.centre, fit.sd))
    )
    exact = change_on_a_grid(quantity, x, exposure, -1.5, price)
    found = np.exp(fit.beta * (price - 1) + beyond[0]) - 1
    mode = np.exp(fit.beta * (price - 1)) - 1
    assert found == pytest.approx(exact, abs=0.002)
    assert abs(found - exact) < 0.35 * abs(mode - exact) + 0.0012


def test_a_move_towards_the_centre_expects_less_and_one_away_more() -> None:
    price = np.array([0.9, 1.0, 1.1])
    beyond = expected_log_change(price, np.ones(3), np.full(3, 0.8), np.full(3, 0.5))
    assert beyond[0] < 0 == beyond[1] < beyond[2]
    assert beyond == pytest.approx([-0.00375, 0.0, 0.00625])


def test_a_known_elasticity_changes_nothing() -> None:
    assert expected_log_change(np.array([0.5]), np.ones(1), np.array([2.0]), np.zeros(1)) == 0


def test_an_unknown_elasticity_counts_as_any_plausible_one() -> None:
    unknown, widest = (
        expected_log_change(np.array([1.1]), np.ones(1), np.ones(1), np.array([sd]))
        for sd in (np.inf, MAX_SD)
    )
    assert unknown == widest == pytest.approx(0.0164, abs=0.0001)


def test_money_is_counted_in_any_currency() -> None:
    sd = np.full(4, 0.3)
    price = np.array([0.9, 1.0, 1.1, 1.3])
    one = expected_log_change(price, np.ones(4), np.full(4, 0.7), sd)
    assert expected_log_change(1e4 * price, np.full(4, 1e4), np.full(4, 7e3), sd) == (
        pytest.approx(one)
    )
