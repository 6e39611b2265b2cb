"""Data that are not an experiment: prices with foresight, cells that are full. What is left of the
bias, against known truth.

    python -m benchmarks.tariffs_honest

The first table says why rho is taken out as its posterior mean (`shrunken`), whatever the test
says: the other rules are to take nothing out (`never`), all of it where the test rejects
(`tested`), and all of it (`always`). Means over seeds of the root mean square error, the bias and
the cover of 90 % intervals, of all units. The second is about voice units that are full in six
weeks or more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np

from hundredfold.contract import read_contract
from tariffs.columns import key_offsets
from tariffs.demand.endogeneity import ENDOGENOUS
from tariffs.demand.prior import Prior
from tariffs.job import SOURCES
from tariffs.pricing import bundles, voice
from tariffs.query_files import query_text
from tariffs.synthetic import Size
from tariffs.synthetic.scenarios import Switches
from tariffs.synthetic.write import generate

TRUTH = {"bundles": "segment, location, product", "voice": "cell, hour, day_type"}
Rows = dict[str, np.ndarray]


class Batch:
    """Units end to end, as the engine hands them over."""

    def __init__(self, columns: Rows, key: tuple[str, ...]) -> None:
        self.columns, self.offsets = columns, key_offsets(columns, key)
        self.keys = {name: columns[name][self.offsets[:-1]] for name in key}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def source(duck: duckdb.DuckDBPyConnection, name: str, files: list[Path]) -> str:
    """The query of a source's files, with what its contract lets be missing, as
    the engine adds it.
    """
    read = (
        f"{'read_csv' if files[0].suffix == '.csv' else 'read_parquet'}({[str(f) for f in files]})"
    )
    there = {row[0] for row in duck.sql(f"DESCRIBE SELECT * FROM {read}").fetchall()}
    optional = [
        c
        for c in read_contract(next(s.contract for s in SOURCES if s.name == name)).columns
        if c.optional
    ]
    added = [f"CAST(NULL AS {c.sql_type}) AS {c.name}" for c in optional if c.name not in there]
    typed = [f"CAST({c.name} AS {c.sql_type}) AS {c.name}" for c in optional if c.name in there]
    star = f"* REPLACE ({', '.join(typed)})" if typed else "*"
    return f"SELECT {', '.join([star, *added])} FROM {read}"


class Market:
    """Made-up tables in a folder, and the models' queries over them."""

    def __init__(self, size: Size, switches: Switches, seed: int, folder: Path) -> None:
        paths = generate(size, folder, seed, dirt=False, switches=switches)
        self.duck, self.truth = duckdb.connect(), paths.truth
        self.duck.execute("SET threads = 1")
        for name, files in paths.sources.items():
            self.duck.execute(f"CREATE TABLE {name} AS {source(self.duck, name, files)}")

    def ask(self, query: str, key: tuple[str, ...]) -> Rows:
        return self.columns(
            f"SELECT * FROM ({query_text(query)}) AS q ORDER BY {', '.join([*key, 'week'])}"
        )

    def beta(self, name: str) -> np.ndarray:
        return self.columns(
            f"SELECT beta FROM '{self.truth / name}.parquet' ORDER BY {TRUTH[name]}"
        )["beta"]

    def columns(self, sql: str) -> Rows:
        table = self.duck.sql(sql).to_arrow_table()
        days = {"week": "datetime64[D]"}
        return {
            name: table[name].to_numpy(zero_copy_only=False).astype(days[name])
            if name in days
            else table[name].to_numpy(zero_copy_only=False)
            for name in table.column_names
        }


