"""What the second level does not know of itself: tau and delta as distributions instead of two numbers.

A prior N(z'delta, tau2) whose delta and tau are taken for known makes intervals too narrow, most of all where units are few or sell little: a point
estimate of tau2 is then often zero, and every unit is certain of the mean of its kind.  So delta is integrated out exactly, and tau on a grid,

    p(tau | b)  ~  p(tau) prod_u w_u^(1/2) |A|^(-1/2) exp(-1/2 [sum_u w_u (b_u - z_u'd)^2 + (d - d0)'R (d - d0)]),
    w_u = 1 / (v_u + tau2),   A = sum_u w_u z_u z_u' + R,   d = A^-1 (sum_u w_u z_u b_u + R d0),

with R the inverse of delta's prior covariance (`Kinds`; Gelman, Bayesian Data Analysis, 3rd ed. 2013, 5.4; with a flat prior on delta this is the
restricted likelihood of Harville 1977).  R depends on omega, how far the levels of a factor differ, and omega is integrated out as well, on a few Gauss nodes per factor:
at a single value, means of kinds would be shrunk too little where omega is hardly seen, and lifts promised too high.  Its prior is exponential with
P(omega > 0.5) = 0.05: the simplest answer is that levels do not differ (a penalised-complexity prior; Simpson et al. 2017).  The prior of tau is lognormal, 90 % of it between
0.26 and 0.97, which is what public panels show (avocados 0.3, orange juice 0.5, cheese 1.0): no handful of units passes for all alike (Chung et al. 2013).
tau's grid is then replaced by the few nodes and weights that integrate every polynomial in tau up to degree 2 NODES - 1 as it does (Gauss quadrature of a
discrete distribution; Golub and Welsch 1969), so that a unit's posterior is a sum of a few normal ones (`average`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tariffs.columns import Floats, Ints
from tariffs.demand.conditional import Fit
from tariffs.demand.panel import tally

NODES = 5
SMALLEST_TAU, LARGEST_TAU = 1e-3, 30.0
COARSE, FINE = 40, 32  # points of the grid: to find where tau is likely, and there
UNLIKELY = 14.0  # in log density below the greatest: 1e-6
OMEGAS = np.array([0.025, 0.075, 0.15, 0.25, 0.4, 0.6, 0.9, 1.4])
WIDTHS = np.diff(
    [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.1, 1.7]
)  # of the part of the line that each of them stands for
START = 0.3  # of omega
SWEEPS = 3
OMEGA_NODES = 3  # of each factor's omega
FAINT = 1e-12  # the least weight of a point, so that there is something to divide by
INTERCEPT, INTERCEPT_SD = (
    -1.5,
    0.4,
)  # with the rest, 90 % of the elasticities of usual products lie between -2.9 and -0.1: published are -0.4 to -3
THETA_SD = 0.2
OMEGA_RATE = 6.0  # of its exponential prior: 5 % above 0.5
USUAL_TAU, TAU_SPREAD = 0.5, 0.4  # median of tau's prior, and the standard deviation of its log


@dataclass(frozen=True, slots=True)
class Hyper:
    """The posterior of what units share.

    delta, covariance  (columns,) and (columns, columns): averaged over tau
    tau, weight        (NODES,) the nodes, rising, and their weights, which add up to 1
    mode, se           tau where it is most likely (0 where nothing is seen of it), and its posterior standard deviation
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
        """The square of tau's posterior mean: where units are fitted, before they are averaged over the nodes."""
        return float(np.sum(self.weight * self.tau)) ** 2


@dataclass(frozen=True, slots=True)
class Kinds:
    """What is thought of delta before any data: the intercept is N(-1.5, 0.4^2), the effects of a factor's levels are N(theta t, omega_f^2).

    factor  (columns,) the factor of each column, 0, 1, 2, ..., and -1 of the intercept
    trend   (columns,) t, such as the log of a product's price, centred; theta is N(0, 0.2^2).  0 where there is none
    """

    factor: Ints
    trend: Floats

    @property
    def factors(self) -> int:
        return int(self.factor.max(initial=-1)) + 1

    def precision(self, omega: Floats) -> Floats:
        """The inverse of delta's prior covariance; omega (factors,)."""
        columns = len(self.factor)
        covariance = np.zeros((columns, columns))
        covariance[0, 0] = INTERCEPT_SD**2
        effect = self.factor >= 0
        covariance[effect, effect] = omega[self.factor[effect]] ** 2
        for f in range(self.factors):
            trend = np.where(self.factor == f, self.trend, 0.0)
            covariance += THETA_SD**2 * np.outer(trend, trend)
        return np.asarray(np.linalg.inv(covariance))


def plain(columns: int) -> Kinds:
    """One factor, no trend."""
    return Kinds(np.append(-1, np.zeros(columns - 1, dtype=np.int64)), np.zeros(columns))


