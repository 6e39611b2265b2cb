"""The suites of Store, Queue and Ledger on a second emulator of AWS (moto), which others wrote: a
promise that holds on both is less likely to be one of an emulator.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.aws.adapters.release_table import DynamoReleaseTable
from hundredfold.aws.adapters.s3_store import S3Store
from support.aws_account import Account, LinkedClock
from support.emulator import DONE, MISSING
from support.ledger_records import RUN
from support.moto_server import MotoServer

# moto extends a lease that has ended, where SQS refuses it as MessageNotInflight
MISSING_IN_MOTO = {
    "test_extending_by_zero_releases_the_message_at_once",
    "test_an_expired_lease_cannot_be_extended",
}
PORTS = {"store", "queue", "ledger", "shared", "table", "published"}  # the fixtures of this module


def suite(module: ModuleType) -> dict[str, Any]:
    """Return the tests of a module that need nothing but a port."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and callable(test)
        and PORTS & {*inspect.signature(test).parameters}
        and name not in MISSING_IN_MOTO
    }


# by the names that pytest gives them
SUITES = {
    name: import_module(f"test_{name}")
    for name in (
        "store_port",
        "conditional_writes",
        "queue_port",
        "ledger_port",
        "owners_of_runs",
        "release_table",
    )
}
for _module in SUITES.values():
    globals().update(suite(_module))


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    if not DONE.exists():
        pytest.skip(MISSING)
    with MotoServer() as server, server.reached():
        yield Account(server)


@pytest.fixture
def store(account: Account) -> S3Store:
    return S3Store(account.bucket(), "some/where")


@pytest.fixture
def ledger(account: Account, clock: LinkedClock) -> DynamoLedger:
    return DynamoLedger(account.table(), clock)


@pytest.fixture
def shared(account: Account, clock: LinkedClock) -> DynamoLedger:
    return DynamoLedger(account.table(), clock)


@pytest.fixture
def table(account: Account) -> str:
    """A table with the record of one run, as in test_owners_of_runs."""
    table = account.table()
    DynamoLedger(table).create(RUN)
    return table


@pytest.fixture
def queue(request: pytest.FixtureRequest, clock: LinkedClock) -> Iterator[Any]:
    with ExitStack() as stack:
        yield SUITES["queue_port"].on_sqs(
            request.getfixturevalue,
            stack,
            visibility=60.0,
            max_receives=3,
            clock=clock,
            sleep=clock.advance,
        )


@pytest.fixture
def published(account: Account) -> DynamoReleaseTable:
    suite = SUITES["release_table"]
    found: DynamoReleaseTable = suite.table_of(suite.make_table(account, product="S"))
    return found
