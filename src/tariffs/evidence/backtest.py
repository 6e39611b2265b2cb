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
from tariffs.demand.conditional import fit_units
from tariffs.demand.panel import Panel, tally
from tariffs.demand.prior import Prior
from tariffs.demand.season import expect
from tariffs.evidence.finished import Finished
from tariffs.evidence.lines import Line
from tariffs.evidence.recovery import FLAT, WAYS, labels_of, one_for_all
from tariffs.observe import observe
from tariffs.optimise.rule import MOST_ELASTIC
from tariffs.rows import Bools, Floats, Ints, Rows, key_offsets

LEAST_TRAINING = 4
SWEEPS, TOLERANCE = 100, 1e-9
TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True, slots=True)
class Judged:
    """The held-out weeks of one level of a factor (or of all): Poisson deviance per week of each way."""

    level: str
    units: int
    weeks: int
    deviance: Mapping[str, float]

    @property
    def best(self) -> str:
        return min(WAYS, key=lambda way: self.deviance[way])


@dataclass(frozen=True, slots=True)
class Backtest:
    """held_out: weeks cut off;  factor: what the rows are by;  judged: all units first, then each level of the factor."""

    line: str
    held_out: int
    factor: str
    judged: tuple[Judged, ...]


def backtest(finished: Finished, line: Line, weeks: int) -> Backtest:
    """On the rows that the run's prior was learnt from: all units up to 400 of a kind.  UsageError where too few weeks are left to learn from."""
    rows = finished.whole(line.prior)
    periods = np.unique(rows["week"])
    if not 1 <= weeks <= len(periods) - LEAST_TRAINING:
        raise UsageError(
            f"--weeks is {weeks}, and the run has {len(periods)} weeks of {line.kind} sales",
            hint=f"hold out 1 to {len(periods) - LEAST_TRAINING}: at least {LEAST_TRAINING} must be left to learn from",
        )
    before, after = _split(rows, line, periods[-weeks])
    prior = finished.job.model(line.prior).work(before)
    offsets = key_offsets(after, line.key)
    seen = observe(after, offsets)
    labels = labels_of(after, line, offsets[:-1])
    season = np.unique(after[line.season][offsets[:-1]], return_inverse=True)[1]
    cell = season[seen.panel.unit] * weeks + np.unique(seen.days, return_inverse=True)[1]
    left = {way: deviance(seen.panel, beta, cell) for way, beta in _estimates(before, line, prior).items()}
    levels = labels[line.factors[0]]
    every = np.ones(len(levels), dtype=np.bool_)
    judged = [_judge("all", every, seen.panel, left), *(_judge(str(v), levels == v, seen.panel, left) for v in np.unique(levels))]
    return Backtest(line.kind, weeks, line.factors[0], tuple(judged))


def deviance(panel: Panel, beta: Floats, cell: Ints) -> Floats:
    """Poisson deviance of each row at `beta` (units,), with unit levels and season cells (rows,) at their best.  Shape (rows,)."""
    observed = tally(cell, panel.quantity, int(cell.max()) + 1)
    gamma = np.zeros(len(observed))
    for _ in range(SWEEPS):
        expected = tally(cell, expect(panel.seasonal(gamma[cell]), beta), len(observed))
        step = np.where(observed > 0, np.log(np.maximum(observed, TINY) / np.maximum(expected, TINY)), 0.0)
        gamma += step
        if np.abs(step).max() < TOLERANCE:
            break
    mu, y = expect(panel.seasonal(gamma[cell]), beta), panel.quantity
    ratio = np.divide(y, mu, out=np.ones_like(mu), where=(y > 0) & (mu > 0))
    return 2.0 * (y * np.log(ratio) - (y - mu))


def _split(rows: Rows, line: Line, first_held: np.datetime64) -> tuple[Rows, Rows]:
    """The rows before that week and from it on, of the units that have both."""
    held = rows["week"] >= first_held
    offsets = key_offsets(rows, line.key)
    late, sizes = np.add.reduceat(held.astype(np.int64), offsets[:-1]), np.diff(offsets)
    both = np.repeat((late > 0) & (late < sizes), sizes)
    return {n: c[both & ~held] for n, c in rows.items()}, {n: c[both & held] for n, c in rows.items()}


def _estimates(before: Rows, line: Line, prior: Prior) -> dict[str, Floats]:
    """The four elasticities of each unit, learnt from these rows alone."""
    offsets = key_offsets(before, line.key)
    starts = offsets[:-1]
    seen, labels = observe(before, offsets), labels_of(before, line, starts)
    panel = seen.panel.seasonal(prior.season(before[line.season][starts], seen.days, seen.panel.unit))
    mean, noise = prior.mean(labels), prior.noise(labels)
    return {
        "pooled": np.full(panel.units, one_for_all(before, line)),
        "prior": mean,
        "shrunk": fit_units(panel, mean, prior.tau2, noise).beta,
        "alone": np.clip(fit_units(panel, mean, FLAT, noise).beta, MOST_ELASTIC, 0.0),
    }


def _judge(level: str, mine: Bools, panel: Panel, left: Mapping[str, Floats]) -> Judged:
    rows = mine[panel.unit]
    return Judged(level, int(mine.sum()), int(rows.sum()), {way: float(values[rows].mean()) for way, values in left.items()})
