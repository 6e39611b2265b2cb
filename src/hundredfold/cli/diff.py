"""The command `hundredfold diff`: how two runs, or a run and a table, differ."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import Command, Target, argument, complete_run_ids, json_option, target_options

if TYPE_CHECKING:
    from ..runs.difference import ColumnDifference, Difference, Example

SUFFIXES = (".parquet", ".csv")  # of --out


@click.command(cls=Command)
@argument("a", "A run, or a file of rows: .parquet, .csv, .jsonl.", shell_complete=complete_run_ids)
@argument("b", "The run or the file that is compared with it.", shell_complete=complete_run_ids)
@click.option("--model", metavar="MODEL", help="Compare its results; the last model's if omitted.")
@click.option("--published", metavar="NAME", help="Compare this published table instead.")
@click.option(
    "--key",
    multiple=True,
    metavar="COLUMN",
    show_default="the unit of the model",
    help="Column that identifies a row. Repeatable.",
)
@click.option(
    "--relative",
    type=float,
    default=0.0,
    show_default=True,
    metavar="X",
    help="Numbers are equal within X times the larger one.",
)
@click.option(
    "--absolute",
    type=float,
    default=0.0,
    show_default=True,
    metavar="X",
    help="Numbers are equal within X.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Maximum number of rows to show.",
)
@click.option("--out", metavar="FILE", help="Write all rows that differ: .parquet or .csv.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
@target_options
@json_option
def diff(
    a: str,
    b: str,
    relative: float,
    absolute: float,
    limit: int,
    out: str | None,
    exit_code: bool,
    target: Target,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare two runs, or a run and a file, by key: rows added, removed, changed, and how much."""
    from ..api import diff as compare
    from ..runs.compared_tables import names_run
    from . import display

    if out is not None and Path(out).suffix not in SUFFIXES:
        raise UsageError(f"--out {out} ends with none of {', '.join(SUFFIXES)}")
    home = target.open() if names_run(a) or names_run(b) else None
    found = compare(
        a, b, home=home, relative=relative, absolute=absolute, examples=limit, **options
    )
    if out is not None:
        write_rows(found, Path(out))
    if as_json:
        display.print_json(facts_of(found))
    else:
        show_difference(found)
    if exit_code and not found.is_empty:
        click.get_current_context().exit(1)


def facts_of(found: Difference) -> dict[str, Any]:
    """Return a difference as facts for programs."""
    names = ("a", "b", "rows_a", "rows_b", "added", "removed", "changed")
    return {
        **{name: getattr(found, name) for name in names},
        "key": list(found.key),
        "columns": [asdict(column) for column in found.columns],
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "types": {name: list(pair) for name, pair in found.types.items()},
        "examples": [asdict(example) for example in found.examples],
    }


def write_rows(found: Difference, path: Path) -> None:
    """Write all rows that differ to a file, whole or not at all. Raises: UsageError."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    from ..ports.object_keys import TEMP_PREFIX

    table, half = found.rows.to_arrow(), path.with_name(f"{TEMP_PREFIX}{path.name}-{os.getpid()}")
    write = pq.write_table if path.suffix == ".parquet" else pa.csv.write_csv
    try:
        write(table, half)
        half.replace(path)
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            half.unlink()
        raise UsageError(f"--out {path} cannot be written: {error}") from error


def show_difference(found: Difference) -> None:
    """Print the counts, the changes of each column, and the first rows that differ."""
    from rich.markup import escape

    from . import display

    display.stdout.print(
        f"[bold]{escape(found.b)}[/] against [bold]{escape(found.a)}[/]"
        f"   {found.rows_b:,} and {found.rows_a:,} rows"
    )
    if found.is_empty:
        display.stdout.print("no difference")
        return
    display.stdout.print(
        f"{found.added:,} added, {found.removed:,} removed, {found.changed:,} changed"
    )
    for line in _column_notes(found):
        display.print_indented("  ", line)
    changed = [column for column in found.columns if column.changed]
    if changed:
        display.stdout.print()
        _show_columns(changed)
    if found.examples:
        display.stdout.print()
        _show_examples(found.examples)
    rest = found.added + found.removed + found.changed - len(found.examples)
    if rest > 0:
        display.stdout.print(f"and {rest:,} more: --limit N shows more, --out FILE writes all")


def _column_notes(found: Difference) -> Iterator[str]:
    for side, names in ((found.a, found.only_a), (found.b, found.only_b)):
        if names:
            yield f"only in {side}: {', '.join(names)}"
    for name, (a, b) in found.types.items():
        yield f"{name} is {a} in {found.a} and {b} in {found.b}"


def _show_columns(columns: Sequence[ColumnDifference]) -> None:
    from .display import TableColumn, print_columns

    of_numbers = TableColumn.of_numbers
    print_columns(
        [
            TableColumn("column", [each.column for each in columns]),
            of_numbers("rows", [f"{each.changed:,}" for each in columns]),
            of_numbers("largest", [_number(each.largest) for each in columns]),
            of_numbers("largest %", [_percent(each.relative) for each in columns]),
            of_numbers("sum A", [_number(each.before) for each in columns]),
            of_numbers("sum B", [_number(each.after) for each in columns]),
        ]
    )


def _show_examples(examples: Sequence[Example]) -> None:
    from .display import TableColumn, print_columns

    lines = [
        (each.key, each.difference, name, a, b)
        for each in examples
        for name, (a, b) in (each.values or {"": (None, None)}).items()
    ]
    print_columns(
        [
            TableColumn("key", [line[0] for line in lines]),
            TableColumn("difference", [line[1] for line in lines]),
            TableColumn("column", [line[2] for line in lines]),
            TableColumn("A", [_value(line[3]) for line in lines]),
            TableColumn("B", [_value(line[4]) for line in lines]),
        ]
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:,.3g}"


def _value(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
