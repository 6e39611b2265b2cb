"""Which units of an attempt have an outcome: derived from the names of the outcomes, kept nowhere
else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..job import Layout
from ..ports.interfaces import Store


class Coverage:
    """One mark for each unit of a model."""

    def __init__(self, units: int) -> None:
        self.done: NDArray[np.bool_] = np.zeros(units, bool)

    @classmethod
    def read(
        cls, units: int, layout: Layout, model: str, attempt: int | None, store: Store
    ) -> Coverage:
        """One listing says what is done in an attempt, or (None) in any."""
        coverage = cls(units)
        for key in store.list(layout.outcomes(model) + "/"):
            found = layout.parse_outcome_key(key)
            if found is not None and attempt in (None, found.attempt):
                coverage.add(found.first, found.last)
        return coverage

    def add(self, first: int, last: int) -> None:
        self.done[first : last + 1] = True

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The stretches of first..last that no outcome covers."""
        open_ = np.concatenate([[False], ~self.done[first : last + 1], [False]])
        edges = np.flatnonzero(open_[1:] != open_[:-1])
        return [(first + int(a), first + int(b) - 1) for a, b in edges.reshape(-1, 2)]

    def covers(self, first: int, last: int) -> bool:
        return bool(self.done[first : last + 1].all())
