"""Are the elasticities right?  Each estimate beside the one that the data were made with.

Four ways to have an elasticity, by growing trust in the unit: one for all units (pooled), the mean of its kind (the prior's z'delta),
the posterior that prices are made of (shrunk), the unit's own fit (alone).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tariffs.columns import Bools, Columns, Floats, Labels, Rows, Units, key_offsets
from tariffs.demand.prior import Prior
from tariffs.demand.season import fit_season
from tariffs.evaluation.product_lines import Line
from tariffs.evaluation.run_data import FinishedRun, columns, query
from tariffs.optimise.rule import COVERAGE_90, MOST_ELASTIC
from tariffs.pricing.estimation import observe

FLAT = 1e4  # a prior variance that leaves a unit to itself: what it can tell it tells, and what not stays at the mean of its kind
ESTIMATORS = ("pooled", "prior", "shrunk", "alone")


@dataclass(frozen=True, slots=True)
class Score:
    """Units of one level of a factor.  bias: of the shrunk estimate, in elasticity; cover: the share of the 90 % intervals that hold the truth;
    rmse: of each of the four ways."""

    factor: str
    level: str
    units: int
    truth: float
    bias: float
    cover: float
    rmse: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Recovery:
    """tau: the spread of true elasticities around the mean of their kind; `sample`: up to 2,000 units, true and shrunk, for a plot."""

    line: str
    tau: float
    true_tau: float
    scores: tuple[Score, ...]
    sample: tuple[tuple[float, float], ...]


def recover(finished: FinishedRun, line: Line) -> Recovery:
    """The line's elasticities against the truth.  A unit alone is cut off at -6 and 0: as a price rule would have to."""
    known = finished.known(line)
    prior = finished.prior(line)
    units = columns(_joined(finished, line, known, prior))
    levels = {"all": np.full(len(units["true_beta"]), "all", dtype=object)} | {
        name: units[name] for name in line.factors
    }
    scores = tuple(
        _score(units, factor, level, values == level)
        for factor, values in levels.items()
        for level in np.unique(values)
    )
    step = max(len(units["true_beta"]) // 2000, 1)
    sample = tuple(
        zip(units["true_beta"][::step].tolist(), units["shrunk"][::step].tolist(), strict=True)
    )
    return Recovery(line.kind, float(np.sqrt(prior.tau2)), _true_tau(units, line), scores, sample)


def _joined(finished: FinishedRun, line: Line, known: pa.Table, prior: Prior) -> pa.Table:
    """A row for each unit that has a result: its factors, the truth, the four estimates, and the posterior's sd."""
    pooled = one_for_all(finished.whole(line.prior), line)
    own = pa.concat_tables(_units(rows, line, prior) for rows in finished.batches(line.model))
    keys = ", ".join(line.key)
    return query(
        f"""SELECT o.*, t.beta AS true_beta, {pooled!r}::DOUBLE AS pooled, r.beta AS shrunk, r.se * r.reference_price / r.current_price AS sd,
          abs(r.beta * r.current_price - r.elasticity * r.reference_price) < 1e-6 * r.reference_price AS is_own
        FROM results AS r JOIN own AS o USING ({keys}) JOIN known AS t USING ({keys}) ORDER BY {keys}""",
        results=finished.results(line.model), own=own, known=known,
    )  # fmt: skip


def one_for_all(rows: Rows, line: Line) -> float:
    """The elasticity that all units of the prior's rows share, with their season."""
    offsets = key_offsets(rows, line.key)
    seen = observe(rows, offsets)
    season, when = (
        np.unique(values, return_inverse=True)[1]
        for values in (rows[line.season][offsets[:-1]], seen.days)
    )
    periods = int(when.max()) + 1
    cell = season[seen.panel.unit] * periods + when
    return float(
        fit_season(seen.panel, np.zeros(len(offsets) - 1, dtype=np.int64), cell, periods).beta[0]
    )


def labels_of(rows: Columns, line: Line, starts: np.ndarray) -> dict[str, Labels]:
    return {name: rows[name][starts] for name in line.factors}


def fit_alone(rows: Units, line: Line, prior: Prior) -> Floats:
    """Each unit's own fit: the job's own, under a prior that says next to nothing.  Cut off at -6 and 0.  Shape (units,)."""
    return np.asarray(np.clip(line.price(rows, unpooled_prior(prior))["beta"], MOST_ELASTIC, 0.0))


def unpooled_prior(prior: Prior) -> Prior:
    """The prior, so flat that it leaves every unit to itself, whatever a backtest gate chose for its group."""
    return replace(prior.certain(FLAT), gate_choice=np.full(len(prior.groups), "EB", dtype=object))


def choices(prior: Prior) -> dict[str, str]:
    """What the backtest gate chose for each group."""
    return dict(zip(map(str, prior.groups), map(str, prior.gate_choice), strict=True))


def _units(rows: Units, line: Line, prior: Prior) -> pa.Table:
    """The units of a batch: keys, factors, the prior's mean, and the unit's own fit."""
    starts = rows.offsets[:-1]
    labels = labels_of(rows, line, starts)
    named = {name: rows[name][starts] for name in dict.fromkeys((*line.key, *line.factors))}
    found = named | {"prior": prior.mean(labels), "alone": fit_alone(rows, line, prior)}
    return pa.table({name: pa.array(values) for name, values in found.items()})


def _score(units: Rows, factor: str, level: str, mine: Bools) -> Score:
    true = units["true_beta"][mine]
    error = units["shrunk"][mine] - true
    trusted = units["is_own"][
        mine
    ]  # where it fell back, the standard deviation is the prior's and not this estimate's
    inside = np.abs(error) <= COVERAGE_90 * units["sd"][mine]
    cover = float(inside[trusted].mean()) if trusted.any() else float("nan")
    rmse = {way: float(np.sqrt(np.mean((units[way][mine] - true) ** 2))) for way in ESTIMATORS}
    return Score(
        factor, str(level), int(mine.sum()), float(true.mean()), float(error.mean()), cover, rmse
    )


def _true_tau(units: Rows, line: Line) -> float:
    """The standard deviation of the true elasticities around their best additive mean in the line's factors."""
    design = np.column_stack([np.ones(len(units["true_beta"])), *_dummies(units, line)])
    residual: Floats = (
        units["true_beta"] - design @ np.linalg.lstsq(design, units["true_beta"], rcond=None)[0]
    )
    return float(np.sqrt(np.mean(residual**2)))


def _dummies(units: Rows, line: Line) -> Iterator[Floats]:
    for name in line.factors:
        levels, code = np.unique(units[name], return_inverse=True)
        yield (code[:, None] == np.arange(1, len(levels))).astype(np.float64)
