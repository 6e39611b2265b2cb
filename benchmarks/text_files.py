"""What it costs to read text files: CPU seconds of `attach` beside those of DuckDB's own readers,
in turns.

    python -m benchmarks.text_files [--rows 500000] [--turns 5]

`plain` is one COPY of DuckDB's reader to Parquet, with the dialect and the types given to it: it
checks nothing. `attach` also decides the dialect and the types, proves that every line is a record,
and numbers the rows. The median of the turns is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from hundredfold import Source
from hundredfold.contract import read_contract
from hundredfold.local.filesystem import FileStore
from hundredfold.sql.duckdb import DuckWarehouse

NAMES = ("shop", "day", "sold", "price", "note")


@dataclass
class Sale:
    shop: str
    day: str
    sold: int
    price: float
    note: str


def lines(rows: int, form: str) -> list[str]:
    """Rows as text; `form`: plain, quoted, odd (nearly every line has a stray quote) or json."""
    made = []
    for n in range(rows):
        values = [
            f"shop{n % 997}",
            f"2020-01-{n % 28 + 1:02d}",
            str(n % 10_007),
            f"{n % 1009 / 8}",
            f"some words number {n}",
        ]
        if form == "json":
            made.append(
                json.dumps(
                    dict(
                        zip(
                            NAMES,
                            [*values[:2], int(values[2]), float(values[3]), values[4]],
                            strict=True,
                        )
                    )
                )
            )
        elif form == "quoted":
            made.append(
                ",".join(f'"{value}"' if i in (0, 4) else value for i, value in enumerate(values))
            )
        elif form == "odd":
            made.append(",".join([*values[:4], f'5" pipe {n}' if n % 10 else values[4]]))
        else:
            made.append(",".join(values))
    return made


def written(folder: Path, rows: int, form: str) -> Path:
    path = folder / f"{form}.{'jsonl' if form == 'json' else 'csv'}"
    head = [] if form == "json" else [",".join(NAMES)]
    path.write_text("\n".join([*head, *lines(rows, form)]) + "\n")
    return path


def plain(path: Path, out: Path, contract: bool) -> Callable[[], None]:
    """DuckDB's reader alone, told all that it could find out."""
    if path.suffix == ".jsonl":
        kinds = {
            "sold": "VARCHAR" if contract else "BIGINT",
            "price": "VARCHAR" if contract else "DOUBLE",
        }
        columns = ", ".join(f"{name}: '{kinds.get(name, 'VARCHAR')}'" for name in NAMES)
        reader = (
            f"read_json('{path}', format = 'newline_delimited', columns = "
            f"{{{columns}}}, filename = '__file')"
        )
    else:
        columns = ", ".join(f"{name}: 'VARCHAR'" for name in NAMES)
        reader = (
            f"read_csv('{path}', auto_detect = false, header = true, columns = "
            f"{{{columns}}}, delim = ',', quote = '\"', escape = '\"', new_line = '\\n')"
        )

    def run() -> None:
        with duckdb.connect(
            ":memory:", config={"threads": 2, "memory_limit": "1GiB"}
        ) as connection:
            connection.execute(f"COPY (SELECT * FROM {reader}) TO '{out}' (FORMAT parquet)")

    return run


def attached(path: Path, folder: Path, contract: bool) -> Callable[[], None]:
    wanted = {column.name: column for column in read_contract(Sale).columns} if contract else {}

    def run() -> None:
        with DuckWarehouse(
            FileStore(folder / "store"), folder / "scratch", memory=2**30, threads=2
        ) as warehouse:
            warehouse.attach(
                Source("s", Sale if contract else None), path, folder, wanted, "s.parquet"
            )

    return run


def cpu(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--forms", default="plain,quoted,odd,json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for form in options.forms.split(","):
            path = written(folder, options.rows, form)
            for contract in (True, False):
                calls = {
                    "plain": plain(path, folder / "out.parquet", contract),
                    "attach": attached(path, folder, contract),
                }
                seconds: dict[str, list[float]] = {each: [] for each in calls}
                for turn in range(options.turns + 1):
                    for each, call in calls.items():
                        took = cpu(call)
                        if turn:  # the first is not counted
                            seconds[each].append(took)
                medians = {each: statistics.median(found) for each, found in seconds.items()}
                kind = "contract" if contract else "no contract"
                print(
                    f"{form:7} {kind:12} plain {medians['plain']:6.3f} s  attach "
                    f"{medians['attach']:6.3f} s"
                    f"  {100 * medians['attach'] / medians['plain'] - 100:+5.0f} %"
                )


if __name__ == "__main__":
    main()
