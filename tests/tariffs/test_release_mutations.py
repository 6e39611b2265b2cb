"""A good table passes every guard; each of many corruptions of one column is stopped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from hundredfold.pipeline.releases import release_folder
from tariffs.release.guards import run_guards
from tariffs.release.guards.context import GuardContext
from tariffs.release.tables import read_parquet

NOW = dt.datetime(2026, 6, 29, 12, tzinfo=dt.UTC)
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def good(demo_operator: dict[str, Path], demo_home: Path) -> GuardContext:
    """The demo's own table, with its catalogue, and nothing else to hold it against."""
    table = read_parquet(
        (demo_home / release_folder("tariffs", 1) / "price_table.parquet").read_bytes()
    )
    [entry] = {
        (version, run)
        for version, run in zip(
            *table.select(["table_version", "run_id"]).to_pydict().values(), strict=True
        )
    }
    return GuardContext(
        table,
        None,
        pacsv.read_csv(demo_operator["product_catalog"]),
        NOW,
        release=dict(zip(("table_version", "run_id"), entry, strict=True)),
    )


def failing(subject: GuardContext, table: pa.Table, active: pa.Table | None = None) -> set[str]:
    changed = GuardContext(
        table,
        active,
        subject.catalogue,
        subject.now,
        locations=subject.locations,
        sold=subject.sold,
        release=subject.release,
    )
    return {finding.code for finding in run_guards(changed) if not finding.passed}


def with_column(table: pa.Table, name: str, change: Change, rows: np.ndarray) -> pa.Table:
    """The table with a column changed in these rows."""
    values = table[name].to_pylist()
    for row in rows:
        values[row] = change(values[row])
    return table.set_column(
        table.column_names.index(name), name, pa.array(values, table.schema.field(name).type)
    )


def rows_of(table: pa.Table, which: str) -> np.ndarray:
    kind, control = np.array(table["kind"].to_pylist()), np.array(table["control_flag"].to_pylist())
    moved = table["price"].to_numpy() != table["current_price"].to_numpy()
    return {
        "all": np.arange(table.num_rows),
        "one bundle": np.flatnonzero((kind == "bundle") & ~control)[:1],
        "one voice": np.flatnonzero((kind == "voice") & ~control & ~moved)[:1],
        "bundles": np.flatnonzero((kind == "bundle") & ~control),
        "voice": np.flatnonzero((kind == "voice") & ~control),
        "moves": np.flatnonzero(moved),
        "control": np.flatnonzero(control)[:1],
    }[which]


