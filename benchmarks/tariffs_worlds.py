"""Do intervals, promises and totals hold in every world? Generated markets whose truth is known,
over seeds.

    python -m benchmarks.tariffs_worlds [--worlds N] [--seed FIRST] [NAME ...]

Each world is N markets, of the seeds FIRST, FIRST + 1, ...; its row is printed as soon as it is
measured. The models' own queries run on tables in memory, then stage 1 with its backtest gate, the
price rule, and the totals: bundles before the ladder, voice before the day, no unit held as
control.

intervals hold   the share of the true elasticities within the units' 90 % intervals: mean over
                 markets, standard deviation, least
P(gain)          mean over all moves, as promised, and the share that truly gains (expected demand
                 at the true elasticity and level)
lift             change of margin, as promised and as it truly is, in shares of the true margin; and
                 their ratio
totals hold      the share of the 90 % intervals of volume, revenue and margin that contain the true
                 change; z: the mean of (true - promised) / standard error, of the margin
|bias|           mean over markets of the absolute mean error of the elasticities; worst: the
                 greatest
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import repeat
from multiprocessing import get_context

import duckdb
import numpy as np
import pyarrow as pa

from hundredfold.contract import read_contract
from tariffs.columns import Rows, Units, key_offsets
from tariffs.demand import hyper
from tariffs.demand.prior import Prior
from tariffs.job import SOURCES
from tariffs.optimise.rule import COVERAGE_90
from tariffs.pricing import bundles, voice
from tariffs.pricing.totals import total
from tariffs.query_files import query_text
from tariffs.synthetic import bundles as bundle_generator
from tariffs.synthetic import voice as voice_generator
from tariffs.synthetic.scenarios import OFF, Switches
from tariffs.synthetic.sizes import SEGMENTS, SIZES, Size
from tariffs.synthetic.write import _catalog, _policy

RARE = 0.05  # of what usual units sell
PINNED = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # to one, as in the engine's workers: threads only cost with matrices so small


@dataclass(frozen=True, slots=True)
class World:
    """The kind of a market.

    locations  54 bundle units each
    cells      48 voice units each; if there are any, voice is judged
    rare       whether units sell a twentieth
    trials     whether exploration was logged
    drawn      whether the true elasticities are a draw from the estimator's prior of delta and tau,
               another one for each seed, instead of the generator's
    """

    locations: int
    cells: int = 0
    rare: bool = False
    trials: bool = False
    drawn: bool = False
    switches: Switches = OFF


WORLDS: Mapping[str, World] = {
    "54": World(1),
    "54 drawn": World(1, drawn=True),
    "216": World(4),
    "1,080": World(20),
    "1,080 rare": World(20, rare=True),
    "10,800": World(200),
    "voice 48": World(1, cells=1),
    "voice 240": World(4, cells=5),
    "voice 960": World(4, cells=20),
    "voice 960 full": World(4, cells=20, switches=Switches(cap=True)),
    "voice 2,880": World(20, cells=60),
    "1,080 with trials": World(20, trials=True),
    "3,240": World(60),
    "3,240 with trials": World(60, trials=True),
    "foresight 1, 1,080": World(20, trials=True, switches=Switches(endog=1)),
    "foresight 1, 3,240": World(60, trials=True, switches=Switches(endog=1)),
    "foresight 2, 3,240": World(60, trials=True, switches=Switches(endog=2)),
    "cross 0.5, 1,080": World(20, trials=True, switches=Switches(cross=0.5)),
    "cross 0.5, 3,240": World(60, trials=True, switches=Switches(cross=0.5)),
    "serial 0.9, 1,080": World(20, trials=True, switches=Switches(ar=0.9)),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """Of one market: shares, P(gain) of the moves, lifts as shares of the margin; `totals` is how
    many of volume, revenue and margin their intervals hold, `z` how many standard errors the true
    change of the margin lies above the promised one.
    """

    cover: float
    promised: float
    kept: float
    lift: float
    true_lift: float
    totals: float
    z: float
    bias: float
    moves: float
    rho: float
    rho_used: float
    foreseen: float


class Batch:
    """Units end to end, as the engine hands them over."""

    def __init__(self, columns: Rows, key: Sequence[str]) -> None:
        self.columns, self.offsets = columns, key_offsets(columns, key)
        self.keys = {name: columns[name][self.offsets[:-1]] for name in key}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What is judged: bundles or voice."""

    query: str
    prior_query: str
    key: tuple[str, ...]
    fit: Callable[[Rows], Prior]
    price: Callable[[Units, Prior], dict[str, np.ndarray]]


