"""Any expression of the supported dialect: Athena returns what DuckDB returns, bit for bit, or the
query is rejected before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hundredfold.errors import QueryError
from hundredfold.local.filesystem import FileStore
from hundredfold.sql.athena import DIALECT_HINT
from hundredfold.sql.duckdb import DuckWarehouse
from support.in_process_aws import AwsRunner, assert_same

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("i", pa.int32()),
        ("x", pa.int64()),
        ("y", pa.float64()),
        ("m", pa.decimal128(7, 2)),
        ("s", pa.string()),
        ("t", pa.string()),
        ("b", pa.bool_()),
        ("d", pa.date32()),
        ("e", pa.date32()),
        ("at", pa.timestamp("ms")),
    ]
)
texts = st.text("abÄß%_ 1.'", max_size=4)
days = st.dates(dt.date(1999, 12, 20), dt.date(2024, 3, 10))
rows = st.fixed_dictionaries(
    {
        "i": st.integers(-5, 5),
        "x": st.none() | st.integers(-90, 90),
        "y": st.none()
        | st.integers(-60, 60).map(lambda n: n / 8)
        | st.sampled_from([0.1, -0.0, 1e15]),
        "m": st.none() | st.decimals(-99, 99, places=2),
        "s": st.none() | texts,
        "t": texts,
        "b": st.none() | st.booleans(),
        "d": st.none() | days,
        "e": days,
        "at": st.none()
        | st.datetimes(dt.datetime(1999, 12, 28), dt.datetime(2024, 3, 5)).map(
            lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
        ),
    }
)
tables = st.lists(rows, min_size=4, max_size=12).map(
    lambda found: pa.Table.from_pylist([{"id": n, **row} for n, row in enumerate(found)], SCHEMA)
)

# an expression of a sort is one of these; a part in braces is an expression of another sort
FORMS = {
    "int": (
        "i x 0 3 -7 length({text}) ({int}+{int}) ({int}-{int}) -{int} ({int}%{int}) "
        "({int}//{int}) abs({int}) greatest({int},{int}) least({int},i) coalesce({int},{int}) "
        "nullif({int},{int}) date_diff('day',{date},{date}) year({date}) month(at) "
        "dayofweek({date}) strpos({text},{text}) CASE~WHEN~{bool}~THEN~{int}~ELSE~{int}~END "
        "TRY_CAST({text}~AS~BIGINT) CAST({bool}~AS~INTEGER) sign({number}) ({date}-{date}) (i*x) "
        "TRY_CAST({real}~AS~BIGINT)"
    ),
    "real": (
        "y 0.5e0 ({real}+{real}) ({real}-{number}) ({real}*{real}) ({int}/{int}) "
        "({real}/{number}) ({real}/(m-m)) sqrt(abs({real})) floor({real}) ceil({real}) "
        "round({real}) abs({real}) greatest({real},y) coalesce({real},{number}) "
        "CAST({number}~AS~DOUBLE) TRY_CAST({text}~AS~DOUBLE) nullif({real},{int}) -{real} "
        "CASE~WHEN~{bool}~THEN~{int}~ELSE~{real}~END"
    ),
    "number": (
        "{int} {real} m 1.5 (m+{int}) (m*1.5) (m-m) round(m,1) abs(m) coalesce(m,0) "
        "greatest(m,{int}) (m/{int})"
    ),
    "text": (
        "s t '' 'a' ({text}||{text}) upper({text}) lower(t) trim({text}) substring({text},{int}) "
        "substring({text},i,2) left({text},i) right({text},{int}) replace({text},t,'-') "
        "concat(s,{text}) coalesce({text},{text}) CAST({int}~AS~VARCHAR) CAST({real}~AS~VARCHAR) "
        "CAST(m~AS~VARCHAR) CAST({date}~AS~VARCHAR) CAST(at~AS~VARCHAR) CAST({bool}~AS~VARCHAR) "
        "lpad({text},3,'*') split_part({text},'a',1) CASE~{text}~WHEN~'a'~THEN~s~ELSE~{text}~END "
        "nullif({text},t) ({text}||{int}) strftime({date},'%d.%m.%Y')"
    ),
    "bool": (
        "b TRUE ({number}<{number}) ({number}={int}) ({real}>={real}) ({text}={text}) "
        "({text}<{text}) ({date}<={date}) (at>{date}) ({bool}~AND~{bool}) ({bool}~OR~{bool}) "
        "(NOT~{bool}) ({number}~IS~NULL) ({text}~IS~NOT~NULL) ({int}~IN~(1,{int},NULL)) "
        "({number}~BETWEEN~{int}~AND~{number}) ({text}~LIKE~'a%') ({text}~NOT~LIKE~'_b%') "
        "starts_with({text},{text}) contains({text},'a') ({text}~IS~DISTINCT~FROM~{text}) "
        "({real}~IS~NOT~DISTINCT~FROM~{real}) ({bool}~IS~TRUE) regexp_matches({text},'^[ab]+$')"
    ),
    "date": (
        "d e (d+i) (e-{small}) DATE~'2024-02-29' CAST(at~AS~DATE) last_day(d) coalesce({date},e) "
        "greatest({date},{date}) CASE~WHEN~{bool}~THEN~{date}~ELSE~e~END "
        "TRY_CAST('2023-01-3'||i~AS~DATE)"
    ),
    "small": "i 3 (i+1) length(t)",
}
TOP = ("int", "real", "number", "text", "bool", "date")


@st.composite
def expressions(draw: st.DrawFn, sort: str, depth: int = 3) -> str:
    forms = [form.replace("~", " ") for form in FORMS[sort].split()]
    form = draw(st.sampled_from([form for form in forms if depth or "{" not in form] or forms))
    while "{" in form:
        before, _, rest = form.partition("{")
        inner, _, after = rest.partition("}")
        form = before + draw(expressions(inner, max(depth - 1, 0))) + after
    return form


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckWarehouse]:
    folder: Path = tmp_path_factory.mktemp("local")
    with DuckWarehouse(
        FileStore(folder / "home"), folder / "scratch", memory=2**28, threads=1
    ) as warehouse:
        yield warehouse


def is_good(value: str, local: DuckWarehouse) -> bool:
    """Return whether the expression is valid locally; a number may be out of range."""
    try:
        local.query(f"SELECT {value} AS v FROM rows_in")
    except QueryError:
        return False
    return True


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    table=tables,
    values=st.lists(st.sampled_from(TOP).flatmap(expressions), min_size=12, max_size=12),
    where=expressions("bool", 2),
)
def test_any_expression_is_equal_on_athena_or_is_rejected(
    aws_runner: AwsRunner, local: DuckWarehouse, table: pa.Table, values: list[str], where: str
) -> None:
    local.register("rows_in", table)
    values = [value for value in values if is_good(value, local)]
    columns = "".join(f", {value} AS c{number}" for number, value in enumerate(values))
    query = (
        f"SELECT id{columns} FROM rows_in WHERE {where if is_good(where, local) else 'b'} OR id < "
        "2 ORDER BY id"
    )
    expected = local.query(query)
    try:
        found = aws_runner.rows(query, rows_in=table)
    except QueryError as error:
        assume(error.hint != DIALECT_HINT)  # it was rejected before Athena was queried
        raise
    for number, value in enumerate(values):
        assert_same(found.select([f"c{number}"]), expected.select([f"c{number}"]), value)