NAN, INFINITE = float("nan"), float("inf")
WEEK = dt.timedelta(days=7)
BROKEN: list[tuple[str, str, Change, str]] = [  # column, rows, change, the guard that must stop it
    *[
        ("price", rows, lambda _, v=v: v, "VALUES")
        for rows in ("one bundle", "one voice", "bundles")
        for v in (None, NAN, INFINITE, 0.0, -1.0)
    ],
    *[("current_price", "one bundle", lambda _, v=v: v, "VALUES") for v in (None, NAN, 0.0)],
    ("unit_cost", "one bundle", lambda _: NAN, "VALUES"),
    ("unit_cost", "one voice", lambda c: c / 2, "COST"),
    ("unit_cost", "bundles", lambda c: 1000 * c, "COST"),
    ("expected_volume", "one bundle", lambda v: -v - 1, "VALUES"),
    ("elasticity", "one bundle", lambda _: NAN, "VALUES"),
    ("kind", "one bundle", lambda _: "bundles", "VALUES"),
    ("unit_key", "one bundle", lambda k: k + "X", "VALUES"),
    ("segment", "one bundle", lambda _: "YOUTHS", "VALUES"),
    ("location", "one bundle", lambda _: None, "VALUES"),
    ("hour", "one voice", lambda _: 24, "VALUES"),
    ("day_type", "one voice", lambda _: "SUNDAY", "VALUES"),
    ("product", "one bundle", lambda _: "GHOST", "BOUNDS"),
    ("discount_class", "one voice", lambda _: None, "VALUES"),
    ("discount_class", "one voice", lambda d: (d + 5) % 95, "VALUES"),
    ("discount_class", "one voice", lambda _: 99, "VALUES"),
    ("discount_class", "one bundle", lambda _: 5, "VALUES"),
    ("constraint_bound", "one bundle", lambda _: "CAPACITY", "VALUES"),
    ("table_version", "one bundle", lambda _: 9, "VALUES"),
    ("currency", "one bundle", lambda _: "USD", "CURRENCY"),
    ("currency", "one voice", lambda _: None, "CURRENCY"),
    ("currency", "all", lambda _: "USD", "CURRENCY"),
    ("expected_margin_delta", "all", lambda _: -100.0, "MONEY"),
    ("expected_margin_delta", "bundles", lambda _: -100.0, "MONEY"),
    ("expected_margin_delta", "one bundle", lambda _: -1e4, "MONEY"),
    ("expected_margin_delta", "all", lambda m: m + 100.0, "MONEY"),
    ("expected_margin_delta", "one voice", lambda _: None, "MONEY"),
    ("expected_revenue_delta", "bundles", lambda _: -1000.0, "MONEY"),
    ("p_gain", "moves", lambda _: 0.0, "GAIN"),
    ("p_gain", "moves", lambda _: None, "GAIN"),
    ("p_gain", "moves", lambda _: 1.5, "GAIN"),
    ("control_flag", "all", lambda _: False, "CONTROL"),
    ("control_flag", "voice", lambda _: True, "CONTROL"),
    ("valid_to", "all", lambda _: dt.datetime(2099, 1, 1), "VALIDITY"),
    ("valid_to", "all", lambda t: t + dt.timedelta(days=2), "VALIDITY"),
    ("valid_to", "one bundle", lambda t: t + WEEK, "VALIDITY"),
    ("valid_to", "all", lambda _: None, "VALIDITY"),
    ("valid_to", "all", lambda _: dt.datetime(2020, 1, 1), "VALIDITY"),
    ("valid_from", "all", lambda t: t - dt.timedelta(hours=2), "VALIDITY"),
    ("valid_from", "one voice", lambda t: t - dt.timedelta(hours=2), "VALIDITY"),
    ("time_zone", "all", lambda _: "Atlantis/Capital", "VALIDITY"),
    ("time_zone", "one bundle", lambda _: "Asia/Tokyo", "VALIDITY"),
    ("data_cutoff", "all", lambda _: dt.date(2026, 7, 5), "STALE"),
    ("data_cutoff", "one bundle", lambda _: dt.date(2026, 7, 5), "STALE"),
    ("data_cutoff", "one bundle", lambda _: None, "STALE"),
    *[
        ("product_offering_id", rows, change, "VALUES")
        for rows in ("all", "bundles", "voice", "one bundle", "one voice")
        for change in (
            lambda _: "DAY_150@YOUTH/LOC_00003",
            lambda o: o + "X",
            lambda o: o.split("@")[0],
        )
    ],
    *[
        (name, rows, lambda t: t + dt.timedelta(hours=3), "VALIDITY")
        for name in ("valid_from_local", "valid_to_local")
        for rows in ("all", "one bundle")
    ],
    ("valid_from_local", "one voice", lambda _: None, "VALIDITY"),
    *[
        ("parent_version", rows, lambda _, v=v: v, "VALUES")
        for rows in ("all", "one bundle")
        for v in (1, 2, 0, -1)
    ],
    *[
        (name, rows, lambda _: "another", "VALUES")
        for name in ("run_id", "model_version")
        for rows in ("one bundle", "one voice", "bundles")
    ],
    ("run_id", "all", lambda _: "another", "VALUES"),
    ("table_version", "all", lambda _: 7, "VALUES"),
    *[
        ("status", rows, lambda _, v=v: v, "VALUES")
        for rows in ("all", "one bundle")
        for v in ("active", "approved", "withdrawn", "sold", None)
    ],
    *[
        ("reason_code", rows, lambda _, v=v: v, "VALUES")
        for rows in ("all", "one bundle")
        for v in ("BECAUSE", "hold_control", "", None, "FALLBACK_RULE")
    ],
    *[
        ("reason_code", "all", lambda _, v=v: v, "VALUES")
        for v in (
            "HOLD_CONTROL",
            "HOLD_UNCERTAIN",
            "HOLD_PORTFOLIO",
            "INCREASE_CONFIDENT",
            "EXPLORE",
        )
    ],
    ("reason_code", "one bundle", lambda _: "HOLD_CONTROL", "VALUES"),
    *[
        ("constraint_bound", rows, lambda _, v=v: v, "VALUES")
        for rows in ("all", "one bundle")
        for v in ("BECAUSE", "floor")
    ],
    *[("p_gain", "moves", lambda _, v=v: v, "GAIN") for v in (1.0, 0.9999)],
    *[("support_n", rows, lambda _: 0, "VALUES") for rows in ("all", "bundles", "voice", "moves")],
    *[
        ("usage_value", rows, lambda _, v=v: v, "COST")
        for rows in ("all", "bundles", "one voice")
        for v in (1e6, 0.5)
    ],
    *[
        ("opportunity_cost", rows, lambda _, v=v: v, "COST")
        for rows in ("all", "one voice")
        for v in (1e6, -1e6)
    ],
    *[("explore_flag", rows, lambda _: True, "VALUES") for rows in ("all", "moves", "one bundle")],
    ("explore_draw", "moves", lambda _: -1.0, "VALUES"),
]


