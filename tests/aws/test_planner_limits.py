"""Queries that Athena plans differently than DuckDB are refused before a run, with a query that
both run: its rows are those of the refused query.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold import Job, Model, Publish, Source
from hundredfold.aws.translation_checks import check_translates
from hundredfold.errors import QueryError
from hundredfold.sql.athena import check_translatable, to_athena
from hundredfold.sql.athena.corrections import EXAMPLES
from hundredfold.sql.athena.declared_tables import DeclaredTables
from hundredfold.sql.athena.letter_case import CAPITALS, SMALL
from hundredfold.sql.athena.regex import translate_pattern

T = {"id": "BIGINT", "g": "INTEGER", "x": "BIGINT", "d": "DATE", "s": "VARCHAR", "b": "BOOLEAN"}
U = {"k": "BIGINT", "g": "INTEGER", "x": "BIGINT", "d": "DATE", "s": "VARCHAR"}
# a query that Athena refuses, whose rewrite is known: the refused part is in line 2
REFUSED = {
    "the price that was valid on a day": (
        "SELECT t.id, (SELECT u.x FROM u WHERE u.g = t.g AND u.d <= t.d\n"
        "ORDER BY u.d DESC, u.k LIMIT 1) AS price FROM t"
    ),
    "two lookups, one in a condition, and a star": (
        "SELECT *, (SELECT u.x * 2 FROM u WHERE u.g = t.g AND u.x > 0 ORDER BY u.k\n"
        "LIMIT 1) AS twice FROM t WHERE t.x < coalesce((SELECT u.x FROM u WHERE u.g < t.g"
        " ORDER BY u.k\nLIMIT 1), 5) OR t.x IS NULL"
    ),
    "a lookup that may find nothing has no value": (
        "SELECT t.id, (SELECT coalesce(u.x, 7) AS v FROM u WHERE u.g = t.g AND u.d < t.d"
        " ORDER BY v, u.k\nLIMIT 1) AS v FROM t"
    ),
    "a lookup for groups of a join": (
        "SELECT t.s, sum((SELECT a.x FROM u AS a JOIN u AS b USING (k) WHERE a.g >= t.g\n"
        "ORDER BY a.k LIMIT 1)) AS n, count(*) AS m FROM t, u WHERE t.g = u.g GROUP BY t.s"
    ),
    "a lookup in WITH, with unnamed columns": (
        "WITH a AS (SELECT id, (SELECT x FROM u WHERE g = t.g\n"
        "ORDER BY d DESC, k LIMIT 1) AS v FROM t) SELECT * FROM a WHERE v > 0"
    ),
    "a LIMIT in EXISTS": (
        "SELECT t.id FROM t WHERE NOT EXISTS (SELECT u.k FROM u WHERE u.x < t.x ORDER BY u.k\n"
        "LIMIT 1)"
    ),
    "one of equal values": (
        "SELECT t.id, (SELECT abs(u.g) FROM u WHERE u.g = t.g\nLIMIT 1) AS v FROM t"
    ),
    "a FULL JOIN by order": (
        "SELECT t.id, t.x AS low, u.k, u.x FROM t\n"
        "FULL JOIN u ON t.g = u.g AND t.x < u.x WHERE coalesce(t.id, u.k) > 1"
    ),
    "a FULL JOIN with groups and an order": (
        "SELECT t.g, count(u.k) AS n, min(t.id) AS i FROM t\n"
        "FULL OUTER JOIN u ON t.d BETWEEN u.d AND u.d GROUP BY t.g ORDER BY t.g, n"
    ),
    "a FULL JOIN of stars": "SELECT * FROM t\nFULL JOIN u ON t.x < u.x",
    "a FULL JOIN of names without tables": (
        "SELECT id + 1 AS i, k FROM t\nFULL JOIN u ON id < k ORDER BY i, k"
    ),
    "a FULL JOIN of equal nulls": (
        "SELECT t.id, u.k FROM t\nFULL JOIN u ON t.s IS NOT DISTINCT FROM u.s"
    ),
    "distinct values by another column": (
        "SELECT DISTINCT g FROM t\nORDER BY x DESC NULLS LAST, g"
    ),
    "distinct values by an expression": (
        "SELECT DISTINCT g AS h, s FROM t\nORDER BY lower(s), g, s LIMIT 3"
    ),
    "a UNION of text and number": ("SELECT id, s AS v FROM t\nUNION ALL SELECT k, x FROM u"),
    "a UNION of three, the third of text": (
        "SELECT x AS v FROM t UNION SELECT k FROM u\nUNION SELECT s FROM u ORDER BY v"
    ),
    "EXCEPT of a truth and a number": "SELECT b AS v, id FROM t\nEXCEPT SELECT x, k FROM u",
    "a UNION of stars": (
        "SELECT * FROM (SELECT id, s FROM t)\nUNION ALL (SELECT * FROM (SELECT k, d FROM u))"
    ),
}
# refused, where the rewrite depends on the meaning of the query
WITHOUT_REWRITE = {
    "OFFSET": "SELECT t.id, (SELECT u.x FROM u WHERE u.g = t.g ORDER BY u.k\nOFFSET 1) AS v FROM t",
    "a subquery with LIMIT": (
        "SELECT t.id FROM t WHERE t.x IN (SELECT u.x FROM u WHERE u.g = t.g ORDER BY u.k\nLIMIT 2)"
    ),
    "a subquery in FROM": ("SELECT t.id, q.x FROM t,\n(SELECT u.x FROM u WHERE u.g = t.g) AS q"),
    "UNION in a subquery": (
        "SELECT t.id FROM t WHERE t.x IN (SELECT u.x FROM u WHERE u.g = t.g\n"
        "UNION SELECT u.k FROM u WHERE u.g = t.g)"
    ),
    "a window function in a subquery": (
        "SELECT t.id, (SELECT min(q.r) FROM (SELECT row_number()\nOVER (ORDER BY u.k) AS r FROM u"
        " WHERE u.g = t.g) AS q) AS v FROM t"
    ),
    "a subquery that returns t.x": (
        "SELECT t.id, (\nSELECT sum(u.x + t.x) FROM u WHERE u.g = t.g) AS v FROM t"
    ),
    "GROUP BY in a subquery": (
        "SELECT t.id FROM t WHERE t.x IN (SELECT max(u.x) FROM u WHERE u.g < t.g\nGROUP BY u.d)"
    ),
    "a subquery in the condition of an outer join": (
        "SELECT t.id FROM t\nLEFT JOIN u ON t.g = u.g AND EXISTS (SELECT 1 FROM u AS v"
        " WHERE v.k = t.x)"
    ),
    "VALUES of INTEGER and VARCHAR in the column 2": (
        "SELECT a FROM (\nVALUES (1, 2), (3, NULL), (4, '5')) AS v(a, b)"
    ),
    "VALUES of DATE and VARCHAR in the column 1": (
        "SELECT a FROM (\nVALUES (DATE '2024-01-01'), ('2024-01-02')) AS v(a)"
    ),
    "FULL JOIN": "SELECT * FROM t FULL JOIN u USING (g)\nFULL JOIN u AS v ON v.x < t.x",
}
ACCEPTED = """
SELECT t.id, (SELECT max(u.x) FROM u WHERE u.g = t.g AND u.d <= t.d) AS v FROM t
SELECT t.id FROM t WHERE EXISTS (SELECT t.x FROM u WHERE u.x < t.x OR u.g = t.g)
SELECT t.id FROM t WHERE t.x IN (SELECT u.x FROM u WHERE u.g = t.g GROUP BY u.x)
SELECT t.id FROM t WHERE t.x > (SELECT u.x FROM u ORDER BY u.k LIMIT 1)
SELECT t.id, u.k FROM t JOIN u ON t.g = u.g AND EXISTS (SELECT 1 FROM u AS v WHERE v.k = t.x)
SELECT t.id, u.k FROM t LEFT JOIN u ON t.g = u.g AND u.x > (SELECT min(x) FROM u)
SELECT a FROM (VALUES (1, 'x', NULL), (2.5, NULL, 3)) AS v(a, b, c)
SELECT id, lag(x) OVER w AS l FROM t WINDOW w AS (PARTITION BY g ORDER BY d)
SELECT t.id, u.k FROM t FULL JOIN u ON t.g = u.g AND (u.d = t.d)
SELECT id, k FROM t FULL JOIN u USING (g, d)
SELECT t.id, u.k FROM t LEFT JOIN u ON t.x < u.x AND u.d > t.d
SELECT DISTINCT t.g AS h, s FROM t ORDER BY h, t.s, 1, g
SELECT DISTINCT g + 1 AS v FROM t ORDER BY g + 1 DESC
SELECT DISTINCT * FROM t ORDER BY x, id
SELECT id, d FROM t UNION ALL SELECT x, CAST(d AS TIMESTAMP) FROM u
SELECT id, x FROM t UNION ALL SELECT 1.5, NULL FROM u
SELECT q.id FROM (SELECT t.id FROM t ORDER BY t.x LIMIT 3) AS q
"""
rows_of_t = st.tuples(
    *(st.none() | st.integers(0, 3), st.none() | st.integers(0, 4)),
    *(st.integers(1, 4), st.none() | st.sampled_from(["a", "B", "b", "1"]), st.booleans()),
)


@pytest.fixture(scope="module")
def tables() -> DeclaredTables:
    declared = DeclaredTables()
    declared.add("t", T)
    declared.add("u", U)
    return declared


def rewrite_of(query: str, tables: DeclaredTables) -> str:
    """Return the query that the refusal of a query shows."""
    with pytest.raises(QueryError, match=r"^the query of model m cannot run on AWS\n") as caught:
        check_translatable("the query of model m", query, tables.describe)
    assert caught.value.hint is not None
    shown = caught.value.hint.split("\n\n")
    assert shown[0] == "this query has the same rows on AWS and here:", caught.value.hint
    return shown[1]


def loaded(rows: list[tuple[Any, ...]]) -> duckdb.DuckDBPyConnection:
    """Return a database with rows of t, and the same rows in another order in u."""
    engine = duckdb.connect(":memory:", config={"threads": 1})
    for name, columns in (("t", T), ("u", U)):
        listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        engine.execute(f"CREATE TABLE {name} ({listed})")
    for number, (g, x, day, s, b) in enumerate(rows):
        date = f"2024-01-{day:02}"
        engine.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", [number, g, x, date, s, b])
        if number % 3:
            engine.execute("INSERT INTO u VALUES (?, ?, ?, ?, ?)", [9 - number, x, g, date, s])
    return engine


@pytest.fixture(scope="module")
def rewrites(tables: DeclaredTables) -> dict[str, str]:
    return {name: rewrite_of(query, tables) for name, query in REFUSED.items()}


def rows_of(engine: duckdb.DuckDBPyConnection, query: str) -> tuple[list[str], list[Any]]:
    """Return the names of the columns, and the rows."""
    rows = engine.execute(query).fetchall()
    return [column[0] for column in engine.description or ()], rows


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(rows_of_t, max_size=9))
def test_a_shown_rewrite_returns_the_same_rows_as_the_refused_query(
    rewrites: dict[str, str], rows: list[tuple[Any, ...]]
) -> None:
    engine = loaded(rows)
    for name, query in REFUSED.items():
        (names, wanted), (columns, found) = (rows_of(engine, q) for q in (query, rewrites[name]))
        if name != "distinct values by an expression":  # the others have no complete order
            wanted, found = sorted(wanted, key=repr), sorted(found, key=repr)
        assert (columns, found) == (names, wanted), f"{name}\n{rewrites[name]}"


def test_a_shown_rewrite_is_accepted_and_translated(
    tables: DeclaredTables, rewrites: dict[str, str]
) -> None:
    for rewrite in rewrites.values():
        check_translatable("the query of model m", rewrite, tables.describe)
        assert to_athena(rewrite, {}, tables.describe)


@pytest.mark.parametrize("name", REFUSED)
def test_a_query_that_athena_cannot_plan_is_refused_with_its_line(
    name: str, tables: DeclaredTables
) -> None:
    with pytest.raises(QueryError) as caught:
        check_translatable("the query of model m", REFUSED[name], tables.describe)
    assert caught.value.problems[0].startswith("line 2: "), caught.value.problems


@pytest.mark.parametrize("problem_text", WITHOUT_REWRITE)
def test_a_refusal_without_a_rewrite_shows_an_example(
    problem_text: str, tables: DeclaredTables
) -> None:
    with pytest.raises(QueryError) as caught:
        check_translatable("the query of model m", WITHOUT_REWRITE[problem_text], tables.describe)
    (problem,) = caught.value.problems
    assert problem_text in problem
    assert problem.startswith("line 2: ")
    shown = (caught.value.hint or "").split("\n\n")[1]
    assert shown in EXAMPLES.values()
    check_translatable("the example", shown)


def test_examples_are_accepted() -> None:
    for example in EXAMPLES.values():
        check_translatable("the example", example)


def test_queries_that_athena_plans_are_accepted(tables: DeclaredTables) -> None:
    for query in ACCEPTED.strip().splitlines():
        check_translatable("the query of model m", query, tables.describe)


def test_types_in_contracts_refuse_a_query_before_a_run() -> None:
    """The columns of sources, of results, and of a release."""
    row = make_dataclass("Row", [("id", int), ("s", str)])
    out = make_dataclass("Out", [("n", int)])
    job = Job(
        "j",
        sources=[Source("t", row), Source("free")],
        models=[Model("m", unit=("s",), query="SELECT s, id FROM t", work=len, returns=out)],
        publish=Publish(
            "table",
            "SELECT s AS v FROM m\nUNION ALL SELECT n FROM m",
            summaries={"free": "SELECT x FROM free UNION ALL SELECT 'a'"},
        ),
    )
    with pytest.raises(QueryError, match=r"line 2: UNION of VARCHAR and BIGINT in the column v"):
        check_translates(job)


def test_operands_of_different_types_are_refused_before_a_run(tables: DeclaredTables) -> None:
    with pytest.raises(QueryError, match=r"query of m cannot run on AWS: a BIGINT is compared"):
        check_translatable("query of m", "SELECT t.id FROM t WHERE t.x = t.s", tables.describe)
    # other columns than those of the contract are not known
    check_translatable("query of m", "SELECT t.id FROM t WHERE t.other = t.s", tables.describe)


# ---- capital and small letters


def test_letters_have_the_case_on_athena_that_duckdb_gives_them() -> None:
    """Java gives Athena's mapping of each character; newer letters than DuckDB's stay apart."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("Athena's mapping is Java's, and there is no Java here")
    source = Path(__file__).parent / "LetterCase.java"
    listed = subprocess.run([java, str(source)], capture_output=True, text=True, check=True)
    athena = {
        int(code): (int(up), int(low))
        for code, up, low in map(str.split, listed.stdout.splitlines())
    }
    query = (
        "SELECT c, unicode(upper(chr(c))), unicode(lower(chr(c)))"
        " FROM (SELECT CAST(i AS INTEGER) AS c FROM range(1, 125184) AS r(i))"
        " WHERE c < 55296 OR c > 57343"
    )
    for code, up, low in duckdb.connect(":memory:").execute(query).fetchall():
        mapped = ord(CAPITALS.get(chr(code), chr(code))), ord(SMALL.get(chr(code), chr(code)))
        found = (
            athena.get(mapped[0], (mapped[0],) * 2)[0],
            athena.get(mapped[1], (mapped[1],) * 2)[1],
        )
        assert found == (up, low) or (up, low) == (code, code), chr(code)


def test_a_pattern_that_ignores_case_lists_the_letters_that_duckdb_finds() -> None:
    engine = duckdb.connect(":memory:", config={"threads": 1})
    letters = [chr(code) for code in (*range(32, 384), 0x1E9E, 0x212A, 0x212B, 0x17F, 0x3C3)]
    for pattern in ("k", "[a-z]", "[^s]", "ß", "[à-ü]", "Å", "[-k]", r"[\dK]", "σ", "."):
        query = "SELECT l FROM unnest(?) AS u(l) WHERE regexp_full_match(l, ?, ?)"
        wanted = engine.execute(query, [letters, pattern, "i"]).fetchall()
        plain = translate_pattern(pattern, "i").removeprefix("(?i)")
        assert engine.execute(query, [letters, plain, "c"]).fetchall() == wanted, pattern
