"""The synthetic operator: the same bytes every time, in blocks, and a ledger of all dirt."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tariffs.cleaning import RENAMED_PRODUCTS
from tariffs.demand.panel import plausible
from tariffs.synthetic import AS_OF, SIZES
from tariffs.synthetic.bundles import LIST_PRICE, bundle_block, location_table
from tariffs.synthetic.corruption import KINDS, UNIT_KINDS, Kind, UnitKind, corrupt
from tariffs.synthetic.corruption_voice import corrupt_locations, corrupt_voice, usage_keys
from tariffs.synthetic.sizes import FORMER_NAMES, size_of
from tariffs.synthetic.voice import voice_block
from tariffs.synthetic.write import Paths, generate

SEED = 7


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (SEED, SEED, SEED + 1), strict=True):
        generate("demo", folder, seed)
    one, two, other = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders
    )
    assert one == two
    assert one[Path("bundle_sales/part-0000.csv")] != other[Path("bundle_sales/part-0000.csv")]


def test_a_block_comes_out_the_same_alone_and_in_any_order() -> None:
    size = SIZES["medium"]
    forwards = [bundle_block(SEED, size, b).sales for b in (0, 1, 2)]
    backwards = [bundle_block(SEED, size, b).sales for b in (2, 1, 0)][::-1]
    assert all(a.equals(b) for a, b in zip(forwards, backwards, strict=True))
    assert voice_block(SEED, size, 3).usage.equals(voice_block(SEED, size, 3).usage)
    block = bundle_block(SEED, size, 1)
    assert corrupt(block, SEED, 1)[0].equals(corrupt(block, SEED, 1)[0])
    assert corrupt_voice(voice_block(SEED, size, 2), SEED, 2)[1].equals(
        corrupt_voice(voice_block(SEED, size, 2), SEED, 2)[1]
    )


@pytest.mark.parametrize(("locations", "cells"), [(2, 1), (3, 2), (20, 60), (20, 5), (25, 60)])
def test_each_kind_has_a_control_group_whatever_the_seed(locations: int, cells: int) -> None:
    size = size_of("demo", locations, cells)
    for seed in range(40):
        control = location_table(seed, size, 0)["control"].to_pylist()
        assert any(control), seed
        assert cells == 1 or any(control[:cells]), seed  # cells go round the locations in order
        assert cells > 1 or not control[0], seed


def test_a_single_location_is_no_control_group() -> None:
    assert not any(
        location_table(seed, size_of("demo", 1), 0)["control"][0].as_py() for seed in range(40)
    )


def test_dirt_leaves_the_clean_rows_as_they_are() -> None:
    block = bundle_block(SEED, SIZES["demo"], 0)
    clean = block.sales
    soiled, ledger = corrupt(block, SEED, 0)
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
    names = [set(location_table(SEED, size, b)["location"].to_pylist()) for b in (0, 1)]
    assert not ids[0] & ids[1]
    assert not names[0] & names[1]
    units = [bundle_block(SEED, size, b).sales["units"].to_numpy()[:1000] for b in (0, 1)]
    assert not np.array_equal(*units)


def test_a_fifth_of_weeks_sell_nothing_and_an_eighth_of_prices_never_move() -> None:
    sales = bundle_block(SEED, SIZES["demo"], 0).sales
    by_unit = sales.group_by(["segment", "location", "product"]).aggregate(
        [("price", "min"), ("price", "max")]
    )
    constant = by_unit["price_min"].to_numpy() == by_unit["price_max"].to_numpy()
    assert 0.15 < (sales["units"].to_numpy() == 0).mean() < 0.25
    assert 0.08 < constant.mean() < 0.16


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Paths]]:
    paths = generate("demo", tmp_path_factory.mktemp("dirty"))
    with duckdb.connect() as duck:
        files = [str(f) for f in paths.sources["bundle_sales"]]
        duck.sql(
            "CREATE TABLE sales AS SELECT * FROM read_csv($files, all_varchar = true)",
            params={"files": files},
        )
        duck.sql(
            "CREATE TABLE ledger AS SELECT * FROM read_parquet($file)",
            params={"file": str(paths.truth / "dirt.parquet")},
        )
        for name in ("product_catalog", "locations"):
            duck.sql(
                f"CREATE TABLE {name} AS SELECT * FROM read_csv($file)",
                params={"file": str(paths.sources[name][0])},
            )
        yield duck, paths


PLAIN = "[A-Z0-9_]+"
LOOKS_LIKE = {
    "null_price": "price IS NULL",
    "null_units": "units IS NULL",
    "negative_units": "units::BIGINT < 0",
    "full_counter": "units = '2147483647'",
    "zero_price": "price = '0.0'",
    "free_units": "price = 'FREE'",
    "price_beyond_all": "TRY_CAST(price AS DOUBLE) > 2000 * list_price::DOUBLE",
    "invalid_week": "TRY_CAST(week AS DATE) IS NULL",
    "future_week": f"TRY_CAST(week AS DATE) > DATE '{AS_OF:%Y-%m-%d}'",
    "week_by_its_monday": "dayofweek(TRY_CAST(week AS DATE)) = 1",
    "unknown_product": "product = 'DAY_9999'",
    "unknown_location": "location = 'LOC_NOWHERE'",
    "location_was_merged": "location LIKE 'OLD_%'",
    "renamed_day_150": "product = 'DAILY_150'",
    "test_sim": "segment = 'TEST_SIM'",
    "untidy_segment": "upper(trim(segment)) <> segment",
    "untidy_product": "upper(trim(product)) <> product",
    "look_alike_letters": "regexp_matches(product, '[\u0370-\u04ff]')",
    "no_break_hyphen": "contains(product, '\u2011')",
    "hidden_marks": "starts_with(segment, '\ufeff') AND ends_with(segment, '\u200f')",
    "apostrophe": "starts_with(location, chr(39))",
    "no_leading_zeros": "regexp_full_match(location, 'LOC_[0-9]{1,4}')",
    "currency_text": "price LIKE 'GHS%'",
    "decimal_comma": "contains(price, ',')",
    "price_in_pesewas": "TRY_CAST(price AS DOUBLE)"
    " BETWEEN 20 * list_price::DOUBLE AND 2000 * list_price::DOUBLE",
    "stamp_with_a_zone": "ends_with(loaded_at, '+02:00')",
}
FEWER = {
    "location_was_merged": 13,
    "renamed_day_150": 13,
    "decimal_comma": 17,
}  # halves of units; a price without a point has no comma


@pytest.mark.parametrize("kind", LOOKS_LIKE)
def test_the_ledger_names_exactly_the_rows_that_look_like_it(
    dirty: tuple[Any, Paths], kind: str
) -> None:
    found = (
        dirty[0]
        .sql(f"SELECT row_id::BIGINT FROM sales WHERE {LOOKS_LIKE[kind]} ORDER BY 1")
        .fetchall()
    )
    named = (
        dirty[0]
        .sql("SELECT row_id FROM ledger WHERE kind = $kind ORDER BY 1", params={"kind": kind})
        .fetchall()
    )
    assert found == named
    assert len(named) == FEWER.get(kind, 28)


def test_copies_and_restatements_are_the_rows_that_share_a_key(dirty: tuple[Any, Paths]) -> None:
    # rows that are moved to one place, segment, product or week that does not exist may meet there
    real = f"""TRY_CAST(week AS DATE) <= DATE '{AS_OF:%Y-%m-%d}'
      AND location <> 'LOC_NOWHERE' AND product <> 'DAY_9999'
        AND segment <> 'TEST_SIM'"""
    shared = f"""SELECT count(*) AS n, count(DISTINCT units) AS units,
      count(DISTINCT loaded_at) AS loads FROM sales WHERE {real}
        GROUP BY upper(trim(segment)), location, upper(trim(product)), week HAVING n > 1"""
    kinds = (
        dirty[0]
        .sql(f"SELECT units, loads, count(*) FROM ({shared}) GROUP BY 1, 2 ORDER BY 1, 2")
        .fetchall()
    )
    assert kinds == [
        (1, 1, 28),
        (2, 1, 28),
        (2, 2, 28),
    ]  # exact copies, conflicting copies, restatements


def test_spikes_are_in_the_ledger_and_no_other_row_is_as_large(dirty: tuple[Any, Paths]) -> None:
    spike = "row_id::BIGINT {} (SELECT row_id FROM ledger WHERE kind = 'spike')"
    [(least, count)] = (
        dirty[0]
        .sql(f"SELECT min(units::INT), count(*) FROM sales WHERE {spike.format('IN')}")
        .fetchall()
    )
    others = (
        f"SELECT max(units::INT) FROM sales WHERE {spike.format('NOT IN')}"
        " AND units <> '2147483647'"
    )
    [(largest,)] = dirty[0].sql(others).fetchall()
    assert count == 28
    assert largest < 1000 <= least


@pytest.mark.parametrize("block", range(10))
def test_the_estimator_sets_aside_every_spike_and_nothing_else(block: int) -> None:
    made = bundle_block(SEED, SIZES["medium"], block)
    sales = made.sales
    _, ledger = corrupt(made, SEED, block)
    spikes = ledger["row_id"].to_numpy()[np.array(ledger["kind"].to_pylist()) == "spike"]
    units = sales["units"].to_numpy().astype(float)
    spoilt = np.isin(sales["row_id"].to_numpy(), spikes)
    weeks = SIZES["medium"].weeks
    offsets = np.arange(0, len(units) + 1, weeks)
    reference = np.tile(np.repeat(LIST_PRICE, weeks), len(units) // (weeks * len(LIST_PRICE)))
    x = sales["price"].to_numpy() / reference - 1
    kept = plausible(np.where(spoilt, 100 * units + 1000, units), x, offsets)
    assert np.array_equal(~kept, spoilt)


def test_every_kind_has_a_policy() -> None:
    kinds: list[Kind | UnitKind] = [*KINDS, *UNIT_KINDS]
    assert {kind.policy for kind in kinds} == {
        "REJECT",
        "REPAIR",
        "DEDUPE",
        "SUPERSEDE",
        "SET_ASIDE",
        "KEEP",
    }
    assert len({kind.name for kind in kinds}) == len(kinds)


def test_the_contract_knows_the_former_names_that_the_dirt_uses() -> None:
    assert {former: name for name, former in FORMER_NAMES.items()} == RENAMED_PRODUCTS


def test_units_of_an_odd_shape_have_the_shape_that_their_name_states(
    dirty: tuple[Any, Paths],
) -> None:
    of_kind = """SELECT l.kind, count(*), max(units::BIGINT), count(DISTINCT price),
          count(DISTINCT week),
        corr(price::DOUBLE, epoch(week::DATE)) > 0.999
        FROM sales JOIN ledger AS l ON l.row_id = sales.row_id::BIGINT
          AND l.policy = 'KEEP' AND l.kind <> 'stamp_with_a_zone' GROUP BY 1"""
    shapes = {kind: facts for kind, *facts in dirty[0].sql(of_kind).fetchall()}
    assert shapes["one_week_only"][0] == 1
    assert shapes["never_sold"][1] == 0
    assert shapes["one_price"][2] == 1
    assert shapes["price_like_time"][4]
    assert shapes["location_was_split"][3] == 13
    assert shapes["change_within_a_week"][0] == 6


def test_voice_and_cells_are_soiled_where_the_ledger_states(dirty: tuple[Any, Paths]) -> None:
    usage, cells = (
        pq.read_table(dirty[1].sources[name][0]) for name in ("voice_usage", "cell_load")
    )
    named = (
        dirty[0]
        .sql(
            "SELECT kind, list(key ORDER BY key) FROM ledger"
            " WHERE source <> 'bundle_sales' GROUP BY 1"
        )
        .fetchall()
    )
    kinds = dict(named)
    assert (
        sorted(usage_keys(usage.filter(pc.greater(usage["discount"], 1))))
        == kinds["percent_discount"]
    )
    keys = Counter(usage_keys(usage))
    assert sorted([key for key, count in keys.items() if count > 1] * 2) == kinds["hour_twice"]
    assert not set(kinds["hour_left_out"]) & set(keys)
    no_room = cells.filter(pc.equal(pc.fill_null(cells["capacity_minutes"], 0.0), 0.0))
    assert sorted(f"{r['cell']}/{r['hour']}" for r in no_room.to_pylist()) == sorted(
        kinds["capacity_missing"] + kinds["capacity_zero"]
    )
    assert len(kinds["hour_left_out"]) == len(kinds["capacity_zero"]) == 3


def test_names_of_places_are_soiled_and_their_codes_are_not(dirty: tuple[Any, Paths]) -> None:
    raw = dirty[1].sources["locations"][0].read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    assert raw.count(b"\r\n") == raw.count(b"\n") == 21
    clean = location_table(SEED, SIZES["demo"], 0)
    soiled, ledger = corrupt_locations(clean)
    assert soiled["location"].equals(clean["location"])
    names = zip(
        *(t.to_pylist() for t in (clean["location"], clean["name"], soiled["name"])), strict=True
    )
    assert sorted(ledger["key"].to_pylist()) == [
        code for code, before, after in names if before != after
    ]
    assert all(unicodedata.is_normalized("NFC", name) for name in clean["name"].to_pylist())


def test_the_season_is_shared_by_all_blocks_and_has_mean_zero(dirty: tuple[Any, Paths]) -> None:
    gamma = pq.read_table(dirty[1].truth / "bundle_season.parquet")
    means = gamma.group_by("scope").aggregate([("gamma", "mean")])["gamma_mean"].to_numpy()
    assert np.abs(means).max() < 1e-12
