"""Two questions, each a plain function.  Nothing here knows what runs it.

The demand for a brand in a store (Montgomery 1997) has 14 coefficients, of which the brand's own
price is one:

    log units = intercept + elasticity_1 log price_1 + ... + elasticity_11 log price_11
                + deal + feat
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.shrinkage import Floats, posterior
from tariffs.demand.linear import hierarchical, ols, within

Rows = dict[str, np.ndarray]
PRICES = [f"price{brand}" for brand in range(1, 12)]
SIZE = 14
WORTH = float(SIZE)  # weeks that a brand's usual noise counts for in each store


@dataclass(frozen=True)
class Prior:
    """A brand in all stores: the mean of its coefficients and their covariance, row by row; and
    each slope as if it were one for all stores, with the variance that is left then.
    """

    stores: int
    mean: Floats
    spread: Floats
    pooled: Floats
    noise: float


@dataclass(frozen=True)
class Elasticity:
    """A brand's own-price elasticity in one store, three times; and the 14 coefficients that each
    belongs to.

    pooled: one slope for all stores. own: the store alone (None: its weeks do not suffice).
    shrunk: the store, given all.
    """

    weeks: int
    pooled: float
    own: float | None
    own_se: float | None
    shrunk: float
    shrunk_sd: float
    pooled_fit: Floats
    own_fit: Floats
    shrunk_fit: Floats


def fit_prior(rows: Rows) -> Prior:
    """One brand: rows of all its stores, sorted by store. What is usual is learnt from the stores
    that can tell.
    """
    y, x = demand(rows)
    _, first, store = np.unique(rows["store"], return_index=True, return_inverse=True)
    telling = [
        (yi, xi)
        for yi, xi in zip(np.split(y, first[1:]), np.split(x, first[1:]), strict=True)
        if tells(xi)
    ]
    if not telling:
        raise ValueError(f"none of {len(first)} stores has the weeks to tell {SIZE} coefficients")
    fit = hierarchical([yi for yi, _ in telling], [xi for _, xi in telling])
    pooled = within(y, x[:, 1:], store)
    left = y - x[:, 1:] @ pooled
    level = np.bincount(store, left) / np.bincount(store)
    return Prior(
        len(telling),
        fit.beta,
        fit.delta.ravel(),
        pooled,
        float(np.mean((left - level[store]) ** 2)),
    )


def fit_store(rows: Rows, prior: Prior) -> Elasticity:
    """One brand in one store, given what its stores have in common."""
    y, x = demand(rows)
    price = int(rows["brand"][0])  # the intercept is column 0, so brand 1's price is column 1
    pooled_fit: Floats = np.append(y.mean() - x[:, 1:].mean(axis=0) @ prior.pooled, prior.pooled)
    shrunk_fit, covariance = posterior(
        y, x, prior.mean, prior.spread.reshape(SIZE, SIZE), usual=prior.noise, worth=WORTH
    )
    shrunk_sd = float(np.sqrt(covariance[price, price]))
    own, own_se = None, None
    own_fit: Floats = np.linalg.lstsq(x, y, rcond=None)[0].astype(np.float64)
    if tells(x):
        alone = ols(y, x)
        own, own_se, own_fit = (
            alone.beta[price],
            float(np.sqrt(alone.covariance[price, price])),
            alone.beta,
        )
    return Elasticity(
        len(y),
        pooled_fit[price],
        own,
        own_se,
        shrunk_fit[price],
        shrunk_sd,
        pooled_fit,
        own_fit,
        shrunk_fit,
    )


def tells(x: Floats) -> bool:
    """Whether a store's weeks, by themselves, tell every coefficient, and leave something over to
    tell the noise.
    """
    return len(x) > SIZE and int(np.linalg.matrix_rank(x)) == SIZE


def demand(rows: Rows) -> tuple[Floats, Floats]:
    """y (n,) and X (n, 14)."""
    logs = [np.log(rows[name]) for name in PRICES]
    return rows["logmove"], np.column_stack(
        [np.ones(len(rows["logmove"])), *logs, rows["deal"], rows["feat"]]
    )
