"""The type of a column of texts: the first that all its values have, exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ...contract import quote
from .engine import Engine

# columns of CSV files in one query for types: the cost of planning is superlinear
MAX_TYPED_COLUMNS = 50
MAX_SAMPLED_COLUMNS = 500  # columns of which a query reads one value: each takes a buffer
SAMPLE_ROWS = 2_000  # rows of a CSV file that are tried with every type
_ISO = r"\d{4}-\d\d-\d\d[ T]([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?"
# the years that Python supports
_YEAR_RANGE = "BETWEEN TIMESTAMP '0001-01-01 00:00:00' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
# a type, and the condition under which a text has the same meaning as a value of it
TYPE_CHECKS = {
    "BIGINT": "CAST(TRY_CAST(@ AS BIGINT) AS VARCHAR) = @",
    # a double holds every decimal of up to 15 digits; beyond that, only those that it prints
    # unchanged
    "DOUBLE": (
        "CASE WHEN CAST(TRY_CAST(@ AS DOUBLE) AS VARCHAR) = @"
        " THEN @ NOT IN ('nan', '-nan', 'inf', '-inf')"
        " ELSE length(ltrim(translate(@, '-.', ''), '0')) <= 15"
        r" AND regexp_full_match(@, '-?(0|[1-9]\d*)(\.\d+)?') END"
    ),
    "BOOLEAN": "lower(@) IN ('true', 'false')",
    "DATE": (
        "CAST(TRY_CAST(@ AS DATE) AS VARCHAR) = @ AND TRY_CAST(@ AS DATE) BETWEEN DATE"
        " '0001-01-01' AND DATE '9999-12-31'"
    ),
    "TIMESTAMP": f"regexp_full_match(@, '{_ISO}') AND TRY_CAST(@ AS TIMESTAMP) {_YEAR_RANGE}",
    "TIMESTAMP WITH TIME ZONE": (
        rf"regexp_full_match(@, '{_ISO}(Z|[+-]\d\d(:?\d\d)?)') AND CAST(TRY_CAST(@ AS TIMESTAMPTZ)"
        rf" AS TIMESTAMP) {_YEAR_RANGE}"
    ),
}
INTEGER_TEXT, DATE_TEXT, TIMESTAMP_TEXT = (
    re.compile(r"-?\d+"),
    re.compile(r"\d{4}-\d\d-\d\d"),
    re.compile(r"\d{4}-\d\d-\d\d[ T]"),
)


def with_types(db: Engine, select: str, names: Sequence[str], typing: Mapping[str, str]) -> str:
    """Convert columns of texts, each to the first type that all its values have.

    It stays text if there is none, or no value. typing: the SQL of the texts to convert, where
    it is not the column itself.
    """
    texts = (
        (
            "SELECT * REPLACE "
            f"({', '.join(f'{sql} AS {quote(n)}' for n, sql in typing.items())}) FROM "
            f"({select}) AS s"
        )
        if typing
        else select
    )
    first = f"{texts} LIMIT {SAMPLE_ROWS}"
    values = _sample_values(db, names, first)
    values |= _sample_values(db, [name for name, value in values.items() if value is None], texts)
    kinds = {name: candidate_types(value) for name, value in values.items()}
    valued = {name for name, value in values.items() if value is not None}
    few = (
        db.query(f"SELECT count(*) AS n FROM ({select}) AS s").column("n")[0].as_py() <= SAMPLE_ROWS
    )
    if not few:  # types that fail on the first rows are not tried on all
        kinds = _fitting_types(db, kinds, first)
    asked = {name: open_[:1] for name, open_ in kinds.items() if open_}
    while asked:  # on all rows, one type at a time, since it is nearly always the first
        answers = _fitting_types(db, asked, texts)
        wrong = [name for name, open_ in answers.items() if not open_]
        kinds |= {name: kinds[name][1:] for name in wrong}
        asked = {name: kinds[name][:1] for name in wrong if kinds[name]}
    each = ", ".join(
        f"CAST({typing.get(n, quote(n))} AS {kinds[n][0]}) AS {quote(n)}"
        if n in valued and kinds[n]
        else quote(n)
        for n in names
    )
    return f"SELECT __file, __row, {each} FROM ({select}) AS s"


def _sample_values(db: Engine, names: Sequence[str], rows: str) -> dict[str, str | None]:
    """Return a value of each column of texts; None where it has none."""
    values: dict[str, str | None] = {}
    for some in _groups(names, MAX_SAMPLED_COLUMNS):
        found = db.query(
            "SELECT "
            f"{', '.join(f'any_value({quote(name)}) AS v{i}' for i, name in enumerate(some))} "
            f"FROM ({rows}) AS s"
        )
        values |= zip(some, found.to_pylist()[0].values(), strict=True)
    return values


def _fitting_types(
    db: Engine, kinds: Mapping[str, Sequence[str]], rows: str
) -> dict[str, list[str]]:
    """Return the types that fit every row of columns of texts."""
    found: dict[str, list[str]] = {name: [] for name in kinds}
    for some in _groups([name for name, open_ in kinds.items() if open_], MAX_TYPED_COLUMNS):
        asked = {name: kinds[name] for name in some}
        found |= remaining_types(
            asked,
            list(
                db.query(f"SELECT {type_checks_sql(asked)} FROM ({rows}) AS s")
                .to_pylist()[0]
                .values()
            ),
        )
    return found


def candidate_types(value: str | None) -> list[str]:
    """Return the types that a column may have, by one of its values; all types for None."""
    if value is None:
        return list(TYPE_CHECKS)
    fits = {
        "BIGINT": INTEGER_TEXT.fullmatch(value),
        "DOUBLE": _is_float(value),
        "BOOLEAN": value.lower() in ("true", "false"),
        "DATE": DATE_TEXT.fullmatch(value),
        "TIMESTAMP": TIMESTAMP_TEXT.match(value),
        "TIMESTAMP WITH TIME ZONE": TIMESTAMP_TEXT.match(value),
    }
    return [kind for kind in TYPE_CHECKS if fits[kind]]


def _is_float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def type_checks_sql(open_: Mapping[str, Sequence[str]]) -> str:
    """Return SQL that checks each text column against each candidate type: whether all values fit.

    The result is null if the column has no value.
    """
    sums = [
        f"bool_and(coalesce({TYPE_CHECKS[kind].replace('@', quote(name))}, FALSE))"
        f" FILTER (WHERE {quote(name)} IS NOT NULL)"
        for name, kinds in open_.items()
        for kind in kinds
    ]
    return ", ".join(f"{total} AS s{i}" for i, total in enumerate(sums))


def remaining_types(
    open_: Mapping[str, Sequence[str]], answers: Sequence[bool | None]
) -> dict[str, list[str]]:
    """Return the candidate types that no value contradicts."""
    given = iter(answers)
    return {
        name: [kind for kind in kinds if next(given) is not False] for name, kinds in open_.items()
    }


def _groups(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield groups of `size` columns."""
    for start in range(0, len(names), size):
        yield names[start : start + size]