def scores(prices: Rows, true: np.ndarray, which: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Bias, rmse, cover of 90 % intervals."""
    scale = prices["reference_price"] / prices["current_price"]
    error, own = prices["beta"] - true, np.isclose(prices["beta"], prices["elasticity"] * scale)
    inside = np.abs(error) <= 1.645 * prices["se"] * scale
    return np.array(
        [error[which].mean(), np.sqrt(np.mean(error[which] ** 2)), inside[which][own[which]].mean()]
    )


Rule = Callable[[Prior], tuple[float, float]]
RULES: dict[str, Rule] = {
    "never": lambda _: (0.0, 0.0),
    "tested": lambda prior: (
        (prior.rho, prior.rho_se**2) if prior.exogeneity == ENDOGENOUS else (0.0, 0.0)
    ),
    "always": lambda prior: (prior.rho, prior.rho_se**2),
    "shrunken": lambda prior: (prior.rho_used, prior.rho_variance),
}


def foresight(locations: int, switches: Switches, seed: int) -> dict[str, np.ndarray]:
    """Each rule's scores. The prior is learnt once: its mean is moved by what a rule takes out less
    than `shrunken` does, which is what a prior learnt anew would do (rho's error is beta's, with
    the sign turned).
    """
    with tempfile.TemporaryDirectory() as folder:
        market = Market(Size(locations, 1, 26, "parquet"), switches, seed, Path(folder))
        prior = bundles.fit_prior(market.ask("prior", bundles.UNIT))
        batch = Batch(market.ask("bundles", bundles.UNIT), bundles.UNIT)
        true, found = market.beta("bundles"), {}
        for name, rule in RULES.items():
            rho, variance = rule(prior)
            moved = replace(
                prior,
                rho_used=rho,
                rho_variance=variance,
                intercept=prior.intercept - (rho - prior.rho_used),
            )
            found[name] = scores(bundles.price_bundles(batch, moved), true)
    return found


def full_cells(seed: int) -> dict[str, np.ndarray]:
    """Hot units' scores: their minutes as they are; by censoring; and by what was asked for, where
    blocked calls are counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        market = Market(Size(20, 60, 26, "parquet"), Switches(cap=True), seed, Path(folder))
        true, found = market.beta("voice"), {}
        counted = [market.ask(query, voice.UNIT) for query in ("voice_prior", "voice")]
        market.duck.execute("UPDATE voice_usage SET attempts = NULL, blocked = NULL")
        uncounted = [market.ask(query, voice.UNIT) for query in ("voice_prior", "voice")]
    full = np.abs(uncounted[1]["quantity"] / uncounted[1]["capacity"] - 1) < 0.001
    hot = np.add.reduceat(full.astype(int), key_offsets(uncounted[1], voice.UNIT)[:-1]) >= 6
    as_seen = [rows | {"counted": np.ones(len(rows["week"]), dtype=bool)} for rows in uncounted]
    for name, (rows, units) in {
        "as seen": as_seen,
        "censored": uncounted,
        "asked for": counted,
    }.items():
        found[name] = scores(
            voice.price_voices(Batch(units, voice.UNIT), voice.fit_voice_prior(rows)), true, hot
        )
    return found


def row(name: str, found: list[dict[str, np.ndarray]]) -> str:
    means = {way: np.mean([one[way] for one in found], axis=0) for way in found[0]}
    return f"{name:34s}" + "  ".join(
        f"{rmse:.3f} {bias:+.3f} {cover:.3f}" for bias, rmse, cover in means.values()
    )


def main() -> None:
    print(f"{'rmse, bias, cover':34s}" + "  ".join(f"{name:>18s}" for name in RULES))
    for locations, seeds in ((20, range(6)), (100, range(2))):
        for switches in (
            Switches(),
            Switches(endog=1.0),
            Switches(endog=2.0),
            Switches(endog=1.0, ar=0.6),
        ):
            name = f"{54 * locations:,} units, foresight {switches.endog:g}" + (
                f", AR {switches.ar:g}" if switches.ar else ""
            )
            print(row(name, [foresight(locations, switches, seed) for seed in seeds]), flush=True)
    print(
        f"\n{'':34s}" + "  ".join(f"{name:>18s}" for name in ("as seen", "censored", "asked for"))
    )
    print(row("voice units in full cells", [full_cells(seed) for seed in range(4)]), flush=True)


if __name__ == "__main__":
    main()
