"""The policy's rules and the regulator's limits through the whole pipeline; and older policies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import hundredfold
from tariffs import demo
from tariffs.contracts import LIMITS_TITLE
from tariffs.job import job, per_unit
from tariffs.pricing import bundles


def with_columns(path: Path, to: Path, drop: tuple[str, ...] = (), **values: list[Any]) -> Path:
    """A CSV with other columns."""
    table = pacsv.read_csv(path)
    table = table.drop_columns([name for name in (*drop, *values) if name in table.column_names])
    for name, column in values.items():
        table = table.append_column(name, pa.array(column))
    pacsv.write_csv(table, to)
    return to


def published(
    declared: hundredfold.Job, sources: dict[str, Path], home: Path
) -> tuple[hundredfold.Run, dict[str, np.ndarray]]:
    run = hundredfold.run(declared, sources, home=home, workers=2, as_of=demo.AS_OF, run_id="one")
    return run, columns_of(home)


def columns_of(home: Path) -> dict[str, np.ndarray]:
    """Return the columns of the first price table in a home."""
    table = pq.read_table(home / "releases" / "tariffs" / "000001" / "price_table.parquet")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.fixture(scope="module")
def plain(demo_home: Path) -> dict[str, np.ndarray]:
    return columns_of(demo_home)


def test_a_policy_that_is_older_than_a_rule_gives_the_same_table(
    demo_operator: dict[str, Path], plain: dict[str, np.ndarray], tmp_path: Path
) -> None:
    old = with_columns(demo_operator["policy"], tmp_path / "policy.csv", drop=("max_cliff",))
    assert set(pacsv.read_csv(old).column_names) == {
        "kind",
        "scope",
        "z",
        "max_step",
        "min_weeks",
        "load_limit",
    }
    table = published(job, demo_operator | {"policy": old}, tmp_path / "home")[1]
    for name, values in plain.items():
        assert np.array_equal(table[name].astype(str), values.astype(str)), name


EVERYTHING: dict[str, Any] = {
    "min_days": [28, None],
    "diversion": [0.2, None],
    "cross_effect": [0.3, None],
    "time_shift": [None, 0.2],
    "explore_share": [0.05, 0.05],
    "max_segment_ratio": [1.3, None],
    "max_moved_share": [0.6, 0.6],
}


@pytest.fixture(scope="module")
def demanding(
    demo_operator: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Every rule at once: competitors, usage values and time zones too."""
    folder = tmp_path_factory.mktemp("demanding")
    catalogue = pacsv.read_csv(demo_operator["product_catalog"])
    price = catalogue["list_price"].to_numpy()
    bundle = np.array(catalogue["family"].to_pylist()) == "DATA"
    return demo_operator | {
        "policy": with_columns(demo_operator["policy"], folder / "policy.csv", **EVERYTHING),
        "product_catalog": with_columns(
            demo_operator["product_catalog"],
            folder / "catalogue.csv",
            competitor_min=[
                float(p) if b else None for p, b in zip(price * 0.8, bundle, strict=True)
            ],
            competitor_reference=[
                float(p) if b else None for p, b in zip(price, bundle, strict=True)
            ],
            usage_value=[0.05 if b else 0.001 for b in bundle],
        ),
        "locations": with_columns(
            demo_operator["locations"], folder / "locations.csv", time_zone=["Africa/Lagos"] * 20
        ),
    }


def test_all_rules_hold_together_in_the_published_table_in_both_forms(
    demanding: dict[str, Path], plain: dict[str, np.ndarray], tmp_path: Path
) -> None:
    run, table = published(job, demanding, tmp_path / "many")
    assert all(counts["failed"] == 0 for counts in run.counts["models"].values())
    bundle, moved = table["kind"] == "bundle", table["price"] != table["current_price"]
    reference = {
        row["product"]: row["list_price"]
        for row in pacsv.read_csv(demanding["product_catalog"]).to_pylist()
    }
    listed = np.array([reference[name] for name in table["product"]])
    assert (table["price"] >= 0.8 * listed - 1e-9)[bundle].all()
    assert (table["price"] <= 1.1 * listed + 1e-9)[bundle].all()
    assert moved[bundle].mean() <= 0.6
    assert moved[~bundle].mean() <= 0.6
    reasons = set(table["reason_code"])
    assert {
        "REG_CAP",
        "HOLD_FREQUENCY",
        "EXPLORE",
        "DIVERSION_ADJUSTED",
        "SMOOTHED",
        "PORTFOLIO_LIMIT",
    } <= reasons
    assert (table["opportunity_cost"] > 0)[bundle].any()
    assert (table["opportunity_cost"] > 0)[~bundle].any()
    assert set(table["usage_value"][bundle]) == {0.05}
    assert set(table["time_zone"]) == {"Africa/Lagos"}
    assert (table["valid_from"] + np.timedelta64(1, "h") == table["valid_from_local"]).all()
    control = table["control_flag"].astype(bool)
    assert not table["explore_flag"].astype(bool)[control].any()
    each = published(per_unit, demanding, tmp_path / "each")[1]
    for name, values in table.items():
        assert np.array_equal(each[name].astype(str), values.astype(str)), name
    shutil.rmtree(tmp_path)