def integrate(
    estimate: Floats,
    variance: Floats,
    design: Floats,
    kinds: Kinds | None = None,
    rough: bool = False,
) -> Hyper:
    """The posterior of delta and tau, from estimates (K,) with these variances; design (K, columns), the first column the intercept.

    `rough` takes omega at the root of its mean square instead of integrating over it: enough for a place to fit units at.
    """
    kinds = plain(design.shape[1]) if kinds is None else kinds
    level = _Level(estimate, variance, design)
    taus = np.geomspace(SMALLEST_TAU, LARGEST_TAU, COARSE)
    start = kinds.precision(np.full(kinds.factors, START))
    likely_tau = float(taus[np.argmax([level.density(tau, start) for tau in taus])])
    omega, share = _spreads(level, kinds, likely_tau)
    if rough:
        omega, share = np.sqrt(share @ omega**2)[None], np.ones(1)
    priors = np.array([kinds.precision(one) for one in omega])
    usual = kinds.precision(np.sqrt(share @ omega**2))
    first = np.array([level.density(tau, usual) for tau in taus])
    likely = np.flatnonzero(first > first.max() - UNLIKELY)
    low = 0.0 if likely[0] == 0 else taus[likely[0] - 1]
    grid = np.linspace(low, taus[min(likely[-1] + 1, COARSE - 1)], FINE + 1)[1:]
    found = [level.at(tau, priors) for tau in grid]
    density = (
        np.array([one.density for one in found])
        - level.at(likely_tau, priors).density
        + np.log(share)
    )  # (taus, omegas)
    joint = np.exp(density - density.max())
    joint /= joint.sum()
    weight = joint.sum(axis=1)
    deltas = np.array([one.delta for one in found])
    delta = np.einsum("tk,tki->i", joint, deltas)
    covariance = np.einsum("tk,tki,tkj->ij", joint, deltas - delta, deltas - delta)
    for at, each in zip(grid, joint, strict=True):
        covariance = covariance + np.einsum("k,kij->ij", each, level.covariance(at, priors))
    tau, tau_share = quadrature(grid, weight, NODES)
    mean = float(weight @ grid)
    best = int(np.argmax(np.log(np.maximum(weight, np.finfo(float).tiny)) - tau_prior(grid)))
    mode = 0.0 if best == 0 else float(grid[best])
    se = float(np.sqrt(max(weight @ (grid - mean) ** 2, 0.0)))
    return Hyper(delta, covariance, tau, tau_share, mode, se, np.sqrt(joint.sum(axis=0) @ omega**2))


def _spreads(level: _Level, kinds: Kinds, tau: float) -> tuple[Floats, Floats]:
    """Nodes of omega (nodes, factors) and their weights (nodes,): each factor's posterior given the others' mean squares, in turn, in a few Gauss nodes."""
    omega = np.full(kinds.factors, START)
    if not kinds.factors:
        return omega[None], np.ones(1)
    nodes = [(omega[:1], np.ones(1))] * kinds.factors
    for _ in range(SWEEPS):
        for f in range(kinds.factors):
            tries = [np.where(np.arange(kinds.factors) == f, one, omega) for one in OMEGAS]
            density = (
                level.at(tau, np.array([kinds.precision(each) for each in tries])).density
                + omega_prior(OMEGAS)
                + np.log(WIDTHS)
            )
            weight = np.maximum(np.exp(density - density.max()), FAINT)
            weight /= weight.sum()
            omega[f] = float(np.sqrt(weight @ OMEGAS**2))
            nodes[f] = quadrature(OMEGAS, weight, OMEGA_NODES)
    at = np.meshgrid(*(points for points, _ in nodes), indexing="ij")
    share = np.meshgrid(*(weights for _, weights in nodes), indexing="ij")
    return np.stack([points.ravel() for points in at], axis=1), np.asarray(
        np.prod([each.ravel() for each in share], axis=0)
    )


def omega_prior(omega: Floats) -> Floats:
    """Its log density but for a constant."""
    return -OMEGA_RATE * omega


def tau_prior(tau: Floats | float) -> Floats:
    """Its log density but for a constant."""
    far = np.log(np.asarray(tau) / USUAL_TAU) / TAU_SPREAD
    return np.asarray(-np.log(tau) - 0.5 * far * far)


def quadrature(points: Floats, weight: Floats, nodes: int) -> tuple[Floats, Floats]:
    """Gauss nodes, rising, and weights of a discrete distribution: the eigenvalues of its Jacobi matrix, and the squares of the eigenvectors' first
    elements (Golub and Welsch 1969).  The matrix comes from Stieltjes' three-term recurrence."""
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