def test_the_good_table_passes_and_every_broken_column_is_stopped(good: GuardContext) -> None:
    assert failing(good, good.table) == set()
    assert failing(good, good.table, good.table) == set()
    let_through = []
    for number, (column, rows, change, code) in enumerate(BROKEN):
        if code not in (
            found := failing(
                good, with_column(good.table, column, change, rows_of(good.table, rows))
            )
        ):
            let_through.append((number, column, rows, code, sorted(found)))
    assert let_through == []


def test_units_that_are_missing_at_the_first_activation_are_found(good: GuardContext) -> None:
    table, kind = good.table, good.table["kind"]
    half = table.num_rows // 2
    voice = table.filter(pa.array([k == "voice" for k in kind.to_pylist()]))
    random = table.take(
        pa.array(np.sort(np.random.default_rng(1).choice(table.num_rows, half, replace=False)))
    )
    for part in (table.slice(0, half), table.slice(half), voice, random, table.slice(0, 0)):
        assert "UNITS" in failing(good, part)
    without = table.filter(pa.array([p != "LOC_00003" for p in table["location"].to_pylist()]))
    sold = pa.table({"unit_key": table["unit_key"], "posted": pa.array([NAN] * table.num_rows)})
    assert "UNITS" not in failing(good, without)  # an unknown location cannot be missed
    assert "UNITS" in failing(GuardContext(table, None, good.catalogue, NOW, sold=sold), without)


def test_todays_price_is_the_one_that_was_posted_or_charged(good: GuardContext) -> None:
    table = good.table
    forged = with_column(table, "current_price", lambda p: 1.4 * p, rows_of(table, "bundles"))
    assert "TODAY" in failing(good, forged, table)
    assert "TODAY" not in failing(
        good, with_column(table, "current_price", lambda p: p, rows_of(table, "all")), table
    )


def test_units_of_two_zones_begin_each_at_its_own_midnight(good: GuardContext) -> None:
    table = good.table
    there = np.flatnonzero([name < "LOC_00010" for name in table["location"].to_pylist()])
    abroad = with_column(table, "time_zone", lambda _: "Africa/Maputo", there)
    for name in ("valid_from", "valid_to"):
        assert "VALIDITY" in failing(good, abroad)
        abroad = with_column(abroad, name, lambda t: t - dt.timedelta(hours=2), there)
    assert failing(good, abroad) == set()
    far = with_column(
        with_column(table, "valid_from", lambda t: t + dt.timedelta(days=30), there),
        "time_zone",
        lambda _: "Africa/Lagos",
        there,
    )
    assert "VALIDITY" in failing(good, far)


def test_a_table_that_lacks_a_column_of_the_contract_is_stopped(good: GuardContext) -> None:
    for name in good.table.column_names:
        lacking = {
            finding.code: finding
            for finding in run_guards(replace(good, table=good.table.drop_columns([name])))
        }["VALUES"]
        assert not lacking.passed, name
        assert lacking.found == f"the table lacks 1 column: {name}"
    bare = good.table.select(["unit_key", "kind", "price"])
    assert "VALUES" in failing(good, bare)


def test_all_moves_as_trials_are_stopped_though_their_rows_agree(good: GuardContext) -> None:
    moves = rows_of(good.table, "moves")
    table = with_column(good.table, "explore_flag", lambda _: True, moves)
    table = with_column(table, "explore_draw", lambda _: -1.5, moves)
    table = with_column(table, "reason_code", lambda _: "EXPLORE", moves)
    assert "GAIN" in failing(good, table)
