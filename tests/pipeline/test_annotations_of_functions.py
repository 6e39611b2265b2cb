"""Every way of writing an annotation in Python is understood: of a contract's fields and of
functions.
"""

from __future__ import annotations

import collections
import datetime as dt
import functools
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    NewType,
    NoReturn,
    Optional,
    Required,
    TypeVar,
)

import annotated_types as at
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from annotated_types import Gt, MinLen
from numpy.typing import NDArray
from typing_extensions import ReadOnly, TypeAliasType, TypedDict

from hundredfold import Job, Model, Source, Unit
from hundredfold.contract import read_contract
from hundredfold.data.batch import row_form
from hundredfold.data.result_contract import return_type
from hundredfold.errors import JobError
from support.in_process import InProcessRunner

Element = TypeVar("Element")
Euro = NewType("Euro", float)
Cents = NewType("Cents", Euro)
Positive = TypeAliasType("Positive", Annotated[float, Gt(0)])
ByName = TypeAliasType("ByName", "Positive")
Series = TypeAliasType("Series", list[Element], type_params=(Element,))
Same = TypeAliasType("Same", Element, type_params=(Element,))
Looped = TypeAliasType("Looped", "Looped")  # type: ignore[misc]
Lost = TypeAliasType("Lost", "Nowhere")  # type: ignore[name-defined]  # noqa: F821
LOST_ROWS = list["Nowhere"]  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("annotation", "arrow", "nullable", "checks"),
    [
        (Cents, pa.float64(), False, 0),
        (Positive, pa.float64(), False, 2),
        (ByName, pa.float64(), False, 2),
        (Positive | None, pa.float64(), True, 2),
        (Optional[ByName], pa.float64(), True, 2),  # noqa: UP045  # the older way is what is tried
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
)
def test_a_field_may_be_annotated_in_every_way(
    annotation: Any, arrow: pa.DataType, nullable: bool, checks: int
) -> None:
    typed_dict: Any = TypedDict
    (column,) = read_contract(typed_dict("Row", {"it": annotation})).columns
    assert (column.arrow, column.nullable, len(column.checks)) == (arrow, nullable, checks)


@pytest.mark.parametrize(
    "annotation", [Looped, Lost, list[Lost], NDArray[np.datetime64], Element, Annotated[Looped, 1]]
)
def test_a_field_whose_type_cannot_be_found_is_named(annotation: Any) -> None:
    typed_dict: Any = TypedDict
    with pytest.raises(JobError, match="Row cannot be a contract\n  it: "):
        read_contract(typed_dict("Row", {"it": annotation}))


@dataclass
class Price:
    price: Annotated[float, Gt(0)]


@dataclass
class Other:
    price: float


def price(rows: Any, factor: float = -1.0) -> Price:
    return {"price": float(rows["cost"].sum()) * factor}  # type: ignore[return-value]


def turned(factor: float, rows: Any) -> Price:
    return price(rows, factor)


def naming(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def hiding(function: Any) -> Any:
    def call(rows: Any) -> Any:
        return function(rows)

    call.__annotations__.clear()
    return call


class Pricer:
    def price(self, rows: Any, factor: float = -1.0) -> Price:
        return price(rows, factor)

    def __call__(self, rows: Any) -> Price:
        return price(rows)

    @naming
    def decorated(self, rows: Any) -> Price:
        return price(rows)

    @classmethod
    def of_class(cls, rows: Any) -> Price:
        return price(rows)

    @staticmethod
    def of_none(rows: Any) -> Price:
        return price(rows)

    half = functools.partialmethod(price, factor=-0.5)


class Holding:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, rows):  # type: ignore[no-untyped-def]
        return self.function(rows)


class Dispatched:
    """Register a function for other rows, which may declare another result."""

    def __init__(self, returned: Any) -> None:
        def other(rows: int):  # type: ignore[no-untyped-def]
            return price(rows)

        other.__annotations__ = {"rows": int, "return": returned}
        self.function = functools.singledispatch(price)
        self.function.register(other)


