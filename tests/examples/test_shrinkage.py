"""One unit's posterior, given a prior: the same as all units' at once, and right at both ends."""

from __future__ import annotations

import numpy as np
import pytest
from examples.shrinkage import posterior

from tariffs.demand.linear import hierarchical, ols


def unit(chance: np.random.Generator, rows: int = 25) -> tuple[np.ndarray, np.ndarray]:
    x = np.column_stack([np.ones(rows), chance.normal(0, 1, (rows, 2))])
    return x @ chance.normal([3, 1, -2], 0.5) + chance.normal(0, 0.4, rows), x


def test_a_unit_alone_is_given_what_it_has_among_all() -> None:
    chance = np.random.default_rng(3)
    y, x = zip(*(unit(chance) for _ in range(30)), strict=True)
    together = hierarchical(y, x, steps=2000)
    for yi, xi, expected in zip(y, x, together.shrunken, strict=True):
        assert posterior(yi, xi, together.beta, together.delta)[0] == pytest.approx(
            expected, abs=1e-7
        )


def test_where_units_have_nothing_in_common_a_unit_keeps_its_own_fit() -> None:
    y, x = unit(np.random.default_rng(4))
    b, _ = posterior(y, x, np.zeros(3), 1e9 * np.eye(3))
    assert b == pytest.approx(ols(y, x).beta, abs=1e-6)


def test_where_units_are_all_alike_a_unit_has_their_mean() -> None:
    y, x = unit(np.random.default_rng(4))
    b, covariance = posterior(y, x, np.array([1.0, 2.0, 3.0]), 1e-12 * np.eye(3))
    assert b == pytest.approx([1, 2, 3], abs=1e-8)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([1e-6] * 3, rel=1e-3)


def test_what_a_unit_cannot_identify_is_taken_from_the_prior() -> None:
    y, x = unit(np.random.default_rng(5))
    x[:, 2] = 0
    b, covariance = posterior(y, x, np.array([3.0, 1.0, -2.0]), 0.25 * np.eye(3))
    assert b[2] == pytest.approx(-2, abs=1e-12)
    assert covariance[2, 2] == pytest.approx(0.25, abs=1e-12)
