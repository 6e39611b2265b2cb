"""The price tables of the tests have the columns and types of published ones."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pyarrow.parquet as pq

from support.price_tables import SCHEMA, table
from tariffs.contracts import PriceRow


def test_tables_of_tests_have_the_columns_and_types_of_published_ones(tmp_path: Path) -> None:
    assert table().column_names == [f.name for f in fields(PriceRow)]
    nullable = {
        name
        for name, hint in get_type_hints(PriceRow).items()
        if type(None) in getattr(hint, "__args__", ())
    }
    assert {f.name for f in table().schema if table()[f.name].null_count} <= nullable
    pq.write_table(table(), tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").schema.equals(SCHEMA)
