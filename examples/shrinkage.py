"""One unit's regression when its coefficients are known to resemble those of the other units.

    y = X b + e,   e ~ N(0, s^2),   b ~ N(mean, spread)

`tariffs.demand.linear.hierarchical` learns mean and spread from all units; given these two, each
unit is on its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def posterior(
    y: Floats, x: Floats, mean: Floats, spread: Floats, usual: float = 0.0, worth: float = 0.0
) -> tuple[Floats, Floats]:
    """E[b | y] (k,) and Var[b | y] (k, k), for y (n,) and X (n, k), which need not have full rank.

    s^2 is the unit's own, by EM (Dempster, Laird and Rubin 1977): each sweep expects b under s^2,
    then s^2 under b. A unit with fewer rows than coefficients would fit all of them and find no
    noise: let the `usual` s^2 then count for as much as `worth` rows.
    """
    precision, gram, moment = np.linalg.inv(spread), x.T @ x, x.T @ y
    noise = float(np.mean((y - x @ mean) ** 2))
    for _ in range(1000):
        covariance = np.linalg.inv(gram / noise + precision)
        b = covariance @ (moment / noise + precision @ mean)
        squares = float(np.sum((y - x @ b) ** 2) + np.sum(gram * covariance))
        before, noise = noise, (squares + worth * usual) / (len(y) + worth)
        if abs(noise - before) <= 1e-10 * noise:
            break
    return b, covariance
