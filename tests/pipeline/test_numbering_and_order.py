"""Units are numbered by arithmetic as in SQL, and the fast sort gives the canonical order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold.data import row_order as order
from hundredfold.data.numpy_columns import UNIT, from_numpy, to_numpy
from hundredfold.data.row_order import _with_plain_numbers, canonical_order
from hundredfold.errors import ConservationError, QueryError
from hundredfold.local.filesystem import FileStore
from hundredfold.pipeline.units import DenseIndex, JoinIndex, number_units
from hundredfold.sql.duckdb import DuckWarehouse

KEYS: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "int": (st.integers(-5, 30), pa.int64()),
    "short": (st.one_of(st.integers(-20, -1), st.integers(0, 20)), pa.int8()),
    "unsigned": (st.integers(0, 2**32 - 1).map(lambda n: n % 7 + 2**32 - 7), pa.uint32()),
    "large": (st.integers(2**62, 2**62 + 9), pa.int64()),
    "text": (st.sampled_from(["", "a", "b", "ä", "a\u0308", "Z", "'", "a b"]), pa.string()),
    "date": (st.dates(dt.date(1969, 12, 28), dt.date(1970, 1, 3)), pa.date32()),
    "flag": (st.booleans(), pa.bool_()),
}


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckWarehouse]:
    home: Path = tmp_path_factory.mktemp("numbering")
    with DuckWarehouse(FileStore(home), home / "scratch", memory=2**28, threads=2) as opened:
        yield opened


@st.composite
def keyed(draw: st.DrawFn) -> pa.Table:
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True))
    rows = draw(st.integers(1, 60))
    columns = {}
    for name, called in zip(kinds, draw(st.permutations(["a b", "a_b", 'a"b'])), strict=False):
        values, kind = KEYS[name]
        some = st.one_of(st.none(), values) if draw(st.booleans()) else values
        columns[called] = pa.array(draw(st.lists(some, min_size=rows, max_size=rows)), kind)
    return pa.table({**columns, "row": pa.array(range(rows), pa.int64())})


@settings(max_examples=150)
@given(table=keyed())
def test_arithmetic_and_sql_find_the_same_units(warehouse: DuckWarehouse, table: pa.Table) -> None:
    warehouse.register("keyed", table)
    unit = table.column_names[:-1]
    select = "SELECT * FROM keyed"
    found, wanted = (
        number_units("m", unit, select, warehouse.columns(select), warehouse),
        JoinIndex(unit, select, warehouse),
    )
    if all(len(set(table.column(name).to_pylist()) - {None}) for name in unit):
        assert isinstance(found, DenseIndex)  # or this test compares SQL with itself
    assert listed(found).equals(listed(wanted))
    assert numbers_of_rows(found, warehouse) == numbers_of_rows(wanted, warehouse)
    for name in (*found.tables, *wanted.tables):
        warehouse.drop(name)
        with pytest.raises(QueryError, match="does not exist"):
            warehouse.columns(f"SELECT * FROM {name}")


def listed(numbering: Any, rows: int = 3) -> pa.Table:
    """Return the list of units, read some at a time."""
    units = pa.Table.from_batches(numbering.batches_of_units(rows)).combine_chunks()
    numbering.set_units(units)
    return units


def numbers_of_rows(numbering: Any, warehouse: DuckWarehouse) -> dict[int, int]:
    """Return the number of each row's unit."""
    chunks = list(warehouse.stream(numbering.query(["row"])))
    return {
        row: unit
        for c in chunks
        for row, unit in zip(
            c.column("row").to_pylist(), numbering.unit_numbers(c.column(0)).tolist(), strict=True
        )
    }


@pytest.mark.parametrize(
    "key",
    [
        pa.array([0, 2**40, 1], pa.int64()),  # far apart, but few
        pa.array([0.5, -0.0, 0.0]),
        pa.array([dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 2), None], pa.timestamp("us")),
        pa.array([0, 2**64 - 1, 1], pa.uint64()),
        pa.array([None, None, None], pa.int64()),
    ],
    ids=["far", "float", "time", "uint64", "nulls"],
)
def test_keys_of_every_type_are_numbered(warehouse: DuckWarehouse, key: pa.Array) -> None:
    warehouse.register("keyed", pa.table({"k": key, "row": [0, 1, 2]}))
    select = "SELECT * FROM keyed"
    found = number_units("m", ["k"], select, warehouse.columns(select), warehouse)
    assert listed(found).equals(listed(JoinIndex(["k"], select, warehouse)))


