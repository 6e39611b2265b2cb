"""Queries in DuckDB's SQL on Athena: the same rows, of the same types, bit for bit."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold.errors import QueryError
from hundredfold.local.filesystem import FileStore
from hundredfold.sql.athena import to_answer, to_table
from hundredfold.sql.athena.declared_tables import DeclaredTables
from hundredfold.sql.duckdb import DuckWarehouse
from hundredfold.sql_types import sql_type
from support.in_process_aws import AwsRunner, assert_same
from support.javascript import problems_of

FEW = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckWarehouse]:
    folder = tmp_path_factory.mktemp("local")
    with DuckWarehouse(
        FileStore(folder / "home"), folder / "scratch", memory=2**28, threads=1
    ) as warehouse:
        yield warehouse


# ---- tables

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("g", pa.int32()),
        ("x", pa.int64()),
        ("y", pa.float64()),
        ("f", pa.float32()),
        ("s", pa.string()),
        ("t", pa.string()),
        ("n", pa.string()),
        ("d", pa.date32()),
        ("e", pa.date32()),
        ("ts", pa.timestamp("ms")),
        ("b", pa.bool_()),
        ("m", pa.decimal128(9, 2)),
        ("l", pa.list_(pa.int64())),
    ]
)
texts = st.text("ab äÄé%_,'\"\\\n\t\u00a0😀", max_size=6)
halves = st.integers(-4000, 4000).map(lambda n: n / 2)
reals = (
    st.floats(allow_nan=True, allow_infinity=True)
    | halves
    | st.sampled_from(
        [-0.0, 0.5, 2.5, -2.5, 0.285, 1.005, 1e15, 1e16, 1e-4, 1.5e-5, 123456789.125, 1e22]
    )
)
spellings = st.sampled_from(
    [
        "1",
        " 2 ",
        "-3",
        "+4",
        "2.5",
        "-0.5",
        "1e3",
        "1_000",
        ".5",
        "5.",
        "",
        "x",
        "1.5x",
        "0.1",
        "1e-1",
        "nan",
        "NaN",
        "-inf",
        "Infinity",
        "99999999999999999999",
        "\t7\n",
    ]
) | st.decimals(-999, 999, places=3).map(str)
days = st.dates(dt.date(1999, 12, 1), dt.date(2024, 3, 5))
moments = st.datetimes(dt.datetime(1999, 12, 28), dt.datetime(2024, 3, 5)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
)
rows = st.fixed_dictionaries(
    {
        "g": st.integers(0, 3),
        "x": st.none() | st.integers(-20, 20) | st.integers(-(2**40), 2**40),
        "y": st.none() | reals,
        "f": st.none() | halves,
        "s": st.none() | texts,
        "t": st.none() | texts,
        "n": st.none() | spellings,
        "d": st.none() | days,
        "e": st.none() | days,
        "ts": st.none() | moments,
        "b": st.none() | st.booleans(),
        "m": st.none() | st.decimals(-9999, 9999, places=2),
        "l": st.none() | st.lists(st.none() | st.integers(-3, 3), max_size=3),
    }
)
tables = st.lists(rows, min_size=3, max_size=20).map(
    lambda found: pa.Table.from_pylist([{"id": i, **row} for i, row in enumerate(found)], SCHEMA)
)


# ---- values

VALUES = {
    "numbers": """
        x / 2 | x / g | y / 2 | x / 3 * 3 | m / 7 | g // 2 | x // 7 | x % 3 | -x % 3 | x % -3
        m % 2 | x + 1 | x * m | m * m | m - 1 | y * m | y + x | -x | abs(x) | abs(m)
        abs(y) | ceil(y) | floor(y) | ceil(m) | floor(m) | ceil(x) / 2 | round(m) | round(m, 1)
        round(x, -1) | sign(x) | sign(y) | sqrt(abs(x)) | x / 0 | y / 0
        greatest(x, g) | least(x, g, 3) | greatest(m, y) | coalesce(x, 0) | nullif(x, g)
        ifnull(x, g) | mod(x, 5) | pow(g, 2) | 2 ** g | x::INT8 + 1 | 1.5 * g | .5 + g
        isnan(y) | isinf(y) | isfinite(y) | isinf(y) OR isnan(y) | trunc(m) | log10(g + 1)
        ln(g + 1) | log(g + 1) | exp(g) | CASE WHEN g > 1 THEN 1 ELSE 0.5 END | sum(g) OVER ()
    """,
    "comparisons": """
        y > 1 | y >= 1 | y < 1 | y <= 1 | y = y | y <> y | y > x | x > y | y >= f | f <= y
        y BETWEEN 0 AND 5 | y IS DISTINCT FROM f | x = g | x IS NOT DISTINCT FROM g
        x IN (1, 2, NULL)
        x NOT IN (1, 2) | b IS TRUE | b IS NOT TRUE | b IS FALSE | NOT b | b AND x > 0 | b OR x > 0
        d > '2010-05-01' | '2010-05-01' <= d | ts >= '2010-05-01T10:00:00' | d = ts | d < e
        d BETWEEN '2001-01-01' AND '2010-12-31' | d IN ('2000-01-01', '2024-02-29') | x = '5'
        y > '1.5' | m = '1.50' | s = 'a' | s < t | s IS NULL | y > 0 AND y < 9 | x > m | g = 1.0
        ts > DATE '2005-01-01' | b = true | b <> 'false'
    """,
    "texts": """
        s || t | s || '-' || g | s || m | 'on ' || d | 'at ' || ts | b || '' | s || NULL
        concat(s, t) | concat(s, '-', g, m, d) | concat_ws(',', s, t, g) | length(s) | len(s)
        upper(t || 'ßⱟ') | lower(s || 'Ⱟ') | s ILIKE 'ß%Ⱟ' | regexp_matches(s, '[^ä]+', 'i')
        lower(s) = 'äé'
        trim(s) | ltrim(s) | rtrim(t) | trim(s, 'ab') | substring(s, 2)
        substring(s, 2, 2) | substring(s, 0) | substring(s, 0, 2) | substring(s, -2)
        substring(s, -2, 1)
        substring(s, g) | substring(s, g - 2, g) | substring(s, 1, g - 2) | s[1] | s[2] | left(s, 2)
        right(s, 2) | left(s, -1) | right(s, -1) | left(s, g - 2) | right(s, g - 2)
        replace(s, 'a', 'b') | replace(s, t, 'x') | lpad(s, 5, '*') | rpad(s, 5, 'ab')
        strpos(s, 'a') | instr(s, 'b') | position('a' IN s) | contains(s, 'a') | starts_with(s, 'a')
        prefix(s, 'a') | ends_with(s, 'b') | suffix(s, t) | split_part(s, 'a', 1)
        split_part(s, 'a', 2) | s LIKE 'a%' | s NOT LIKE '%b' | s LIKE '%!%%' ESCAPE '!'
        s LIKE '_' | s ILIKE 'A%' | md5(s)
        regexp_matches(s, 'a.b') | regexp_matches(s, '^a') | regexp_matches(s, 'b$')
        regexp_matches(s, 'A', 'i') | regexp_full_match(s, 'a|b|ab') | regexp_full_match(s, '[ab]+')
        regexp_matches(s, '\\w') | regexp_matches(s, '[^\\s]') | regexp_extract(s, '(a)(b)?', 2)
        regexp_extract(s, 'b') | regexp_replace(s, '[ab]', '-', 'g') | translate(s, 'ab', 'x')
        coalesce(s, 'none') | CASE s WHEN 'a' THEN t ELSE s END | if(s = 'a', 1, 2) | nullif(s, '')
    """,
    "casts": """
        CAST(y AS VARCHAR) | CAST(f AS VARCHAR) | y::VARCHAR || 'x' | CAST(x AS VARCHAR)
        CAST(m AS VARCHAR) | CAST(b AS VARCHAR) | CAST(d AS VARCHAR) | CAST(ts AS VARCHAR)
        TRY_CAST(y AS BIGINT)
        TRY_CAST(y AS INTEGER) | TRY_CAST(f AS SMALLINT) | CAST(m AS BIGINT)
        TRY_CAST(y AS DECIMAL(12, 2)) | TRY_CAST(y / 1000 AS DECIMAL(18, 3))
        CAST(m AS DECIMAL(9, 1)) | CAST(x AS DOUBLE)
        TRY_CAST(n AS BIGINT) | TRY_CAST(n AS DOUBLE) | TRY_CAST(n AS DECIMAL(9, 2))
        TRY_CAST(n AS INTEGER) | TRY_CAST(n AS BOOLEAN) | CAST(b AS INTEGER) | CAST(x AS BOOLEAN)
        CAST(m AS DOUBLE)
        CAST(ts AS DATE) | CAST(d AS TIMESTAMP) | CAST(ts AS TIMESTAMPTZ) | CAST('5' AS BIGINT)
        CAST(' 1.50 ' AS DECIMAL(5, 2)) | CAST('2024-1-5' AS DATE)
        TIMESTAMP '2024-01-05T10:00:00.5'
        CAST(NULL AS VARCHAR) | NULL | CAST('1e3' AS DOUBLE) | CAST(1.5 AS VARCHAR)
        CAST(round(m, 1) AS VARCHAR) | TRY_CAST(CAST(y AS VARCHAR) AS DOUBLE)
        CAST(TRY_CAST(n AS DOUBLE) AS VARCHAR)
        TRY_CAST('x' || g AS BIGINT) | CAST('t' AS BOOLEAN) | CAST('nan' AS DOUBLE)
    """,
    "times": """
        d + 1 | d - 7 | 1 + d | d - e | d + g | d + INTERVAL 1 DAY | d + INTERVAL 1 MONTH
        ts + INTERVAL '2 hours' | ts - INTERVAL 90 MINUTE | d - INTERVAL (g) WEEK
        ts + INTERVAL (g) DAY
        d + INTERVAL 1 QUARTER | date_trunc('month', d) | date_trunc('week', ts)
        date_trunc('hour', ts) | date_trunc('year', d) | date_trunc('quarter', ts)
        date_trunc('day', ts) | year(d) | month(ts)
        day(d) | hour(ts) | minute(ts) | second(ts) | quarter(d) | week(d) | dayofweek(d)
        isodow(d) | weekday(d) | dayofyear(d) | extract(year FROM d) | extract(dow FROM d)
        extract(doy FROM d)
        date_part('month', d) | date_part('epoch', ts) | extract(epoch FROM ts) | epoch(ts)
        date_diff('day', d, e) | date_diff('month', d, e) | date_diff('hour', ts, d)
        datediff('year', d, ts) | last_day(d) | strftime(d, '%Y-%m-%d')
        strftime(ts, '%d.%m.%y %H:%M:%S') | CAST(d AS DATE) + 1 > e | d > e - 30
        date_trunc('month', d) = d | ts::DATE = d
        strptime('2024-02-29 10:11', '%Y-%m-%d %H:%M')
    """,
    "lists": (
        "l[1] | l[2] | l[-1] | l[4] | len(l) | array_length(l) | length(l) | cardinality(l) | "
        "l[1] + 1 | l || [g] | [g, x] | coalesce(l, [1])"
    ),
}


@pytest.mark.parametrize("sort", VALUES)
@FEW
@given(table=tables)
def test_an_expression_has_the_same_value_on_athena(
    aws_runner: AwsRunner, local: DuckWarehouse, sort: str, table: pa.Table
) -> None:
    listed = [value.strip() for value in _split(VALUES[sort])]
    columns = ", ".join(f"{value} AS c{number}" for number, value in enumerate(listed))
    query = f"SELECT id, {columns} FROM rows_in ORDER BY id"
    local.register("rows_in", table)
    expected = local.query(query)
    found = aws_runner.rows(query, rows_in=table)
    for number, value in enumerate(listed):
        assert_same(found.select([f"c{number}"]), expected.select([f"c{number}"]), value)


def _split(text: str) -> list[str]:
    """Split at single bars: || concatenates texts."""
    return [part.strip() for part in re.split(r"\s[|]\s|\n", text) if part.strip()]


# ---- queries

OTHER = pa.schema([("g", pa.int32()), ("z", pa.float64()), ("s", pa.string()), ("d", pa.date32())])
simple = st.fixed_dictionaries(
    {
        "g": st.integers(0, 3),
        "x": st.none() | st.integers(-9, 9),
        "y": st.none() | halves,
        "f": st.none(),
        "s": st.none() | st.sampled_from(["a", "b", "A", ""]),
        "t": st.sampled_from(["p", "q"]),
        "n": st.none() | spellings,
        "d": st.none() | st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 9)),
        "e": st.none(),
        "ts": st.none() | moments,
        "b": st.none() | st.booleans(),
        "m": st.none() | st.decimals(-99, 99, places=2),
        "l": st.none() | st.lists(st.integers(-3, 3), max_size=3),
    }
)
others = st.fixed_dictionaries(
    {
        "g": st.none() | st.integers(0, 5),
        "z": st.none() | halves,
        "s": st.none() | st.sampled_from(["a", "b"]),
        "d": st.none() | st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 9)),
    }
)
pairs = st.tuples(
    st.lists(simple, min_size=1, max_size=16).map(
        lambda found: pa.Table.from_pylist(
            [{"id": i, **row} for i, row in enumerate(found)], SCHEMA
        )
    ),
    st.lists(others, min_size=1, max_size=6).map(lambda found: pa.Table.from_pylist(found, OTHER)),
)
QUERIES = """
SELECT * FROM t
FROM t SELECT id, x WHERE x > 0
SELECT id, x AS k, k + 1 AS o, o * 2 AS c FROM t WHERE k > 0
SELECT x AS g, g AS x FROM t
SELECT * EXCLUDE (n, l, f, e), x + 1 AS y2 FROM t
SELECT * REPLACE (coalesce(x, 0) AS x) FROM t
SELECT t.*, u.z FROM t JOIN u ON t.g = u.g
SELECT * FROM t JOIN u USING (g)
SELECT * FROM (SELECT id, x, g FROM t) JOIN u USING (g)
SELECT * FROM (SELECT id, d, g FROM t) RIGHT JOIN (SELECT z, g, d FROM u) USING (d, g)
SELECT * FROM (SELECT id, g FROM t) FULL JOIN (SELECT z, g FROM u) USING (g)
SELECT * FROM (SELECT id, g FROM t) NATURAL JOIN (SELECT z, s, g FROM u)
SELECT * FROM (SELECT id, g FROM t) JOIN (SELECT z, g FROM u) USING (g) JOIN (SELECT x, t, id
    FROM t) USING (id)
