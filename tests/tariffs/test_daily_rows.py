"""Daily rows are summed to the weeks of the model exactly, or refused: no day is lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

import hundredfold
from hundredfold.errors import ContractError
from hundredfold.pipeline.releases import release_folder
from support.manual_pricing import ManualRun
from tariffs import demo
from tariffs.pricing import bundles, voice
from tariffs.query_files import query_text
from tariffs.release.sales import BUNDLES, Sales
from tariffs.synthetic import Size
from tariffs.synthetic.write import Paths, generate

SIZE = Size(locations=2, cells=2, weeks=12, sales_format="csv")
SPLIT_SALES = """
SELECT row_number() OVER () AS row_id, segment, location, product,
  CAST(week AS DATE) - d AS week, price, list_price,
  units // 7 + CASE WHEN d < units % 7 THEN 1 ELSE 0 END AS units, active_subs, explore_eps,
  CAST(week AS TIMESTAMP) - INTERVAL 1 DAY * d + INTERVAL 30 HOUR AS loaded_at
FROM weekly, (SELECT CAST(range AS INTEGER) AS d FROM range(7))"""
SPLIT_USAGE = """
SELECT cell, hour, day_type, CAST(week AS DATE) - d AS week, discount, posted_discount,
  CASE WHEN day_type = 'WEEKDAY' THEN minutes // 5 + CASE WHEN d - 2 < minutes % 5 THEN 1 ELSE 0 END
    ELSE minutes // 2 + CASE WHEN d < minutes % 2 THEN 1 ELSE 0 END END AS minutes,
  attempts, blocked, active_subs,
  CAST(week AS TIMESTAMP) - INTERVAL 1 DAY * d + INTERVAL 30 HOUR AS loaded_at
