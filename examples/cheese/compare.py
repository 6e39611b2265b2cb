"""Ours beside R's: the largest and the mean absolute difference over retailers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hundredfold import Run


class Agreement(NamedTuple):
    ours: str
    reference: str
    retailers: int
    largest: float
    mean: float


def compare(run: Run, folder: Path) -> list[Agreement]:
    """Each fit that R made of the same rows, against the same fit here."""
    own, shrunk = (
        run.results(name).to_pandas().set_index("retailer") for name in ("own", "shrunk")
    )
    ols = pd.read_csv(folder / "ref_cheese_ols_R.csv", index_col=0)
    lmer = pd.read_csv(folder / "ref_cheese_lmer_centred_R.csv", index_col="retailer")
    bayes = pd.read_csv(folder / "ref_cheese_bayesm_R.csv", index_col="retailer")
    return [
        agreement("own.intercept", own["intercept"], "lm: intercept", ols["(Intercept)"]),
        agreement("own.display", own["display"], "lm: disp", ols["disp"]),
        agreement("own.elasticity", own["elasticity"], "lm: log price", ols["lp"]),
        agreement("own.se", own["se"], "lm: its standard error", ols["se.lp"]),
        agreement("shrunk.slope", shrunk["slope"], "lme4: centred slope", lmer["lpc"]),
        agreement("shrunk.intercept", shrunk["intercept"], "bayesm: intercept", bayes["int"]),
        agreement("shrunk.display", shrunk["display"], "bayesm: disp", bayes["disp"]),
        agreement("shrunk.elasticity", shrunk["elasticity"], "bayesm: log price", bayes["lp"]),
        agreement("shrunk.sd", shrunk["sd"], "bayesm: its posterior sd", bayes["lp_sd"]),
    ]


def agreement(name: str, ours: pd.Series, reference: str, theirs: pd.Series) -> Agreement:
    """Over the same retailers, and where either cannot tell, both must not; AssertionError
    otherwise.
    """
    pd.testing.assert_index_equal(
        ours.index.sort_values(), theirs.index.sort_values(), check_names=False
    )
    theirs = theirs.loc[ours.index]
    pd.testing.assert_series_equal(ours.isna(), theirs.isna(), check_names=False)
    difference = (ours - theirs).abs().dropna()
    return Agreement(name, reference, len(difference), difference.max(), difference.mean())


def show(agreements: list[Agreement]) -> None:
    print(f"{'ours':<20}{'R':<26}{'retailers':>9}{'largest':>11}{'mean':>11}")
    for a in agreements:
        print(f"{a.ours:<20}{a.reference:<26}{a.retailers:>9}{a.largest:>11.1e}{a.mean:>11.1e}")