SELECT * EXCLUDE (id), id FROM t JOIN u USING (g)
SELECT * FROM t SEMI JOIN u USING (g)
SELECT * FROM (SELECT x, g FROM t) ANTI JOIN u USING (g)
SELECT t.id, u.z FROM t LEFT JOIN u USING (g)
SELECT g, t.id, u.z FROM t FULL JOIN u USING (g)
SELECT t.id, u.z FROM t, u WHERE t.g = u.g AND t.d >= u.d
SELECT t.id FROM t SEMI JOIN u ON t.g = u.g
SELECT t.id FROM t ANTI JOIN u USING (g)
SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.g = t.g AND u.z > t.y / 2)
SELECT id FROM t WHERE g NOT IN (SELECT g FROM u WHERE g IS NOT NULL) AND x IN (SELECT id FROM t)
SELECT id, (SELECT max(z) FROM u WHERE u.g = t.g) AS m, (SELECT count(*) FROM u) / 2 AS n FROM t
SELECT a.id, b.id AS other FROM t AS a JOIN t AS b ON a.s IS NOT DISTINCT FROM b.s AND a.x < b.x
SELECT g, count(*) AS n, count(x) AS nx, sum(x) AS sx, sum(y) AS sy, avg(x) AS ax, avg(m) AS am,
    sum(m) AS sm, min(s) AS least, max(d) AS last, count(DISTINCT x) AS dx FROM t GROUP BY g