def test_many_texts_are_numbered_in_sql(warehouse: DuckWarehouse) -> None:
    warehouse.register(
        "keyed", pa.table({"k": pa.array([f"customer {n:06d}" for n in range(70_000)])})
    )
    found = number_units(
        "m", ["k"], "SELECT * FROM keyed", warehouse.columns("SELECT * FROM keyed"), warehouse
    )
    assert isinstance(found, JoinIndex)
    assert listed(found, 1000).num_rows == 70_000


def test_numbers_too_many_for_the_memory_are_numbered_in_sql(warehouse: DuckWarehouse) -> None:
    warehouse.register("keyed", pa.table({"k": pa.array(range(100_000), pa.int64())}))
    select = "SELECT * FROM keyed"
    for memory, kind in ((2**20, JoinIndex), (2**23, DenseIndex), (None, DenseIndex)):
        found = number_units("m", ["k"], select, warehouse.columns(select), warehouse, memory)
        assert isinstance(found, kind)
        assert listed(found, 30_000).num_rows == 100_000


def test_keys_of_too_many_combinations_are_numbered_in_sql(warehouse: DuckWarehouse) -> None:
    some = pa.array(range(0, 10_000, 3), pa.int64())
    warehouse.register("keyed", pa.table({"a": some, "b": some, "c": some}))
    found = number_units(
        "m",
        ["a", "b", "c"],
        "SELECT * FROM keyed",
        warehouse.columns("SELECT * FROM keyed"),
        warehouse,
    )
    assert isinstance(found, JoinIndex)


def test_a_key_that_appears_after_units_were_counted_is_an_error(warehouse: DuckWarehouse) -> None:
    warehouse.register("keyed", pa.table({"k": [1, 2, 3]}))
    found = number_units(
        "m", ["k"], "SELECT * FROM keyed", warehouse.columns("SELECT * FROM keyed"), warehouse
    )
    for later in ([9], [-7], [None]):
        warehouse.register("keyed", pa.table({"k": pa.array(later, pa.int64())}))
        chunks = list(warehouse.stream(found.query([])))
        with pytest.raises(
            ConservationError,
            match="m: the query returned keys that it did not return a moment before",
        ):
            found.unit_numbers(chunks[0].column(0))


def test_a_query_without_rows_has_no_unit(warehouse: DuckWarehouse) -> None:
    warehouse.register("keyed", pa.table({"k": pa.array([], pa.int64())}))
    select = "SELECT * FROM keyed"
    for unit in (["k"], []):
        found = number_units("m", unit, select, warehouse.columns(select), warehouse)
        assert not list(found.batches_of_units(10))


