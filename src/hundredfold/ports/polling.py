"""Long polling, shared by the queues that must poll."""

from __future__ import annotations

from collections.abc import Callable

from .interfaces import Clock, Delivery

# seconds between two polls of an empty queue; the pause doubles
MIN_POLL_S, MAX_POLL_S = (
    0.005,
    0.2,
)


def long_poll(
    look: Callable[[], Delivery | float],
    wait: float,
    clock: Clock,
    sleep: Callable[[float], object],
) -> Delivery | None:
    """Poll until there is a delivery or `wait` seconds are spent sleeping.

    look: returns a delivery, or the latest moment of the next poll.
    """
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
