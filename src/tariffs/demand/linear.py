"""The linear analogue of the two stages, in closed form, for comparisons with published tables.

    y_i = X_i b_i + e_i,  e_i ~ N(0, s_i^2),      b_i ~ N(b, Delta)

`swamy` is Swamy's (1970) random-coefficients estimator, `hierarchical` the same model by EM.
`centred_slopes` with `reml` and `shrink` is the case of one slope, with the unit's level swept out,
as stage 2 does for counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Floats, Ints


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Least squares: coefficients (k,), their covariance (k, k), and the residual variance."""

    beta: Floats
    covariance: Floats
    variance: float


@dataclass(frozen=True, slots=True)
class RandomCoefficients:
    """Swamy's random coefficients.

    beta, covariance  (k,), (k, k): the mean coefficients and their covariance
    delta             (k, k): the covariance of the units' coefficients
    corrected         whether Delta has Swamy's correction
    own, shrunken     (units, k): the units' least squares and their shrunken estimates
    """

    beta: Floats
    covariance: Floats
    delta: Floats
    corrected: bool
    own: Floats
    shrunken: Floats


def ols(y: Floats, x: Floats) -> LeastSquares:
    """Return the ordinary least squares of y (n,) on x (n, k)."""
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ (x.T @ y)
    variance = float(np.sum((y - x @ beta) ** 2)) / (len(y) - x.shape[1])
    return LeastSquares(beta, variance * inverse, variance)


def within(y: Floats, x: Floats, unit: Ints) -> Floats:
    """Return fixed-effects slopes: OLS of deviations from the units' means.  Shape (k,).

    x has no intercept.
    """
    slopes, *_ = np.linalg.lstsq(_centred(x, unit), _centred(y, unit), rcond=None)
    return np.asarray(slopes)


def between(y: Floats, x: Floats, unit: Ints) -> LeastSquares:
    """Return the OLS of the units' means."""
    return ols(_means(y, unit), _means(x, unit))


def two_stage_least_squares(y: Floats, x: Floats, instruments: Floats) -> LeastSquares:
    """Return the 2SLS estimate, with a robust (HC1) covariance.

    x (n, k) has endogenous columns, instruments (n, m >= k) include the exogenous ones.  The
    covariance is heteroskedasticity-robust as in White (1980), scaled by n / (n - k).
    """
    projected = instruments @ np.linalg.lstsq(instruments, x, rcond=None)[0]
    inverse = np.linalg.inv(projected.T @ x)
    beta = inverse @ (projected.T @ y)
    residual = y - x @ beta
    meat = (projected * (residual * residual)[:, None]).T @ projected
    freedom = len(y) - x.shape[1]
    return LeastSquares(
        beta, inverse @ meat @ inverse.T * len(y) / freedom, float(residual @ residual) / freedom
    )


def swamy(y: Sequence[Floats], x: Sequence[Floats]) -> RandomCoefficients:
    """Return Swamy's estimator, from one y (n_i,) and x (n_i, k) per unit.

    Delta is the covariance of the units' fits minus the mean of their sampling covariances.  Where
    that difference is not positive semi-definite, the correction is dropped, as is standard, and
    `corrected` is False.
    """
    fits = [ols(yi, xi) for yi, xi in zip(y, x, strict=True)]
    own = np.array([fit.beta for fit in fits])
    spread = np.cov(own, rowvar=False)
    delta = spread - np.mean([fit.covariance for fit in fits], axis=0)
    corrected = bool(np.linalg.eigvalsh(delta).min() >= 0)
    delta = delta if corrected else spread
    precisions = [np.linalg.inv(delta + fit.covariance) for fit in fits]
    covariance = np.linalg.inv(np.sum(precisions, axis=0))
    beta = covariance @ np.sum([p @ b for p, b in zip(precisions, own, strict=True)], axis=0)
    shrunken = np.array(
        [beta + delta @ p @ (b - beta) for p, b in zip(precisions, own, strict=True)]
    )
    return RandomCoefficients(beta, covariance, delta, corrected, own, shrunken)