FROM weekly, (SELECT CAST(range AS INTEGER) AS d FROM range(7))
WHERE (day_type = 'WEEKDAY') = (d >= 2)"""
QUERIES = {
    "bundles": bundles.UNIT,
    "prior": bundles.UNIT,
    "voice": voice.UNIT,
    "voice_prior": voice.UNIT,
}
TABLES = (("bundle_sales", SPLIT_SALES), ("voice_usage", SPLIT_USAGE))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return generate(SIZE, tmp_path_factory.mktemp("small"), dirt=False)


def asked(
    paths: Paths, change: Callable[[duckdb.DuckDBPyConnection], None]
) -> dict[str, dict[str, np.ndarray]]:
    """The columns of the four queries, after the sources were changed."""
    manual = ManualRun(paths)
    change(manual.duck)
    return {query: manual.ask(query, key, ("week",)).columns for query, key in QUERIES.items()}


def in_days(where: str) -> Callable[[duckdb.DuckDBPyConnection], None]:
    """Split the rows that match into one a day; the others stay weeks."""

    def change(duck: duckdb.DuckDBPyConnection) -> None:
        for table, split in TABLES:
            duck.execute(f"CREATE OR REPLACE VIEW weekly AS SELECT * FROM {table} WHERE {where}")
            duck.execute(f"CREATE OR REPLACE TABLE split AS {split}")
            duck.execute(
                f"CREATE OR REPLACE TABLE kept AS SELECT * FROM {table} WHERE NOT ({where})"
            )
            duck.execute("DROP VIEW weekly")
            duck.execute(f"DROP TABLE {table}")
            duck.execute(f"CREATE TABLE {table} AS FROM kept UNION ALL BY NAME FROM split")

    return change


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, column in one.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(other[name], column, rtol=0, atol=1e-9, err_msg=name)
        else:
            assert (other[name] == column).all(), name


@pytest.mark.parametrize(
    "where",
    ["true", "week >= DATE '2026-05-10'", "week < DATE '2026-05-10'"],
    ids=["all daily", "weekly, then daily", "daily, then weekly"],
)
def test_days_come_to_what_their_week_was(paths: Paths, where: str) -> None:
    weekly, daily = asked(paths, lambda _: None), asked(paths, in_days(where))
    for query in QUERIES:
        same(weekly[query], daily[query])


def test_units_of_two_exporters_may_be_weekly_and_daily(paths: Paths) -> None:
    def change(duck: duckdb.DuckDBPyConnection) -> None:
        for (table, split), where in zip(
            TABLES, ("location = 'LOC_00000'", "cell = 'CELL_00000'"), strict=True
        ):
            duck.execute(f"CREATE TABLE weekly AS SELECT * FROM {table} WHERE {where}")
            duck.execute(f"DELETE FROM {table} WHERE {where}")
            duck.execute(f"INSERT INTO {table} BY NAME {split}")
            duck.execute("DROP TABLE weekly")

    weekly, mixed = asked(paths, lambda _: None), asked(paths, change)
    for query in QUERIES:
        same(weekly[query], mixed[query])


def test_a_week_that_has_some_of_its_days_counts_as_part_of_one(paths: Paths) -> None:
    def change(duck: duckdb.DuckDBPyConnection) -> None:
        in_days("true")(duck)
        duck.execute(
            "DELETE FROM bundle_sales WHERE week > (SELECT max(week) - 4 FROM bundle_sales)"
        )

    weekly, part = asked(paths, lambda _: None)["bundles"], asked(paths, change)["bundles"]
    last = np.append(
        np.flatnonzero(
            weekly["location"][1:] + weekly["product"][1:]
            != weekly["location"][:-1] + weekly["product"][:-1]
        ),
        -1,
    )
    assert np.allclose(part["week_share"][last], 3 / 7)
    assert (part["week_share"] > 0.99).sum() == (
        len(part["week"]) - (part["week_share"] < 0.5).sum()
    )
    assert part["quantity"][last].sum() < 0.6 * weekly["quantity"][last].sum()
    assert (part["active_subs"][last] == weekly["active_subs"][last]).all()


def test_the_price_of_a_week_is_what_was_paid_for_a_unit() -> None:
    with duckdb.connect() as duck:
        text = query_text("bundles")
        rows = [
            (f"2026-06-{d:02d}", p, u)
            for d, p, u in ((22, 2.0, 6), (23, 2.0, 0), (24, 1.0, 14), (25, 1.0, 0))
        ]
        cte = text[text.index("WITH\n") : text.rindex("\nSELECT\n")]
        duck.execute(
            "CREATE TABLE bundle_sales (segment TEXT, location TEXT, product TEXT, week DATE,"
            " price DOUBLE, list_price DOUBLE, units BIGINT, active_subs BIGINT,"
            " explore_eps DOUBLE)"
        )
        duck.executemany(
            "INSERT INTO bundle_sales VALUES ('Y', 'A', 'D', ?, ?, ?, ?, 90, 0)",
            [(w, p, p, u) for w, p, u in rows],
        )
        [(week, units, price, posted, share)] = duck.sql(
            f"{cte} SELECT week, units, price, list_price, week_share FROM weeks"
        ).fetchall()
    assert (week, units, posted) == (dt.date(2026, 6, 28), 20, 1.0)
    assert (price, share) == (pytest.approx(26 / 20), pytest.approx(4 / 7))


@pytest.mark.parametrize("first", ["2026-05-31", "2026-05-10", "2025-01-01"])
def test_a_week_that_came_twice_is_an_error_and_reports_it(paths: Paths, first: str) -> None:
    """One week, several in a row, and all up to the last of these."""

    def change(duck: duckdb.DuckDBPyConnection) -> None:
        duck.execute(
            "INSERT INTO bundle_sales SELECT * REPLACE (week - 6 AS week) FROM bundle_sales"
            f" WHERE week BETWEEN DATE '{first}' AND DATE '2026-05-31' AND location = 'LOC_00000'"
        )

    rows = asked(paths, change)["prior"]
    with pytest.raises(ValueError, match=r"the week that ends on .* has several rows with diff"):
        bundles.fit_prior(rows)


def test_hours_of_a_week_with_some_of_its_days_count_as_part_of_one(paths: Paths) -> None:
    def change(duck: duckdb.DuckDBPyConnection) -> None:
        in_days("true")(duck)
        duck.execute("DELETE FROM voice_usage WHERE week > (SELECT max(week) - 4 FROM voice_usage)")

    weekly, part = asked(paths, lambda _: None)["voice"], asked(paths, change)["voice"]
    last, lasting = (rows["week"] == weekly["week"].max() for rows in (weekly, part))
    assert set(part["day_type"][lasting]) == {"WEEKDAY"}  # Monday to Wednesday are left
    assert np.allclose(part["week_share"][lasting], 3 / 5)
    assert np.allclose(part["week_share"][~lasting], 1)
    whole = weekly["quantity"][last & (weekly["day_type"] == "WEEKDAY")]
    assert 0.4 * whole.sum() < part["quantity"][lasting].sum() < 0.8 * whole.sum()
    assert part["quantity"][~lasting].sum() == pytest.approx(weekly["quantity"][~last].sum())


def _steps(query: str) -> str:
    """Return the steps of a query that sum days to weeks, without its last SELECT."""
    text = query_text(query)
    return text[text.index("dated AS (") : text.rindex("\nSELECT\n")]


WEEKS = 6
DATES = {  # weekday of each row of a week, for weekdays and for weekends: 1 is Monday
    "weekly": ((7,), (7,)),
    "weekly, named by Saturday": ((6,), (6,)),
    "weekly, weekend twice": ((7,), (6, 7)),
    "weekly, both twice": ((6, 7), (6, 7)),
    "weekly, weekdays twice": ((3, 7), (7,)),
    "weekly, named by two other days": ((1, 2), (1, 2)),
    "weekly, named by the last day": ((5,), (7,)),
    "weekly, named by the last day, weekend twice": ((5,), (6, 7)),
    "daily": ((1, 2, 3, 4, 5), (6, 7)),
    "daily, no Sunday": ((1, 2, 3, 4, 5), (6,)),
    "daily, no weekend": ((1, 2, 3, 4, 5), ()),
    "daily, Monday a holiday": ((2, 3, 4, 5), (1, 6, 7)),
    "daily, Wednesday to Friday lost": ((1, 2), (6, 7)),
    "daily weekends alone": ((), (6, 7)),
}


@pytest.mark.parametrize("query", ["voice", "voice_prior"])
@pytest.mark.parametrize(
    ("usual", "other", "at", "expected"),
    [
        ("weekly", "weekly, named by Saturday", (1, 2, 4), (1, 1)),
        ("weekly", "weekly, weekend twice", (2,), (1, -1)),
        ("weekly", "weekly, weekend twice", (2, 3), (1, -1)),
        ("weekly", "weekly, weekend twice", (0, 2, 3, 5), (1, -1)),
        ("weekly", "weekly, weekend twice", range(WEEKS), (1, -1)),
        ("weekly", "weekly, both twice", (4, 5), (-1, -1)),
        ("weekly", "weekly, weekdays twice", range(WEEKS), (-1, 1)),
        ("weekly", "weekly, named by two other days", range(WEEKS), (-1, -1)),
        (
            "weekly, named by the last day",
            "weekly, named by the last day, weekend twice",
            (2, 5),
            (1, -1),
        ),
        ("weekly", "daily", (3, 4, 5), (1, 1)),
        ("daily", "weekly", (3, 4, 5), (1, 1)),
        ("daily", "daily, no Sunday", (2, 3), (1, 1 / 2)),
        ("daily", "daily, no Sunday", (0, 1, 3, 5), (1, 1 / 2)),
        ("daily", "daily, no weekend", (1, 2, 4), (1, None)),
        ("daily", "daily, Monday a holiday", (1, 4), (4 / 5, 3 / 2)),
        ("daily", "daily, Wednesday to Friday lost", (1, 3), (2 / 5, 1)),
        ("daily weekends alone", "daily weekends alone", (), (None, 1)),
    ],
)
def test_dates_show_days_weeks_and_weeks_that_came_twice(
    query: str, usual: str, other: str, at: tuple[int, ...], expected: tuple[float | None, ...]
) -> None:
    """Weekdays show which the rows of weekends are; the weeks `at` have dates of `other`."""
    with duckdb.connect() as duck:
        duck.execute(
            "CREATE TABLE picked AS SELECT 'A' AS cell, 9 AS hour, day_type FROM"
            " (VALUES ('WEEKDAY'), ('WEEKEND')) AS t (day_type)"
        )
        duck.execute(
            "CREATE TABLE voice_usage (day_type TEXT, week DATE, cell TEXT DEFAULT 'A', hour INT"
            " DEFAULT 9, discount DOUBLE DEFAULT 0, posted_discount DOUBLE DEFAULT 0, minutes"
            " BIGINT DEFAULT 60, attempts BIGINT, blocked BIGINT, active_subs BIGINT DEFAULT 9)"
        )
        duck.executemany(
            "INSERT INTO voice_usage (day_type, week) VALUES (?, ?)",
            [
                (kind, dt.date(2026, 5, 3) + dt.timedelta(days=7 * n + d))
                for n in range(WEEKS)
                for kind, days in zip(
                    ("WEEKDAY", "WEEKEND"), DATES[other if n in at else usual], strict=True
                )
                for d in days
            ],
        )
        rows = duck.sql(
            f"WITH {_steps(query)} SELECT day_type, week, week_share FROM weeks ORDER BY ALL"
        ).fetchall()
    found = {
        (kind, (week - dt.date(2026, 5, 3)).days // 7 - (week.isoweekday() == 7)): share
        for kind, week, share in rows
    }
    wanted = {
        (kind, n): share
        for n in range(WEEKS)
        for kind, share in zip(
            ("WEEKDAY", "WEEKEND"),
            expected if n in at or not at else [1 if DATES[usual][i] else None for i in (0, 1)],
            strict=True,
        )
        if share is not None
    }
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("first", ["2026-05-31", "2026-05-10", "2025-01-01"])
def test_a_week_of_voice_that_came_twice_is_an_error_and_reports_it(
    paths: Paths, first: str
) -> None:
    """One week, several in a row, and all up to the last of these."""

    def change(duck: duckdb.DuckDBPyConnection) -> None:
        duck.execute(
            "INSERT INTO voice_usage SELECT * REPLACE (week - 6 AS week) FROM voice_usage"
            f" WHERE week BETWEEN DATE '{first}' AND DATE '2026-05-31' AND cell = 'CELL_00000'"
        )

    rows = asked(paths, change)["voice_prior"]
    with pytest.raises(ValueError, match=r"the week that ends on .* has several rows with diff"):
        voice.fit_voice_prior(rows)


BUNDLE_DATES = {  # weekday of each row of a week: 1 is Monday
    "weekly": (7,),
    "weekly, named by Saturday": (6,),
    "weekly, twice": (6, 7),
    "weekly, three times": (2, 5, 7),
    "daily": (1, 2, 3, 4, 5, 6, 7),
    "daily, no Sunday": (1, 2, 3, 4, 5, 6),
    "daily, four days": (1, 2, 3, 4),
    "daily, two days": (1, 2),
    "daily, one day": (3,),
}


@pytest.mark.parametrize("query", ["bundles", "prior"])
@pytest.mark.parametrize(
    ("usual", "other", "at", "expected"),
    [
        ("weekly", "weekly, named by Saturday", (1, 2, 4), 1),
        ("weekly", "weekly, twice", (2,), -1),
        ("weekly", "weekly, twice", (0,), -1),
        ("weekly", "weekly, twice", (5,), -1),
        ("weekly", "weekly, twice", (2, 3), -1),
        ("weekly", "weekly, twice", (0, 2, 3, 5), -1),
        ("weekly", "weekly, twice", range(WEEKS), -1),
        ("weekly", "weekly, three times", (1, 2), -1),
        ("weekly", "daily", (3, 4, 5), 1),
        ("weekly", "daily, four days", (2,), 4 / 7),
        ("daily", "weekly", (3, 4, 5), 1),
        ("daily", "daily, no Sunday", (0, 1, 3, 5), 6 / 7),
        ("daily", "daily, two days", (2,), 2 / 7),
        ("daily", "daily, two days", (2, 3), 2 / 7),
        ("daily", "daily, two days", (0, 5), 2 / 7),
        ("daily", "daily, one day", (2,), 1 / 7),
    ],
)
def test_dates_of_bundles_show_days_weeks_and_doubled_weeks(
    query: str, usual: str, other: str, at: tuple[int, ...], expected: float
) -> None:
    """Check the share of each week; the weeks `at` have the dates of `other`.

    Where a week came twice the run stops, and no share of another week is used.
    """
    with duckdb.connect() as duck:
        duck.execute(
            "CREATE TABLE picked AS SELECT 'Y' AS segment, 'A' AS location, 'D' AS product"
        )
        duck.execute(
            "CREATE TABLE bundle_sales (week DATE, segment TEXT DEFAULT 'Y', location TEXT DEFAULT"
            " 'A', product TEXT DEFAULT 'D', price DOUBLE DEFAULT 2, list_price DOUBLE DEFAULT 2,"
            " units BIGINT DEFAULT 5, active_subs BIGINT DEFAULT 9, explore_eps DOUBLE DEFAULT 0)"
        )
        duck.executemany(
            "INSERT INTO bundle_sales (week) VALUES (?)",
            [
                (dt.date(2026, 5, 3) + dt.timedelta(days=7 * n + d),)
                for n in range(WEEKS)
                for d in BUNDLE_DATES[other if n in at else usual]
            ],
        )
        rows = duck.sql(f"WITH {_steps(query)} SELECT week, week_share FROM weeks").fetchall()
    found = {
        (week - dt.date(2026, 5, 3)).days // 7 - (week.isoweekday() == 7): share
        for week, share in rows
    }
    checked = at if expected < 0 else range(WEEKS)
    wanted = {n: expected if n in at else 1.0 for n in checked}
    assert {n: found[n] for n in checked} == pytest.approx(wanted)
    assert len(found) == WEEKS


def test_the_demo_with_daily_sales_has_the_prices_of_the_weekly_one(tmp_path: Path) -> None:
    made = generate(
        Size(locations=4, cells=3, weeks=26, sales_format="csv"), tmp_path / "data", dirt=False
    )
    weekly = {
        name: files[0] if len(files) == 1 else files[0].parent
        for name, files in made.sources.items()
    }
    with duckdb.connect() as duck:
        for table, split in TABLES:
            reader = "read_csv" if made.sources[table][0].suffix == ".csv" else "read_parquet"
            duck.execute(
                "CREATE OR REPLACE TABLE weekly AS FROM"
                f" {reader}({[str(f) for f in made.sources[table]]})"
            )
            duck.execute(f"COPY ({split}) TO '{tmp_path / table}.csv' (HEADER)")
    daily = {table: tmp_path / f"{table}.csv" for table, _ in TABLES}
    for sources in (weekly, {**weekly, **daily}):
        hundredfold.run(demo.JOB, sources, home=tmp_path / "home", as_of=demo.AS_OF, workers=1)
    tables = [f"{tmp_path}/home/{release_folder('tariffs', n)}/price_table.parquet" for n in (1, 2)]
    differ = (
        "SELECT count(*) FILTER (a.price <> b.price OR a.current_price <> b.current_price),"
        f" count(*) FROM '{tables[0]}' a JOIN '{tables[1]}' b USING (unit_key)"
    )
    assert duckdb.sql(differ).fetchall() == [(0, 4 * 54 + 3 * 48)]
    short = daily["bundle_sales"].read_text().splitlines()
    again = [
        line.rsplit(",", 1)[0] + f",2026-07-0{n} 00:00:00" for line in short[1:] for n in (1, 2, 3)
    ]
    (tmp_path / "again.csv").write_text("\n".join([short[0], *again]))
    with pytest.raises(ContractError, match="rows are superseded by later rows"):
        hundredfold.run(
            demo.JOB,
            {**weekly, "bundle_sales": tmp_path / "again.csv"},
            home=tmp_path / "home",
            as_of=demo.AS_OF,
            workers=1,
        )


def test_what_was_sold_is_measured_in_whole_weeks_of_daily_rows(tmp_path: Path) -> None:
    lines = ["segment,location,product,week,units,price,list_price,active_subs,loaded_at"]
    lines += [
        f"Y,A,D,{dt.date(2026, 6, 1) + dt.timedelta(days=n)},2,{1 if n < 10 else 2},2,90,2026-07-01"
        for n in range(17)
    ]
    (tmp_path / "sales.csv").write_text("\n".join(lines))
    found = Sales({BUNDLES: str(tmp_path / "sales.csv")}).after(dt.date(2026, 5, 1)).to_pylist()
    assert [(str(r["week"]), r["quantity"]) for r in found] == [
        ("2026-06-07", 14.0),
        ("2026-06-14", 14.0),
    ]
    assert found[1]["price"] == pytest.approx((3 * 1 + 4 * 2) / 7)
