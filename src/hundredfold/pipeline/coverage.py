"""The units of an attempt that have an outcome, derived from the names of the outcomes alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.layout import Layout
from ..ports.interfaces import Store


class Coverage:
    """One flag for each unit of a model."""

    def __init__(self, units: int) -> None:
        self.done: NDArray[np.bool_] = np.zeros(units, bool)

    @classmethod
    def read(
        cls, units: int, layout: Layout, model: str, attempt: int | None, store: Store
    ) -> Coverage:
        """Read the coverage of an attempt, or of all attempts (None), from one listing."""
        coverage = cls(units)
        for key in store.list(layout.outcomes(model) + "/"):
            found = layout.parse_outcome_key(key)
            if found is not None and attempt in (None, found.attempt):
                coverage.add(found.first, found.last)
        return coverage

    def add(self, first: int, last: int) -> None:
        self.done[first : last + 1] = True

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges within first..last without an outcome."""
        open_ = np.concatenate([[False], ~self.done[first : last + 1], [False]])
        edges = np.flatnonzero(open_[1:] != open_[:-1])
        return [(first + int(a), first + int(b) - 1) for a, b in edges.reshape(-1, 2)]

    def covers(self, first: int, last: int) -> bool:
        return bool(self.done[first : last + 1].all())
