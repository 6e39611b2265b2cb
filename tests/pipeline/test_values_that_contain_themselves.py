"""Nested values: as deep as Arrow can go, and no deeper, since its recursion would end the
process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from hundredfold.errors import SourceError
from hundredfold.sql.sources.frames import frame_to_table
from hundredfold.sql.sources.nesting import is_too_deep


def cyclic(kind: str) -> Any:
    """Return a value that contains itself, by one or two steps, once or twice a level."""
    a: Any = []
    match kind:
        case "list":
            a.append(a)
        case "twice":
            a += [a, a]
        case "dict":
            a = {"x": 1}
            a["a"] = a
        case "both":
            a.append({"x": [a]})
        case "tuple":
            a.append((1, a))
        case "array":
            a = np.empty(2, object)
            a[:] = [1, a]
    return a


def deep(levels: int) -> Any:
    value: Any = [1.5]
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("kind", ["list", "twice", "dict", "both", "tuple", "array"])
def test_a_value_that_contains_itself_is_refused_and_ends_no_process(kind: str) -> None:
    for value in (cyclic(kind), [1, cyclic(kind)]):
        column = pd.Series([None, value], dtype=object)
        frames = [
            pd.DataFrame({"k": [1, 2], "v": column}),
            {"k": [1, 2], "v": [None, value]},
            {"k": [1, 2], "v": column},
        ]
        for frame in frames:
            with pytest.raises(
                SourceError, match="s: v holds a value that is nested more than 64 levels deep"
            ) as raised:
                frame_to_table("s", frame)
            assert "contain itself" in (raised.value.hint or "")


@pytest.mark.parametrize("levels", [1, 2, 30, 64])
def test_finite_nested_values_are_read(levels: int) -> None:
    for frame in (pd.DataFrame({"v": [deep(levels)]}), {"v": [deep(levels)]}):
        assert frame_to_table("s", frame).column("v").to_pylist() == [deep(levels)]


def test_values_nested_too_deeply_are_refused() -> None:
    for levels in (65, 100_000):
        with pytest.raises(SourceError, match="more than 64 levels"):
            frame_to_table("s", {"v": [deep(levels)]})


def test_a_value_that_is_referenced_often_is_visited_once() -> None:
    value: Any = []
    for _ in range(40):
        value = [value, value]
    assert not is_too_deep([value])
