"""What many tests share: a bench on which a run is driven step by step, without child processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from bench import Bench

# a counterexample is shown as it was found: making it small can take longer than all other tests together
settings.register_profile("house", deadline=None, print_blob=True, phases=[Phase.explicit, Phase.reuse, Phase.generate])
settings.load_profile("house")

MEMORY = Path("/dev/shm")  # a file system in memory, where Linux has one
MEMORY_BYTES = 4 * 2**30  # what the tests may need there, with room to spare


def in_memory() -> None:
    """Keep temporary files in memory: the engine waits for the disk at every commit, and the tests commit all day.

    What is tested is the same: a file system in memory loses nothing when a process is killed. TMPDIR overrules it.
    """
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        os.environ["TMPDIR"] = str(MEMORY)  # for pytest's processes and for all that the tests start
        tempfile.tempdir = None


in_memory()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    yield bench
    bench.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test whose name differs from process to process: several processes could not share the tests out."""
    for item in items:
        if " at 0x" in item.name:
            raise pytest.UsageError(f"{item.nodeid} is named by an address in memory; wanted ids= that are the same in every process")
