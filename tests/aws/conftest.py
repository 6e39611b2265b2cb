"""Shared fixtures for the tests on AWS: one emulated account for each test process, and unique
names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from support.emulator import Emulator
from support.emulator_fixture import emulator as emulator
from support.in_process_aws import AwsRunner
from support.javascript import check_statements


@pytest.fixture(scope="module")
def aws_env(emulator: Emulator) -> Iterator[Emulator]:
    """The same account, reached by boto3 in this process.

    The scope is one module, because other modules may use an account of their own.
    """
    with emulator.reached():
        yield emulator


@pytest.fixture
def name_of() -> Callable[[str], str]:
    """`name_of("bucket")`: a unique name for a bucket, queue, table or stack."""
    return lambda kind: f"{kind}-{uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def aws_runner(aws_env: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsRunner]:
    """A stack without functions in that account: runs execute step by step, and functions in this
    process.

    Where the checkers are installed, every kind of statement is compared with the grammar of Trino.
    """
    runner = AwsRunner(aws_env, tmp_path_factory.mktemp("aws"))
    yield runner
    check_statements(runner.queries)
