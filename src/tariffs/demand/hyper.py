"""The posterior of the hyperparameters tau and delta, over which the units' fits are averaged.

A prior N(z'delta, tau2) with delta and tau taken as known makes intervals too narrow, most where
units are few or sell little: a point estimate of tau2 is then often zero, and every unit has the
mean of its kind for certain.  So delta is integrated out exactly, and tau on a grid,

    p(tau | b)  ~  p(tau) prod_u w_u^(1/2) |A|^(-1/2)
                   exp(-1/2 [sum_u w_u (b_u - z_u'd)^2 + (d - d0)'R (d - d0)]),
    w_u = 1 / (v_u + tau2),   A = sum_u w_u z_u z_u' + R,   d = A^-1 (sum_u w_u z_u b_u + R d0),

with R the inverse of delta's prior covariance (`EffectsPrior`; Gelman, Bayesian Data Analysis, 3rd
ed. 2013, 5.4; with a flat prior on delta this is the restricted likelihood of Harville 1977).

R depends on omega, the standard deviation of the effects of a factor's levels, and omega is
integrated out as well, on a few Gauss nodes per factor: at a single value, means of kinds would be
shrunk too little where the data contain little about omega, and promised lifts would be too high.
Its prior is exponential with P(omega > 0.5) = 0.05: the simplest model is that levels do not differ
(a penalised-complexity prior; Simpson et al. 2017).  The prior of tau is lognormal, with 90 % of it
between 0.26 and 0.97, the range of public panels (avocados 0.3, orange juice 0.5, cheese 1.0): few
units are never taken to be all alike (Chung et al. 2013).

tau's grid is then replaced by the few nodes and weights that integrate every polynomial in tau up
to degree 2 TAU_NODES - 1 exactly as the grid does (Gauss quadrature of a discrete distribution;
Golub and Welsch 1969), so that a unit's posterior is a sum of a few normal ones
(`average_over_tau`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.demand.conditional import Fit
from tariffs.demand.panel import group_sums

TAU_NODES = 5
MIN_TAU, MAX_TAU = 1e-3, 30.0
COARSE_GRID_POINTS = 40  # to find the likely range of tau
FINE_GRID_POINTS = 32  # within that range
MAX_LOG_DENSITY_DROP = 14.0  # of the likely range, below the maximum: a factor of 1e-6
OMEGA_GRID = np.array([0.025, 0.075, 0.15, 0.25, 0.4, 0.6, 0.9, 1.4])
OMEGA_WIDTHS = np.diff([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.1, 1.7])  # the interval of each
INITIAL_OMEGA = 0.3
OMEGA_SWEEPS = 3
OMEGA_NODES = 3  # of each factor's omega
MIN_WEIGHT = 1e-12  # of a point, so that no sum of weights is zero
# with theta and omega, 90 % of the elasticities of usual products are between -2.9 and -0.1;
# published ones are between -0.4 and -3
INTERCEPT_MEAN, INTERCEPT_SD = -1.5, 0.4
THETA_SD = 0.2
OMEGA_RATE = 6.0  # of its exponential prior: 5 % above 0.5
TAU_MEDIAN, TAU_LOG_SD = 0.5, 0.4  # of its lognormal prior


@dataclass(frozen=True, slots=True)
class HyperPosterior:
    """The posterior of the parameters that units share.

    delta, covariance  (columns,) and (columns, columns): averaged over tau
    tau, weight        (TAU_NODES,) the nodes, ascending, and their weights, which add up to 1
    mode, se           the mode of tau's likelihood (0 at its lower end), and tau's posterior
                       standard deviation
    omega              (factors,) root mean square of the posterior
    """

    delta: Floats
    covariance: Floats
    tau: Floats
    weight: Floats
    mode: float
    se: float
    omega: Floats

    @property
    def tau2(self) -> float:
        """The square of tau's posterior mean: units are fitted at it before they are averaged."""
        return float(np.sum(self.weight * self.tau)) ** 2


@dataclass(frozen=True, slots=True)
class EffectsPrior:
    """The prior of delta: the intercept is N(-1.5, 0.4^2), effects are N(theta t, omega_f^2).

    factor  (columns,) the factor of each column, 0, 1, 2, ..., and -1 of the intercept
    trend   (columns,) t, such as the centred log of a product's price, or 0 for no trend; theta is
            N(0, 0.2^2)
    """

    factor: Ints
    trend: Floats

    @property
    def factors(self) -> int:
        return int(self.factor.max(initial=-1)) + 1

    def precision(self, omega: Floats) -> Floats:
        """Return the inverse of delta's prior covariance; omega (factors,)."""
        columns = len(self.factor)
        covariance = np.zeros((columns, columns))
        covariance[0, 0] = INTERCEPT_SD**2
        effect = self.factor >= 0
        covariance[effect, effect] = omega[self.factor[effect]] ** 2
        for f in range(self.factors):
            trend = np.where(self.factor == f, self.trend, 0.0)
            covariance += THETA_SD**2 * np.outer(trend, trend)
        return np.asarray(np.linalg.inv(covariance))