SALES = pa.table({"shop": ["North", "South"], "cost": [1.5, 2.5]})


@pytest.mark.parametrize(
    "work",
    [
        price,
        Pricer().price,
        Pricer(),
        Pricer().decorated,
        Pricer.of_class,
        Pricer().of_none,
        Pricer().half,
        functools.partial(price, factor=-2.0),
        functools.partial(functools.partial(turned, -1.0)),
        functools.partial(Pricer().price, factor=-1.0),
        functools.partial(Pricer()),
        naming(price),
        naming(naming(Pricer().price)),
        naming(functools.partial(price, factor=-1.0)),
        Dispatched(Price).function,
    ],
)
def test_a_return_contract_is_read_through_everything_callable(
    runner: InProcessRunner, work: Any
) -> None:
    model = Model("m", unit=("shop",), work=work)
    run = runner.start(
        Job("j", sources=[Source("s")], models=[model], max_failed=1.0), s=SALES
    ).all()
    assert [f["message"].partition(" (")[0] for f in run.failures("m")] == ["price must be > 0"] * 2


def rows_of(annotation: Any) -> Any:
    def work(rows):  # type: ignore[no-untyped-def]
        return []

    work.__annotations__ = {"return": annotation}
    return work


class Named(NamedTuple):
    price: Annotated[float, Gt(0)]


class Typed(TypedDict):
    price: Annotated[float, Gt(0)]


class Checked(pydantic.BaseModel):
    price: Annotated[float, pydantic.Field(gt=0)]


@pytest.mark.parametrize(
    "annotation",
    [
        Price,
        list[Price],
        tuple[Price, ...],
        tuple[Price, Price],
        Iterator[Price],
        Iterable[Price],
        Generator[Price, None, None],
        Sequence[Price],
        "Price",
        list["Price"],
        "list[Price]",
        "Iterator['Price'] | None",
        Price | None,
        Optional["Price"],
        Annotated[Price, "a note"],
        TypeAliasType("Alias", Price),
        TypeAliasType("Alias", "Price | None"),
        NewType("New", Price),
        TypeVar("T", bound=Price),
        list[Price] | None,
        Named,
        Typed,
        Checked,
        list[Annotated[Typed, "a note"]],
    ],
)
def test_a_contract_is_found_in_every_way_to_write_it(annotation: Any) -> None:
    contract = return_type(Model("m", unit=(), work=rows_of(annotation))).contract
    assert contract is not None
    assert [(c.name, c.arrow, len(c.checks)) for c in contract.columns] == [
        ("price", pa.float64(), 2)
    ]


@pytest.mark.parametrize(
    "annotation",
    [
        None,
        Any,
        object,
        dict,
        dict[str, float],
        dict[str, Any],
        dict[str, np.ndarray],
        list[dict[str, float]],
        pd.DataFrame,
        pl.DataFrame,
        pa.Table,
        "dict[str, pd.DataFrame]",
        "missing.Any | None",
        list,
        list[Any],
        tuple,
        dict[str, float] | list[dict[str, float]],
        pd.DataFrame | None,
        collections.namedtuple("Plain", "price"),
        Iterator[dict[str, float]],
        np.ndarray,
        TypeVar("T"),
        Mapping[str, float],
        np.float64,
    ],
)
def test_an_annotation_without_a_contract_asks_for_nothing(annotation: Any) -> None:
    if annotation == "missing.Any | None":
        annotation = "pd.DataFrame | None"  # pd is not imported in the module of the function
    work = rows_of(annotation)
    if annotation is None:
        del work.__annotations__["return"]
    assert return_type(Model("m", unit=(), work=work)).contract is None


class Attribute:
    price: float


