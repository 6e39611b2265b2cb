"""Backtest on held-out weeks: how well does each estimator predict the distribution of sales?

The last weeks are held out, everything is estimated from the weeks before, and the held-out weeks
are scored with the levels of the units and the season of these weeks at their best values: the rest
is the response to price, in which the four estimators differ.  It needs no truth, so it is the test
that a real operator's data permit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hundredfold.errors import UsageError
from tariffs.columns import Bools, Floats, Ints, Rows, key_offsets
from tariffs.demand.panel import Panel, group_sums
from tariffs.demand.prior import Prior
from tariffs.demand.season import expected_sales
from tariffs.evaluation.elasticity_recovery import (
    ESTIMATORS,
    choices,
    fit_alone,
    labels_of,
    one_for_all,
)
from tariffs.evaluation.product_lines import Line
from tariffs.evaluation.run_data import FinishedRun
from tariffs.evaluation.unit_arrays import unit_arrays
from tariffs.pricing.estimation import observe

MIN_TRAINING_WEEKS = 4
MAX_UNITS = 50_000
FULL = 0.001  # relative; a cell's minutes are rounded
SWEEPS, TOLERANCE = 100, 1e-9
MIN_MEAN = float(np.finfo(float).tiny)


@dataclass(frozen=True, slots=True)
class LevelScore:
    """Poisson deviance per held-out week of each estimator, for one level of a factor (or all)."""

    level: str
    units: int
    weeks: int
    deviance: Mapping[str, float]

    @property
    def best(self) -> str:
        return min(ESTIMATORS, key=lambda way: self.deviance[way])


@dataclass(frozen=True, slots=True)
class Backtest:
    """The results of a backtest.

    held_out  number of weeks;  factor  of the levels;  judged  all units first, then each level
    gate      the backtest gate's choice for each level in the run itself, if it had one
    """

    line: str
    held_out: int
    factor: str
    judged: tuple[LevelScore, ...]
    gate: Mapping[str, str]


def backtest(finished: FinishedRun, line: Line, weeks: int) -> Backtest:
    """Score the run's units, or every k-th beyond 50,000; UsageError with too few weeks."""
    rows = finished.sample(line, MAX_UNITS)
    periods = np.unique(rows["week"])
    if not 1 <= weeks <= len(periods) - MIN_TRAINING_WEEKS:
        raise UsageError(
            f"--weeks is {weeks}, and the run has {len(periods)} weeks of {line.kind} sales",
            hint=f"hold out 1 to {len(periods) - MIN_TRAINING_WEEKS}:"
            f" at least {MIN_TRAINING_WEEKS} must be left to learn from",
        )
    before, after = _split(rows, line, periods[-weeks])
    prior = line.fit(before)
    offsets = key_offsets(after, line.key)
    seen = observe(after, offsets)
    labels = labels_of(after, line, offsets[:-1])
    season = np.unique(after[line.season][offsets[:-1]], return_inverse=True)[1]
    cell = season[seen.panel.unit] * weeks + np.unique(seen.days, return_inverse=True)[1]
    left = {
        way: deviance(seen.panel, beta, cell)
        for way, beta in _estimates(before, line, prior).items()
    }
    levels = labels[line.factors[0]]
    every = np.ones(len(levels), dtype=np.bool_)
    judged = [
        _score_level("all", every, seen.panel, left),
        *(_score_level(str(v), levels == v, seen.panel, left) for v in np.unique(levels)),
    ]
    return Backtest(line.kind, weeks, line.factors[0], tuple(judged), choices(finished.prior(line)))


def deviance(panel: Panel, beta: Floats, cell: Ints) -> Floats:
    """Return the Poisson deviance of each row at `beta` (units,), with levels and season optimal.

    cell  the season cell of each row.  Shape (rows,).
    """
    observed = group_sums(cell, panel.quantity, int(cell.max()) + 1)
    gamma = np.zeros(len(observed))
    for _ in range(SWEEPS):
        expected = group_sums(
            cell, expected_sales(panel.with_season(gamma[cell]), beta), len(observed)
        )
        step = np.where(
            observed > 0,
            np.log(np.maximum(observed, MIN_MEAN) / np.maximum(expected, MIN_MEAN)),
            0.0,
        )
        gamma += step
        if np.abs(step).max() < TOLERANCE:
            break
    mu, y = expected_sales(panel.with_season(gamma[cell]), beta), panel.quantity
    ratio = np.divide(y, mu, out=np.ones_like(mu), where=(y > 0) & (mu > 0))
    return 2.0 * (y * np.log(ratio) - (y - mu))


def _split(rows: Rows, line: Line, first_held: np.datetime64) -> tuple[Rows, Rows]:
    """Return the rows before that week and from it on, of the units that have both.

    Held-out weeks at full capacity are left out, since their demand is unknown.
    """
    late = rows["week"] >= first_held
    held = late & ~_full(rows)
    offsets = key_offsets(rows, line.key)
    early, judged = (
        np.add.reduceat(part.astype(np.int64), offsets[:-1]) > 0 for part in (~late, held)
    )
    both = np.repeat(early & judged, np.diff(offsets))
    return {n: c[both & ~late] for n, c in rows.items()}, {
        n: c[both & held] for n, c in rows.items()
    }


def _full(rows: Rows) -> Bools:
    if "capacity" not in rows:
        return np.zeros(len(rows["week"]), dtype=np.bool_)
    return np.asarray(
        np.abs(rows["quantity"] - rows["capacity"]) <= FULL * rows["capacity"], dtype=np.bool_
    )


def _estimates(before: Rows, line: Line, prior: Prior) -> dict[str, Floats]:
    """Return the four elasticities of each unit, estimated from these rows alone."""
    slab = unit_arrays(before, line)
    mean = prior.mean(labels_of(before, line, slab.offsets[:-1]))
    return {
        "pooled": np.full(len(slab), one_for_all(before, line)),
        "prior": mean,
        "shrunk": line.price(slab, prior)["beta"],
        "alone": fit_alone(slab, line, prior),
    }


def _score_level(level: str, mine: Bools, panel: Panel, left: Mapping[str, Floats]) -> LevelScore:
    rows = mine[panel.unit]
    return LevelScore(
        level,
        int(mine.sum()),
        int(rows.sum()),
        {way: float(values[rows].mean()) for way, values in left.items()},
    )
