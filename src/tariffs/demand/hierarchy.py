"""Stage 1, second half: how elasticities differ between units, b_u = z_u' delta + N(0, tau2), from noisy estimates of them.

tau2 is Paule and Mandel's: the value at which the weighted squared residuals equal their degrees of freedom (Veroniki
et al. 2016 recommend it over DerSimonian-Laird).  delta is weighted least squares, with a N(0, 1) hyper-prior on
everything but the intercept: an empty or collinear level costs nothing, and a level that nobody has seen stands at
zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tariffs.rows import Floats

TOLERANCE = 1e-12
MAX_STEPS = 100
ENOUGH_UNITS = 30
LEAST_MORRIS = 1.0 / 3.0  # of three spare units; with fewer the factor would be zero, and nothing shrunk at all


@dataclass(frozen=True, slots=True)
class SecondLevel:
    """delta (columns,) and the variance tau2 between units beyond it."""

    delta: Floats
    tau2: float


def paule_mandel(estimate: Floats, variance: Floats, design: Floats, parameters: int, ridge: float = 1.0) -> SecondLevel:
    """tau2 with sum_u w_u (b_u - z_u'delta)^2 = K - parameters,  w = 1 / (variance + tau2); zero if the left side starts below.

    estimate, variance (K,); design (K, columns), the first column the intercept; parameters = the design's rank.
    Newton from zero: the left side falls and is convex in tau2, so that the steps never pass the root.
    """
    freedom = max(len(estimate) - parameters, 1)
    tau2 = 0.0
    for _ in range(MAX_STEPS):
        weight = 1.0 / (variance + tau2)
        delta = weighted_least_squares(estimate, weight, design, ridge)
        residual = estimate - design @ delta
        excess = float(np.sum(weight * residual * residual)) - freedom
        slope = float(np.sum((weight * residual) ** 2))
        step = excess / slope if slope > 0 else 0.0
        if tau2 == 0.0 and excess <= 0:
            break
        tau2 = max(tau2 + step, 0.0)
        if abs(step) <= TOLERANCE * max(tau2, 1e-6):
            break
    return SecondLevel(weighted_least_squares(estimate, 1.0 / (variance + tau2), design, ridge), tau2)


def refine(mode: Floats, sd: Floats, design: Floats, previous: SecondLevel, ridge: float = 1.0) -> SecondLevel:
    """One EM step: the second level that makes the units' posteriors N(mode, sd^2) most likely (penalised quasi-likelihood).

    It takes the likelihood's true shape into account where `paule_mandel` sees only a parabola around the pooled elasticity.
    """
    delta = weighted_least_squares(mode, np.full(len(mode), 1.0 / max(previous.tau2, TOLERANCE)), design, ridge)
    residual = mode - design @ delta
    return SecondLevel(delta, float(np.mean(residual * residual + sd * sd)))


def few_units(second: SecondLevel, variance: Floats, parameters: int) -> SecondLevel:
    """With fewer than 30 units tau2 is a guess, and shrinking by it goes too far: Morris (1983) takes B (K - p - 2) / (K - p) for B.

    Here tau2 grows so that the unit with the median sampling variance (of `variance`, (K,)) is shrunk by just that.
    """
    freedom = len(variance) - parameters
    if len(variance) >= ENOUGH_UNITS:
        return second
    factor = max((freedom - 2.0) / freedom, LEAST_MORRIS) if freedom > 0 else LEAST_MORRIS
    typical = float(np.median(variance))
    return SecondLevel(second.delta, (second.tau2 + typical * (1.0 - factor)) / factor)


def weighted_least_squares(estimate: Floats, weight: Floats, design: Floats, ridge: float) -> Floats:
    """argmin sum w (b - z'delta)^2 + ridge |delta without the intercept|^2."""
    weighted = design * weight[:, None]
    normal = weighted.T @ design
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 0.0
    normal[np.diag_indices_from(normal)] += penalty
    return np.asarray(np.linalg.solve(normal, weighted.T @ estimate))
