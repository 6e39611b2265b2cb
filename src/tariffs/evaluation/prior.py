"""The prior's findings on its data: endogeneity of prices, noise of each group, the gate's choices.

These are the run's own findings (`tariffs.demand.prior`), on which its prices are based. Only the
sales that neighbouring products take are estimated here, to tell them from foresight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tariffs.demand.endogeneity import ENDOGENOUS, EXOGENOUS, NOT_TESTED
from tariffs.demand.prior import Prior
from tariffs.evaluation.product_lines import BUNDLE, Line
from tariffs.evaluation.run_data import FinishedRun
from tariffs.evaluation.substitution import separate_foresight

MEANING: Mapping[str, str] = {
    EXOGENOUS: "no sign that prices foresaw demand; the little that was found is taken out",
    ENDOGENOUS: "prices foresaw demand; that is taken out, and its doubt is in every interval",
    NOT_TESTED: "too few trials, locations or cells: log trials on 5 to 10 % of the weeks",
}


POWER = (
    1.959964 + 0.841621
)  # standard errors: a test at 5 % detects such a rho in four cases of five


@dataclass(frozen=True, slots=True)
class Group:
    """One group of units.

    elasticity   of the group as one;  dispersion, inflation  its noise, phi and c
    gate         EB, POOLED or EB_UNTESTED, decided by `tested` units, with the held-out deviance
                 per week of both candidates (NaN without any)
    """

    name: str
    elasticity: float
    dispersion: float
    inflation: float
    gate: str
    tested: int
    deviance_eb: float
    deviance_pooled: float


@dataclass(frozen=True, slots=True)
class PriorSummary:
    """The prior of a line.

    exogeneity, rho, rho_se, rho_p   the test of the prices
    visible            the rho that the test detects in four cases of five
    rho_used           the part of rho that is taken out of every unit's weeks
    chi, chi_se        sales taken by neighbouring products (`evaluation.substitution`)
    rho_beside         rho of the same market with chi removed, with rho_beside_se; NaN if not known
    trials, censored   shares of the weeks
    tau                the spread around the mean of a kind
    units, telling     units read, and units with information on tau
    factor             of the groups
    """

    line: str
    exogeneity: str
    meaning: str
    rho: float
    rho_se: float
    rho_p: float
    visible: float
    rho_used: float
    chi: float
    chi_se: float
    rho_beside: float
    rho_beside_se: float
    trials: float
    censored: float
    tau: float
    units: int
    telling: int
    factor: str
    groups: tuple[Group, ...]


def summarise_prior(finished: FinishedRun, line: Line) -> PriorSummary:
    """Return the findings of the run's prior for this line."""
    prior = finished.prior(line)
    tested = prior.exogeneity != NOT_TESTED
    rho, se, p = (prior.rho, prior.rho_se, prior.rho_p) if tested else (math.nan,) * 3
    parted = separate_foresight(finished) if tested and line is BUNDLE else None
    beside = (
        (parted[0].chi, parted[0].se, parted[1].rho, parted[1].se) if parted else (math.nan,) * 4
    )
    return PriorSummary(
        line.kind,
        prior.exogeneity,
        MEANING[prior.exogeneity],
        rho,
        se,
        p,
        POWER * se,
        prior.rho_used,
        *beside,
        prior.trials,
        prior.censored,
        math.sqrt(prior.tau2),
        prior.units,
        prior.gated,
        prior.group_factor,
        tuple(_groups(prior)),
    )


def _groups(prior: Prior) -> list[Group]:
    columns = zip(
        prior.groups,
        prior.group_beta,
        prior.dispersion,
        prior.inflation,
        prior.gate_choice,
        prior.gate_units,
        prior.gate_eb,
        prior.gate_pooled,
        strict=True,
    )
    return [
        Group(
            str(name),
            float(beta),
            float(phi),
            float(c),
            str(gate),
            int(tested),
            float(eb),
            float(pooled),
        )
        for name, beta, phi, c, gate, tested, eb, pooled in columns
    ]
