"""Arrow's dataset reader is not used: it releases memory after it has returned.

`pyarrow.parquet.read_table` scans through a dataset, whose last references are dropped by a thread
of Arrow's pool some time after the call. If that memory belongs to Python, the thread needs the
interpreter's lock; a process that ends just then is aborted ("terminate called without an active
exception", exit status -6). `pyarrow.parquet.ParquetFile` reads within the call.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
BACKGROUND_READERS = {"read_table", "read_pandas", "ParquetDataset", "write_to_dataset"}
# times the loop that a user would write, in a process of its own, from a path
EXCEPTIONS = {"hundredfold/bench/baseline.py"}


def test_no_reader_releases_memory_after_it_has_returned() -> None:
    found = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in sorted(SOURCE.rglob("*.py"))
        if str(file.relative_to(SOURCE)) not in EXCEPTIONS
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in BACKGROUND_READERS)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyarrow.dataset"))
        or (
            isinstance(node, ast.Import)
            and any(alias.name == "pyarrow.dataset" for alias in node.names)
        )
    ]
    assert not found, f"read with pyarrow.parquet.ParquetFile instead: {found}"
