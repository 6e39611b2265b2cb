"""Units as the engine passes them, for rows that the evaluation selected or made itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tariffs.columns import Ints, Rows, key_offsets
from tariffs.evaluation.product_lines import Line


@dataclass(slots=True)
class UnitArrays:
    """A `Units`: rows sorted by unit, the first row of each unit, and its keys."""

    columns: Rows
    offsets: Ints
    keys: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def unit_arrays(rows: Rows, line: Line) -> UnitArrays:
    offsets = key_offsets(rows, line.key)
    return UnitArrays(rows, offsets, {name: rows[name][offsets[:-1]] for name in line.key})
