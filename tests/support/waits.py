"""Waiting in tests, without a guess at how fast the machine is.

A test waits for what happens (a file, a state, the end of a process), never for seconds. The one limit guards against
a hang: it is far beyond what the slowest machine needs, and so no test fails because others use the processor.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

HANG_S = 600.0
LIMIT_S = 600.0  # a time limit that no healthy unit of a test meets, however busy the machine is


def wait_until(
    condition: Callable[[], object],
    *,
    alive: Callable[[], object] = lambda: True,
    every: float = 0.005,
) -> None:
    """Return once `condition` holds. Fail at once when `alive` no longer holds before that, and after HANG_S."""
    end = time.monotonic() + HANG_S
    while not condition():
        assert alive(), "what was waited for has ended"
        assert time.monotonic() < end, f"nothing came in {HANG_S:g} s"
        time.sleep(every)


def let_unit_be_old() -> None:
    """In a worker: let the unit that it is on have begun long before LIMIT_S, so that its driver ends it at its next look."""
    from hundredfold.workers.unit_runner import UnitRunner

    for found in gc.get_objects():
        if isinstance(found, UnitRunner):
            found.progress[1] -= int(100 * LIMIT_S * 1e9)
