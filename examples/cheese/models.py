"""Four questions, each a plain function.  Nothing here knows what runs it.

Demand is log volume = intercept + display * disp + elasticity * log price.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from examples.shrinkage import Floats, posterior
from tariffs.demand.linear import hierarchical, ols, reml


@dataclass(frozen=True)
class Own:
    """A retailer alone. None: its rows cannot tell. `slope`, `sxx` and `rss` are of log volume on
    log price, both centred.
    """

    weeks: int
    intercept: float
    display: float | None
    elasticity: float | None
    se: float | None
    slope: float
    sxx: float
    rss: float


@dataclass(frozen=True)
class Slopes:
    """How the retailers' slopes are spread, N(mean, tau^2), and the noise
    variance that they share.
    """

    mean: float
    tau: float
    noise: float


@dataclass(frozen=True)
class Prior:
    """How the three coefficients are spread over retailers: their mean, and their covariance row by
    row.
    """

    mean: Floats
    spread: Floats


@dataclass(frozen=True)
class Shrunk:
    """A retailer in the light of all: the slope by `Slopes`, and the three
    coefficients by `Prior`.
    """

    slope: float
    intercept: float
    display: float
    elasticity: float
    sd: float


def fit_alone(rows: pd.DataFrame) -> Own:
    """Least squares on one retailer's weeks, without what never varied there."""
    y, x = demand(rows)
    varied = np.ptp(x, axis=0) > 0
    varied[0] = True
    fit = ols(y, x[:, varied])
    beta = dict(zip(np.flatnonzero(varied), fit.beta, strict=True))
    dy, dx = y - y.mean(), x[:, 2] - x[:, 2].mean()
    sxx = float(dx @ dx)
    slope = float(dx @ dy) / sxx if varied[2] else 0.0
    se = float(np.sqrt(fit.covariance[-1, -1])) if varied[2] else None
    return Own(
        len(y),
        beta[0],
        beta.get(1),
        beta.get(2),
        se,
        slope,
        sxx,
        float(np.sum((dy - slope * dx) ** 2)),
    )


def fit_slopes(own: dict[str, np.ndarray]) -> Slopes:
    """All retailers' slopes at once, by restricted maximum likelihood."""
    noise = float(own["rss"].sum() / (own["weeks"].sum() - 2 * len(own["weeks"])))
    informative = own["sxx"] > 0
    mean, tau2 = reml(own["slope"][informative], noise / own["sxx"][informative])
    return Slopes(mean, float(np.sqrt(tau2)), noise)


def fit_prior(rows: pd.DataFrame) -> Prior:
    """All retailers' three coefficients at once, by EM."""
    y, x = zip(*(demand(own) for _, own in rows.groupby("retailer")), strict=True)
    fit = hierarchical(y, x)
    return Prior(fit.beta, fit.delta.ravel())


def shrink(rows: pd.DataFrame, own: Own, slopes: Slopes, prior: Prior) -> Shrunk:
    """One retailer, given what all retailers have in common."""
    weight = slopes.tau**2 * own.sxx / (slopes.tau**2 * own.sxx + slopes.noise)
    b, covariance = posterior(*demand(rows), prior.mean, prior.spread.reshape(3, 3))
    intercept, display, log_price = b.tolist()
    return Shrunk(
        slopes.mean + weight * (own.slope - slopes.mean),
        intercept,
        display,
        log_price,
        float(np.sqrt(covariance[2, 2])),
    )


def demand(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """y (n,) and X (n, 3): intercept, display, log price."""
    return np.log(rows["volume"].to_numpy()), np.column_stack(
        [np.ones(len(rows)), rows["disp"], np.log(rows["price"])]
    )
