"""The workloads: what every engine here is given to do, and the data that it does it on.

    python -m benchmarks.workloads W1 W2        # make their files under benchmarks/data

A workload is a Parquet file of shuffled rows, a key of three columns, and one function of a unit's
columns. All is made from fixed seeds. Nothing here imports pandas, so that an engine pays for it
only if it uses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = ("segment", "location", "product")
DATA = Path(__file__).parent / "data"
ROW_GROUP = 250_000

Column = NDArray[Any]
Result = dict[str, float | int]


@dataclass(frozen=True)
class Workload:
    """`core` takes the `columns` of one unit as arrays, in this order, and
    returns its result row.
    """

    name: str
    title: str
    units: int
    core: Callable[..., Result]
    columns: tuple[str, ...]
    results: tuple[str, ...]
    make: Callable[[Path], None]

    @property
    def path(self) -> Path:
        return DATA / f"{self.name}.parquet"

    def light(self, rows: Mapping[str, Column]) -> Result:
        """The function on a mapping of arrays."""
        return self.core(*[rows[name] for name in self.columns])

    def pandas(self, rows: Any) -> Result:
        """The function on a pandas frame, as a pandas user writes it."""
        return self.core(*[rows[name].to_numpy() for name in self.columns])


# ---- the functions of one unit


def mean(qty: Column) -> Result:
    """Next to nothing: about 2 microseconds, so that what is measured is the engine."""
    return {"mean_qty": float(qty.mean()), "n": int(qty.size)}


GRID = np.linspace(0.6, 1.6, 2001)


def elasticity(
    week: Column,
    price: Column,
    qty: Column,
    promo: Column,
    holiday: Column,
    cost: Column,
    weight: Column,
) -> Result:
    """What a pricing function does, about a millisecond: weighted least squares, its jackknife
    error, the best price on a grid.
    """
    phase = week.astype(float) * (2 * np.pi / 52)
    log_price = np.log(price)
    design = np.column_stack(
        [
            np.ones_like(log_price),
            log_price,
            promo,
            holiday,
            np.sin(phase),
            np.cos(phase),
            week / 104,
        ]
    )
    root = np.sqrt(weight)
    x, y = design * root[:, None], np.log(qty) * root
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    block = week % 26
    left_out = np.array(
        [np.linalg.lstsq(x[block != k], y[block != k], rcond=None)[0][1] for k in range(26)]
    )
    error = np.sqrt(25 / 26 * np.sum((left_out - left_out.mean()) ** 2))
    prices = GRID * price.mean()
    profit = (prices - cost.mean()) * np.exp(beta[0] + beta[1] * np.log(prices))
    best = int(profit.argmax())
    return {
        "elasticity": float(beta[1]),
        "se": float(error),
        "best_price": float(prices[best]),
        "n": int(qty.size),
    }


def huber(
    week: Column, price: Column, qty: Column, promo: Column, holiday: Column, weight: Column
) -> Result:
    """A robust regression by 250 reweightings: the time is in proportion to the rows."""
    phase = week.astype(float) * (2 * np.pi / 52)
    log_price, y = np.log(price), np.log(qty)
    x = np.column_stack(
        [np.ones_like(log_price), log_price, promo, holiday, np.sin(phase), np.cos(phase)]
    )
    w, ridge, scale, beta = weight.copy(), 1e-6 * np.eye(6), 1.0, np.zeros(6)
    for _ in range(250):
        xw = x * w[:, None]
        beta = np.linalg.solve(xw.T @ x + ridge, xw.T @ y)
        away = np.abs(y - x @ beta)
        scale = max(1.2533 * float(away.mean()), 1e-6)
        w = weight * np.minimum(1.0, 1.345 * scale / np.maximum(away, 1e-12))
    return {"elasticity": float(beta[1]), "scale": scale, "n": int(qty.size)}


def revenue(price: Column, qty: Column, promo: Column, channel: Column) -> Result:
    """A little arithmetic on four of forty columns, one of them a text."""
    web = channel == "web"
    return {
        "revenue": float(price @ qty),
        "promoted": float(promo.mean()),
        "web": int(web.sum()),
        "n": int(qty.size),
    }


# ---- the data


def write(path: Path, blocks: Iterator[dict[str, Any]]) -> None:
    """Blocks of columns as one Parquet file; nothing is left of it if this is interrupted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    writer = None
    for block in blocks:
        table = pa.table(block)
        writer = writer or pq.ParquetWriter(
            half, table.schema, compression="zstd", store_schema=False
        )
        writer.write_table(table, row_group_size=ROW_GROUP)
    assert writer is not None
    writer.close()
    half.replace(path)