SELECT g AS k, x % 2 AS odd, count(*) AS n FROM t GROUP BY k, odd HAVING n >= 1 ORDER BY k, odd
SELECT s, sum(y) FILTER (WHERE x > 0) AS above, count(*) FILTER (WHERE b) AS yes, bool_and(b) AS
    every, bool_or(b) AS some_, sum(b) AS trues FROM t GROUP BY 1
SELECT count(*), sum(x) + 1, max(y) FROM t
SELECT t.id, q.z FROM (SELECT *, row_number() OVER () AS row_id FROM t) AS t LEFT JOIN u AS q ON
    q.g = t.g AND q.d <= t.d QUALIFY row_number() OVER (PARTITION BY t.row_id ORDER BY q.d DESC,
    q.z, q.s) = 1
SELECT t.id, u.z FROM t LEFT JOIN u ON t.x < u.z UNION ALL SELECT t.id, u.z FROM u LEFT JOIN (SELECT
    *, TRUE AS is_matched FROM t) AS t ON t.x < u.z WHERE t.is_matched IS NULL
SELECT g FROM t GROUP BY g ORDER BY min(x), g
SELECT g, t, sum(x) AS n, grouping(g) AS whole FROM t GROUP BY ROLLUP (g, t)
SELECT g, t, count(*) AS n FROM t GROUP BY CUBE (g, t)
SELECT g, t, count(*) AS n FROM t GROUP BY GROUPING SETS ((g), (t), ())
SELECT g, max_by(s, id) AS last, min_by(x, id) AS first, arg_max(id, id) AS top, any_value(g) AS g2
    FROM t GROUP BY g
