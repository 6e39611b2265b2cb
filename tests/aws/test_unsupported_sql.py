"""SQL that Athena does not support is reported before a run, each with its line."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated

import pytest
from annotated_types import Gt

from hundredfold import Job, Model, Publish, Source
from hundredfold.aws.translation_checks import check_translates
from hundredfold.errors import QueryError
from hundredfold.sql.athena import check_translatable

ON_LINE_3 = {
    "GROUP BY ALL": "SELECT g, count(*) AS n\nFROM t\nGROUP BY ALL",
    "GROUP BY ALL;": (
        "SELECT g FROM (SELECT g, count(*) AS n\nFROM t\nGROUP BY ALL) AS q\nGROUP\nBY g"
    ),
    "ORDER BY ALL": "SELECT g, x\nFROM t\nORDER BY ALL DESC",
    "ASOF JOIN": "SELECT t.g\nFROM t\nASOF JOIN u ON t.g = u.g AND t.d >= u.d",
    "POSITIONAL JOIN": "SELECT t.g\nFROM t\nPOSITIONAL JOIN u",
    "a sample": "SELECT t.g\nFROM t\nUSING SAMPLE 5",
    "PIVOT": "SELECT *\nFROM t\nPIVOT (sum(x) FOR g IN (1, 2))",
    "COLUMNS": "SELECT\n g,\n COLUMNS('x')\nFROM t",
    "a column by its position": "SELECT\n g,\n #1 AS z\nFROM t",
    "UNION BY NAME": "SELECT g\nFROM t\nUNION ALL BY NAME\nSELECT g\nFROM u",
    "DISTINCT ON": "WITH a AS (\nSELECT g FROM t)\nSELECT DISTINCT ON (g) g, x FROM t",
    "WITH RECURSIVE": (
        "\n\nWITH RECURSIVE a AS (\nSELECT 1 AS g UNION ALL SELECT g + 1 FROM a WHERE g < "
        "3)\nSELECT g FROM a"
    ),
    "LATERAL": "SELECT *\nFROM t,\nLATERAL (SELECT x FROM u WHERE u.g = t.g) AS q",
    "unnest among the columns": "SELECT\n g,\n unnest(l) AS e\nFROM t",
    "EXCLUDE in a window": (
        "SELECT\n g,\n sum(x) OVER (ORDER BY g ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE "
        "CURRENT ROW) AS s\nFROM t"
    ),
    "DISTINCT in a window function": (
        "SELECT\n g,\n count(DISTINCT x) OVER (PARTITION BY g) AS n\nFROM t"
    ),
    "FILTER in a window function": (
        "SELECT\n g,\n sum(x) FILTER (WHERE x > 0) OVER (PARTITION BY g) AS n\nFROM t"
    ),
    "ORDER BY in the argument of a window function": (
        "SELECT\n g,\n array_agg(x ORDER BY d) OVER (PARTITION BY g) AS l\nFROM t"
    ),
    "lag or lead with a frame": (
        "SELECT\n g,\n lag(x IGNORE NULLS) OVER (ORDER BY d ROWS 1 PRECEDING) AS l\nFROM t"
    ),
    "lag or lead with a frame, which": (
        "SELECT\n g,\n lead(x) OVER (w ROWS 1 PRECEDING) AS l\nFROM t WINDOW w AS (ORDER BY d)"
    ),
    "lag or lead without ORDER BY": (
        "SELECT\n lead(x) OVER (ORDER BY d),\n lead(x) OVER w\nFROM t WINDOW w AS (PARTITION BY g)"
    ),
    "the largest or smallest n": "SELECT\n max(x) AS m,\n arg_max(x, g, 2) AS l\nFROM t",
    "a list of a group's values in no order": (
        "SELECT\n array_agg(x ORDER BY x) AS a,\n string_agg(s) AS b\nFROM t"
    ),
    "a part of a time": "SELECT\n year(d) AS y,\n date_part('century', d) AS c\nFROM t",
    "a format of a time": "SELECT\n strftime(d, '%Y') AS y,\n strftime(d, '%U') AS c\nFROM t",
    "LIMIT or OFFSET that is no integer literal": (
        "SELECT g FROM (SELECT g FROM t\nLIMIT 3) AS q\nLIMIT 1 + 1"
    ),
    "LIMIT in per cent": (
        "SELECT g FROM (SELECT g FROM t\nORDER BY g\nLIMIT 3%) AS q\nORDER BY g\nLIMIT 5"
    ),
    "a type": "SELECT\n CAST(x AS BIGINT) AS b,\n CAST(x AS HUGEINT) AS c\nFROM t",
    "a text with E": "SELECT\n g,\n E'a\\n' AS c\nFROM t",
    "COLLATE": "SELECT\n g\nFROM t ORDER BY s COLLATE NOCASE",
    "AT TIME ZONE": "SELECT\n g,\n ts AT TIME ZONE 'Europe/Berlin' AS z\nFROM t",
    "GLOB": "SELECT g\nFROM t\nWHERE s GLOB 'a*'",
    "a struct": "SELECT\n g,\n {'a': x} AS z\nFROM t",
    "the function median": "SELECT\n g,\n median(x) AS z\nFROM t",
    "the function hash": "-- no hash(g) here\nSELECT g,\nhash(g) AS z FROM t",
    "the operator ~": "SELECT g\nFROM t\nWHERE s ~ 'a'",
    "the number 0x1F": "SELECT\n g,\n 0x1F\nFROM t",
}


@pytest.mark.parametrize("phrase", ON_LINE_3)
def test_sql_that_athena_does_not_support_is_rejected_with_its_line(phrase: str) -> None:
    query = ON_LINE_3[phrase]
    with pytest.raises(
        QueryError, match=r"the query of model prices cannot run on AWS\n"
    ) as caught:
        check_translatable("the query of model prices", query)
    (problem,) = caught.value.problems
    assert problem.startswith(f"line 3: {phrase.rstrip(';')}")
    assert caught.value.hint


def test_all_unsupported_lines_are_reported_at_once_in_order() -> None:
    with pytest.raises(QueryError) as caught:
        check_translatable(
            "the summary 'all'",
            "SELECT g, median(x) AS m\nFROM t\nASOF JOIN u ON t.d >= u.d\nGROUP BY ALL\nORDER BY "
            "ALL",
        )
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "line 1",
        "line 3",
        "line 4",
        "line 5",
    ]


def test_a_query_with_a_syntax_error_is_rejected_with_its_line() -> None:
    with pytest.raises(QueryError, match=r"cannot be read: .* Line 2"):
        check_translatable("the query of model prices", "SELECT g\nFROM t WHERE (x")


@pytest.mark.parametrize("where", ["source", "release"])
def test_constraints_inside_of_lists_are_rejected_before_a_run(where: str) -> None:
    contract = make_dataclass("Row", [("v", list[Annotated[int, Gt(0)]])])
    job = Job(
        "j",
        sources=[Source("s", contract if where == "source" else None)],
        models=[
            Model(
                "m",
                unit=(),
                work=lambda rows: {"n": rows.rows},
                returns=make_dataclass("Out", [("n", int)]),
            )
        ],
        publish=Publish("table", "SELECT * FROM m", contract if where == "release" else None),
    )
    with pytest.raises(
        QueryError, match=r"not checked on AWS\n  (s|table): v must hold values that must be > 0"
    ):
        check_translates(job)
