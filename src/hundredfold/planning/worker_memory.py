"""The memory of the worker processes of a pilot."""

from __future__ import annotations

import psutil


def largest_child_bytes() -> int:
    """Return the resident bytes of the largest process below this one."""
    largest = 0
    for child in psutil.Process().children(recursive=True):
        try:
            largest = max(largest, int(child.memory_info().rss))
        except psutil.Error:  # it has ended
            continue
    return largest