class Schema(Generic[Element]):
    pass


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("Missing", "a name in it is not defined"),
        ("list[Missing] | None", "a name in it is not defined"),
        (LOST_ROWS, "a name in it is not defined"),
        ("pd.DataFrame[Missing]", "a name in it is not defined"),
        (dict[str, Price], "would not be checked"),
        (Price | Other, "would not be checked"),
        (Price | dict, "would not be checked"),
        (list[Price | Other], "cannot be read"),
        (tuple[Price, int], "cannot be done"),
        (list[list[Price]], "cannot be done"),
        (list[Annotated[float, Gt(0)]], "single values"),
        (dict[str, Annotated[float, Gt(0)]], "would not be checked"),
        (Annotated[list[Price], MinLen(1)], "cannot be done"),
        (Attribute, "has no column type"),
        (list[Attribute], "single values"),
        (Schema[int], "has no column type"),
        (type(None), "nothing is returned"),
        (NoReturn, "nothing is returned"),
        (complex, "has no column type"),
        (Awaitable[Price], "has no column type"),
        (Callable[[], Price], "has no column type"),
        (Lost, "cannot be evaluated"),
        (dataclass(type("Empty", (), {})), "declares no column"),
        (Annotated[pd.DataFrame, MinLen(1)], "would not be checked"),
        (Annotated[float, at.Predicate(math.isfinite)], "cannot be checked in SQL"),
        (Annotated[dt.datetime, at.Timezone("UTC")], "cannot be checked in SQL"),
    ],
)
def test_an_annotation_that_could_be_a_contract_is_refused(annotation: Any, message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        return_type(Model("m", unit=(), work=rows_of(annotation)))
    assert caught.value.hint


@pytest.mark.parametrize(
    "work", [hiding(price), Holding(price), functools.partial(lambda f, rows: f(rows), price)]
)
def test_a_decorator_that_hides_a_contract_is_refused(work: Any) -> None:
    with pytest.raises(JobError, match="whose rows have a contract"):
        return_type(Model("m", unit=(), work=work))
    assert return_type(Model("m", unit=(), work=work, returns=Price)).contract is not None


@pytest.mark.parametrize("returns", [Other, float, list[Other]])
def test_returns_that_differ_from_the_annotation_are_refused(returns: Any) -> None:
    with pytest.raises(JobError, match="annotated to return Price, and returns= names"):
        return_type(Model("m", unit=(), work=price, returns=returns))
    assert return_type(Model("m", unit=(), work=price, returns=list[Price])).contract is not None
    with pytest.raises(JobError, match="registered with its singledispatch"):
        return_type(Model("m", unit=(), work=Dispatched(Other).function))


async def later(rows: Any) -> Price:
    return price(rows)


async def each_later(rows: Any) -> AsyncIterator[Price]:
    yield price(rows)


class Later:
    async def __call__(self, rows: Any) -> Price:
        return price(rows)


@pytest.mark.parametrize("work", [later, each_later, Later(), functools.partial(later)])
def test_an_asynchronous_function_is_refused(work: Any) -> None:
    with pytest.raises(JobError, match="is asynchronous"):
        Model("m", unit=(), work=work)


@pytest.mark.parametrize(
    ("annotation", "form"),
    [
        (pd.DataFrame, "pandas"),
        ("pd.DataFrame", "pandas"),
        (pl.DataFrame | None, "polars"),
        (Annotated[pa.Table, "a note"], "arrow"),
        (TypeAliasType("Frame", pd.DataFrame), "pandas"),
        (NewType("Frame", pd.DataFrame), "pandas"),
        (TypeVar("T", bound=pl.DataFrame), "polars"),
        (dict[str, NDArray[np.float64]], "dict"),
        ("missing.DataFrame", "pandas"),
        (Unit, "light"),
        ("Unit", "light"),
        (Any, "light"),
        (None, "light"),
    ],
)
def test_the_form_of_rows_is_read_in_every_way_to_write_it(annotation: Any, form: str) -> None:
    def work(self, rows):  # type: ignore[no-untyped-def]
        return {}

    work.__annotations__ = {} if annotation is None else {"rows": annotation}
    kind = type(
        "Holder", (), {"work": work, "__call__": work, "partial": functools.partialmethod(work)}
    )
    for callable_ in (
        kind().work,
        kind(),
        functools.partial(work, 1),
        kind().partial,
        naming(kind().work),
    ):
        assert row_form(Model("m", unit=(), work=callable_)) == form