BUNDLES = Kind("bundles", "prior", bundles.UNIT, bundles.fit_prior, bundles.price_bundles)
VOICE = Kind("voice", "voice_prior", voice.UNIT, voice.fit_voice_prior, voice.price_voices)


@dataclass(frozen=True, slots=True)
class Market:
    """The tables of one seed under the models' queries, and the truth about each unit, in the
    units' order.
    """

    kind: Kind
    duck: duckdb.DuckDBPyConnection
    true: Rows

    def rows(self, query: str) -> Rows:
        order = ", ".join((*self.kind.key, "week"))
        return _columns(
            self.duck.sql(f"SELECT * FROM ({query_text(query)}) ORDER BY {order}").to_arrow_table()
        )

    def prior(self) -> Prior:
        return self.kind.fit(self.rows(self.kind.prior_query))

    def units(self) -> Batch:
        return Batch(self.rows(self.kind.query), self.kind.key)


def make(world: World, seed: int) -> Market:
    kind = VOICE if world.cells else BUNDLES
    size = replace(SIZES["demo"], locations=world.locations, weeks=26, cells=max(world.cells, 1))
    locations = pa.concat_tables(
        [
            bundle_generator.location_table(seed, size, b)
            for b in range(bundle_generator.blocks(size))
        ]
    )
    locations = locations.set_column(
        locations.column_names.index("control"),
        "control",
        pa.array(np.zeros(len(locations), dtype=bool)),
    )
    tables = {"locations": locations, "product_catalog": _catalog(), "policy": _policy()}
    if kind is VOICE:
        made = [
            voice_generator.voice_block(seed, size, b, world.switches)
            for b in range(voice_generator.blocks(size))
        ]
        tables |= {
            "voice_usage": pa.concat_tables([m.usage for m in made]),
            "cell_load": pa.concat_tables([m.cells for m in made]),
        }
        true = _columns(pa.concat_tables([m.truth for m in made]))
    else:
        blocks = [
            bundle_generator.bundle_block(seed, size, b, world.switches)
            for b in range(bundle_generator.blocks(size))
        ]
        sales, true = (
            pa.concat_tables([b.sales for b in blocks]),
            _columns(pa.concat_tables([b.truth for b in blocks])),
        )
        if world.drawn:
            sales, true["beta"] = _draw_from_prior(seed, size, locations, sales, true)
        if world.rare:
            rare = np.random.default_rng(seed).binomial(sales["units"].to_numpy(), RARE)
            sales, true["level"] = _with(sales, "units", rare), true["level"] + np.log(RARE)
        if not world.trials:
            sales = _with(sales, "explore_eps", np.zeros(len(sales)))
        tables |= {"bundle_sales": sales}
    duck = duckdb.connect(config={"threads": 1})
    for name, table in tables.items():
        duck.register(name, _complete(name, table))
    by_key = np.lexsort(
        [
            true[name].astype(str) if true[name].dtype == object else true[name]
            for name in reversed(kind.key)
        ]
    )
    return Market(kind, duck, {name: values[by_key] for name, values in true.items()})


