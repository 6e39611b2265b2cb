"""Shared fixtures for the tests on AWS: one emulated account for each test process, and unique
names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from support import javascript
from support.emulator import Emulator
from support.emulator_fixture import emulator as emulator
from support.in_process_aws import AwsRunner


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


@pytest.fixture(scope="session")
def checked_shapes() -> set[str]:
    """The shapes of statements that were compared with the grammar of Trino."""
    return set()


@pytest.fixture(scope="module")
def aws_runner(
    aws_env: Emulator, tmp_path_factory: pytest.TempPathFactory, checked_shapes: set[str]
) -> Iterator[AwsRunner]:
    """A stack without functions in that account: runs execute step by step, and functions in this
    process.

    Where the checkers are installed, every kind of statement is compared with the grammar of Trino.
    """
    runner = AwsRunner(aws_env, tmp_path_factory.mktemp("aws"))
    yield runner
    shapes = {shape_of(sql): sql for sql in runner.queries}
    new = {shape: sql for shape, sql in shapes.items() if shape not in checked_shapes}
    checked_shapes.update(new)
    if new and javascript.DONE.exists():
        assert javascript.problems_of(sorted(new.values())) == {}


def shape_of(sql: str) -> str:
    """Return a statement without its literals, and without the digits of its names."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d+", "0", re.sub(r"'(?:[^']|'')*'", "''", sql))