def exchangeable_effects(columns: int) -> EffectsPrior:
    """Return the prior of one factor without a trend."""
    return EffectsPrior(np.append(-1, np.zeros(columns - 1, dtype=np.int64)), np.zeros(columns))


def integrate(
    estimate: Floats,
    variance: Floats,
    design: Floats,
    effects_prior: EffectsPrior | None = None,
    approximate: bool = False,
) -> HyperPosterior:
    """Return the posterior of delta and tau.

    estimate, variance  (K,) of the units' elasticities
    design              (K, columns), the first column the intercept
    approximate         whether omega is set to its root mean square instead of integrated out:
                        accurate enough for the tau and delta at which units are fitted
    """
    effects = exchangeable_effects(design.shape[1]) if effects_prior is None else effects_prior
    level = _SecondLevel(estimate, variance, design)
    taus = np.geomspace(MIN_TAU, MAX_TAU, COARSE_GRID_POINTS)
    start = effects.precision(np.full(effects.factors, INITIAL_OMEGA))
    likely_tau = float(taus[np.argmax([level.density(tau, start) for tau in taus])])
    omega, share = _omega_nodes(level, effects, likely_tau)
    if approximate:
        omega, share = np.sqrt(share @ omega**2)[None], np.ones(1)
    grid = _likely_grid(level, taus, effects.precision(np.sqrt(share @ omega**2)))
    priors = np.array([effects.precision(one) for one in omega])
    joint, delta, covariance = _delta_posterior(level, grid, priors, share, likely_tau)
    weight = joint.sum(axis=1)
    tau, tau_share = quadrature(grid, weight, TAU_NODES)
    mean = float(weight @ grid)
    best = int(np.argmax(np.log(np.maximum(weight, np.finfo(float).tiny)) - tau_log_prior(grid)))
    mode = 0.0 if best == 0 else float(grid[best])
    se = float(np.sqrt(max(weight @ (grid - mean) ** 2, 0.0)))
    return HyperPosterior(
        delta, covariance, tau, tau_share, mode, se, np.sqrt(joint.sum(axis=0) @ omega**2)
    )


def _likely_grid(level: _SecondLevel, taus: Floats, prior: Floats) -> Floats:
    """Return a fine grid over the range of `taus`, ascending, that has a notable density."""
    density = np.array([level.density(tau, prior) for tau in taus])
    likely = np.flatnonzero(density > density.max() - MAX_LOG_DENSITY_DROP)
    low = 0.0 if likely[0] == 0 else taus[likely[0] - 1]
    high = taus[min(likely[-1] + 1, len(taus) - 1)]
    return np.linspace(low, high, FINE_GRID_POINTS + 1)[1:]


def _delta_posterior(
    level: _SecondLevel, grid: Floats, priors: Floats, share: Floats, share_tau: float
) -> tuple[Floats, Floats, Floats]:
    """Return weights (taus, omegas), and the mean and covariance of delta, averaged with them.

    share (omegas,): the weights of the omegas of `priors` at the tau `share_tau`
    """
    found = [level.at(tau, priors) for tau in grid]
    reference = level.at(share_tau, priors).density
    density = np.array([one.density for one in found]) - reference + np.log(share)
    joint = np.exp(density - density.max())
    joint /= joint.sum()
    deltas = np.array([one.delta for one in found])
    delta = np.einsum("tk,tki->i", joint, deltas)
    covariance = np.einsum("tk,tki,tkj->ij", joint, deltas - delta, deltas - delta)
    for at, each in zip(grid, joint, strict=True):
        covariance = covariance + np.einsum("k,kij->ij", each, level.covariance(at, priors))
    return joint, delta, covariance


