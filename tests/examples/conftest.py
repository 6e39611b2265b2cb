"""Data for tests of the examples: synthetic tables with known truth, and real ones if present."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(
        0, str(ROOT)
    )  # the examples are not installed: they are run from the folder that holds them

STORES, BRANDS, WEEKS = 20, 2, 40


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Return the folder of the data sets (CSV, Parquet), and that of R's fits: reference/."""
    folder = os.environ.get("HUNDREDFOLD_REFERENCE_DATA")
    if not folder:
        pytest.skip("set HUNDREDFOLD_REFERENCE_DATA to the folder of the reference data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def juice() -> pd.DataFrame:
    """Return 20 stores, 2 brands, 40 weeks; `truth` is the own-price elasticity of a row."""
    chance = np.random.default_rng(1)
    rows = []
    for store in range(1, STORES + 1):
        prices = np.exp(chance.normal(-3.2, 0.2, (WEEKS, 11)))
        for brand in range(1, BRANDS + 1):
            elasticity = chance.normal(-2.5, 0.3)
            deal, feat = chance.integers(0, 2, WEEKS), chance.random(WEEKS).round(2)
            cross = 0.1 * np.log(prices).sum(axis=1) - 0.1 * np.log(prices[:, brand - 1])
            logmove = (
                3
                + cross
                + elasticity * np.log(prices[:, brand - 1])
                + 0.2 * deal
                + 0.5 * feat
                + chance.normal(0, 0.5, WEEKS)
            )
            columns = {f"price{n + 1}": prices[:, n] for n in range(11)} | {
                "deal": deal,
                "feat": feat,
            }
            key = {"store": store, "brand": brand, "week": np.arange(40, 40 + WEEKS)}
            rows.append(
                pd.DataFrame(
                    key
                    | {"logmove": logmove, "constant": 1}
                    | columns
                    | {"profit": 25.0, "truth": elasticity}
                )
            )
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="session")
def cheese() -> pd.DataFrame:
    """Return 8 retailers, 30 weeks; `truth` is the elasticity of a row.

    G never had a display; H never changed its price.
    """
    chance = np.random.default_rng(2)
    rows = []
    for retailer in "ABCDEFGH":
        price = np.full(30, 2.5) if retailer == "H" else np.exp(chance.normal(1.0, 0.08, 30))
        display = np.zeros(30) if retailer == "G" else chance.random(30)
        elasticity = chance.normal(-2, 0.4)
        volume = np.exp(10 + display + elasticity * np.log(price) + chance.normal(0, 0.3, 30))
        rows.append(
            pd.DataFrame(
                {
                    "retailer": retailer,
                    "volume": volume,
                    "disp": display,
                    "price": price,
                    "truth": elasticity,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)
