"""Is an answer the reference's? The keys as sets, the values within a millionth; and whether they
are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from benchmarks.workloads import KEYS, Workload

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Verdict:
    """`wrong` says what is, and is empty where nothing is; `difference` is the largest relative
    one, nought where all bits are equal.
    """

    wrong: str = ""
    difference: float = 0.0
    note: str = ""


def compare(workload: Workload, reference: Sequence[str], answer: Sequence[str]) -> Verdict:
    if not answer:
        return Verdict("wrote nothing")
    try:
        return _compare(workload, reference, answer)
    except duckdb.Error as error:
        return Verdict(f"unreadable: {str(error).splitlines()[0]}")


def _compare(workload: Workload, reference: Sequence[str], answer: Sequence[str]) -> Verdict:
    keys = "segment::VARCHAR AS segment, location::BIGINT AS location, product::BIGINT AS product"
    values = ", ".join(f"{name}::DOUBLE AS {name}" for name in workload.results)
    away = [
        f"CASE WHEN mine.{name} IS NOT DISTINCT FROM theirs.{name} THEN 0.0 "
        f"ELSE coalesce(abs(theirs.{name} - mine.{name}) / greatest(abs(mine.{name}), 1e-12), "
        "'inf'::DOUBLE) END"
        for name in workload.results
    ]
    with duckdb.connect() as connection:
        for name, files in (("mine", reference), ("theirs", answer)):
            connection.execute(
                f"CREATE TABLE {name} AS SELECT {keys}, {values} FROM read_parquet({list(files)})"
            )
        counted = connection.execute(
            "SELECT count(*) FILTER (theirs.segment IS NULL), count(*) FILTER (mine.segment IS "
            f"NULL), max(greatest({', '.join(away)})), "
            "(SELECT count(*) FROM theirs), (SELECT count(*) FROM mine) FROM mine FULL JOIN "
            f"theirs USING ({', '.join(KEYS)}) "
        ).fetchone()
        assert counted is not None
        kinds = {
            row[0]: row[1]
            for row in connection.execute(
                f"DESCRIBE SELECT * FROM read_parquet({list(answer)})"
            ).fetchall()
        }
    missing, extra, difference, found, wanted = counted
    if missing or extra or found != wanted:
        return Verdict(
            f"{found:,} units for {wanted:,}: {missing:,} are missing and {extra:,} are of no "
            "known key"
        )
    if not difference <= TOLERANCE:
        return Verdict(f"a value is off by {difference:.1g} of itself", difference=difference)
    return Verdict("", difference, "counts became floats" if kinds.get("n") == "DOUBLE" else "")