NUMBERS = [
    0.0,
    -0.0,
    1.5,
    -1.5,
    1e-300,
    -1e-300,
    1.5000000000000002,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e300,
    None,
]
VALUES: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "double": (st.sampled_from(NUMBERS), pa.float64()),
    "near": (
        st.sampled_from([1.0, 1.0 + 2**-50, 1.0 + 2**-51, 2.0]),
        pa.float64(),
    ),  # alike in the leading bits
    "integer": (st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), pa.int64()),
    "unsigned": (st.integers(0, 2**64 - 1), pa.uint64()),
    "day": (st.one_of(st.none(), st.dates(dt.date(1900, 1, 1))), pa.date32()),
    "text": (st.sampled_from(["", "a", "b", "ä", None]), pa.string()),
    "flag": (st.sampled_from([True, False, None]), pa.bool_()),
    "few": (st.integers(0, 2), pa.int16()),
    "second": (st.one_of(st.none(), st.integers(0, 86_399)), pa.time32("s")),
    "milli": (st.one_of(st.none(), st.integers(0, 86_399_999)), pa.time32("ms")),
    "micro": (st.one_of(st.none(), st.integers(0, 86_399_999_999)), pa.time64("us")),
    "nano": (st.integers(0, 86_399_999_999_999), pa.time64("ns")),
    "span": (st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), pa.duration("s")),
    "far_day": (st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), pa.date32()),
    "day_of_ms": (
        st.one_of(st.none(), st.integers(-(10**5), 10**5).map(lambda day: day * 86_400_000)),
        pa.date64(),
    ),
    "moment": (st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), pa.timestamp("s")),
    "zoned": (st.integers(-(2**63), 2**63 - 1), pa.timestamp("us", "Europe/Berlin")),
    "half": (st.sampled_from([0.0, -0.0, 1.5, -1.5, float("nan"), None]), pa.float16()),
    "single": (st.sampled_from([0.0, -0.0, 1.5, -1.5, float("inf"), None]), pa.float32()),
    "money": (
        st.one_of(st.none(), st.decimals(-(10**9), 10**9, places=2)),
        pa.decimal128(20, 2),
    ),
    "huge": (
        st.one_of(st.none(), st.integers(-(10**60), 10**60).map(Decimal)),
        pa.decimal256(70, 0),
    ),
    "bytes": (st.one_of(st.none(), st.binary(max_size=2)), pa.binary()),
    "many_bytes": (st.one_of(st.none(), st.binary(max_size=2)), pa.large_binary()),
    "two_bytes": (st.one_of(st.none(), st.binary(min_size=2, max_size=2)), pa.binary(2)),
    "long_text": (st.sampled_from(["", "a", "ä", None]), pa.large_string()),
    "nothing": (st.none(), pa.null()),
    "word": (st.sampled_from(["b", "a", None]), pa.dictionary(pa.int8(), pa.string())),
}
NESTED: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "numbers": (
        st.one_of(st.none(), st.lists(st.sampled_from([1, 2, None]), max_size=2)),
        pa.list_(pa.int64()),
    ),
    "days": (st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2), pa.list_(pa.date32())),
    "pair": (
        st.one_of(
            st.none(),
            st.fixed_dictionaries({"a": st.integers(0, 1), "b": st.sampled_from(["x", None])}),
        ),
        pa.struct([("a", pa.int8()), ("b", pa.string())]),
    ),
    "times": (
        st.fixed_dictionaries({"at": st.integers(-(2**63), 2**63 - 1)}),
        pa.struct([("at", pa.timestamp("s"))]),
    ),
    "map": (
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=1),
        pa.map_(pa.string(), pa.int64()),
    ),
    "vector": (
        st.lists(st.sampled_from([1.0, float("nan")]), min_size=2, max_size=2),
        pa.list_(pa.float64(), 2),
    ),
    "interval": (
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)),
        pa.month_day_nano_interval(),
    ),
}


def array_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return an array of a type from the integers that represent its values."""
    if (
        pa.types.is_temporal(kind)
        and not pa.types.is_interval(kind)
        and all(v is None or isinstance(v, int) for v in values)
    ):
        return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)
    if kind == NESTED["days"][1]:
        return pa.array(values, pa.list_(pa.int32())).cast(kind)
    if kind == NESTED["times"][1]:
        return pa.StructArray.from_arrays(
            [pa.array([v["at"] for v in values], pa.int64()).view(kind.field(0).type)], ["at"]
        )
    return pa.array(values, kind)


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as Python values, with dates and times as the integers that represent them."""
    kinds = [
        _with_plain_numbers(f.type) if not pa.types.is_dictionary(f.type) else f.type
        for f in table.schema
    ]
    columns = [
        column.cast(kind) if column.type != kind else column
        for column, kind in zip(table.columns, kinds, strict=True)
    ]
    rows: list[dict[str, Any]] = pa.table(columns, table.column_names).to_pylist()
    return rows


@st.composite
def batches(draw: st.DrawFn) -> tuple[pa.Table, list[str]]:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=0, max_size=3, unique=True))
    rows = draw(st.integers(0, 50))
    columns = {
        name: array_of(
            draw(st.lists(VALUES[name][0], min_size=rows, max_size=rows)), VALUES[name][1]
        )
        for name in kinds
    }
    # numbers of units from small to so large that few bits are left for a value
    most = draw(st.sampled_from([0, 3, 2**31 - 1, 2**40, 2**57]))
    units = draw(st.lists(st.integers(0, most), min_size=rows, max_size=rows))
    order_by = draw(st.permutations(kinds))[: draw(st.integers(0, len(kinds)))]
    return pa.table({UNIT: pa.array(units, pa.int64()), **columns}), order_by