def test_a_limit_that_cannot_be_met_holds_its_kind_and_not_the_other(
    demo_operator: dict[str, Path], tmp_path: Path
) -> None:
    """Bundles keep today's prices, voice is priced within its limit, and all outputs show it."""
    policy = with_columns(
        demo_operator["policy"],
        tmp_path / "policy.csv",
        min_volume=[3.0, None],
        max_moved_share=[None, 0.5],
    )
    run, table = published(job, demo_operator | {"policy": policy}, tmp_path / "home")
    bundle, moved = table["kind"] == "bundle", table["price"] != table["current_price"]
    assert set(table["constraint_bound"][bundle & moved]) <= {"LIMITS_NOT_MET", "FLOOR", "CEILING"}
    assert moved[bundle].mean() < 0.01  # today's price of one lies beyond a floor or a ceiling
    assert {"HOLD_PORTFOLIO", "HOLD_CONTROL"} <= set(table["reason_code"][bundle])
    assert 0.45 < moved[~bundle].mean() <= 0.5
    assert run.release is not None
    limits_kept = {row["line"]: row for row in run.release.summaries[LIMITS_TITLE]}
    assert "NOT MET" in limits_kept["bundle"]["outcome"]
    assert "cannot keep min_volume: wanted at least 3" in limits_kept["bundle"]["outcome"]
    assert (limits_kept["voice"]["limits"], limits_kept["voice"]["outcome"]) == (
        "max_moved_share",
        "kept",
    )
    assert 0 <= limits_kept["voice"]["gap"] < 1e-4 * limits_kept["voice"]["worth"]
    words = [
        sys.executable,
        "-m",
        "tariffs.cli",
        "check",
        "1",
        "--as-of",
        demo.AS_OF,
        "--home",
        str(tmp_path / "home"),
    ]
    completed = subprocess.run(
        words,
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "300"},
    )
    assert "bundle, min_volume: NOT MET" in completed.stdout, completed.stderr
    assert (completed.returncode, "1 of 25 guards fail." in completed.stdout) == (1, True), (
        completed.stdout
    )
    assert (
        "LIMITS        FAILS  limits of the policy cannot be met: 1 of 2 kinds keep today's prices"
        in completed.stdout
    )
    assert "voice, max_moved_share: kept; worth" in completed.stdout
    as_json = subprocess.run(
        [*words, "--json"], capture_output=True, encoding="utf-8", check=False, cwd=tmp_path
    )
    assert {row["line"]: row["outcome"] for row in json.loads(as_json.stdout)["limits"]}[
        "voice"
    ] == "kept"


def test_a_table_whose_limits_no_one_could_look_at_is_not_published(
    demo_operator: dict[str, Path], tmp_path: Path
) -> None:
    policy = pacsv.read_csv(
        with_columns(demo_operator["policy"], tmp_path / "policy.csv", max_moved_share=[None, None])
    )
    part = pa.Table.from_pylist(
        [*policy.to_pylist(), policy.to_pylist()[0] | {"scope": "YOUTH", "max_moved_share": 0.1}]
    )
    pacsv.write_csv(part, tmp_path / "policy.csv")
    with pytest.raises(hundredfold.HundredfoldError, match="portfolio: 1 of 2 units"):
        hundredfold.run(
            job,
            demo_operator | {"policy": tmp_path / "policy.csv"},
            home=tmp_path / "home",
            workers=1,
            as_of=demo.AS_OF,
            run_id="one",
        )
    with pytest.raises(
        hundredfold.HundredfoldError, match="price must not be null"
    ):  # nor are the others' prices enough for a table
        hundredfold.publish("one", home=tmp_path / "home", max_failed=2)


def prices_with(demo: Any, **columns: Any) -> dict[str, np.ndarray]:
    slab = demo.bundles
    spread = {name: np.broadcast_to(value, len(slab["week"])) for name, value in columns.items()}
    return bundles.price_bundles(
        type(slab)(slab.columns | spread, slab.key, slab.offsets), demo.prior
    )


