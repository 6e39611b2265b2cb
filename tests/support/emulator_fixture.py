"""The emulated AWS account of a test process, which folders of tests import as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.emulator import DONE, MISSING, Emulator


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """An account without access control; the test is skipped where the emulator is missing."""
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator() as emulator:
        yield emulator
