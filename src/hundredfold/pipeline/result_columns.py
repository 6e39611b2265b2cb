"""The columns of a model's result: chosen over all units, then converted to.

The names are those that most units returned, and the type of a column holds all values of its most
frequent kind. Units that returned other columns, or a value that its column cannot hold, fail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..contract import Contract, literal, quote
from ..data.arrow_types import (
    are_compatible,
    common_type,
    is_parquet_type,
    kind_of,
    type_from_hex,
)
from ..data.nested_cast import can_hold, cast, narrowest_type
from ..data.numpy_columns import UNIT, null_mask, to_numpy
from ..data.result_contract import VALUE_COLUMN
from ..ports.interfaces import Warehouse


@dataclass(frozen=True, slots=True)
class ResultColumns:
    """The columns of the results, in the order of the first unit, and their types."""

    names: tuple[str, ...]
    types: Mapping[str, pa.DataType]

    def schema(self, keys: pa.Schema) -> pa.Schema:
        return pa.schema([*keys, *(pa.field(name, self.types[name]) for name in self.names)])


def choose_columns(
    summaries: Sequence[dict[str, Any]], contract: Contract | None, keys: Sequence[str] = ()
) -> tuple[ResultColumns, dict[tuple[int, int], str]]:
    """Choose the columns and types of the result.

    Also returns why the tables with other columns are refused: {(outcome, table): reason}. The
    names are those that most units returned, and the kind of a column is the one with the most
    values. Both are counted over all units, so that the choice does not depend on the batches.
    """
    if contract is not None:
        return ResultColumns(
            tuple(n for n in contract.names if n not in keys),
            {c.name: c.arrow for c in contract.columns},
        ), {}
    by_names: defaultdict[frozenset[str], int] = defaultdict(int)
    first: dict[frozenset[str], tuple[int, tuple[str, ...]]] = {}
    for table in summaries:
        names = tuple(column[0] for column in table["columns"])
        if not names:  # units that returned None neither decide on the columns nor are refused here
            continue
        by_names[frozenset(names)] += table["units"][1]
        first[frozenset(names)] = min(
            first.get(frozenset(names), (2**62, ())), (table["units"][0], names)
        )
    nones = [(t["outcome"], t["table"]) for t in summaries if not t["columns"]]
    if not by_names:
        return ResultColumns((), {}), dict.fromkeys(
            nones, "returned None, as every unit did: does the function lack a return statement?"
        )
    chosen = min(by_names, key=lambda names: (-by_names[names], first[names]))
    total = sum(by_names.values())
    others = [(t, frozenset(column[0] for column in t["columns"])) for t in summaries]
    refused = {
        (t["outcome"], t["table"]): _mismatch_reason(names, chosen, by_names[chosen], total)
        for t, names in others
        if names and names != chosen
    }
    if chosen != {VALUE_COLUMN}:  # for a result of single values, None is a null
        refused |= dict.fromkeys(
            nones, f"returned None; most units returned {', '.join(first[chosen][1])}"
        )
    return ResultColumns(
        first[chosen][1], _column_types([t for t, names in others if names == chosen])
    ), refused


def _column_types(summaries: Sequence[dict[str, Any]]) -> dict[str, pa.DataType]:
    """Return, for each column, the type that holds all values of its chosen kind."""
    found = [
        (name, type_from_hex(text), values)
        for table in summaries
        for name, text, values in table["columns"]
    ]
    sorts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, kind, values in found:
        sorts[name][kind_of(kind)] += values
    right = {
        name: min(counted, key=lambda s: (s.endswith("null"), -counted[s], s))
        for name, counted in sorts.items()
    }
    types: dict[str, pa.DataType] = dict.fromkeys(sorts, pa.null())
    for name, kind, _ in found:
        if are_compatible(kind_of(kind), right[name]):
            types[name] = common_type(types[name], kind) or types[name]
    return {name: kind if is_parquet_type(kind) else pa.null() for name, kind in types.items()}


def _mismatch_reason(names: frozenset[str], chosen: frozenset[str], many: int, total: int) -> str:
    missing, extra = sorted(chosen - names), sorted(names - chosen)
    parts = ([f"{', '.join(missing)} missing"] if missing else []) + (
        [f"{', '.join(extra)} too much"] if extra else []
    )
    return f"returned other columns than {many:,} of {total:,} units: {' and '.join(parts)}"


def convert_table(table: pa.Table, columns: ResultColumns, late: dict[int, str]) -> pa.Table:
    """Convert a table to the types of the whole result.

    Units with a value that cannot be converted are added to `late`, and the value is set to null.
    """
    units = to_numpy(table.column(UNIT), False)
    if not set(columns.names) <= set(table.column_names):  # these units returned None
        return pa.Table.from_arrays(
            [
                table.column(UNIT),
                *(pa.nulls(table.num_rows, columns.types[name]) for name in columns.names),
            ],
            [UNIT, *columns.names],
        )
    converted = [
        _convert_column(name, table.column(name), columns.types[name], units, late)
        for name in columns.names
    ]
    return pa.Table.from_arrays([table.column(UNIT), *converted], names=[UNIT, *columns.names])


def _convert_column(
    name: str,
    column: pa.ChunkedArray,
    kind: pa.DataType,
    units: NDArray[np.int64],
    late: dict[int, str],
) -> pa.ChunkedArray:
    found = kind_of(column.type)
    if not is_parquet_type(column.type) and pa.types.is_null(kind):
        for row in _rows_with_value(column):
            late.setdefault(
                int(units[row]),
                f"returned {column[row].as_py()} as {name}: a dict without a key cannot be "
                "stored, and no unit returned a key there; return None instead",
            )
        return pa.nulls(len(column), kind)
    if not are_compatible(found, kind_of(kind)):
        for row in _rows_with_value(column):
            late.setdefault(
                int(units[row]),
                f"returned a {found} as {name}; for most units it is a {kind_of(kind)}",
            )
        return pa.nulls(len(column), kind)
    try:
        if can_hold(kind, column.type):
            return cast(column, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    return _convert_values(name, column, kind, units, late)


def _rows_with_value(column: pa.ChunkedArray) -> list[int]:
    """Return the positions of the values that are not null."""
    found: list[int] = np.flatnonzero(~null_mask(column.combine_chunks())).tolist()
    return found


def _convert_values(
    name: str,
    column: pa.ChunkedArray,
    kind: pa.DataType,
    units: NDArray[np.int64],
    late: dict[int, str],
) -> pa.ChunkedArray:
    """Convert value by value, to find those that the type cannot hold, such as 2**60 + 1 among
    floats, or a dict with a key that it lacks.
    """
    fitted = []
    for row in range(len(column)):
        value = column.slice(row, 1).combine_chunks()
        try:
            if can_hold(kind, narrowest_type(value)):
                fitted.append(cast(value, kind))
                continue
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
        late.setdefault(
            int(units[row]),
            f"returned {column[row].as_py()} as {name}, which is {kind} over all units and "
            "cannot hold that",
        )
        fitted.append(pa.nulls(1, kind))
    return pa.chunked_array(fitted, kind)


def contract_violations(
    table: pa.Table, contract: Contract, warehouse: Warehouse
) -> dict[int, str]:
    """Return the units that violate a constraint of the result's contract, and the first one of
    each.
    """
    rules = [
        (c.name, check)
        for c in contract.columns
        if c.name in table.column_names
        for check in c.checks
    ]
    if not rules or not table.num_rows:
        return {}
    warehouse.register("__results", table)
    cases = " ".join(
        (
            f"WHEN NOT coalesce({check.on(quote(name))}, TRUE) THEN "
            f"{literal(f'{name} {check.message}')} || ' (' || CAST({quote(name)} AS VARCHAR) || ')'"
        )
        for name, check in rules
    )
    found = warehouse.query(
        f"SELECT {UNIT}, min(why) AS why FROM (SELECT {UNIT}, CASE {cases} END AS why FROM "
        f"__results) AS r WHERE why IS NOT NULL GROUP BY {UNIT}"
    )
    return {row[UNIT]: row["why"] for row in found.to_pylist()}