def hierarchical(y: Sequence[Floats], x: Sequence[Floats], steps: int = 300) -> RandomCoefficients:
    """Return the same model by EM (Dempster, Laird and Rubin 1977), with a noise of each unit.

    A unit may be under-identified: its `own` is then the minimum-norm least squares.
    """
    own = np.array([np.linalg.lstsq(xi, yi, rcond=None)[0] for yi, xi in zip(y, x, strict=True)])
    gram = np.array([xi.T @ xi for xi in x])
    moment = np.array([xi.T @ yi for yi, xi in zip(y, x, strict=True)])
    square, sizes = np.array([yi @ yi for yi in y]), np.array([len(yi) for yi in y])
    beta, delta, noise = (
        np.linalg.lstsq(gram.sum(axis=0), moment.sum(axis=0), rcond=None)[0],
        np.eye(gram.shape[1]),
        np.ones(len(sizes)),
    )
    for _ in range(steps):
        precision = np.linalg.inv(delta)
        spread = np.linalg.inv(gram / noise[:, None, None] + precision)
        shrunken = np.einsum("ijk,ik->ij", spread, moment / noise[:, None] + precision @ beta)
        beta = shrunken.mean(axis=0)
        delta = (spread + np.einsum("ij,ik->ijk", shrunken - beta, shrunken - beta)).mean(axis=0)
        fitted = np.einsum("ij,ijk,ik->i", shrunken, gram, shrunken) - 2 * np.einsum(
            "ij,ij->i", shrunken, moment
        )
        noise = (square + fitted + np.einsum("ijk,ikj->i", gram, spread)) / sizes
    return RandomCoefficients(beta, delta / len(sizes), delta, True, own, shrunken)


def centred_slopes(y: Floats, x: Floats, unit: Ints) -> tuple[Floats, Floats]:
    """Return each unit's slope Sxy / Sxx and its sampling variance s^2 / Sxx; both (units,).

    s^2 is pooled over the units.
    """
    dy, dx = _centred(y, unit), _centred(x, unit)
    sxx = np.bincount(unit, dx * dx)
    slope = np.bincount(unit, dx * dy) / sxx
    residual = dy - slope[unit] * dx
    return slope, float(residual @ residual) / (len(y) - 2 * len(sxx)) / sxx


def reml(estimate: Floats, variance: Floats) -> tuple[float, float]:
    """Return the mean and between-unit variance of estimates with known sampling variances.

    By Fisher scoring of the restricted likelihood.
    """
    tau2, mean = float(np.var(estimate)), 0.0
    for _ in range(200):
        weight = 1.0 / (variance + tau2)
        mean = float(np.sum(weight * estimate) / np.sum(weight))
        w2 = weight * weight
        trace = np.sum(weight) - np.sum(w2) / np.sum(weight)
        information = (
            np.sum(w2)
            - 2 * np.sum(w2 * weight) / np.sum(weight)
            + (np.sum(w2) / np.sum(weight)) ** 2
        )
        step = float((np.sum(w2 * (estimate - mean) ** 2) - trace) / information)
        tau2 = max(tau2 + step, 0.0)
        if abs(step) < 1e-12:
            break
    return mean, tau2


def shrink(estimate: Floats, variance: Floats, mean: Floats | float, tau2: float) -> Floats:
    """Return (tau2 b + v m) / (tau2 + v)  (Maddala et al. 1997)."""
    return np.asarray((tau2 * estimate + variance * mean) / (tau2 + variance))


def _means(values: Floats, unit: Ints) -> Floats:
    counts = np.bincount(unit)
    if values.ndim == 1:
        return np.asarray(np.bincount(unit, values) / counts)
    return np.column_stack([np.bincount(unit, column) / counts for column in values.T])


def _centred(values: Floats, unit: Ints) -> Floats:
    return np.asarray(values - _means(values, unit)[unit])