def _draw_from_prior(
    seed: int, size: Size, locations: pa.Table, sales: pa.Table, true: Rows
) -> tuple[pa.Table, np.ndarray]:
    """Return sales at elasticities drawn from the estimator's prior, and these elasticities."""
    rng = np.random.default_rng(seed)
    trend = np.log(bundle_generator.LIST_PRICE)
    tier = dict(zip(locations["location"].to_pylist(), locations["tier"].to_pylist(), strict=True))
    kinds = (true["product"], true["segment"], np.array([tier[at] for at in true["location"]]))
    product = dict(zip(bundle_generator.PRODUCTS, trend - trend.mean(), strict=True))
    slope = rng.normal(0, hyper.THETA_SD)
    beta = rng.normal(hyper.INTERCEPT_MEAN, hyper.INTERCEPT_SD) + slope * np.array(
        [product[name] for name in true["product"]]
    )
    for labels in kinds:
        levels, code = np.unique(labels.astype(str), return_inverse=True)
        beta = beta + rng.normal(0, rng.exponential(1 / hyper.OMEGA_RATE), len(levels))[code]
    tau = hyper.TAU_MEDIAN * np.exp(rng.normal(0, hyper.TAU_LOG_SD))
    beta = np.minimum(beta + rng.normal(0, tau, len(beta)), bundle_generator.LEAST_ELASTIC)
    segments = list(SEGMENTS)
    season = bundle_generator.bundle_season(seed, size)[[segments.index(s) for s in kinds[1]]]
    list_price = dict(zip(bundle_generator.PRODUCTS, bundle_generator.LIST_PRICE, strict=True))
    reference = np.array([list_price[name] for name in true["product"]])[:, None]
    shape = (len(beta), size.weeks)  # the rows are in the order of the units, then of the weeks
    x = sales["price"].to_numpy().reshape(shape) / reference - 1
    demand = np.exp(true["level"][:, None] + season + beta[:, None] * x)
    mu = sales["active_subs"].to_numpy().reshape(shape) * demand
    noise = bundle_generator.DISPERSION - 1
    return _with(sales, "units", rng.poisson(rng.gamma(mu / noise, noise)).ravel()), beta


def judge(world: World, seed: int) -> Judged:
    market = make(world, seed)
    prior, units, true = market.prior(), market.units(), market.true
    priced = market.kind.price(units, prior)
    current, price, reference = priced["current_price"], priced["price"], priced["reference_price"]
    scale = units["active_subs"][units.offsets[1:] - 1] * np.exp(true["level"])
    room = priced["capacity"] if market.kind is VOICE else np.inf

    def sold(at: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum(scale * np.exp(true["beta"] * (at / reference - 1)), room))

    def margin(at: np.ndarray) -> np.ndarray:
        found: np.ndarray = sold(at) * (at - priced["unit_cost"])
        return found

    error, moved, base = priced["beta"] - true["beta"], price != current, margin(current).sum()
    own = np.isclose(priced["beta"] * current / reference, priced["elasticity"])
    gain = margin(price) - margin(current)
    found = total(sums(market, priced, units.keys), prior, prior)
    truths = (
        (sold(price) - sold(current)).sum(),
        (sold(price) * price - sold(current) * current).sum(),
        gain.sum(),
    )
    ends = (
        (found.volume_lo, found.volume_hi),
        (found.revenue_lo, found.revenue_hi),
        (found.margin_lo, found.margin_hi),
    )
    held = [low <= truth <= high for truth, (low, high) in zip(truths, ends, strict=True)]
    error_of_total = (found.margin_hi - found.margin_lo) / (2 * COVERAGE_90)
    return Judged(
        cover=float(
            (np.abs(error) <= COVERAGE_90 * priced["se"] * reference / current)[own].mean()
        ),
        promised=float(priced["p_gain"][moved].mean()),
        kept=float((gain[moved] > 0).mean()),
        lift=found.margin / base,
        true_lift=float(gain.sum() / base),
        totals=float(np.mean(held)),
        z=float(gain.sum() - found.margin) / error_of_total,
        bias=float(error.mean()),
        moves=float(moved.sum()),
        rho=prior.rho,
        rho_used=prior.rho_used,
        foreseen=prior.rho_chance,
    )


def timed(world: World, seed: int) -> tuple[Judged, float]:
    """And the CPU seconds it took."""
    began = time.process_time()
    return judge(world, seed), time.process_time() - began


