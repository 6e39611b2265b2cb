"""The demo through the whole pipeline: one price table for any workers and form of functions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hundredfold
from support.demo_operator import RUN, demo_home, demo_operator, quarter_operator
from tariffs import demo
from tariffs.job import job, per_unit

__all__ = ["demo_home", "demo_operator", "quarter_operator"]
FILES = ("price_table.csv", "price_table.parquet")


def digests(home: Path) -> list[str]:
    """Return the digests of the first release of a home."""
    folder = home / "releases" / "tariffs" / "000001"
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


def test_the_price_table_has_the_same_bytes_for_any_workers_and_form(
    quarter_operator: dict[str, Path], tmp_path: Path
) -> None:
    """With many units per call, and with one."""
    found = {}
    for name, declared, workers in (
        ("many-1", job, 1),
        ("many-2", job, 2),
        ("many-8", job, 8),
        ("each-1", per_unit, 1),
        ("each-2", per_unit, 2),
        ("each-8", per_unit, 8),
    ):
        home = tmp_path / name
        run = hundredfold.run(
            declared, quarter_operator, home=home, workers=workers, as_of=demo.AS_OF, run_id=RUN
        )
        assert run.counts["models"]["bundles"]["ok"] == 270
        assert run.counts["models"]["voice"]["ok"] == 720
        found[name] = digests(home)
    assert found == dict.fromkeys(found, found["many-1"])


def test_every_row_of_the_operator_is_accounted_for(demo_home: Path) -> None:
    run = hundredfold.open_run(RUN, home=demo_home)
    assert run.counts["models"]["bundles"]["ok"] == 1080
    assert run.counts["models"]["voice"]["ok"] == 2880
    sales = run.counts["sources"]["bundle_sales"]
    assert sales["rows"] == sales["accepted"] + sales["rejected"] + sales["dropped"]
    assert len(run.rejects("bundle_sales")) == sales["rejected"] + sales["dropped"]
    assert run.release is not None
    assert run.release.rows == {"price_table": 1080 + 2880}
    assert len(run.failures()) == 0
    assert [r["line"] for r in next(iter(run.release.summaries.values()))] == [
        "bundle",
        "voice",
        "all",
    ]
