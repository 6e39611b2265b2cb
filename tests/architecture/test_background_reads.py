"""Python's memory is read by the calling thread: another one may release it later.

Arrow's pool drops its last references some time after a call has returned. If the memory belongs
to Python, its thread needs the interpreter's lock; a process that ends just then is aborted
("terminate called without an active exception", exit status -6). So Parquet files and
tables in memory are read with `use_threads=False`, and files never as a dataset, whose reader has
threads in any case.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from hundredfold.data.parquet_in_memory import read_parquet
from tariffs.release import tables

SOURCE = Path(__file__).parents[2] / "src"
DATASET_READERS = {"read_table", "read_pandas", "ParquetDataset", "write_to_dataset"}
READS = {"read_row_group", "read_row_groups", "iter_batches", "group_by"}
# time the loops that a user would write, in processes of their own
EXCEPTIONS = {"hundredfold/bench/baseline.py", "hundredfold/bench/frames.py"}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Yield each node of the source with its place."""
    for file in sorted(SOURCE.rglob("*.py")):
        if (name := str(file.relative_to(SOURCE))) not in EXCEPTIONS:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                yield f"{name}:{getattr(node, 'lineno', 0)}", node


def test_no_file_is_read_as_a_dataset() -> None:
    found = [
        location
        for location, node in nodes()
        if (isinstance(node, ast.Attribute) and node.attr in DATASET_READERS)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyarrow.dataset"))
        or (
            isinstance(node, ast.Import)
            and any(alias.name == "pyarrow.dataset" for alias in node.names)
        )
    ]
    assert not found, f"read with pyarrow.parquet.ParquetFile instead: {found}"


def test_files_and_tables_in_memory_are_read_by_the_calling_thread() -> None:
    found = [
        location
        for location, node in nodes()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr in READS or (node.func.attr == "read" and is_in_memory(node.func)))
        and not any(keyword.arg == "use_threads" for keyword in node.keywords)
    ]
    assert not found, f"read with use_threads=False: {found}"


def is_in_memory(read: ast.Attribute) -> bool:
    """Return whether it reads a ParquetFile of a BufferReader."""
    return "ParquetFile" in ast.unparse(read.value) and "BufferReader" in ast.unparse(read.value)


@pytest.mark.parametrize("read", [read_parquet, tables.read_parquet])
def test_a_file_in_memory_is_released_when_it_has_been_read(
    read: Callable[[pa.Buffer], pa.Table],
) -> None:
    content = tables.to_parquet(pa.table({name: range(1000) for name in "abcdefgh"}))
    before = sys.getrefcount(content)
    assert read(pa.py_buffer(content)).num_rows == 1000
    assert sys.getrefcount(content) == before
