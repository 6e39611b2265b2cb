"""Functions and a fleet that work on one queue, in an account of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.emulator import DONE, MISSING, Emulator, wait_until
from support.fleets import fleet_run_name, processes_of, wait_for_calls, wait_for_no_tasks
from support.shared_folders import shared_folder
from support.stacks import Account, Stack, Tasks, fleet_stack, published

__all__ = ["fleet_stack"]
pytestmark = pytest.mark.slow
UNITS = 12


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An account of its own, without the runs of other tests."""
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator(auth=True, wait_scale=0.05) as emulator:
        yield Account(emulator, shared_folder(tmp_path_factory))


def test_functions_and_a_fleet_work_on_one_queue(fleet_stack: Stack, tmp_path: Path) -> None:
    name = fleet_run_name()
    tasks = Tasks.write(tmp_path, ["held"] * UNITS)
    fleets = ["fargate:1", "lambda"]
    fleet_stack.run(tasks, name, "duckdb", batches=12, fleets=fleets, wait=False)
    wait_until(lambda: bool(processes_of(fleet_stack)), fleet_stack.emulator.log)
    wait_until(lambda: bool(fleet_stack.workers_alive()), fleet_stack.emulator.log)
    wait_for_calls(fleet_stack, tasks, 3)  # four functions and the task have one each
    tasks.release()
    done = fleet_stack.wait_for_end(name)
    wait_for_no_tasks(fleet_stack, name)
    assert done.state == "done", done.failures().arrow().to_pylist()
    assert published(done) == tasks.local_release(name)
