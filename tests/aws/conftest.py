"""What the tests on AWS share: one emulated account for each test process, and names that no other
test uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from support.emulator import DONE, MISSING, Emulator
from support.in_process_aws import Afar


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """An account in which everyone may do everything."""
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def aws_env(emulator: Emulator) -> Iterator[Emulator]:
    """The same account, and boto3 in this process reaches it.

    For a module at a time: others may reach an account of their own.
    """
    with emulator.reached():
        yield emulator


@pytest.fixture
def name_of() -> Callable[[str], str]:
    """`name_of("bucket")`: a name for a bucket, queue, table or stack that nothing else has."""
    return lambda kind: f"{kind}-{uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def afar(aws_env: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Afar:
    """A stack without functions in that account: runs go a step at a time, and functions are called
    here.
    """
    return Afar(aws_env, tmp_path_factory.mktemp("afar"))
