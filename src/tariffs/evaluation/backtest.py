"""Weeks that the estimator has not seen: how well does each way to have an elasticity foretell how sales are spread over them?

The last weeks are cut off, all is learnt from those before, and the cut-off weeks are judged with the levels of the units and the season of these
weeks at their own best values: what is left to explain is the answer to price, and that is what the four ways differ in.  No truth is needed,
so this is the test that a real operator's data allow.
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
FULL = 0.001  # a cell's minutes are rounded
SWEEPS, TOLERANCE = 100, 1e-9
MIN_MEAN = float(np.finfo(float).tiny)


@dataclass(frozen=True, slots=True)
class LevelScore:
    """The held-out weeks of one level of a factor (or of all): Poisson deviance per week of each way."""

    level: str
    units: int
    weeks: int
    deviance: Mapping[str, float]

    @property
    def best(self) -> str:
        return min(ESTIMATORS, key=lambda way: self.deviance[way])


@dataclass(frozen=True, slots=True)
class Backtest:
    """held_out: weeks cut off;  factor: what the rows are by;  judged: all units first, then each level of the factor.
    gate: what the backtest gate chose for each level in the run itself, where it had one."""

    line: str
    held_out: int
    factor: str
    judged: tuple[LevelScore, ...]
    gate: Mapping[str, str]


def backtest(finished: FinishedRun, line: Line, weeks: int) -> Backtest:
    """On the rows of the run's units, of every k-th where there are more than 50,000.  UsageError where too few weeks are left to learn from."""
    rows = finished.sample(line, MAX_UNITS)
    periods = np.unique(rows["week"])
    if not 1 <= weeks <= len(periods) - MIN_TRAINING_WEEKS:
        raise UsageError(
            f"--weeks is {weeks}, and the run has {len(periods)} weeks of {line.kind} sales",
            hint=f"hold out 1 to {len(periods) - MIN_TRAINING_WEEKS}: at least {MIN_TRAINING_WEEKS} must be left to learn from",
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
    """Poisson deviance of each row at `beta` (units,), with unit levels and season cells (rows,) at their best.  Shape (rows,)."""
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
    """The rows before that week and from it on, of the units that have both.

    Held-out weeks that sold all there was are left out: what they would have sold is not known.
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
    """The four elasticities of each unit, learnt from these rows alone."""
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
