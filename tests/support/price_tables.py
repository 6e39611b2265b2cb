"""Small price tables with the real columns, and releases of them as the job publishes them.

The releases are on this machine or in an emulated S3.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hundredfold.contract import read_contract
from hundredfold.data.checksums import put_json
from hundredfold.data.layout import Layout
from hundredfold.errors import NoSuchRun
from hundredfold.local.home import Home
from hundredfold.pipeline.releases import (
    Pointer,
    Release,
    move_pointer,
    read_pointer,
    release_folder,
)
from hundredfold.testing import MemoryStore
from tariffs.contracts import PriceRow
from tariffs.release import actions, checks, kill_switch, repository
from tariffs.release.catalogue import catalogue_of
from tariffs.release.decide import Done
from tariffs.release.decision_log import Attribution, DecisionLog
from tariffs.release.repository import JOB, PutIfAbsent
from tariffs.release.tables import NAME, in_published_order, to_csv, to_parquet

NOW = dt.datetime(2026, 6, 29, 12, tzinfo=dt.UTC)
MONDAY = dt.datetime(2026, 6, 30)
SCHEMA = pa.schema([(c.name, c.arrow) for c in read_contract(PriceRow).columns])
CATALOGUE = pa.table(
    {
        "product": ["DAY", "WEEK", "VOICE"],
        "list_price": [2.0, 10.0, 0.1],
        "price_tick": [0.1, 0.5, 0.005],
        "price_floor": [1.0, 5.0, 0.005],
        "price_ceiling": [4.0, 16.0, 0.1],
    }
)


def bundle(location: str, product: str = "DAY", **changes: Any) -> dict[str, Any]:
    """One bundle's row, held at 2.0."""
    row = {
        "unit_key": f"YOUTH/{location}/{product}",
        "kind": "bundle",
        "segment": "YOUTH",
        "location": location,
        "product": product,
        "product_offering_id": f"{product}@YOUTH/{location}",
        "price": 2.0,
        "current_price": 2.0,
        "champion_price": 2.0,
    }
    return COMMON | row | changes


def voice(cell: str, hour: int = 7, **changes: Any) -> dict[str, Any]:
    """One hour of a cell, held at a discount of 50 %."""
    row = {
        "unit_key": f"{cell}/{hour:02d}/WEEKDAY",
        "kind": "voice",
        "location": "TEMA",
        "product": "VOICE",
        "cell": cell,
        "hour": hour,
        "day_type": "WEEKDAY",
        "product_offering_id": f"VOICE@{cell}",
        "price": 0.05,
        "current_price": 0.05,
        "champion_price": 0.06,
        "discount_class": 50,
    }
    return COMMON | row | changes


COMMON: dict[str, Any] = {
    "segment": None,
    "location": None,
    "cell": None,
    "hour": None,
    "day_type": None,
    "currency": "GHS",
    "discount_class": None,
    "valid_from": MONDAY,
    "valid_to": MONDAY + dt.timedelta(days=7),
    "table_version": 1,
    "parent_version": None,
    "run_id": "r1",
    "model_version": "tariffs-1",
    "data_cutoff": dt.date(2026, 6, 28),
    "status": "draft",
    "reason_code": "HOLD_UNCERTAIN",
    "constraint_bound": None,
    "p_gain": 0.9,
    "elasticity": -1.2,
    "se": 0.3,
    "credible_lo": -1.7,
    "credible_hi": -0.7,
    "support_n": 26,
    "shrink_weight": 0.6,
    "expected_volume": 10.0,
    "expected_volume_delta": 0.0,
    "expected_revenue_delta": 0.0,
    "expected_margin_delta": 0.0,
    "control_flag": False,
    "time_zone": "UTC",
    "valid_from_local": MONDAY,
    "valid_to_local": MONDAY + dt.timedelta(days=7),
    "unit_cost": 0.01,
    "usage_value": 0.0,
    "opportunity_cost": 0.0,
    "capacity_price": 0.0,
    "explore_flag": False,
    "explore_draw": None,
    **{
        f"expected_{of}_delta_{end}": 0.0
        for of in ("volume", "revenue", "margin")
        for end in ("lo", "hi")
    },
}