SELECT g, string_agg(s, '+' ORDER BY id) AS texts, array_agg(id ORDER BY id DESC) AS ids, list(x
    ORDER BY id) AS xs FROM t GROUP BY g
SELECT g, var_pop(x) >= 0 AS v, round(stddev_samp(x), 6) AS sd FROM t GROUP BY g HAVING count(*) > 1
    AND max(x) > 0
SELECT DISTINCT g, t FROM t
SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS r, rank() OVER (ORDER BY g) AS k,
    sum(x) OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS two FROM t
SELECT id, lag(x) OVER (ORDER BY id) AS before, lead(x, 2, 0) OVER (ORDER BY id) AS after,
    first_value(s) OVER w AS f, last_value(x) OVER w AS l, ntile(2) OVER (ORDER BY id) AS h FROM t
    WINDOW w AS (PARTITION BY g ORDER BY id)
SELECT id, lag(x IGNORE NULLS) OVER (ORDER BY id) AS before, avg(m) OVER (PARTITION BY t) AS a,
    count(*) OVER () AS n FROM t
SELECT id, count(*) OVER (ORDER BY d RANGE BETWEEN INTERVAL 2 DAYS PRECEDING AND CURRENT ROW) AS
    near FROM t WHERE d IS NOT NULL
SELECT id, g FROM t QUALIFY row_number() OVER (PARTITION BY g ORDER BY id DESC) = 1 ORDER BY g DESC
    LIMIT 2
