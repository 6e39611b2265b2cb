"""The vectorised form: all units in one expression, with no function of one unit. A reference, not
a peer.

    python -m benchmarks.vectorised numpy W1 IN.parquet OUT

Whoever can write a function so should: it is the fastest that there is. W1 and W4 are done in
NumPy, polars and DuckDB, W2 in NumPy, where it takes the fifty lines below instead of fifteen. W3's
reweighting and `wide` are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.asked import BY, answer
from benchmarks.workloads import GRID, KEYS, Workload

Floats = NDArray[np.float64]


def by_sql(workload: Workload, source: str, target: str) -> None:
    import duckdb

    assert workload.results == ("mean_qty", "n")
    means = (
        f"SELECT {', '.join(BY)}, avg(qty) AS mean_qty, count(*) AS n FROM '{source}' GROUP BY ALL"
    )
    duckdb.sql(f"COPY ({means}) TO '{target}' (FORMAT parquet)")


def by_polars(workload: Workload, source: str, target: str) -> None:
    import polars as pl

    assert workload.results == ("mean_qty", "n")
    means = (
        pl.scan_parquet(source)
        .group_by(BY)
        .agg(mean_qty=pl.col("qty").mean(), n=pl.len().cast(pl.Int64))
    )
    means.collect().write_parquet(target)


def by_numpy(workload: Workload, source: str, target: str) -> None:
    """The rows' units are numbered, and every sum over a unit is one bincount."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, read_dictionary=["segment"]) as file:
        table = file.read([*KEYS, *workload.columns]).unify_dictionaries()
    segment = table["segment"].combine_chunks()
    location, product = (np.from_dlpack(table[name].combine_chunks()) for name in KEYS[1:])
    shape = (len(segment.dictionary), int(location.max()) + 1, int(product.max()) + 1)
    number = np.ravel_multi_index(
        (np.from_dlpack(segment.indices), location, product), shape
    ).astype(np.int64)
    there = np.flatnonzero(np.bincount(number, minlength=int(np.prod(shape))))
    position = np.zeros(int(np.prod(shape)), np.int64)
    position[there] = np.arange(len(there))
    rows = {name: np.from_dlpack(table[name].combine_chunks()) for name in workload.columns}
    done = {"mean_qty": means, "elasticity": elasticities}[workload.results[0]](
        position[number], len(there), **rows
    )
    codes, *rest = np.unravel_index(there, shape)
    keys = {"segment": segment.dictionary.take(pa.array(codes)).cast(pa.string())} | dict(
        zip(KEYS[1:], rest, strict=True)
    )
    pq.write_table(pa.table(keys | done), target)


def means(unit: NDArray[np.int64], units: int, qty: Floats) -> dict[str, Any]:
    n = np.bincount(unit, minlength=units)
    return {"mean_qty": np.bincount(unit, qty, units) / n, "n": n}


def elasticities(
    unit: NDArray[np.int64],
    units: int,
    week: Any,
    price: Floats,
    qty: Floats,
    promo: Floats,
    holiday: Floats,
    cost: Floats,
    weight: Floats,
) -> dict[str, Any]:
    """Normal equations of each unit and block of weeks; what is left when a block is taken away is
    a difference of sums.
    """
    phase, log_price, n = week * (2 * np.pi / 52), np.log(price), np.bincount(unit, minlength=units)
    design = [
        np.ones_like(price),
        log_price,
        promo,
        holiday,
        np.sin(phase),
        np.cos(phase),
        week / 104,
    ]
    block, size = unit * 26 + week % 26, len(design)
    left, right = np.empty((units, 26, size, size)), np.empty((units, 26, size))
    for i in range(size):
        weighted = design[i] * weight
        right[..., i] = np.bincount(block, weighted * np.log(qty), units * 26).reshape(units, 26)
        for j in range(i, size):
            left[..., i, j] = left[..., j, i] = np.bincount(
                block, weighted * design[j], units * 26
            ).reshape(units, 26)
    whole, target = left.sum(1), right.sum(1)
    beta = solved(whole, target)
    without = np.stack(
        [solved(whole - left[:, k], target - right[:, k])[:, 1] for k in range(26)], axis=1
    )
    error = np.sqrt(25 / 26 * ((without - without.mean(1, keepdims=True)) ** 2).sum(1))
    usual, costs = np.bincount(unit, price, units) / n, np.bincount(unit, cost, units) / n
    best = np.concatenate(
        [
            best_prices(usual[i : i + 500], costs[i : i + 500], beta[i : i + 500])
            for i in range(0, units, 500)
        ]
    )
    return {"elasticity": beta[:, 1], "se": error, "best_price": best, "n": n}


def solved(left: Floats, right: Floats) -> Floats:
    """Least squares; a column that is nought in all of a unit's rows gets nought, as lstsq gives
    it.
    """
    empty = np.einsum("uii->ui", left) < 1e-9
    diagonal = np.eye(left.shape[-1], dtype=bool) & empty[:, :, None]
    left = np.where(diagonal, 1.0, np.where(empty[:, :, None] | empty[:, None, :], 0.0, left))
    return np.linalg.solve(left, np.where(empty, 0.0, right)[..., None])[..., 0]


def best_prices(usual: Floats, cost: Floats, beta: Floats) -> Floats:
    prices = GRID * usual[:, None]
    profit = (prices - cost[:, None]) * np.exp(beta[:, :1] + beta[:, 1:2] * np.log(prices))
    return np.take_along_axis(prices, profit.argmax(1)[:, None], 1)[:, 0]


if __name__ == "__main__":
    answer({"sql": by_sql, "polars": by_polars, "numpy": by_numpy})
