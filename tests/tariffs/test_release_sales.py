"""Sales as input of the guards: read from a run or a file, normalised, compared with the table."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold.errors import PublishRefused, UsageError
from support.price_tables import NOW, ReleaseSite, bundle, on_disk, table
from tariffs.release import actions, checks
from tariffs.release.checks import Sources
from tariffs.release.kill_switch import RULE
from tariffs.release.sales import BUNDLES, VOICE, Sales

WEEK = dt.date(2026, 7, 12)


def row(**changes: Any) -> dict[str, Any]:
    usual = {
        "segment": "YOUTH",
        "location": "ACCRA",
        "product": "DAY",
        "week": "2026-07-12",
        "units": "7",
        "price": "2.0",
        "list_price": "2.0",
    }
    return usual | {"active_subs": "90", "loaded_at": "2026-07-14 06:00:00"} | changes


def written(folder: Path, *rows: dict[str, Any], name: str = BUNDLES) -> Sales:
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "sales.parquet")
    return Sales({name: str(folder / "sales.parquet")})


def test_sales_are_tidied_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    sales = written(
        tmp_path,
        row(segment=" youth"),
        row(location="TEMA", week="2026-07-05"),
        row(location="TEMA", units="-1"),
        row(location="HO", price="GHS 2"),
        row(location="WA", week="someday"),
    )
    assert [
        (r["unit_key"], r["quantity"]) for r in sales.after(dt.date(2026, 7, 5)).to_pylist()
    ] == [("YOUTH/ACCRA/DAY", 7.0)]
    assert sales.after(dt.date(2026, 7, 4)).num_rows == 2


def test_of_two_rows_for_a_week_the_one_loaded_later_counts(tmp_path: Path) -> None:
    sales = written(
        tmp_path,
        row(units="9", loaded_at="2026-07-20 06:00:00"),
        row(units="7"),
        row(units="8", loaded_at=None),
    )
    assert sales.after(dt.date(2026, 7, 1))["quantity"].to_pylist() == [9.0]


def test_support_is_the_lowest_and_the_highest_price_that_was_paid(tmp_path: Path) -> None:
    sales = written(
        tmp_path,
        row(),
        row(price="1.5", week="2026-01-04"),
        row(price="-3"),
        row(location="HO", price="4"),
    )
    assert sorted(tuple(r.values()) for r in sales.support().to_pylist()) == [
        ("YOUTH/ACCRA/DAY", 1.5, 2.0),
        ("YOUTH/HO/DAY", 4.0, 4.0),
    ]


def test_voice_is_read_as_a_share_of_its_tariff_from_a_folder_of_csv(tmp_path: Path) -> None:
    for n, discount in enumerate((0.5, 0.25)):
        line = f"C1,7,WEEKDAY,2026-07-{12 + 7 * n},{discount},0.5,100,50,2026-08-01 00:00:00"
        header = "cell,hour,day_type,week,discount,posted_discount,minutes,active_subs,loaded_at"
        (tmp_path / f"part-{n}.csv").write_text(f"{header}\n{line}\n")
    found = Sales({VOICE: str(tmp_path)}).after(dt.date(2026, 7, 1)).to_pylist()
    assert [(r["unit_key"], r["price"]) for r in found] == [
        ("C1/07/WEEKDAY", 0.5),
        ("C1/07/WEEKDAY", 0.75),
    ]


@pytest.mark.parametrize("name", ["nowhere.parquet", "wrong.parquet", "empty"])
def test_sales_that_cannot_be_read_are_reported(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "wrong.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"cannot be read|there are no sales in"):
        Sales({BUNDLES: str(tmp_path / name)}).after(WEEK)


# in the guards


def many(**changes: Any) -> pa.Table:
    return table(
        *[bundle(f"L{n:02d}", control_flag=n % 3 == 0, expected_volume=50.0) for n in range(60)],
        **changes,
    )


def sold(tmp_path: Path, factor: float, weeks: int = 6) -> Sales:
    """Return six whole weeks in which repriced units sell `factor` times the expectation."""
    rng = np.random.default_rng(1)
    return written(
        tmp_path,
        *[
            row(
                location=f"L{n:02d}",
                week=str(WEEK + dt.timedelta(weeks=w)),
                units=str(rng.poisson(50 * (factor if n % 3 else 1.0))),
            )
            for n in range(60)
            for w in range(weeks)
        ],
    )


def sources(site: ReleaseSite, sales: Sales) -> Sources:
    return Sources(site.catalogue, lambda _: sales)


def test_a_release_is_held_back_while_demand_drifts(
    tmp_path: Path,
) -> None:
    site = on_disk(tmp_path / "home")
    site.use(many())
    version = site.publish(many())
    with pytest.raises(PublishRefused, match="DRIFT"):
        actions.approve(
            version,
            site.attribution(),
            site.store,
            site.once,
            sources(site, sold(tmp_path, 0.8)),
            NOW,
        )
    fine = checks.check(
        version, site.decisions, site.store, sources(site, sold(tmp_path, 1.0)), NOW
    )
    (drift,) = [f for f in fine.findings if f.code == "DRIFT"]
    assert (drift.passed, drift.found[:8]) == (True, "6 weeks ")


def test_weeks_that_began_before_the_table_counted_are_no_evidence_of_it(tmp_path: Path) -> None:
    site = on_disk(tmp_path / "home")
    site.use(many())  # valid from Tuesday, 30 June
    version = site.publish(many())
    early = written(
        tmp_path, *[row(location=f"L{n:02d}", week="2026-07-05", units="900") for n in range(60)]
    )
    found = checks.check(version, site.decisions, site.store, sources(site, early), NOW)
    assert next(f for f in found.findings if f.code == "DRIFT").found.startswith(
        "nothing was sold yet"
    )


def test_what_was_paid_is_taken_from_the_table_itself_where_it_reports_it(tmp_path: Path) -> None:
    site = on_disk(tmp_path / "home")
    sales = written(tmp_path, *[row(location=f"L{n:02d}", price="1.0") for n in range(60)])
    rows = many(price=2.2)
    assert not passes(site, rows, sales, "SUPPORT")
    ranged = rows.append_column("support_lo", pa.array([2.0] * 60)).append_column(
        "support_hi", pa.array([2.1] * 60)
    )
    assert passes(site, ranged, sales, "SUPPORT")


def passes(site: ReleaseSite, rows: pa.Table, sales: Sales, code: str) -> bool:
    found = checks.check(site.publish(rows), site.decisions, site.store, sources(site, sales), NOW)
    return next(f.passed for f in found.findings if f.code == code)


def test_after_a_kill_to_the_rule_volume_is_compared_with_the_expectation(
    tmp_path: Path,
) -> None:
    site = on_disk(tmp_path / "home")
    site.use(many())
    site.kill(RULE)
    less = many(expected_volume_delta=-20.0)
    found = checks.check(site.publish(less), site.decisions, site.store, site.sources, NOW)
    volume = next(f for f in found.findings if f.code == "VOLUME")
    assert (volume.passed, volume.found[:40]) == (False, "expected against the active table: bundl")