@pytest.mark.parametrize(
    ("kind", "scope", "message"),
    [("bundle", "YUOTH", "segment must be one of"), ("voice", "ASHANTY", "region must be in")],
)
def test_a_dial_for_no_one_stops_the_run(
    demo_operator: dict[str, Path], tmp_path: Path, kind: str, scope: str, message: str
) -> None:
    """A row whose scope is misspelt would turn nothing, and nobody would notice."""
    lines = demo_operator["policy"].read_text().splitlines()
    (tmp_path / "policy.csv").write_text(
        "\n".join([*lines, next(line for line in lines if kind in line).replace("*", scope)])
    )
    with pytest.raises(hundredfold.HundredfoldError) as stopped:
        published(job, demo_operator | {"policy": tmp_path / "policy.csv"}, tmp_path / "home")
    words = " ".join([str(stopped.value), *stopped.value.problems]).replace("  ", " ")
    assert message in words
    assert scope in words


def test_a_dial_for_a_segment_and_for_a_region_turns_that_part_alone(
    demo_operator: dict[str, Path], plain: dict[str, np.ndarray], tmp_path: Path
) -> None:
    lines = demo_operator["policy"].read_text().splitlines()
    own = [
        lines[1].replace("*", "YOUTH").replace("0.84", "5"),
        lines[2].replace("*", "ASHANTI").replace("0.84", "5"),
    ]
    (tmp_path / "policy.csv").write_text("\n".join([*lines, *own]))
    sources = demo_operator | {"policy": tmp_path / "policy.csv"}
    table = published(job, sources, tmp_path / "home")[1]
    changed = table["price"] != plain["price"]
    assert set(table["segment"][changed & (table["kind"] == "bundle")]) == {"YOUTH"}
    assert 0 < (changed & (table["kind"] == "voice")).sum() < (table["kind"] == "voice").sum() / 2


def test_no_price_is_below_competitors_or_far_above_the_reference(demo: Any) -> None:
    reference = demo.bundles["reference_price"]
    found = prices_with(demo, regulated_floor=0.95 * reference, regulated_ceiling=1.10 * reference)
    low, high = 0.95 * found["reference_price"], 1.10 * found["reference_price"]
    assert (found["price"] >= low - 1e-9).all()
    assert (found["price"] <= high + 1e-9).all()
    for bound in ("REG_FLOOR", "REG_CEILING"):
        assert (found["constraint_bound"] == bound).any()
        assert set(found["reason_code"][found["constraint_bound"] == bound]) <= {
            "REG_CAP",
            "REG_ADJUSTED",
            "FALLBACK_SEGMENT",
        }


def test_a_product_that_is_not_sold_any_more_keeps_its_price(demo: Any) -> None:
    newest = demo.bundles["week"].max()
    assert (
        prices_with(demo, latest_week=newest + np.timedelta64(28, "D"))["reason_code"]
        != "HOLD_NOT_SOLD"
    ).all()
    later = prices_with(demo, latest_week=newest + np.timedelta64(35, "D"))
    control = demo.bundles["control"][demo.bundles.offsets[1:] - 1]
    assert set(later["reason_code"][~control]) <= {
        "HOLD_NOT_SOLD",
        "FLOOR_RAISED",
        "CEILING_LOWERED",
    }
    assert (later["price"] == later["current_price"]).mean() > 0.99


def test_a_price_that_changed_lately_stays(demo: Any) -> None:
    found = prices_with(demo, min_days=35)
    slab = demo.bundles
    held = found["reason_code"] == "HOLD_FREQUENCY"
    for u in range(0, len(slab), 7):
        posted = slab.unit(u)["posted_price"]
        weeks_since = next(
            (n for n in range(1, len(posted)) if posted[-n] != posted[-n - 1]), len(posted)
        )
        if not slab.unit(u)["control"][-1]:
            assert held[u] == (7 * weeks_since < 35), u
    assert held.any()
    inside = (found["current_price"] >= slab["price_floor"][slab.offsets[1:] - 1]) & (
        found["current_price"] <= slab["price_ceiling"][slab.offsets[1:] - 1]
    )
    assert (found["price"] == found["current_price"])[held & inside].all()


def test_a_use_that_is_worth_something_lowers_prices(demo: Any) -> None:
    found = prices_with(demo, usage_value=0.3 * demo.bundles["reference_price"])
    assert (found["price"] <= demo.bundle_prices["price"] + 1e-9).all()
    assert (found["price"] < demo.bundle_prices["price"]).sum() > 20


def test_a_table_is_valid_for_a_week(plain: dict[str, np.ndarray]) -> None:
    assert (plain["valid_to"] - plain["valid_from"] == np.timedelta64(7, "D")).all()
    assert (plain["valid_from"] == plain["valid_from_local"]).all()
    assert set(plain["time_zone"]) == {"UTC"}
