"""Do intervals, promises and totals hold in every world?  Made-up markets whose truth is known, over seeds.

    python -m benchmarks.tariffs_worlds [--seeds N] [--first SEED] [WORLD ...]

For each world the mean, the least and the standard deviation over its seeds: how many of the true elasticities 90 % intervals hold, P(gain) of the moves as promised
and as kept, the lift in margin as promised and as it truly is, how many of the totals' intervals hold, and the mean size of the bias.  Bundles, before the ladder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from tariffs import bundles
from tariffs.generator import bundles as generator
from tariffs.generator.sizes import BUNDLES, CEILING_SHARE, COST_PER_MB, FLOOR_SHARE, SIZES
from tariffs.generator.switches import OFF, Switches
from tariffs.rows import Rows, key_offsets
from tariffs.totals import total

QUERIES = Path(bundles.__file__).parent / "queries"
RARE = 0.05  # of what usual units sell


@dataclass(frozen=True, slots=True)
class World:
    """locations (54 units each);  rare: units sell a twentieth;  trials: whether exploration was logged."""

    locations: int
    rare: bool = False
    trials: bool = False
    switches: Switches = OFF


WORLDS: Mapping[str, World] = {
    "54": World(1),
    "216": World(4),
    "1,080": World(20),
    "1,080 rare": World(20, rare=True),
    "1,080 with trials": World(20, trials=True),
    "10,800": World(200),
    "foresight 1": World(60, trials=True, switches=Switches(endog=1)),
    "foresight 2": World(60, trials=True, switches=Switches(endog=2)),
    "cross 0.5": World(20, trials=True, switches=Switches(cross=0.5)),
    "serial 0.9": World(20, trials=True, switches=Switches(ar=0.9)),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """Of one world: shares, P(gain) of the moves, lifts as shares of the margin; `totals` is how many of volume, revenue and margin their intervals hold."""

    cover: float
    promised: float
    kept: float
    lift: float
    true_lift: float
    totals: float
    bias: float
    rho_used: float


class Units:
    """Units end to end, as the engine hands them over."""

    def __init__(self, columns: Rows) -> None:
        self.columns, self.offsets = columns, key_offsets(columns, bundles.UNIT)
        self.keys = {name: columns[name][self.offsets[:-1]] for name in bundles.UNIT}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def make(world: World, seed: int) -> tuple[Units, Rows]:
    """The units' weeks, and the truth about each unit."""
    size = replace(SIZES["demo"], locations=world.locations, weeks=26, cells=1)
    parts = [
        (generator.bundle_block(seed, size, b, world.switches), generator.places(seed, size, b)) for b in range(generator.blocks(size))
    ]
    sales, true = (_together([_columns(t) for t in tables]) for tables in ([p[0].sales for p in parts], [p[0].truth for p in parts]))
    places = _together([_columns(p[1]) for p in parts])
    if world.rare:
        sales["units"] = np.random.default_rng(seed).binomial(sales["units"], RARE)
        true["level"] = true["level"] + np.log(RARE)
    by_key = np.lexsort((true["product"].astype(str), true["location"].astype(str), true["segment"].astype(str)))
    return Units(_rows(sales, places, world.trials)), {name: values[by_key] for name, values in true.items()}


def judge(world: World, seed: int) -> Judged:
    units, true = make(world, seed)
    prior = bundles.fit_prior(units.columns)
    told = bundles.price_bundles(units, prior)
    current, price, reference = told["current_price"], told["price"], told["reference_price"]
    scale = units["active_subs"][units.offsets[1:] - 1] * np.exp(true["level"])

    def sold(at: np.ndarray) -> np.ndarray:
        return np.asarray(scale * np.exp(true["beta"] * (at / reference - 1)))

    def margin(at: np.ndarray) -> np.ndarray:
        return sold(at) * (at - told["unit_cost"])

    error, moved, base = told["beta"] - true["beta"], price != current, margin(current).sum()
    own = np.isclose(told["beta"] * current / reference, told["elasticity"])
    gain = margin(price) - margin(current)
    found = total(sums(units, told), prior, prior)
    truths = ((sold(price) - sold(current)).sum(), (sold(price) * price - sold(current) * current).sum(), gain.sum())
    ends = ((found.volume_lo, found.volume_hi), (found.revenue_lo, found.revenue_hi), (found.margin_lo, found.margin_hi))
    held = [low <= truth <= high for truth, (low, high) in zip(truths, ends, strict=True)]
    return Judged(
        float((np.abs(error) <= 1.6449 * told["se"] * reference / current)[own].mean()),
        float(told["p_gain"][moved].mean()), float((gain[moved] > 0).mean()),
        float(told["expected_margin_delta"].sum() / base), float(gain.sum() / base), float(np.mean(held)), float(error.mean()), prior.rho_used,
    )  # fmt: skip


