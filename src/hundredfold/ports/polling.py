"""Long polling of a queue, the same for every queue that has to look again."""

from __future__ import annotations

from collections.abc import Callable

from .interfaces import Clock, Delivery

MIN_POLL_S, MAX_POLL_S = (
    0.005,
    0.2,
)  # seconds between two looks at an empty queue: the pause doubles


def long_poll(
    look: Callable[[], Delivery | float],
    wait: float,
    clock: Clock,
    sleep: Callable[[float], object],
) -> Delivery | None:
    """Look until there is a delivery or `wait` seconds are slept; `look` gives it, or the moment when to look again at the latest."""
    pause, left = MIN_POLL_S, wait
    while True:
        found = look()
        if isinstance(found, Delivery):
            return found
        if left <= 0:
            return None
        nap = max(0.001, min(pause, left, found - clock()))
        sleep(nap)
        left -= nap
        pause = min(2 * pause, MAX_POLL_S)