def average(
    fit: Fit, mean: Floats, tau2: float, tau: Floats, weight: Floats, spread: Floats
) -> Fit:
    """Posteriors (units,) that were fitted at N(mean, tau2), averaged over the nodes of tau; spread (units,) = z' Cov(delta) z.

    With the likelihood a parabola around the fit (information I), a node's posterior has the precision h = I + 1 / tau_k2, the share B = 1 / (h tau_k2) of
    the prior in it, the mean (I b + m / tau_k2) / h, and the variance 1 / h + B^2 z' Cov(delta) z (Kass and Steffey 1989); I b = I beta + (beta - mean) / tau2.
    Value by value: the same bits for one unit and for many.
    """
    precision = 1.0 / tau2
    information = np.maximum(precision / fit.shrink - precision, 0.0)
    told = information * fit.beta + (fit.beta - mean) * precision
    each = 1.0 / (tau * tau)[:, None]  # (nodes, 1)
    curvature = information + each
    share = each / curvature
    beta = (told + each * mean) / curvature
    of = weight[:, None]
    centre = _sum(of * beta)
    variance = _sum(
        of * (1.0 / curvature + share * share * spread + (beta - centre) * (beta - centre))
    )
    silent = ~(information > 0.0)  # keeps the prior to the last bit
    centre, shared = np.where(silent, mean, centre), np.where(silent, 1.0, _sum(of * share))
    exposed = fit.exposed * np.exp(fit.centre * (centre - fit.beta))
    return Fit(centre, np.sqrt(variance), shared, exposed, fit.demand, fit.centre)


def hidden(fit: Fit, tau2: float, left: Floats) -> Fit:
    """The fit with as much of its information as the season leaves (units,), in its sd and shrink; the mode stays."""
    precision = 1.0 / tau2
    curvature = np.maximum(precision / fit.shrink - precision, 0.0) * left + precision
    return replace(fit, sd=1.0 / np.sqrt(curvature), shrink=precision / curvature)


def pseudo(fit: Fit, mean: Floats, tau2: float) -> tuple[Floats, Floats]:
    """What each unit says by itself, around its posterior mode: estimate and variance; infinite where it says nothing (Laplace's approximation)."""
    precision = 1.0 / tau2
    information = np.maximum(precision / fit.shrink - precision, 0.0)
    known = information > 1e-12 * precision
    safe = np.where(known, information, 1.0)
    estimate = np.where(known, fit.beta + (fit.beta - mean) * precision / safe, mean)
    return estimate, np.where(known, 1.0 / safe, np.inf)


def _sum(values: Floats) -> Floats:
    """Over the nodes, one after the other."""
    return np.asarray(np.add.reduce(values, axis=0))


@dataclass(frozen=True, slots=True)
class _At:
    """density (nodes,), delta (nodes, columns)."""

    density: Floats
    delta: Floats


class _Level:
    """The second level at one tau after the other; units of one kind (equal rows of the design) are added up first."""

    def __init__(self, estimate: Floats, variance: Floats, design: Floats) -> None:
        rows = (
            np.ascontiguousarray(design)
            .view(np.dtype((np.void, design.dtype.itemsize * design.shape[1])))
            .ravel()
        )
        _, first, kind = np.unique(rows, return_index=True, return_inverse=True)
        self.estimate, self.variance, self.kind, self.kinds = (
            estimate,
            variance,
            kind,
            design[first],
        )
        self._tau, self._sums = -1.0, (np.zeros(0), np.zeros(0), 0.0, 0.0)

    def density(self, tau: float, prior: Floats) -> float:
        return float(self.at(tau, prior[None]).density[0])

    def at(self, tau: float, priors: Floats) -> _At:
        """At each of several priors of delta (nodes, columns, columns)."""
        _, pull, square, logs = self._added(tau)
        normal = self._normal(tau, priors)
        moment = self.kinds.T @ pull + priors[:, :, 0] * INTERCEPT
        delta = np.asarray(np.linalg.solve(normal, moment[:, :, None])[:, :, 0], dtype=np.float64)
        squares = square + priors[:, 0, 0] * INTERCEPT**2 - np.sum(moment * delta, axis=1)
        determinants = np.linalg.slogdet(priors)[1] - np.linalg.slogdet(normal)[1]
        return _At(np.asarray(0.5 * (logs - squares + determinants) + tau_prior(tau)), delta)

    def covariance(self, tau: float, priors: Floats) -> Floats:
        """Of delta, at each of them; (nodes, columns, columns)."""
        return np.asarray(np.linalg.inv(self._normal(tau, priors)), dtype=np.float64)

    def _normal(self, tau: float, priors: Floats) -> Floats:
        known = self._added(tau)[0]
        return np.asarray((self.kinds * known[:, None]).T @ self.kinds + priors)

    def _added(self, tau: float) -> tuple[Floats, Floats, float, float]:
        """Per kind the weights and the weighted estimates; in all the weighted squares and the logs of the weights."""
        if tau != self._tau:
            weight = 1.0 / (self.variance + tau * tau)
            pulled = weight * self.estimate
            known, pull = (
                tally(self.kind, weight, len(self.kinds)),
                tally(self.kind, pulled, len(self.kinds)),
            )
            self._tau, self._sums = (
                tau,
                (known, pull, float(np.sum(pulled * self.estimate)), float(np.sum(np.log(weight)))),
            )
        return self._sums