def _omega_nodes(level: _SecondLevel, effects: EffectsPrior, tau: float) -> tuple[Floats, Floats]:
    """Return nodes of omega (nodes, factors) and their weights (nodes,).

    Each factor's posterior is computed in turn, given the others' root mean squares, and is
    represented by a few Gauss nodes.
    """
    omega = np.full(effects.factors, INITIAL_OMEGA)
    if not effects.factors:
        return omega[None], np.ones(1)
    nodes = [(omega[:1], np.ones(1))] * effects.factors
    for _ in range(OMEGA_SWEEPS):
        for f in range(effects.factors):
            tries = [np.where(np.arange(effects.factors) == f, one, omega) for one in OMEGA_GRID]
            density = (
                level.at(tau, np.array([effects.precision(each) for each in tries])).density
                + omega_log_prior(OMEGA_GRID)
                + np.log(OMEGA_WIDTHS)
            )
            weight = np.maximum(np.exp(density - density.max()), MIN_WEIGHT)
            weight /= weight.sum()
            omega[f] = float(np.sqrt(weight @ OMEGA_GRID**2))
            nodes[f] = quadrature(OMEGA_GRID, weight, OMEGA_NODES)
    at = np.meshgrid(*(points for points, _ in nodes), indexing="ij")
    share = np.meshgrid(*(weights for _, weights in nodes), indexing="ij")
    return np.stack([points.ravel() for points in at], axis=1), np.asarray(
        np.prod([each.ravel() for each in share], axis=0)
    )


def omega_log_prior(omega: Floats) -> Floats:
    """Return the log of omega's prior density, up to a constant."""
    return -OMEGA_RATE * omega


def tau_log_prior(tau: Floats | float) -> Floats:
    """Return the log of tau's prior density, up to a constant."""
    score = np.log(np.asarray(tau) / TAU_MEDIAN) / TAU_LOG_SD
    return np.asarray(-np.log(tau) - 0.5 * score * score)


def quadrature(points: Floats, weight: Floats, nodes: int) -> tuple[Floats, Floats]:
    """Return Gauss nodes, ascending, and weights of a discrete distribution.

    They are the eigenvalues of its Jacobi matrix, and the squares of the eigenvectors' first
    elements (Golub and Welsch 1969).  The matrix comes from Stieltjes' three-term recurrence.
    """
    alpha, beta = np.zeros(nodes), np.zeros(nodes)
    before, now, norm = np.zeros_like(points), np.ones_like(points), 1.0
    for k in range(nodes):
        alpha[k] = weight @ (points * now * now) / norm
        after = (points - alpha[k]) * now - beta[k] * before
        before, now, last = now, after, norm
        norm = float(weight @ (now * now))
        if k + 1 < nodes:
            beta[k + 1] = norm / last
    jacobi = np.diag(alpha) + np.diag(np.sqrt(beta[1:]), 1) + np.diag(np.sqrt(beta[1:]), -1)
    at, vectors = np.linalg.eigh(jacobi)
    share = vectors[0] ** 2
    return at, share / share.sum()


def average_over_tau(
    fit: Fit, mean: Floats, tau2: float, tau: Floats, weight: Floats, spread: Floats
) -> Fit:
    """Return posteriors (units,), fitted at N(mean, tau2), averaged over the nodes of tau.

    spread (units,) = z' Cov(delta) z.  With a quadratic log likelihood around the fit (information
    I), a node's posterior has the precision h = I + 1 / tau_k2, the prior's share of it
    B = 1 / (h tau_k2), the mean (I b + m / tau_k2) / h with I b = I beta + (beta - mean) / tau2,
    and the variance 1 / h + B^2 z' Cov(delta) z (Kass and Steffey 1989).  All operations are
    elementwise: the results are equal to the last bit for one unit and for many.
    """
    precision = 1.0 / tau2
    information = np.maximum(precision / fit.shrink - precision, 0.0)
    weighted = information * fit.beta + (fit.beta - mean) * precision
    each = 1.0 / (tau * tau)[:, None]  # (nodes, 1)
    curvature = information + each
    share = each / curvature
    beta = (weighted + each * mean) / curvature
    of = weight[:, None]
    centre = _node_sum(of * beta)
    variance = _node_sum(
        of * (1.0 / curvature + share * share * spread + (beta - centre) * (beta - centre))
    )
    uninformed = ~(information > 0.0)  # keeps the prior to the last bit
    centre, shared = (
        np.where(uninformed, mean, centre),
        np.where(uninformed, 1.0, _node_sum(of * share)),
    )
    exposed = fit.exposed * np.exp(fit.centre * (centre - fit.beta))
    return Fit(centre, np.sqrt(variance), shared, exposed, fit.demand, fit.centre)