SELECT id, rank() OVER (PARTITION BY g ORDER BY id) AS r FROM t QUALIFY r <= 2 ORDER BY id * -1, r
SELECT id FROM t ORDER BY id DESC LIMIT 3
SELECT id, x FROM t ORDER BY x, id LIMIT 3 OFFSET 1
SELECT id, y FROM t ORDER BY y DESC NULLS FIRST, id
SELECT * FROM (SELECT id, x FROM t ORDER BY x DESC NULLS LAST, id) AS q
SELECT id FROM (SELECT id, x FROM t ORDER BY t.y, t.id LIMIT 3) AS q
SELECT CAST(id AS VARCHAR) AS k FROM (SELECT g, id FROM t WHERE x > 0 ORDER BY g, id) AS q WHERE g >
    0
SELECT g, n FROM (SELECT g, count(*) AS n FROM t GROUP BY g ORDER BY count(*) DESC, g) AS q
SELECT x FROM (SELECT DISTINCT x FROM t ORDER BY x) AS q
SELECT k FROM (SELECT g AS k FROM t UNION SELECT g FROM u ORDER BY k) AS q
SELECT id AS k, 'a' AS w FROM t UNION ALL SELECT g, s FROM u
SELECT g FROM t UNION SELECT g FROM u
SELECT g FROM t INTERSECT SELECT g FROM u
SELECT g FROM t EXCEPT SELECT g FROM u
SELECT NULL AS a, id FROM t UNION ALL SELECT s, g FROM u
WITH a AS (SELECT g, sum(x) AS x FROM t GROUP BY g), b (k, v) AS (SELECT g, x / 2 FROM a) SELECT
    b.*, u.z FROM b LEFT JOIN u ON u.g = b.k
WITH t AS (SELECT id, x FROM t WHERE x > 0) SELECT * FROM t
SELECT q.g, q.n / 2 AS half FROM (SELECT g, count(*) AS n FROM t GROUP BY g) AS q WHERE q.n > 1
SELECT v.k, v.w, count(t.id) AS n FROM (VALUES (0, 'zero'), (1, 'one')) AS v (k, w) LEFT JOIN t ON
    t.g = v.k GROUP BY v.k, v.w
SELECT id, r.e FROM t CROSS JOIN unnest(l) AS r(e)
SELECT id, k + 1 AS k FROM t, unnest(t.l) AS r(k) WHERE k > 0
SELECT CASE WHEN x > 0 THEN 'up' WHEN x < 0 THEN 'down' ELSE 'flat' END AS way, count(*) AS n FROM t
    GROUP BY 1 ORDER BY 1
