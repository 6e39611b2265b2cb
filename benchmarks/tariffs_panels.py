"""Shrunken, pooled or alone: which elasticities foretell held-out weeks, on real panels that may
not be shipped.

    HUNDREDFOLD_REFERENCE_DATA=... python -m benchmarks.tariffs_panels

cheese (88 stores), orange juice (11 brands in 83 stores) and avocados (54 markets, conventional and
organic), each with stage 1 and 2 as they price bundles. Prices are in logarithms here, so that
elasticities are constant and can be compared with published ones. `deviance` is
conditional (given a unit's total and a week's) per week held out; `rmse` is of log volume around
the unit's mean, with the weeks' effects swept out; `gate` is what the backtest inside the training
weeks would have chosen, and what it scored where units are distinguished by group.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tariffs.demand.backtest import backtest, held_out
from tariffs.demand.conditional import fit_units
from tariffs.demand.panel import Panel, make_panel
from tariffs.demand.pooling import Layout, Pooled, learn

ALONE = 1e4  # tau2 of a prior that says nothing, and keeps even a unit with two prices finite


@dataclass(frozen=True)
class Data:
    """A panel, which unit is what, and how many of its last weeks are held out for each length of
    training.
    """

    name: str
    panel: Panel
    layout: Layout
    groups: np.ndarray
    windows: tuple[tuple[int, int], ...]


def panel_of(
    frame: pd.DataFrame,
    factors: list[str],
    season: str | None,
    windows: tuple[tuple[int, int], ...],
    name: str,
) -> Data:
    """`frame`: unit, week, quantity, price and the factors, the first of which is the group."""
    frame = frame.sort_values(["unit", "week"], kind="stable")
    first = frame.groupby("unit", sort=True).first()
    sizes = frame.groupby("unit", sort=True).size().to_numpy()
    x = np.log(frame["price"].to_numpy())
    quantity = frame["quantity"].to_numpy(dtype=float)
    quantity = quantity / np.repeat(
        np.maximum(
            np.bincount(np.repeat(np.arange(len(sizes)), sizes), quantity) / sizes / 1000.0, 1e-9
        ),
        sizes,
    )
    panel = make_panel(np.concatenate([[0], np.cumsum(sizes)]), quantity, x, np.ones(len(x)))
    blocks, rank = [np.ones((len(first), 1))], 1
    for factor in factors:
        codes = np.unique(first[factor], return_inverse=True)[1]
        blocks.append((codes[:, None] == np.arange(codes.max() + 1)).astype(float))
        rank += int(codes.max())
    groups, group = np.unique(
        first[factors[0]] if factors else np.zeros(len(first)), return_inverse=True
    )
    seasons = (
        np.unique(first[season], return_inverse=True)[1]
        if season
        else np.zeros(len(first), dtype=int)
    )
    when = np.unique(frame["week"], return_inverse=True)[1]
    return Data(
        name,
        panel,
        Layout(np.hstack(blocks), rank, group, seasons, when, int(when.max()) + 1),
        groups,
        windows,
    )


def cheese(folder: Path) -> Data:
    """bayesm's cheese: the weeks are not recorded; rows of a store are in their order."""
    data = pd.read_csv(folder / "cheese.csv")
    data["week"] = data.groupby("retailer").cumcount()
    frame = pd.DataFrame(
        {
            "unit": data["retailer"],
            "week": data["week"],
            "quantity": data["volume"],
            "price": data["price"],
        }
    )
    return panel_of(frame, [], None, ((12, 12), (26, 12), (40, 12)), "cheese")


def orange_juice(folder: Path) -> Data:
    """bayesm's orangeJuice: each brand's own price, in each store."""
    data = pd.read_parquet(folder / "bayesm_orangeJuice_yx.parquet")
    own = np.column_stack([data[f"price{b}"] for b in range(1, 12)])[
        np.arange(len(data)), data["brand"].astype(int) - 1
    ]
    unit = data["brand"].astype(int) * 1000 + data["store"].astype(int)
    brand = data["brand"].astype(int)
    frame = pd.DataFrame(
        {
            "unit": unit,
            "week": data["week"],
            "quantity": np.exp(data["logmove"]),
            "price": own,
            "brand": brand,
        }
    )
    return panel_of(frame, ["brand"], "brand", ((20, 13), (52, 13), (90, 13)), "orange juice")


def avocado(folder: Path) -> Data:
    """The Hass Avocado Board's weeks; sums over regions are left out."""
    data = pd.read_csv(folder / "avocado_hab.csv")
    data = data.groupby(["geography", "type", "date"], as_index=False)[
        ["total_volume", "average_price"]
    ].mean()
    wide = (
        "Total U.S.",
        "West",
        "California",
        "South Central",
        "Northeast",
        "Southeast",
        "Great Lakes",
        "Midsouth",
        "Plains",
    )
    data = data[~data["geography"].isin(wide)]
    frame = pd.DataFrame(
        {
            "unit": data["geography"] + "/" + data["type"],
            "week": data["date"],
            "quantity": data["total_volume"],
            "price": data["average_price"],
            "type": data["type"],
        }
    )
    return panel_of(frame, ["type"], "type", ((26, 26), (52, 26), (104, 26)), "avocado")


PANELS: tuple[Callable[[Path], Data], ...] = (cheese, orange_juice, avocado)