def discount_information(fit: Fit, tau2: float, left: Floats) -> Fit:
    """Return the fit with its information multiplied by `left` (units,), in its sd and shrink.

    `left` is the fraction that the estimation of the season leaves.  The mode does not change.
    """
    precision = 1.0 / tau2
    curvature = np.maximum(precision / fit.shrink - precision, 0.0) * left + precision
    return replace(fit, sd=1.0 / np.sqrt(curvature), shrink=precision / curvature)


def likelihood_moments(fit: Fit, mean: Floats, tau2: float) -> tuple[Floats, Floats]:
    """Return each unit's own estimate and variance, without the prior; both (units,).

    By Laplace's approximation at the posterior mode.  The variance is infinite for a unit without
    information.
    """
    precision = 1.0 / tau2
    information = np.maximum(precision / fit.shrink - precision, 0.0)
    known = information > 1e-12 * precision
    safe = np.where(known, information, 1.0)
    estimate = np.where(known, fit.beta + (fit.beta - mean) * precision / safe, mean)
    return estimate, np.where(known, 1.0 / safe, np.inf)


def _node_sum(values: Floats) -> Floats:
    """Return the sum over the nodes, added one after the other."""
    return np.asarray(np.add.reduce(values, axis=0))


def _distinct_rows(design: Floats) -> tuple[Ints, Ints]:
    """Return the first of each set of equal rows, and the number of each row's set.

    Sets are in the order of their bytes, which are hashed: to sort them takes ten times as long.
    """
    rows = np.ascontiguousarray(design)
    data, width = rows.tobytes(), rows.itemsize * rows.shape[1]
    keys = [data[at : at + width] for at in range(0, len(data), width)]
    first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
    number = {key: n for n, key in enumerate(sorted(first))}
    at = np.fromiter((first[key] for key in number), dtype=np.int64, count=len(number))
    return at, np.fromiter(map(number.__getitem__, keys), dtype=np.int64, count=len(keys))


@dataclass(frozen=True, slots=True)
class _TauSlice:
    """The log density (nodes,) and the mean of delta (nodes, columns), at one tau."""

    density: Floats
    delta: Floats


class _SecondLevel:
    """The second level of the model, evaluated at one tau after the other.

    Units of one kind (equal rows of the design) are added up first.
    """

    def __init__(self, estimate: Floats, variance: Floats, design: Floats) -> None:
        first, kind = _distinct_rows(design)
        self.estimate, self.variance, self.kind, self.kinds = (
            estimate,
            variance,
            kind,
            design[first],
        )
        self._sums: dict[float, tuple[Floats, Floats, float, float]] = {}

    def density(self, tau: float, prior: Floats) -> float:
        """Return the log density of tau at one prior of delta (columns, columns)."""
        return float(self.at(tau, prior[None]).density[0])

    def at(self, tau: float, priors: Floats) -> _TauSlice:
        """Return the posterior at each of several priors of delta (nodes, columns, columns)."""
        _, pull, square, logs = self._kind_sums(tau)
        normal = self._normal(tau, priors)
        moment = self.kinds.T @ pull + priors[:, :, 0] * INTERCEPT_MEAN
        delta = np.asarray(np.linalg.solve(normal, moment[:, :, None])[:, :, 0], dtype=np.float64)
        squares = square + priors[:, 0, 0] * INTERCEPT_MEAN**2 - np.sum(moment * delta, axis=1)
        determinants = np.linalg.slogdet(priors)[1] - np.linalg.slogdet(normal)[1]
        return _TauSlice(
            np.asarray(0.5 * (logs - squares + determinants) + tau_log_prior(tau)), delta
        )

    def covariance(self, tau: float, priors: Floats) -> Floats:
        """Return the posterior covariance of delta at each prior; (nodes, columns, columns)."""
        return np.asarray(np.linalg.inv(self._normal(tau, priors)), dtype=np.float64)

    def _normal(self, tau: float, priors: Floats) -> Floats:
        known = self._kind_sums(tau)[0]
        return np.asarray((self.kinds * known[:, None]).T @ self.kinds + priors)

    def _kind_sums(self, tau: float) -> tuple[Floats, Floats, float, float]:
        """Return the weights and weighted estimates per kind, the sums of squares and logs."""
        if tau not in self._sums:
            weight = 1.0 / (self.variance + tau * tau)
            weighted = weight * self.estimate
            self._sums[tau] = (
                group_sums(self.kind, weight, len(self.kinds)),
                group_sums(self.kind, weighted, len(self.kinds)),
                float(np.sum(weighted * self.estimate)),
                float(np.sum(np.log(weight))),
            )
        return self._sums[tau]
