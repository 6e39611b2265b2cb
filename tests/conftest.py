"""Fixtures that many tests share: a runner of steps in this process, settings, temporary files."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from support.in_process import InProcessRunner

pytest_plugins = ["support.cpu_seconds"]

settings.register_profile("house", deadline=None, print_blob=True)
# of many tests, a counterexample is shown as it was found: making it small can take longer than all of them together
settings.register_profile(
    "parallel", settings.get_profile("house"), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
settings.load_profile("parallel" if "PYTEST_XDIST_WORKER" in os.environ else "house")

MEMORY = Path("/dev/shm")  # a file system in memory, where Linux has one
MEMORY_BYTES = 4 * 2**30  # what the tests may need there, with room to spare


def in_memory() -> None:
    """Keep temporary files in memory: the engine waits for the disk at every commit, and the tests commit all day.

    What is tested is the same: a file system in memory loses nothing when a process is killed. TMPDIR overrules it.
    """
    if (
        "TMPDIR" not in os.environ
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    ):
        os.environ["TMPDIR"] = str(
            MEMORY
        )  # for pytest's processes and for all that the tests start
        tempfile.tempdir = None


in_memory()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell lets what it starts in the background ignore Ctrl-C, and so the programs that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def small_collections() -> None:
    """Exempt what is alive now from garbage collection: mostly modules, and the thousands of tests themselves.

    The engine collects garbage between the steps of a run, which takes 0.02 s in a driver, and 0.3 s in a process
    that has imported all the tests. Tests that run drivers in their own process would spend half of their time on it.
    """
    use_hypothesis_once()
    gc.collect()
    gc.freeze()


@functools.cache
def use_hypothesis_once() -> None:
    """Let Hypothesis make its random generator before anything is frozen.

    When it makes one it looks for the objects that refer to it, and those that are frozen are not found.
    """
    given(st.none())(lambda _: None)()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessRunner]:
    runner = InProcessRunner(tmp_path_factory.mktemp("in_process"))
    yield runner
    runner.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test whose name differs from process to process: several processes could not share the tests out."""
    for item in items:
        if " at 0x" in item.name:
            raise pytest.UsageError(
                f"{item.nodeid} is named by an address in memory; wanted ids= that are the same in every process"
            )