def keys_of(unit: Column, locations: int, products: int) -> dict[str, Any]:
    """The three key columns of rows whose units are numbered."""
    import pyarrow as pa

    segment = unit // (locations * products)
    names = pa.array([f"SEG{i:02d}" for i in range(int(segment.max(initial=0)) + 1)])
    return {
        "segment": pa.DictionaryArray.from_arrays(pa.array(segment.astype(np.int16)), names).cast(
            pa.string()
        ),
        "location": (unit // products % locations).astype(np.int32),
        "product": (unit % products).astype(np.int32),
    }


def blocks_of(sizes: Column, rng: np.random.Generator, rows: int = 1_000_000) -> Iterator[Column]:
    """The unit of every row, shuffled over the whole file, a block at a time."""
    order = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    return (order[start : start + rows] for start in range(0, len(order), rows))


def sales(
    units: int, rows: int, locations: int, products: int, seed: int
) -> Callable[[Path], None]:
    """Prices and quantities without a model behind them."""

    def make(path: Path) -> None:
        rng = np.random.default_rng(seed)
        write(
            path,
            (
                keys_of(unit, locations, products)
                | {
                    "week": rng.integers(0, 104, len(unit)).astype(np.int16),
                    "price": np.round(rng.lognormal(2, 0.4, len(unit)), 2),
                    "qty": np.round(rng.gamma(2.0, 10.0, len(unit)), 1),
                }
                for unit in blocks_of(np.full(units, rows), rng)
            ),
        )

    return make


def demand(sizes: Column, locations: int, products: int, seed: int) -> Callable[[Path], None]:
    """Quantities that follow a log-log demand curve of each unit's own."""

    def make(path: Path) -> None:
        rng = np.random.default_rng(seed)
        level, slope = rng.normal(3, 0.5, len(sizes)), -rng.uniform(1.2, 3.0, len(sizes))
        usual = rng.lognormal(2, 0.4, len(sizes))

        def block(unit: Column) -> dict[str, Any]:
            n = len(unit)
            week = rng.integers(0, 104, n).astype(np.int16)
            price = usual[unit] * np.exp(rng.normal(0, 0.15, n))
            promo, holiday = (rng.random(n) < 0.15).astype(float), (week % 26 < 2).astype(float)
            log_qty = level[unit] + slope[unit] * np.log(price) + 0.3 * promo + 0.2 * holiday
            log_qty += 0.1 * np.sin(week / 52 * 2 * np.pi) + rng.normal(0, 0.3, n)
            return keys_of(unit, locations, products) | {
                "week": week,
                "price": price,
                "qty": np.exp(log_qty),
                "promo": promo,
                "holiday": holiday,
                "cost": usual[unit] * 0.6,
                "weight": rng.uniform(0.5, 1.5, n),
            }

        write(path, map(block, blocks_of(sizes, rng)))

    return make


def wide(units: int, rows: int, locations: int, products: int, seed: int) -> Callable[[Path], None]:
    """Forty columns: three of the key, eight of texts, five dates, four booleans, twenty numbers;
    nulls in every fifth.
    """

    def make(path: Path) -> None:
        import pyarrow as pa

        rng = np.random.default_rng(seed)
        words = pa.array(["web", "shop", "agent", "ussd"] + [f"word {i}" for i in range(60)])

        def block(unit: Column) -> dict[str, Any]:
            n = len(unit)

            def some(values: Any, number: int) -> Any:
                return (
                    pa.array(values, mask=rng.random(n) < 0.1)
                    if number % 5 == 4
                    else pa.array(values)
                )

            def text(kinds: int) -> Any:
                return pa.DictionaryArray.from_arrays(
                    pa.array(rng.integers(0, kinds, n).astype(np.int8)), words
                ).cast(pa.string())

            numbers = {
                f"number_{i:02d}": some(np.round(rng.normal(100, 20, n), 2), i) for i in range(16)
            }
            texts = {f"text_{i}": text(64) for i in range(7)}
            dates = {
                f"day_{i}": pa.array(rng.integers(19_000, 20_000, n).astype(np.int32)).cast(
                    pa.date32()
                )
                for i in range(5)
            }
            flags = {f"flag_{i}": some(rng.random(n) < 0.5, i + 1) for i in range(4)}
            return (
                keys_of(unit, locations, products)
                | {
                    "week": rng.integers(0, 104, n).astype(np.int16),
                    "price": np.round(rng.lognormal(2, 0.4, n), 2),
                    "qty": np.round(rng.gamma(2.0, 10.0, n), 1),
                    "promo": (rng.random(n) < 0.15).astype(float),
                    "channel": text(4),
                }
                | numbers
                | texts
                | dates
                | flags
            )

        write(path, map(block, blocks_of(np.full(units, rows), rng, 250_000)))

    return make


def _skewed() -> Column:
    """Rows of 2,000 units by a Zipf law: from 10 to 200,000."""
    rank = np.random.default_rng(33).permutation(2_000) + 1
    return np.maximum(10, 200_000 / rank**1.3).astype(int)


_MEAN = ("mean_qty", "n")
_FIT = ("week", "price", "qty", "promo", "holiday", "cost", "weight")
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            "overhead: 100,000 units x 20 rows",
            100_000,
            mean,
            ("qty",),
            _MEAN,
            sales(100_000, 20, 100, 100, 1),
        ),
        Workload(
            "W2",
            "typical: 10,000 units x 200 rows, a fit of about 1 ms",
            10_000,
            elasticity,
            _FIT,
            ("elasticity", "se", "best_price", "n"),
            demand(np.full(10_000, 200), 50, 20, 2),
        ),
        Workload(
            "W3",
            "skewed: 2,000 units of 10 to 200,000 rows",
            2_000,
            huber,
            tuple(c for c in _FIT if c != "cost"),
            ("elasticity", "scale", "n"),
            demand(_skewed(), 20, 20, 3),
        ),
        Workload(
            "W4",
            "many: 1,000,000 units x 10 rows",
            1_000_000,
            mean,
            ("qty",),
            _MEAN,
            sales(1_000_000, 10, 1_000, 100, 4),
        ),
        Workload(
            "tiny",
            "tiny: 100 units x 20 rows",
            100,
            mean,
            ("qty",),
            _MEAN,
            sales(100, 20, 5, 10, 5),
        ),
        Workload(
            "wide",
            "wide: 20,000 units x 20 rows of 40 columns, texts among them",
            20_000,
            revenue,
            ("price", "qty", "promo", "channel"),
            ("revenue", "promoted", "web", "n"),
            wide(20_000, 20, 100, 20, 6),
        ),
    )
}


def ready(name: str) -> Workload:
    """A workload whose file is there."""
    workload = WORKLOADS[name]
    if not workload.path.exists():
        workload.make(workload.path)
    return workload


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), choices=[*WORKLOADS, []])
    for name in parser.parse_args().workloads:
        workload = ready(name)
        print(f"{name:5} {workload.title}: {workload.path.stat().st_size / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
