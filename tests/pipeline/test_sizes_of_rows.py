"""The size of a row depends on its values alone, and so do the row groups of a file."""

from __future__ import annotations

import io
import uuid
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold.data import parquet as rowgroups
from hundredfold.data.parquet import ParquetWriter
from hundredfold.data.row_sizes import row_bytes

texts = st.text(max_size=5) | st.none()
pairs = st.lists(texts, min_size=2, max_size=2) | st.none()
COLUMNS: dict[str, tuple[pa.DataType, Any]] = {
    "texts": (pa.string(), texts),
    "binary": (pa.large_binary(), st.binary(max_size=5) | st.none()),
    "views": (pa.string_view(), texts),
    "lists": (pa.list_(pa.string()), st.lists(texts, max_size=3) | st.none()),
    "fixed_lists": (pa.list_(pa.string(), 2), pairs),
    "lists_of_fixed_lists": (
        pa.list_(pa.list_(pa.string(), 2)),
        st.lists(pairs, max_size=2) | st.none(),
    ),
    "structs": (
        pa.struct([("a", pa.string()), ("b", pa.list_(pa.int8()))]),
        st.fixed_dictionaries({"a": texts}) | st.none(),
    ),
    "maps": (
        pa.map_(pa.string(), pa.string()),
        st.lists(st.tuples(st.text(max_size=3), texts), max_size=2) | st.none(),
    ),
    "dictionaries": (pa.dictionary(pa.int8(), pa.string()), texts),
    "uuids": (pa.uuid(), st.uuids().map(lambda u: u.bytes) | st.none()),
    "numbers": (pa.int64(), st.integers(-5, 5) | st.none()),
    "nulls": (pa.null(), st.none()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_size_of_a_value_is_the_same_wherever_a_column_is_cut(name: str) -> None:
    kind, values = COLUMNS[name]

    @settings(max_examples=30, deadline=None)
    @given(values=st.lists(values, max_size=9), cuts=st.lists(st.integers(0, 9), max_size=3))
    def check(values: list[Any], cuts: list[int]) -> None:
        whole = pa.array(values, kind)
        ends = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
        parts = [whole.slice(a, b - a) for a, b in pairwise(ends)]
        alone = [pa.array([value], kind) for value in values]
        sizes = [
            row_bytes(pa.table({"v": pa.chunked_array(each, kind)})).tolist()
            for each in ([whole], parts, alone)
        ]
        assert sizes[0] == sizes[1] == sizes[2]
        assert len(sizes[0]) == len(values)

    check()


def test_bytes_stored_under_a_null_do_not_count() -> None:
    missing = pa.array([False, True])
    texts = pa.array(["a", "long enough to be seen"])
    pairs = pa.array([["a", "b"], ["c", "long enough to be seen"]], pa.list_(pa.string(), 2))
    hidden = [
        pa.Array.from_buffers(
            pa.string(), 2, [pa.array([True, False]).buffers()[1], *texts.buffers()[1:]]
        ),
        pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), texts, mask=missing),
        pa.StructArray.from_arrays([texts], names=["a"], mask=missing),
        pa.FixedSizeListArray.from_arrays(pairs.flatten(), 2, mask=missing),
    ]
    for column in hidden:
        plain = pa.array(column.to_pylist(), column.type)
        assert (
            row_bytes(pa.table({"v": column})).tolist()
            == row_bytes(pa.table({"v": plain})).tolist()
        ), column.type


def test_row_groups_do_not_depend_on_the_batches_of_fixed_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rowgroups, "MAX_ROW_GROUP_BYTES", 4_000)
    rng = np.random.default_rng(7)
    texts = ["x" * int(n) for n in rng.integers(0, 200, 600)]
    kind = pa.list_(pa.string(), 3)
    table = pa.table(
        {
            "v": pa.array(np.array(texts, object).reshape(200, 3).tolist(), kind),
            "u": [uuid.UUID(int=n).bytes for n in range(200)],
        }
    )
    files = []
    for step in (200, 1, 7, 64):
        file = io.BytesIO()
        groups = ParquetWriter(file, table.schema)
        for start in range(0, 200, step):
            groups.add(table.slice(start, step))
        groups.close()
        files.append(file.getvalue())
    assert len(set(files)) == 1
