"""Jobs that publish to a DynamoDB table: runs, rollbacks, plans, and the steps on AWS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import DynamoDB, Job, Model, Publish, Source
from hundredfold.bench.compare import compare
from hundredfold.errors import HomeError, JobError, PublishRefused
from hundredfold.local.home import Home
from hundredfold.pipeline.releases import read_pointer, read_release
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.planning.plan import PlanOptions, plan_run
from hundredfold.releases import Stamp, Written, write_to_table
from support.aws_account import Account
from support.faulty_connection import FaultyConnection

QUERY = "SELECT product, price, table_version AS version FROM prices, run ORDER BY product"


def price(rows: dict[str, Any]) -> dict[str, float]:
    return {"price": float(rows["cost"].mean()) * 2}


def shelf(table: str, query: str = QUERY, to: bool = True) -> Job:
    model = Model("prices", unit=("product",), work=price)
    target = DynamoDB(table, key="product") if to else None
    return Job("shelf", [Source("costs")], [model], Publish("price_table", query, to=target))


def costs(**cost: float) -> dict[str, pa.Table]:
    return {"costs": pa.table({"product": list(cost), "cost": list(cost.values())})}


@pytest.fixture
def table(account: Account) -> str:
    name = f"prices-{uuid4().hex[:12]}"
    account.emulator.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "product", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "product", "KeyType": "HASH"}],
    )
    return name


def prices(account: Account, table: str) -> dict[str, tuple[str, str] | None]:
    """Return the price and the release of each item, None for a mark."""
    found = account.emulator.client("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
    return {
        item["product"]["S"]: None
        if "hf_removed" in item
        else (item["price"]["N"], item["hf_release"]["N"])
        for item in found
    }


def run(job: Job, home: Path, **cost: float) -> hundredfold.Run:
    return hundredfold.run(job, costs(**cost), home=home, workers=1)


def test_a_table_follows_the_pointer_through_runs_and_rollbacks(
    account: Account, table: str, tmp_path: Path
) -> None:
    job = shelf(table)
    first = run(job, tmp_path, milk=1, rice=2)
    assert prices(account, table) == {"milk": ("2", "1"), "rice": ("4", "1")}
    written = first.record.counts["tables"]["price_table"]
    target = {"dynamodb": table, "key": ["product"]}
    assert written == {**target, "rows": 2, "removed": 0, "superseded": False}
    run(job, tmp_path, milk=3, tea=4)
    after = {"milk": ("6", "2"), "tea": ("8", "2"), "rice": None}
    assert prices(account, table) == after
    hundredfold.rollback("shelf", home=tmp_path)
    assert prices(account, table) == {"milk": ("2", "1"), "rice": ("4", "1"), "tea": None}
    store = Home(tmp_path).store
    assert read_pointer("shelf", store).order == 10**9 + 1
    hundredfold.rollback("shelf", home=tmp_path, to=2)
    assert prices(account, table) == after
    run(job, tmp_path, oats=5)
    found = prices(account, table)
    assert {name for name, each in found.items() if each} == {"oats"}
    assert read_release("shelf", 3, store).tables == {"price_table": target}


def test_a_rollback_to_a_release_without_a_table_writes_its_rows_too(
    account: Account, table: str, tmp_path: Path
) -> None:
    run(shelf(table, to=False), tmp_path, milk=1)
    assert prices(account, table) == {}
    run(shelf(table), tmp_path, milk=3)
    hundredfold.rollback("shelf", home=tmp_path)
    assert prices(account, table) == {"milk": ("2", "1")}


def test_a_pointer_that_was_damaged_does_not_go_back_in_the_order(
    account: Account, table: str, tmp_path: Path
) -> None:
    for cost in (1, 2):
        run(shelf(table), tmp_path, milk=cost)
    hundredfold.rollback("shelf", home=tmp_path)
    (tmp_path / "releases/shelf/current.json").write_text("{half")
    hundredfold.rollback("shelf", home=tmp_path, to=2)
    assert prices(account, table) == {"milk": ("4", "2")}


def test_rows_that_the_table_cannot_hold_are_not_published(
    account: Account, table: str, tmp_path: Path
) -> None:
    run(shelf(table), tmp_path, milk=1)
    bad = shelf(table, "SELECT product, price / 0 AS price FROM prices")
    with pytest.raises(PublishRefused, match="row 1 product='milk': price: inf is no number"):
        run(bad, tmp_path, milk=2)
    assert prices(account, table) == {"milk": ("2", "1")}
    assert read_pointer("shelf", Home(tmp_path).store).version == 1


def test_a_missing_table_is_reported_before_any_unit_is_executed(
    account: Account, table: str, tmp_path: Path
) -> None:
    del account
    with pytest.raises(HomeError, match="table prices-nowhere cannot be read: not found"):
        run(shelf("prices-nowhere"), tmp_path, milk=1)
    failed = hundredfold.open_run(home=tmp_path)
    assert "models" not in failed.record.counts
    wrong = replace(shelf(table), publish=Publish("p", QUERY, to=DynamoDB(table, key="shop")))
    with pytest.raises(JobError, match="has the key product, and the job declares shop"):
        run(wrong, tmp_path, milk=1)


def test_a_run_that_stopped_while_it_wrote_is_resumed(
    account: Account, table: str, tmp_path: Path, connection: FaultyConnection
) -> None:
    run(shelf(table), tmp_path, milk=1, rice=2)
    connection.fail_with("TransactWriteItems", 400, "AccessDeniedException", "no")
    with pytest.raises(HomeError, match="lack the permission"):
        run(shelf(table), tmp_path, milk=3)
    stopped = hundredfold.open_run(home=tmp_path)
    assert stopped.record.state.value == "failed"
    assert prices(account, table) == {"milk": ("2", "1"), "rice": ("4", "1")}
    hundredfold.resume(home=tmp_path, job=shelf(table))
    assert prices(account, table) == {"milk": ("6", "2"), "rice": None}


class Silent(NullCallbacks):
    def timing(self, what: str) -> None: ...


def test_a_plan_and_a_timing_write_nothing(account: Account, table: str, tmp_path: Path) -> None:
    sources = {"costs": str(tmp_path / "costs.csv")}
    (tmp_path / "costs.csv").write_text("product,cost\nmilk,1\n")
    options = PlanOptions(pilot_seconds=5, workers=1)
    facts = plan_run(shelf(table), sources, options, Silent())
    assert facts["models"][0]["timed"] == 1
    compare(shelf(table), sources, listener=Silent(), seconds=5, workers=1)
    assert prices(account, table) == {}


def test_an_application_writes_the_table_that_it_made_active(account: Account, table: str) -> None:
    target, rows = DynamoDB(table, key="product"), pa.table({"product": ["a"], "price": [1.5]})
    stamp = Stamp("tariffs/price_table", order=7, version=2, run="r")
    assert write_to_table(target, rows, stamp) == Written(1, 0)
    assert write_to_table(target, rows, replace(stamp, order=6)).superseded
    with pytest.raises(PublishRefused, match="row 2 product='a': another row has this key"):
        write_to_table(target, pa.concat_tables([rows, rows]), stamp)
    assert prices(account, table) == {"a": ("1.5", "2")}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"table": "a b", "key": "k"}, "the DynamoDB table is 'a b', wanted its name"),
        ({"table": "prices", "key": ()}, "wanted the name of one column, or of two"),
        ({"table": "prices", "key": ("a", "b", "c")}, "a || '#' || b AS pk"),
        ({"table": "prices", "key": ("a", "a")}, "wanted the name of one column"),
        ({"table": "prices", "key": 5}, "wanted the name of one column"),
    ],
)
def test_a_table_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as refused:
        DynamoDB(**wrong)
    assert message in f"{refused.value} {refused.value.hint}"


def test_an_output_with_a_table_has_parquet() -> None:
    to = DynamoDB("prices", key="product")
    with pytest.raises(JobError, match="to= needs parquet"):
        Publish("p", QUERY, formats=("csv",), to=to)
    with pytest.raises(JobError, match="to is 'prices', wanted a table"):
        Publish("p", QUERY, to="prices")  # type: ignore[arg-type]
