"""Substitution within a ladder: the estimate from the run's sales, beside the policy's value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from hundredfold.errors import UsageError
from tariffs.columns import Floats, Ints, Labels, Rows, key_offsets
from tariffs.demand.endogeneity import Exogeneity, assess_exogeneity
from tariffs.demand.panel import Panel
from tariffs.demand.substitution import Substitution, fit_substitution, neighbours
from tariffs.evaluation.product_lines import BUNDLE
from tariffs.evaluation.run_data import FinishedRun, columns, query
from tariffs.pricing.estimation import observe

MAX_UNITS = 50_000


@dataclass(frozen=True, slots=True)
class SubstitutionEstimate:
    """found: the estimate.  policy: `cross_effect` of each scope that sets one in the run."""

    found: Substitution
    policy: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Ladders:
    """The weeks of bundles whose neighbours in their ladder were all sold in the same week.

    pull (rows,)          the sum of the relative prices of the neighbours
    group, cluster        of each unit: its product, its location
    cell (rows,)          the season of its segment and week, of `periods` weeks
    """

    panel: Panel
    pull: Floats
    group: Ints
    cell: Ints
    periods: int
    cluster: Ints

    def fit(self) -> Substitution:
        panel = replace(self.panel, trial=None)  # common causes of all prices are not considered
        return fit_substitution(panel, self.pull, self.group, self.cell, self.periods, self.cluster)


def substitution(finished: FinishedRun) -> SubstitutionEstimate:
    """Estimate substitution from the run's bundles, or every k-th location beyond 50,000 units.

    Raises UsageError if the rows have too little information.
    """
    ladders = _ladders(finished)
    if ladders is None:
        raise UsageError(
            "no product has a neighbour in its ladder that was sold in the same week",
            hint="wanted neighbours in the catalogue's columns ladder and rung",
        )
    try:
        found = ladders.fit()
    except ValueError as error:
        raise UsageError(f"substitution cannot be estimated: {error}") from None
    return SubstitutionEstimate(found, _policy_value(finished.policy()))


def separate_foresight(finished: FinishedRun) -> tuple[Substitution, Exogeneity] | None:
    """Estimate substitution, and test the prices after removing it.

    A neighbour's price and the part of the own price that was no trial are two regressors, and both
    coefficients are identified. None if substitution cannot be estimated.
    """
    ladders = _ladders(finished)
    if ladders is None:
        return None
    try:
        found = ladders.fit()
    except ValueError:
        return None
    panel = ladders.panel.with_season(found.chi * ladders.pull)
    return found, assess_exogeneity(
        panel, ladders.group, ladders.cell, ladders.periods, ladders.cluster
    )


def _ladders(finished: FinishedRun) -> _Ladders | None:
    rows = finished.of_some(BUNDLE, "location", MAX_UNITS)
    offsets = key_offsets(rows, BUNDLE.key)
    seen = observe(rows, offsets)
    keys = {name: rows[name][offsets[:-1]] for name in BUNDLE.key}
    period = np.unique(seen.days, return_inverse=True)[1]
    pull, known = neighbours(
        seen.panel.unit,
        period,
        seen.panel.x,
        neighbour_price(keys, finished.table("product_catalog")),
    )
    if not known.any():
        return None
    kept, units = seen.panel.select_rows(known)
    group, season, cluster = (
        np.unique(keys[name][units], return_inverse=True)[1]
        for name in ("product", "segment", "location")
    )
    periods = int(period.max()) + 1
    cell = season[kept.unit] * periods + period[known]
    return _Ladders(kept, pull[known], group, cell, periods, cluster)


def neighbour_price(keys: Rows, catalogue: pa.Table) -> Ints:
    """Return the units one rung below and above each, -1 at the ends of a ladder; (units, 2)."""
    rung_of = {
        product: (ladder, rung)
        for product, ladder, rung in zip(
            *(catalogue[n].to_pylist() for n in ("product", "ladder", "rung")), strict=True
        )
    }
    rungs = list(
        zip(keys["segment"], keys["location"], _rungs(keys["product"], rung_of), strict=True)
    )
    at = {
        (segment, location, *rung): number
        for number, (segment, location, rung) in enumerate(rungs)
        if rung[0] is not None
    }
    return np.array(
        [
            [
                at.get((s, p, ladder, rung + step), -1) if ladder is not None else -1
                for step in (-1, 1)
            ]
            for s, p, (ladder, rung) in rungs
        ]
    )


def _rungs(
    products: Labels, rung_of: dict[str, tuple[str | None, int | None]]
) -> list[tuple[str | None, int]]:
    found = [rung_of.get(str(product), (None, None)) for product in products]
    return [
        (ladder, int(rung)) if ladder is not None and rung is not None else (None, 0)
        for ladder, rung in found
    ]


def _policy_value(policy: pa.Table) -> dict[str, float]:
    if "cross_effect" not in policy.column_names:
        return {}
    rows = columns(
        query(
            "SELECT scope, CAST(cross_effect AS DOUBLE) AS value FROM policy"
            " WHERE kind = 'bundle' AND cross_effect IS NOT NULL ORDER BY scope",
            policy=policy,
        )
    )
    return {
        str(scope): float(value) for scope, value in zip(rows["scope"], rows["value"], strict=True)
    }
