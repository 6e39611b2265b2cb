"""Waiting in tests that does not depend on the speed of the machine.

A test waits for an event (a file, a state, the end of a process), never for a number of seconds.
The only limit stops a test that hangs. It is far above the need of the slowest machine, so that no
test fails because other processes use the processor.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

HANG_S = 600.0
LIMIT_S = 600.0  # a time limit that no correct unit of a test reaches, even on a busy machine


def wait_until(
    condition: Callable[[], object],
    *,
    alive: Callable[[], object] = lambda: True,
    every: float = 0.005,
) -> None:
    """Return once `condition` holds; fail if `alive` no longer holds before, or after HANG_S."""
    end = time.monotonic() + HANG_S
    while not condition():
        assert alive(), "the process ended before the condition held"
        assert time.monotonic() < end, f"the condition did not hold within {HANG_S:g} s"
        time.sleep(every)


def let_unit_be_old() -> None:
    """In a worker: backdate the start of its unit beyond LIMIT_S, so that the driver stops it."""
    from hundredfold.workers.unit_runner import UnitRunner

    for found in gc.get_objects():
        if isinstance(found, UnitRunner):
            found.progress[1] -= int(100 * LIMIT_S * 1e9)
