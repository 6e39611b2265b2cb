"""Recovery of elasticities: each estimate beside the true value of the synthetic data.

Four estimators, in order of the weight of the unit's own data: one value for all units (pooled),
the mean of its kind (the prior's z'delta), the posterior used for prices (shrunk), the own fit
(alone).
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

FLAT = 1e4  # a prior variance without shrinkage; units without information keep the prior mean
ESTIMATORS = ("pooled", "prior", "shrunk", "alone")


@dataclass(frozen=True, slots=True)
class Score:
    """The units of one level of a factor.

    bias, cover   of the shrunk estimate, and the share of its 90 % intervals that contain the truth
    rmse          of each estimator
    """

    factor: str
    level: str
    units: int
    truth: float
    bias: float
    cover: float
    rmse: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Recovery:
    """The results of a line.

    tau     the spread of true elasticities around the mean of their kind
    sample  up to 2,000 units, true and shrunk, for a plot
    """

    line: str
    tau: float
    true_tau: float
    scores: tuple[Score, ...]
    sample: tuple[tuple[float, float], ...]


def recover(finished: FinishedRun, line: Line) -> Recovery:
    """Compare the line's elasticities with the truth; own fits are clipped to -6 and 0."""
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
    """Return one row per unit with a result: factors, truth, four estimates, the posterior's sd."""
    pooled = one_for_all(finished.whole(line.prior), line)
    own = pa.concat_tables(_units(rows, line, prior) for rows in finished.batches(line.model))
    keys = ", ".join(line.key)
    return query(
        f"""SELECT o.*, t.beta AS true_beta, {pooled!r}::DOUBLE AS pooled, r.beta AS shrunk,
          r.se * r.reference_price / r.current_price AS sd,
          abs(r.beta * r.current_price - r.elasticity * r.reference_price)
            < 1e-6 * r.reference_price AS is_own
        FROM results AS r JOIN own AS o USING ({keys}) JOIN known AS t USING ({keys})
        ORDER BY {keys}""",
        results=finished.results(line.model),
        own=own,
        known=known,
    )


def one_for_all(rows: Rows, line: Line) -> float:
    """Return the elasticity that all units of the prior's rows share, with their season."""
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
    """Return each unit's own fit by the job's function, under a flat prior; clipped, (units,)."""
    return np.asarray(np.clip(line.price(rows, unpooled_prior(prior))["beta"], MOST_ELASTIC, 0.0))


def unpooled_prior(prior: Prior) -> Prior:
    """Return the prior with a flat variance, regardless of the backtest gate."""
    return replace(prior.certain(FLAT), gate_choice=np.full(len(prior.groups), "EB", dtype=object))


def choices(prior: Prior) -> dict[str, str]:
    """Return the backtest gate's choice for each group."""
    return dict(zip(map(str, prior.groups), map(str, prior.gate_choice), strict=True))


def _units(rows: Units, line: Line, prior: Prior) -> pa.Table:
    """Return the units of a batch: keys, factors, the prior's mean, and the unit's own fit."""
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
    ]  # after a fallback, the standard deviation is the prior's, not this estimate's
    inside = np.abs(error) <= COVERAGE_90 * units["sd"][mine]
    cover = float(inside[trusted].mean()) if trusted.any() else float("nan")
    rmse = {way: float(np.sqrt(np.mean((units[way][mine] - true) ** 2))) for way in ESTIMATORS}
    return Score(
        factor, str(level), int(mine.sum()), float(true.mean()), float(error.mean()), cover, rmse
    )


def _true_tau(units: Rows, line: Line) -> float:
    """Return the sd of true elasticities around their best additive mean in the line's factors."""
    design = np.column_stack([np.ones(len(units["true_beta"])), *_dummies(units, line)])
    residual: Floats = (
        units["true_beta"] - design @ np.linalg.lstsq(design, units["true_beta"], rcond=None)[0]
    )
    return float(np.sqrt(np.mean(residual**2)))


def _dummies(units: Rows, line: Line) -> Iterator[Floats]:
    for name in line.factors:
        levels, code = np.unique(units[name], return_inverse=True)
        yield (code[:, None] == np.arange(1, len(levels))).astype(np.float64)