def table(*rows: dict[str, Any], **changes: Any) -> pa.Table:
    """A price table of these rows, in the published order; of six usual ones, if none is given."""
    chosen = rows or USUAL
    return in_published_order(
        pa.Table.from_pylist([added_up({**row, **changes}) for row in chosen], schema=SCHEMA)
    )


USUAL = (
    bundle("ACCRA"),
    bundle("TEMA"),
    bundle("TEMA", "WEEK", price=10.0, current_price=10.0, champion_price=10.0),
    bundle("HO", control_flag=True, reason_code="HOLD_CONTROL"),
    voice("C1"),
    voice("C1", 8, location="HO", control_flag=True),
)


def changed(made: pa.Table, key: str, **values: Any) -> pa.Table:
    """The table with other values in one row."""
    rows = [
        added_up({**row, **values}, *values) if row["unit_key"] == key else row
        for row in made.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def added_up(row: dict[str, Any], *stated: str) -> dict[str, Any]:
    """Return the row with figures that follow from price and volume, unless they are stated.

    These are money, a reason, an elasticity that requires the move, and P(gain).
    """
    price, current, volume, more, cost = (
        row[name]
        for name in (
            "price",
            "current_price",
            "expected_volume",
            "expected_volume_delta",
            "unit_cost",
        )
    )
    if None in (price, current, volume, more):
        return row
    made: dict[str, Any] = {
        "expected_revenue_delta": price * (volume + more) - current * volume,
        "expected_margin_delta": (price - cost) * (volume + more) - (current - cost) * volume,
    }
    if row["reason_code"] in OF_A_MOVE:
        made["reason_code"] = OF_A_MOVE[1 + (price > current) - (price < current)]
    if row["elasticity"] in (ASKED := (-2.0, -1.2, -0.4)):
        b = ASKED[1 + (price > current) - (price < current)]
        made |= {"elasticity": b, "credible_lo": b - 0.5, "credible_hi": b + 0.5}
    new = row | {name: value for name, value in made.items() if name not in stated}
    for name in (f"expected_{of}_delta" for of in ("volume", "revenue", "margin")):
        ends = {f"{name}_lo": min(0.0, new[name] or 0.0), f"{name}_hi": max(0.0, new[name] or 0.0)}
        new |= {end: value for end, value in ends.items() if end not in stated}
    return new


OF_A_MOVE = ("DECREASE_CONFIDENT", "HOLD_UNCERTAIN", "INCREASE_CONFIDENT")


class NoLedger:
    """A ledger without runs."""

    def read(self, run: str) -> Any:
        raise NoSuchRun(f"there is no run {run}")


@dataclass
class ReleaseSite:
    """A store with releases, the writer of its log, and the actions of people."""

    store: Any
    once: PutIfAbsent
    ledger: Any = field(default_factory=NoLedger)
    words: str = "here"
    marks: Iterator[int] = field(default_factory=count)

    def where(self, key: str) -> str:
        return str(self.store.where(key)) if hasattr(self.store, "where") else key

    def publish(
        self, made: pa.Table | None = None, *, catalogue: pa.Table | None = CATALOGUE
    ) -> int:
        """Make the next release of a table, as the job's last step leaves it; its version."""
        version = max((s.version for s in repository.stored_releases(self.store)), default=0) + 1
        rows = made if made is not None else table()
        for name, value in (("table_version", version), ("run_id", f"run-{version}")):
            kind = pa.int64() if name == "table_version" else pa.string()
            rows = rows.set_column(
                rows.schema.get_field_index(name), name, pa.array([value] * rows.num_rows, kind)
            )
        files = {}
        for format, data in (("csv", to_csv(rows)), ("parquet", to_parquet(rows))):
            key = f"{release_folder(JOB, version)}/{NAME}.{format}"
            self.store.put(key, data)
            files[key] = hashlib.sha256(data).hexdigest()
        run = f"run-{version}"
        if catalogue is not None:
            offered = catalogue.filter(pc.is_in(catalogue["product"], pc.unique(rows["product"])))
            self.store.put(Layout(run).staged("product_catalog"), to_parquet(offered))
        parent = version - 1 or None
        release = Release(
            JOB, version, parent, run, 1, "2026-06-29 06:00:00", {NAME: rows.num_rows}, files
        )
        put_json(
            self.store, f"{release_folder(JOB, version)}/release.json", asdict(release), indent=1
        )
        etag = read_pointer(JOB, self.store).etag
        assert move_pointer(JOB, Pointer(version, (), etag), self.store)
        return version

    def attribution(self, by: str = "ama", reason: str = "") -> Attribution:
        return Attribution(
            by,
            "robot@host",
            "2026-06-29T12:00:00Z",
            reason,
            f"{next(self.marks):x}{uuid4().hex[:6]}",
            account=f"account of {by.strip().casefold()}",
        )

    def approve(self, version: int, by: str = "ama", reason: str = "", **how: Any) -> Done:
        return actions.approve(
            version,
            self.attribution(by, reason),
            self.store,
            self.once,
            self.sources,
            how.pop("now", NOW),
            **how,
        )

    def activate(self, version: int, by: str = "kofi", reason: str = "", **how: Any) -> Done:
        return actions.activate(
            version,
            self.attribution(by, reason),
            self.store,
            self.once,
            self.sources,
            how.pop("now", NOW),
            **how,
        )

    def use(self, made: pa.Table | None = None) -> int:
        """A release that charging uses; its version."""
        version = self.publish(made)
        self.approve(version)
        self.activate(version)
        return version

    def start_canary(
        self, version: int, places: Any, by: str = "kofi", reason: str = "", **how: Any
    ) -> Done:
        return actions.start_canary(
            version,
            places,
            self.attribution(by, reason),
            self.store,
            self.once,
            self.sources,
            how.pop("now", NOW),
            **how,
        )

    def kill(self, to: Any, by: str = "esi") -> Done:
        return kill_switch.kill(to, self.attribution(by, "kill switch"), self.store, self.once)

    def withdraw(self, version: int, reason: str = "wrong week") -> Done:
        return actions.withdraw(version, self.attribution(reason=reason), self.store, self.once)

    def catalogue(self, release: Release) -> pa.Table | None:
        home: Any = self
        return catalogue_of(release, home)

    @property
    def sources(self) -> checks.Sources:
        return checks.Sources(self.catalogue)

    @property
    def decisions(self) -> DecisionLog:
        return repository.read_log(self.store)

    @property
    def pointer(self) -> dict[str, Any]:
        pointer: dict[str, Any] = json.loads(self.store.get(repository.POINTER).to_pybytes())
        return pointer

    def state(self, version: int) -> str:
        return self.decisions.state(version).value

    def damage(self, version: int, format: str = "parquet") -> None:
        self.store.put(f"{release_folder(JOB, version)}/{NAME}.{format}", b"not what was published")


def on_disk(folder: Path) -> ReleaseSite:
    home = Home(folder)
    return ReleaseSite(home.store, home.store)


def in_memory(like: ReleaseSite | None = None) -> ReleaseSite:
    """A place in a dict, with all that another has."""
    store = MemoryStore()
    for key in like.store.list("") if like else ():
        store.put(key, like.store.get(key))  # type: ignore[union-attr]
    return ReleaseSite(store, store)


@contextmanager
def in_s3() -> Iterator[Callable[[], ReleaseSite]]:
    """An emulated account; called, it gives a place in a bucket of its own."""
    # the environments of other Pythons have no boto3
    pytest.importorskip("boto3")
    from hundredfold.aws.adapters.s3_store import S3Store
    from support.emulator import DONE, MISSING, Emulator

    if not DONE.exists():
        pytest.skip(MISSING)

    with Emulator() as emulator, emulator.reached():

        def new() -> ReleaseSite:
            name = f"bucket-{uuid4().hex[:12]}"
            emulator.client("s3").create_bucket(Bucket=name)
            store = S3Store(name)
            return ReleaseSite(store, store)

        yield new
