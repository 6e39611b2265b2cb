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

settings.register_profile("project", deadline=None, print_blob=True)
# in parallel sessions a counterexample is not shrunk: that can take longer than all the tests
settings.register_profile(
    "parallel",
    settings.get_profile("project"),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
settings.load_profile("parallel" if "PYTEST_XDIST_WORKER" in os.environ else "project")

MEMORY = Path("/dev/shm")  # a file system in memory, where Linux has one
MIN_FREE_MEMORY_BYTES = 4 * 2**30  # more than the tests need


def in_memory() -> None:
    """Keep temporary files in memory: the engine waits for the disk at every commit.

    The tests stay valid: a file system in memory loses nothing when a process is killed. TMPDIR
    overrides it.
    """
    if (
        "TMPDIR" not in os.environ
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free > MIN_FREE_MEMORY_BYTES
    ):
        os.environ["TMPDIR"] = str(MEMORY)  # also for the processes that tests start
        tempfile.tempdir = None


in_memory()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell makes background processes ignore Ctrl-C, and their children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def small_collections() -> None:
    """Exempt living objects from garbage collection: mostly modules, and thousands of tests.

    The engine collects garbage between the steps of a run. That takes 0.02 s in a driver, and 0.3 s
    in a process that has imported all the tests: half of the time of tests with a driver in their
    own process.
    """
    use_hypothesis_once()
    gc.collect()
    gc.freeze()


@functools.cache
def use_hypothesis_once() -> None:
    """Let Hypothesis create its random generator before objects are frozen.

    It then searches for the objects that refer to the generator, and finds no frozen ones.
    """
    given(st.none())(lambda _: None)()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessRunner]:
    runner = InProcessRunner(tmp_path_factory.mktemp("in_process"))
    yield runner
    runner.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test whose name differs between processes: xdist could not distribute it."""
    for item in items:
        if " at 0x" in item.name:
            raise pytest.UsageError(
                f"{item.nodeid} is named by an address in memory, wanted ids= that are the same in "
                "every process"
            )