def sums(market: Market, priced: Mapping[str, np.ndarray], keys: Mapping[str, np.ndarray]) -> Rows:
    """What `queries/totals.sql` makes of one kind alone, before the ladder or the day."""
    names = {
        name: pa.array(values.astype(str) if values.dtype == object else values)
        for name, values in {**priced, **keys}.items()
    }
    duck = market.duck
    duck.register("priced", pa.table(names))
    for kind, models in ((BUNDLES, ("bundles", "ladder")), (VOICE, ("voice", "voice_day"))):
        other = ", ".join(f"{'0' if name == 'hour' else repr('')} AS {name}" for name in kind.key)
        other += ", 0e0 AS capacity" if kind is VOICE else ""
        for model in models:
            duck.execute(
                f"CREATE OR REPLACE TEMP VIEW {model} AS SELECT * "
                f"{'' if kind is market.kind else f', {other}'} FROM priced"
                f" WHERE {kind is market.kind}"
            )
    duck.execute(
        "CREATE OR REPLACE TEMP VIEW portfolio AS SELECT '' AS kind, '' AS unit_key, * FROM "
        "priced WHERE false"
    )
    if market.kind is BUNDLES:
        duck.execute(
            "CREATE OR REPLACE TEMP VIEW cell_load AS SELECT '' AS cell, 0 AS hour, '' AS "
            "cell_class WHERE false"
        )
    query = query_text("totals")
    return _columns(
        duck.sql(f"SELECT * FROM ({query}) ORDER BY first, second, third, unit").to_arrow_table()
    )


def _with(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def _complete(name: str, table: pa.Table) -> pa.Table:
    """With what the source's contract lets be missing, as the engine adds it."""
    duck = duckdb.connect(config={"threads": 1})
    duck.register("given", table)
    contract = next(source.contract for source in SOURCES if source.name == name)
    assert contract is not None
    columns = read_contract(contract).columns
    given = set(table.column_names)
    selected = [
        f"CAST({c.name if c.name in given else 'NULL'} AS {c.sql_type}) AS {c.name}"
        for c in columns
    ]
    return duck.sql(f"SELECT {', '.join(selected)} FROM given").to_arrow_table()


def _columns(table: pa.Table) -> Rows:
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


HEADER = (
    "| world | markets | intervals hold | sd | least | P(gain) promised / kept | lift promised / "
    "true | ratio | totals hold | z | \\|bias\\| | worst | s |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def summary(found: Sequence[Judged]) -> dict[str, float]:
    """Means over the markets (P(gain) over all their moves), and the spread of the cover and of the
    bias.
    """
    each = {
        field.name: np.array([getattr(one, field.name) for one in found])
        for field in fields(Judged)
    }
    mean = {name: float(values.mean()) for name, values in each.items()}
    for name in ("promised", "kept"):
        there = each["moves"] > 0
        mean[name] = float(np.average(each[name][there], weights=each["moves"][there]))
    cover, bias = each["cover"], np.abs(each["bias"])
    spread = {
        "least": cover.min(),
        "spread": cover.std(),
        "size of bias": bias.mean(),
        "worst bias": bias.max(),
        "z sd": each["z"].std(),
    }
    return mean | {name: float(value) for name, value in spread.items()}


def row(name: str, found: Sequence[Judged], seconds: float) -> str:
    s = summary(found)
    return (
        f"| {name} | {len(found)} | {s['cover']:.3f} | {s['spread']:.3f} | {s['least']:.3f} | "
        f"{s['promised']:.3f} / {s['kept']:.3f}"
        f" | {s['lift']:+.2%} / {s['true_lift']:+.2%} | {s['lift'] / s['true_lift']:.2f} | "
        f"{s['totals']:.2f} | {s['z']:+.2f} ± {s['z sd']:.2f}"
        f" | {s['size of bias']:.3f} | {s['worst bias']:.3f} | {seconds / len(found):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(WORLDS), metavar="NAME", help=f"of {', '.join(WORLDS)}"
    )
    parser.add_argument("--worlds", type=int, default=20, metavar="N", help="markets of each world")
    parser.add_argument(
        "--seed", type=int, default=3000, metavar="FIRST", help="of the first market"
    )
    asked = parser.parse_args()
    os.environ.update(dict.fromkeys(PINNED, "1"))
    print(*HEADER, sep="\n", flush=True)
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn")
    ) as pool:  # whose BLAS starts with these
        for name in asked.names:
            found = list(
                pool.map(timed, repeat(WORLDS[name]), range(asked.seed, asked.seed + asked.worlds))
            )
            print(
                row(name, [one for one, _ in found], sum(seconds for _, seconds in found)),
                flush=True,
            )


if __name__ == "__main__":
    main()
