"""The made-up operator: the same bytes every time, block by block, and a ledger that names every piece of dirt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from tariffs.contracts import TIDY_CODE, TIDY_PRICE
from tariffs.demand.panel import plausible
from tariffs.generator import AS_OF, SIZES, Paths, generate
from tariffs.generator.bundles import LIST_PRICE, bundle_block, places
from tariffs.generator.dirt import KINDS, soil
from tariffs.generator.voice import voice_block

SEED = 7


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (SEED, SEED, SEED + 1), strict=True):
        generate("demo", folder, seed)
    one, two, other = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
    assert one == two
    assert one[Path("bundle_sales/part-0000.csv")] != other[Path("bundle_sales/part-0000.csv")]


def test_a_block_comes_out_the_same_alone_and_in_any_order() -> None:
    size = SIZES["medium"]
    forwards = [bundle_block(SEED, size, b).sales for b in (0, 1, 2)]
    backwards = [bundle_block(SEED, size, b).sales for b in (2, 1, 0)][::-1]
    assert all(a.equals(b) for a, b in zip(forwards, backwards, strict=True))
    assert voice_block(SEED, size, 3).usage.equals(voice_block(SEED, size, 3).usage)
    assert soil(forwards[1], SEED, 1)[0].equals(soil(forwards[1], SEED, 1)[0])


def test_dirt_leaves_the_clean_rows_as_they_are() -> None:
    clean = bundle_block(SEED, SIZES["demo"], 0).sales
    soiled, ledger = soil(clean, SEED, 0)
    touched = set(ledger["row_id"].to_pylist())
    kept = {row["row_id"]: row for row in soiled.to_pylist() if row["row_id"] not in touched}
    assert len(kept) > 0.95 * clean.num_rows
    for row in clean.slice(0, 2000).to_pylist():
        if row["row_id"] in kept:
            assert kept[row["row_id"]]["units"] == row["units"]
            assert float(kept[row["row_id"]]["price"]) == row["price"]


def test_blocks_do_not_share_locations_or_row_ids() -> None:
    size = SIZES["medium"]
    ids = [set(bundle_block(SEED, size, b).sales["row_id"].to_pylist()) for b in (0, 1)]
    names = [set(places(SEED, size, b)["location"].to_pylist()) for b in (0, 1)]
    assert not ids[0] & ids[1]
    assert not names[0] & names[1]
    units = [bundle_block(SEED, size, b).sales["units"].to_numpy()[:1000] for b in (0, 1)]
    assert not np.array_equal(*units)


def test_about_a_fifth_of_the_weeks_sell_nothing_and_an_eighth_of_the_units_never_change_price() -> None:
    sales = bundle_block(SEED, SIZES["demo"], 0).sales
    by_unit = sales.group_by(["segment", "location", "product"]).aggregate([("price", "min"), ("price", "max")])
    constant = by_unit["price_min"].to_numpy() == by_unit["price_max"].to_numpy()
    assert 0.15 < (sales["units"].to_numpy() == 0).mean() < 0.25
    assert 0.08 < constant.mean() < 0.16


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Paths]]:
    paths = generate("demo", tmp_path_factory.mktemp("dirty"))
    with duckdb.connect() as duck:
        files = [str(f) for f in paths.sources["bundle_sales"]]
        duck.sql("CREATE TABLE sales AS SELECT * FROM read_csv($files, all_varchar = true)", params={"files": files})
        duck.sql("CREATE TABLE ledger AS SELECT * FROM read_parquet($file)", params={"file": str(paths.truth / "dirt.parquet")})
        for name in ("product_catalog", "locations"):
            duck.sql(f"CREATE TABLE {name} AS SELECT * FROM read_csv($file)", params={"file": str(paths.sources[name][0])})
        yield duck, paths


LOOKS_LIKE = {
    "null_price": "price IS NULL",
    "null_units": "units IS NULL",
    "negative_units": "units::INT < 0",
    "zero_price": "price = '0.0'",
    "invalid_week": "TRY_CAST(week AS DATE) IS NULL",
    "future_week": f"TRY_CAST(week AS DATE) > DATE '{AS_OF:%Y-%m-%d}'",
    "unknown_product": "upper(trim(product)) NOT IN (SELECT product FROM product_catalog)",
    "unknown_location": "location NOT IN (SELECT location FROM locations)",
    "untidy_segment": "segment <> upper(trim(segment))",
    "untidy_product": "product <> upper(trim(product))",
    "currency_text": "price LIKE 'GHS%'",
    "price_in_pesewas": "TRY_CAST(price AS DOUBLE) > 20 * list_price::DOUBLE",
}


@pytest.mark.parametrize("kind", LOOKS_LIKE)
def test_the_ledger_names_exactly_the_rows_that_look_like_it(dirty: tuple[Any, Paths], kind: str) -> None:
    found = dirty[0].sql(f"SELECT row_id::BIGINT FROM sales WHERE {LOOKS_LIKE[kind]} ORDER BY 1").fetchall()
    named = dirty[0].sql("SELECT row_id FROM ledger WHERE kind = $kind ORDER BY 1", params={"kind": kind}).fetchall()
    assert found == named
    assert len(named) == 28


def test_copies_and_restatements_are_the_rows_that_share_a_key(dirty: tuple[Any, Paths]) -> None:
    # rows that are moved to one place, product or week that does not exist may meet there
    real = f"TRY_CAST(week AS DATE) <= DATE '{AS_OF:%Y-%m-%d}' AND location <> 'LOC_NOWHERE' AND product <> 'DAY_9999'"
    shared = f"""SELECT count(*) AS n, count(DISTINCT units) AS units, count(DISTINCT loaded_at) AS loads FROM sales WHERE {real}
        GROUP BY upper(trim(segment)), location, upper(trim(product)), week HAVING n > 1"""
    kinds = dirty[0].sql(f"SELECT units, loads, count(*) FROM ({shared}) GROUP BY 1, 2 ORDER BY 1, 2").fetchall()
    assert kinds == [(1, 1, 28), (2, 1, 28), (2, 2, 28)]  # exact copies, conflicting copies, restatements


def test_spikes_are_in_the_ledger_and_no_other_row_is_as_large(dirty: tuple[Any, Paths]) -> None:
    spike = "row_id::BIGINT {} (SELECT row_id FROM ledger WHERE kind = 'spike')"
    [(least, count)] = dirty[0].sql(f"SELECT min(units::INT), count(*) FROM sales WHERE {spike.format('IN')}").fetchall()
    [(largest,)] = dirty[0].sql(f"SELECT max(units::INT) FROM sales WHERE {spike.format('NOT IN')}").fetchall()
    assert count == 28
    assert largest < 1000 <= least


@pytest.mark.parametrize("block", range(10))
def test_the_estimator_sets_aside_every_spike_and_nothing_else(block: int) -> None:
    sales = bundle_block(SEED, SIZES["medium"], block).sales
    _, ledger = soil(sales, SEED, block)
    spikes = ledger["row_id"].to_numpy()[np.array(ledger["kind"].to_pylist()) == "spike"]
    units = sales["units"].to_numpy().astype(float)
    spoilt = np.isin(sales["row_id"].to_numpy(), spikes)
    weeks = SIZES["medium"].weeks
    offsets = np.arange(0, len(units) + 1, weeks)
    reference = np.tile(np.repeat(LIST_PRICE, weeks), len(units) // (weeks * len(LIST_PRICE)))
    x = sales["price"].to_numpy() / reference - 1
    kept = plausible(np.where(spoilt, 100 * units + 1000, units), x, offsets)
    assert np.array_equal(~kept, spoilt)


def test_every_kind_has_a_policy_and_the_repairs_bring_the_clean_values_back(dirty: tuple[Any, Paths]) -> None:
    clean = bundle_block(SEED, SIZES["demo"], 0).sales.select(["row_id", "segment", "product", "price"])
    duck: Any = dirty[0]
    duck.register("clean", clean)
    tidy = {column: TIDY_CODE.format(column=column) for column in ("segment", "product")}
    repaired = f"""SELECT row_id::BIGINT AS row_id, {tidy["segment"]} AS segment, {tidy["product"]} AS product,
        TRY_CAST(({TIDY_PRICE}) AS DOUBLE) AS price FROM sales"""
    wrong = duck.sql(
        f"""SELECT l.kind, count(*) FROM ledger AS l JOIN ({repaired}) AS r USING (row_id) JOIN clean AS c USING (row_id)
        WHERE l.policy = 'REPAIR' AND (r.segment <> c.segment OR r.product <> c.product OR abs(r.price - c.price) > 1e-9) GROUP BY 1"""
    ).fetchall()
    assert wrong == []
    assert {kind.policy for kind in KINDS} == {"REJECT", "REPAIR", "DEDUPE", "SUPERSEDE", "SET_ASIDE"}


def test_the_season_is_shared_by_all_blocks_and_has_mean_zero(dirty: tuple[Any, Paths]) -> None:
    gamma = pq.read_table(dirty[1].truth / "bundle_season.parquet")
    means = gamma.group_by("scope").aggregate([("gamma", "mean")])["gamma_mean"].to_numpy()
    assert np.abs(means).max() < 1e-12
