"""`hundredfold adjust` on AWS: the limit of a run, and the number of concurrent workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import hundredfold
from hundredfold.errors import UsageError
from support.stacks import Stack, Tasks, account, trouble

__all__ = ["account", "trouble"]


def mapping(stack: Stack) -> dict[str, Any]:
    [found] = stack.client("lambda").list_event_source_mappings(
        FunctionName=stack.outputs["WorkFunction"]
    )["EventSourceMappings"]
    return dict(found)


def test_a_run_is_adjusted_while_its_units_are_worked_on(trouble: Stack, tmp_path: Path) -> None:
    tasks, name = Tasks.write(tmp_path, ["raise", "held", "fine"]), f"adj-{uuid4().hex[:6]}"
    before = mapping(trouble)["ScalingConfig"]["MaximumConcurrency"]
    trouble.run(tasks, name, warehouse="duckdb", wait=False)
    trouble.wait_for_step(name, "work doubled")
    try:
        completed = trouble.cli("adjust", name, "--max-failed", "1", "--concurrency", "7")
        assert completed.out == f"run {name}: max_failed 1, concurrency 7\n"
        assert mapping(trouble)["ScalingConfig"]["MaximumConcurrency"] == 7
    finally:
        hundredfold.adjust(name, backend="aws", stack=trouble.name, concurrency=before)
    assert mapping(trouble)["ScalingConfig"]["MaximumConcurrency"] == before
    with pytest.raises(UsageError, match="expected 2 to 1000"):
        hundredfold.adjust(name, backend="aws", stack=trouble.name, concurrency=1001)
    with pytest.raises(UsageError, match="nothing to adjust"):
        hundredfold.adjust(name, backend="aws", stack=trouble.name)
    tasks.release()
    assert trouble.wait_for_end(name).record.state.value == "done"  # one unit failed
