"""The effect of the whole table, with intervals.

Single deltas have intervals; that of their sum is wider than for independent deltas, since all
units depend on the same rho, delta and tau.  By the delta method, with h_u = d Delta_u / d beta_u,
and B_u the share of the prior in the information on beta_u,

    Var(sum) = G' Cov(delta) G + S' se(tau)^2 S + Var(rho) (sum h_u)^2
               + sum h_u^2 B_u tau2 + phi c sum Delta_u^2 / Y_u,

    G = sum h_u B_u z_u        (delta moves beta_u by B_u z_u)
    S = sum 2 h_u B_u (beta_u - m_u) / tau        (d beta_u / d tau, for B = 1 / (1 + I tau2))

since the correction for rho moves every beta equally, and the last two parts, the errors of each
unit's elasticity and of its level, are independent.  All of it is computed from sums by kind of
unit (`queries/totals.sql`), so that a million units need one aggregation.

Up to 2,000 units of a kind are copied (`tariffs.pricing.optimism`), and then the variance is at
least that of the copies: with few units the choice of the moves and the estimation of tau make it
larger than the delta method does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Columns, Labels, Rows
from tariffs.demand.prior import Prior
from tariffs.optimise.rule import COVERAGE_90
from tariffs.pricing import bundles, voice
from tariffs.pricing.optimism import optimism


@dataclass(frozen=True, slots=True)
class Totals:
    """The expected change of volume, revenue and margin of one kind, per week, with 90 % intervals.

    tau, tau_se  the spread of elasticities within a kind, and its standard error: a smaller tau
                 is not distinguishable from 0
    common       the share of the margin's variance that all units have in common
    optimism     the share of the units' changes of margin (their absolute values) that was
                 subtracted from their sum (`tariffs.pricing.optimism`)
    """

    volume: float
    volume_lo: float
    volume_hi: float
    revenue: float
    revenue_lo: float
    revenue_hi: float
    margin: float
    margin_lo: float
    margin_hi: float
    tau: float
    tau_se: float
    common: float
    optimism: float


def total(rows: Rows, prior: Prior, voice_prior: Prior) -> Totals:
    """Return the totals of one kind, from the sums of its kinds of unit."""
    mine, factors = (
        (prior, bundles.FACTORS) if rows["kind"][0] == "bundle" else (voice_prior, voice.FACTORS)
    )
    labels = {
        name: rows[column].astype(object)
        for name, column in zip(factors, ("first", "second", "third"), strict=True)
    }
    found: dict[str, float] = {}
    excess = optimism(rows, mine, labels)
    for name in ("volume", "revenue", "margin"):
        shared, own = variance_of(rows, name, mine, labels)
        size = float(np.sum(rows[f"{name}_size"]))
        half = COVERAGE_90 * max(math.sqrt(shared + own), excess.error[name] * size)
        middle = float(np.sum(rows[name])) - excess.share[name] * size
        found |= {name: middle, f"{name}_lo": middle - half, f"{name}_hi": middle + half}
    return Totals(
        **found,
        tau=mine.tau,
        tau_se=mine.tau_se,
        common=shared / (shared + own) if shared + own > 0 else 0.0,
        optimism=excess.share["margin"],
    )


def variance_of(
    rows: Columns, name: str, prior: Prior, labels: dict[str, Labels]
) -> tuple[float, float]:
    """Return the variance of a sum of deltas: the common part, and the independent part."""
    h, hb, hbb, hhb, level = (
        np.asarray(rows[f"{name}_{part}"], dtype=np.float64)
        for part in ("h", "hb", "hbb", "hhb", "level")
    )
    tau2 = float(np.sum(prior.tau_weights * prior.tau_nodes**2))
    moved = float(np.sum(2.0 * (hbb - prior.mean(labels) * hb))) / math.sqrt(prior.tau2)
    shared = (
        prior.joint(labels, hb)
        + (moved * prior.tau_se) ** 2
        + prior.rho_variance * float(np.sum(h)) ** 2
    )
    noise = prior.of_group(prior.dispersion * prior.inflation, labels)
    return shared, float(np.sum(hhb)) * tau2 + float(np.sum(noise * level))