def rank(value: Any) -> tuple[Any, ...]:
    """Return the sort key of a value in its column: numbers, then NaN, then null; -0.0 before
    0.0.
    """
    if value is None:
        return (2,)
    if isinstance(value, float):
        return (1,) if value != value else (0, value, np.copysign(1.0, value))
    return (0, value.encode() if isinstance(value, str) else value)


@settings(max_examples=300)
@given(batch=batches())
def test_the_canonical_order_is_unit_then_order_by_then_the_rest(
    batch: tuple[pa.Table, list[str]],
) -> None:
    table, order_by = batch
    unit = to_numpy(table.column(UNIT), False)
    order = canonical_order(table, unit, order_by)
    assert sorted(order.tolist()) == list(range(len(table)))
    names = [*order_by, *(n for n in table.column_names if n not in order_by and n != UNIT)]
    found = [
        (row[UNIT], *(rank(row[n]) for n in names))
        for row in plain_rows(table.take(from_numpy(order)))
    ]
    assert found == sorted(found)


LONG: dict[
    str, tuple[st.SearchStrategy[Any], pa.DataType]
] = {  # alike up to where they are first compared, or beyond it
    "long_texts": (
        st.sampled_from(
            ["", *("ä" * n + end for n in (2, 27, 28, 40) for end in ("", "\0", "a", "ö"))]
        ),
        pa.string(),
    ),
    "long_bytes": (
        st.sampled_from([b"", b"\xff" * 56, b"\xff" * 57, b"\0" * 8, b"\0" * 7]),
        pa.large_binary(),
    ),
    "lists_of_texts": (
        st.lists(st.sampled_from(["x" * 60, "x" * 61, None]), max_size=3),
        pa.list_(pa.string()),
    ),
}


@pytest.mark.parametrize("name", sorted(VALUES | NESTED | LONG))
@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wide_values_have_the_order_that_narrow_ones_have(
    name: str, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, kind = (VALUES | NESTED | LONG)[name]
    values = data.draw(
        st.lists(strategy | st.none() if name in LONG else strategy, min_size=1, max_size=20)
    )
    units = pa.array([n % 2 for n in range(len(values))])
    table = pa.table(
        {
            UNIT: units,
            name: array_of(values, kind),
            "few": pa.array([n % 3 for n in range(len(values))]),
        }
    )
    orders = []
    for wide, block in ((-1, 1), (-1, 2**20), (2**60, 2**20)):
        monkeypatch.setattr(order, "MIN_WIDE_VALUE_BYTES", wide)
        monkeypatch.setattr(order, "MAX_BLOCK_BYTES", block)
        orders += [
            canonical_order(table, to_numpy(table.column(UNIT), False), by).tolist()
            for by in ([], [name], ["few", name])
        ]
    assert orders[:3] == orders[3:6] == orders[6:]


@pytest.mark.parametrize("name", sorted(VALUES | NESTED))
@given(data=st.data())
@settings(max_examples=20)
def test_the_order_of_rows_of_every_type_depends_on_the_rows_alone(
    name: str, data: st.DataObject
) -> None:
    strategy, kind = (VALUES | NESTED)[name]
    values = data.draw(st.lists(strategy, min_size=1, max_size=20))
    shuffled = data.draw(st.permutations(range(len(values))))
    table = pa.table(
        {
            UNIT: pa.array([0] * len(values)),
            name: array_of(values, kind),
            "few": pa.array([n % 2 for n in range(len(values))]),
        }
    )
    other = table.take(pa.array(shuffled))
    for order_by in ([], [name], ["few"]):
        first, second = (
            plain_rows(
                t.take(from_numpy(canonical_order(t, to_numpy(t.column(UNIT), False), order_by)))
            )
            for t in (table, other)
        )
        assert repr(first) == repr(second)
