"""How good the three fits are: at forecasting weeks that they have not seen, and beside R's fits of
brand 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from examples.shrinkage import posterior

from .models import SIZE, demand

FITS = ["pooled", "own", "shrunk"]


def held_out(fits: pd.DataFrame, weeks: pd.DataFrame) -> pd.DataFrame:
    """The root mean square error of each fit's forecasts: of all brands, and of each. Weeks without
    a fit are left out.
    """
    seen = weeks.merge(fits, on=["store", "brand"], validate="many_to_one")
    y, x = demand(columns(seen))
    squares = pd.DataFrame(
        {
            name: (y - np.sum(x * np.stack(seen[f"{name}_fit"].tolist()), axis=1)) ** 2
            for name in FITS
        }
    )
    means = pd.concat([squares.mean().to_frame("all").T, squares.groupby(seen["brand"]).mean()])
    rmse = means.pow(0.5).assign(best=means.idxmin(axis=1))
    rmse.insert(0, "forecasts", [len(seen), *seen.groupby("brand").size()])
    return rmse.rename_axis("brand")


def columns(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the columns of a frame as arrays by their names."""
    return {str(name): column.to_numpy() for name, column in rows.items()}


def compare(elasticities: pd.DataFrame, weeks: pd.DataFrame, reference: Path) -> pd.DataFrame:
    """Brand 1: own beside R's lm, shrunk beside bayesm's posterior mean, and this once more under
    bayesm's own prior on the spread.
    """
    ours = elasticities[elasticities["brand"] == 1].set_index("store")
    theirs = pd.read_csv(reference, index_col="store").loc[ours.index]
    pairs = {
        "own, lm": (ours["own"], theirs["ols"]),
        "shrunk, bayesm": (ours["shrunk"], theirs["bayesm"]),
        "the same, its prior": (under_bayesms_prior(weeks[weeks["brand"] == 1]), theirs["bayesm"]),
    }
    return pd.DataFrame({name: beside(a, b) for name, (a, b) in pairs.items()}).T


def beside(ours: pd.Series, theirs: pd.Series) -> dict[str, float]:
    apart = (ours - theirs).abs()
    return {
        "mean": ours.mean(),
        "in R": theirs.mean(),
        "sd": ours.std(),
        "sd in R": theirs.std(),
        "largest": apart.max(),
        "mean apart": apart.mean(),
    }


def under_bayesms_prior(rows: pd.DataFrame, sweeps: int = 20) -> pd.Series:
    """Brand 1's own-price coefficient in each store, where the spread of k coefficients is not the
    likeliest one, as in `fit_prior`, but has the prior that rhierLinearModel takes by default,
    inverse Wishart(k + 3, (k + 3) I): here its posterior mean.
    """
    stores = {store: demand(columns(own)) for store, own in rows.groupby("store")}
    mean, spread, scale = np.zeros(SIZE), np.eye(SIZE), (SIZE + 3) * np.eye(SIZE)
    for _ in range(sweeps):
        b, covariance = map(
            np.array, zip(*(posterior(y, x, mean, spread) for y, x in stores.values()), strict=True)
        )
        mean = b.mean(axis=0)
        spread = (scale + covariance.sum(axis=0) + (b - mean).T @ (b - mean)) / (
            len(b) + 2
        )  # k + 3 - k - 1 degrees of freedom
    return pd.Series(b[:, 1], list(stores))