SELECT coalesce(x, y) AS v, CASE WHEN g = 0 THEN 1 WHEN g = 1 THEN m ELSE 0.5 END AS w, greatest(x,
    y, m) AS top FROM t
SELECT ceil(count(*) / 4) AS quarter, floor(sum(x) / count(*)) AS low, sum(x) / count(*) AS mean,
    sum(m) / 7 AS part FROM t
SELECT sum(count(*)) OVER (ORDER BY g) AS running, g FROM t GROUP BY g
SELECT id, x FROM t WHERE x BETWEEN -3 AND 3 AND s IN ('a', 'b') OR d = '2024-01-05'
SELECT "ID" AS "Some Name", T.X AS "date", "order".z AS "select" FROM t JOIN u AS "order" ON T.G =
    "order".g
SELECT id /* the key */, x -- the value
FROM t
"""


def rows_of(table: pa.Table, query: str) -> list[Any]:
    """Return the rows, sorted if the query has no order."""
    rows = [tuple(row.values()) for row in table.to_pylist()]
    outside = (
        re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", query) if ") AS q" not in query else query
    )
    ordered = "ORDER BY" in outside
    return rows if ordered else sorted(rows, key=repr)


@settings(FEW, max_examples=2)
@given(both=pairs)
def test_a_query_gives_the_same_rows_on_athena(
    aws_runner: AwsRunner, local: DuckWarehouse, both: tuple[pa.Table, pa.Table]
) -> None:
    for name, table in zip("tu", both, strict=True):
        local.register(name, table)
    # a query continues on indented lines
    text = re.sub(r"\n {4}", " ", QUERIES.strip())
    queries = text.replace("-- the value\n", "-- the value¦").splitlines()
    for query, found in zip(
        queries,
        aws_runner.answers([q.replace("¦", "\n") for q in queries], t=both[0], u=both[1]),
        strict=True,
    ):
        expected = local.query(query.replace("¦", "\n"))
        assert found.schema.equals(expected.schema), (
            f"{query}\nfound {found.schema}\nwanted {expected.schema}"
        )
        assert rows_of(found, query) == rows_of(expected, query), query


# ---- translations that are kept


def test_a_kept_translation_fits_the_columns_and_the_names_of_tables() -> None:
    query, found = "SELECT CAST(x AS VARCHAR) AS y, 7 AS z FROM t", []
    for number, kind in enumerate(["INTEGER", "DOUBLE", "INTEGER"]):
        tables = DeclaredTables()
        tables.add("t", {"x": kind})
        names = {"t": f'"base"."t_{number}"'}
        found.append(to_answer(query, names, tables.describe))
        assert f'FROM "base"."t_{number}"' in found[-1]
    assert found[0].replace("t_0", "t_2") == found[2]
    assert found[0].replace("t_0", "t_1") != found[1]
    assert to_table(query, names, tables.describe) != to_answer(query, names, tables.describe)
    with pytest.raises(QueryError, match="reads what Athena cannot"):
        to_answer(query, names, tables.describe, {"t": {"x": "it is too fine"}})


# ---- the grammar of Trino


def test_every_translated_query_has_the_grammar_of_trino() -> None:
    """By a grammar that is not the one that translates: dt-sql-parser's."""
    tables = DeclaredTables()
    for name, schema in (("rows_in", SCHEMA), ("t", SCHEMA), ("u", OTHER)):
        tables.add(name, {field.name: sql_type(field.type) for field in schema})
    names = {"rows_in": '"base"."rows_in"', "t": '(SELECT * FROM "base"."t")'}
    queries = [
        "SELECT id, "
        + ", ".join(f"{value} AS c{n}" for n, value in enumerate(_split(values)))
        + " FROM rows_in"
        for values in VALUES.values()
    ]
    text = re.sub(r"\n {4}", " ", QUERIES.strip())
    queries += text.replace("-- the value\n", "").splitlines()
    statements = {to_answer(query, names, tables.describe) for query in queries}
    assert problems_of(sorted(statements)) == {}


def test_statements_outside_the_grammar_of_trino_are_reported() -> None:
    found = problems_of(["SELECT 1", "SELECT a, FROM t", "CREATE TABLE x AS"])
    assert {sql: [each[:6] for each in problems] for sql, problems in found.items()} == {
        "SELECT a, FROM t": ["1:11: "],
        "CREATE TABLE x AS": ["1:18: "],
    }