def weeks(data: Data, first: int, end: int) -> tuple[Panel, Layout, np.ndarray]:
    """The rows of the weeks first ... end - 1, and which units they belong to."""
    rows = (data.layout.period >= first) & (data.layout.period < end)
    panel, left = data.panel.select_rows(rows)
    layout = data.layout.subset(left, rows)
    return (
        panel,
        Layout(
            layout.design,
            layout.rank,
            layout.group,
            layout.season_group,
            layout.period - first,
            end - first,
        ),
        left,
    )


def candidates(panel: Panel, layout: Layout, learnt: Pooled) -> dict[str, np.ndarray]:
    """Elasticities (units,) of the four ways to have one."""
    alone = fit_units(
        panel.with_season(learnt.season.gamma[layout.cell(panel)]),
        learnt.season.beta[layout.group],
        ALONE,
        np.ones(panel.units),
    )
    one = np.average(learnt.season.beta[layout.group], weights=panel.sizes)
    return {
        "pooled": np.full(panel.units, one),
        "group": layout.design @ learnt.hyper.delta,
        "alone": alone.beta,
        "EB": learnt.fit.beta,
    }


def rmse(panel: Panel, cell: np.ndarray, beta: np.ndarray) -> float:
    """Of log volume, with the units' means and the weeks' effects swept out."""
    left = np.log(np.maximum(panel.quantity, 0.5)) - beta[panel.unit] * panel.x
    for _ in range(100):
        left = left - (panel.sums(left) / panel.sizes)[panel.unit]
        left = left - (np.bincount(cell, left) / np.maximum(np.bincount(cell), 1))[cell]
    return float(np.sqrt(np.mean(left * left)))


@dataclass(frozen=True)
class Stretch:
    """One training: the weeks held out after it, and per candidate their deviance and squared
    error; the share of groups given up.
    """

    held_out: int
    deviance: dict[str, float]
    square: dict[str, float]
    tau: float
    mean: float
    given_up: float


@dataclass(frozen=True)
class Line:
    """All trainings of one length: per candidate the mean deviance per week and the rmse; tau, mean
    elasticity, share of groups POOLED.
    """

    panel: str
    training: int
    stretches: int
    deviance: dict[str, float]
    rmse: dict[str, float]
    tau: float
    mean: float
    given_up: float


def measure(data: Data, training: int, horizon: int) -> Line:
    """Every stretch of `training` weeks and the `horizon` weeks after it, each held out once;
    figures are means over the weeks held out.
    """
    parts = [
        _stretch(data, end - training, end, end + horizon)
        for end in range(data.layout.periods - horizon, training - 1, -horizon)
    ]
    size = sum(part.held_out for part in parts)

    def mean(of: Callable[[Stretch], float]) -> float:
        return sum(of(part) * part.held_out for part in parts) / size

    def mean_of(of: Callable[[Stretch], Mapping[str, float]]) -> dict[str, float]:
        values = [(of(part), part.held_out) for part in parts]
        return {
            name: sum(value[name] * weight for value, weight in values) / size
            for name in values[0][0]
        }

    deviance = mean_of(lambda part: part.deviance)
    errors = {name: float(np.sqrt(square)) for name, square in mean_of(lambda p: p.square).items()}
    given_up = sum(part.given_up for part in parts) / len(parts)
    return Line(
        data.name,
        training,
        len(parts),
        deviance,
        errors,
        mean(lambda part: part.tau),
        mean(lambda part: part.mean),
        given_up,
    )


def _stretch(data: Data, first: int, end: int, until: int) -> Stretch:
    panel, layout, known = weeks(data, first, end)
    learnt = learn(panel, layout)
    betas = candidates(panel, layout, learnt)
    verdict = backtest(panel, layout)
    betas["gate"] = np.where(
        (verdict.choice == "POOLED")[layout.group], betas["group"], betas["EB"]
    )
    test, test_layout, there = weeks(data, end, until)
    at = np.minimum(np.searchsorted(known, there), len(known) - 1)
    rows = (known[at] == there)[test.unit]
    test, left = test.select_rows(rows)
    cell, at = test_layout.subset(left, rows).cell(test), at[left]
    deviance = {
        name: float(held_out(test, beta[at], cell).sum() / (len(test.unit) - test.units))
        for name, beta in betas.items()
    }
    square = {name: rmse(test, cell, beta[at]) ** 2 for name, beta in betas.items()}
    tau, mean = float(np.sqrt(learnt.tau2)), float(betas["group"].mean())
    return Stretch(
        len(test.unit), deviance, square, tau, mean, float((verdict.choice == "POOLED").mean())
    )


def lines(folder: Path) -> Iterator[Line]:
    for read in PANELS:
        data = read(folder)
        for training, horizon in data.windows:
            yield measure(data, training, horizon)


def main() -> None:
    folder = os.environ.get("HUNDREDFOLD_REFERENCE_DATA")
    if not folder:
        sys.exit(
            "benchmarks.tariffs_panels: set HUNDREDFOLD_REFERENCE_DATA to the folder of the "
            "reference data sets"
        )
    names = ("pooled", "group", "alone", "EB", "gate")
    print(
        f"{'panel':13s} weeks  times  "
        + "  ".join(f"{n:>15s}" for n in names)
        + "   mean    tau  POOLED"
    )
    for line in lines(Path(folder)):
        cells = "  ".join(f"{line.deviance[n]:8.3f} {line.rmse[n]:6.4f}" for n in names)
        print(
            f"{line.panel:13s} {line.training:5d}  {line.stretches:5d}  {cells}  "
            f"{line.mean:+5.2f}  {line.tau:5.2f}  {line.given_up:6.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
