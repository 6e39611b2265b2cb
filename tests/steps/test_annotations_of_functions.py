"""Annotations in every way that Python offers mean the same: of a contract's fields, and of the user's function."""

from __future__ import annotations

from typing import Annotated, Any, NewType, Optional, Required, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from annotated_types import Gt
from numpy.typing import NDArray
from typing_extensions import ReadOnly, TypeAliasType, TypedDict

from hundredfold.contract import read_contract
from hundredfold.errors import JobError

Element = TypeVar("Element")
Euro = NewType("Euro", float)
Cents = NewType("Cents", Euro)
Positive = TypeAliasType("Positive", Annotated[float, Gt(0)])
Named = TypeAliasType("Named", "Positive")
Series = TypeAliasType("Series", list[Element], type_params=(Element,))
Same = TypeAliasType("Same", Element, type_params=(Element,))
Looped = TypeAliasType("Looped", "Looped")
Lost = TypeAliasType("Lost", "Nowhere")  # noqa: F821  # what is tried


@pytest.mark.parametrize(
    ("annotation", "arrow", "nullable", "checks"),
    [
        (Cents, pa.float64(), False, 0),
        (Positive, pa.float64(), False, 2),
        (Named, pa.float64(), False, 2),
        (Positive | None, pa.float64(), True, 2),
        (Optional[Named], pa.float64(), True, 2),  # noqa: UP045  # the older way is what is tried
        (Series[float], pa.list_(pa.float64()), False, 0),
        (Series[Cents], pa.list_(pa.float64()), False, 0),
        (Same[int], pa.int64(), False, 0),
        (list[Euro], pa.list_(pa.float64()), False, 0),
        (dict[str, Cents], pa.map_(pa.string(), pa.float64()), False, 0),
        (NDArray[np.int64], pa.list_(pa.int64()), False, 0),
        (NDArray[np.float32] | None, pa.list_(pa.float64()), True, 0),
        (NDArray[Any], pa.list_(pa.float64()), False, 0),
        (np.ndarray, pa.list_(pa.float64()), False, 0),
        (np.ndarray[tuple[int, ...], np.dtype[np.bool_]], pa.list_(pa.bool_()), False, 0),
        (Required[float], pa.float64(), False, 0),
        (ReadOnly[Positive], pa.float64(), False, 2),
    ],
    ids=str,
)
def test_a_field_may_be_annotated_in_every_way(annotation: Any, arrow: pa.DataType, nullable: bool, checks: int) -> None:
    (column,) = read_contract(TypedDict("Row", {"it": annotation})).columns
    assert (column.arrow, column.nullable, len(column.checks)) == (arrow, nullable, checks)


@pytest.mark.parametrize("annotation", [Looped, Lost, list[Lost], NDArray[np.datetime64], Element, Annotated[Looped, 1]], ids=str)
def test_a_field_whose_type_cannot_be_found_is_named(annotation: Any) -> None:
    with pytest.raises(JobError, match="Row cannot be a contract\n  it: "):
        read_contract(TypedDict("Row", {"it": annotation}))