def sums(units: Units, told: Rows) -> Rows:
    """What `queries/totals.sql` makes of the bundles alone."""
    priced = pa.table({**{k: pa.array(v) for k, v in told.items()}, **{k: pa.array(v.astype(str)) for k, v in units.keys.items()}})
    tier = dict(zip(units["location"], units["tier"], strict=True))
    with duckdb.connect(config={"threads": 1}) as duck:
        duck.register("bundles", priced)
        duck.register("ladder", priced)
        duck.register("locations", pa.table({"location": [str(k) for k in tier], "tier": [str(v) for v in tier.values()]}))
        duck.execute("CREATE TABLE portfolio AS SELECT '' AS kind, '' AS unit_key, * FROM bundles LIMIT 0")
        duck.execute("CREATE TABLE voice AS SELECT *, '' AS cell, 0 AS hour, '' AS day_type FROM bundles LIMIT 0")
        duck.execute("CREATE TABLE voice_day AS SELECT * FROM voice")
        duck.execute("CREATE TABLE cell_load AS SELECT cell, hour, '' AS cell_class FROM voice")
        found = duck.sql(f"SELECT * FROM ({(QUERIES / 'totals.sql').read_text()}) ORDER BY first, second, third").to_arrow_table()
    return _columns(found)


def _columns(table: pa.Table) -> Rows:
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _together(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(s: Rows, places: Rows, trials: bool) -> Rows:
    """The columns of `queries/bundles.sql`, under the default policy."""
    product = {b.product: b for b in BUNDLES}
    lists = np.array([product[p].list_price for p in s["product"]])
    tier, count = dict(zip(places["location"], places["tier"], strict=True)), len(lists)
    fixed = {
        "max_step": 0.15, "z": 0.84, "min_weeks": 8.0, "usage_value": 0.0, "regulated_floor": 0.0, "regulated_ceiling": 1e9, "min_days": 0.0,
        "explore_share": 0.0, "explore_loss": 0.05, "week_share": 1.0,
    }  # fmt: skip
    rows = {
        **{name: s[name].astype(object) for name in bundles.UNIT},
        "tier": np.array([tier[place] for place in s["location"]], dtype=object),
        "week": s["week"].astype("datetime64[D]"), "quantity": s["units"].astype(float), "price": s["price"].astype(float),
        "posted_price": s["list_price"].astype(float), "reference_price": lists, "active_subs": s["active_subs"].astype(float),
        "explore_eps": s["explore_eps"] * s["list_price"] / lists * trials,
        "unit_cost": np.array([product[p].volume_mb * COST_PER_MB for p in s["product"]]),
        "price_tick": np.array([product[p].price_tick for p in s["product"]]),
        "price_floor": np.round(lists * FLOOR_SHARE, 6), "price_ceiling": np.round(lists * CEILING_SHARE, 6), "control": np.zeros(count, dtype=bool),
        **{name: np.full(count, value) for name, value in fixed.items()},
    }  # fmt: skip
    rows["latest_week"] = np.full(count, rows["week"].max())
    order = np.lexsort((rows["week"], *(rows[name].astype(str) for name in reversed(bundles.UNIT))))
    return {name: values[order] for name, values in rows.items()}


def summary(found: Sequence[Judged]) -> dict[str, float]:
    """Means over the seeds, and the spread of the cover."""
    mean = {name: float(np.mean([getattr(one, name) for one in found])) for name in Judged.__slots__}
    cover = [one.cover for one in found]
    return mean | {"least": min(cover), "spread": float(np.std(cover)), "size of bias": float(np.mean([abs(one.bias) for one in found]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=3000)
    asked = parser.parse_args()
    print("| world | seeds | intervals hold | least | sd | P(gain) promised / kept | lift promised / true | totals hold | size of bias |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in asked.worlds:
        s = summary([judge(WORLDS[name], seed) for seed in range(asked.first, asked.first + asked.seeds)])
        print(
            f"| {name} | {asked.seeds} | {s['cover']:.3f} | {s['least']:.3f} | {s['spread']:.3f} | {s['promised']:.3f} / {s['kept']:.3f}"
            f" | {s['lift']:+.2%} / {s['true_lift']:+.2%} | {s['totals']:.2f} | {s['size of bias']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
