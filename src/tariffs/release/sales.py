"""Sales: from a given file, or from the run that made a release, while its files are kept.

Daily rows are summed to weeks.  The rows of a run are clean; those of a file may be dirty: keys are
normalised, rows that cannot be sales are left out, and of two rows for one week the one loaded
later is used.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hundredfold.errors import UsageError
from hundredfold.finished_runs import accepted_source, given_source
from hundredfold.releases import Release, RunHome

BUNDLES, VOICE = "bundle_sales", "voice_usage"
# each source as unit_key, week, quantity, price (voice: a share of the tariff), active_subs
ROWS_SQL = {
    BUNDLES: """
SELECT upper(trim(segment)) || '/' || upper(trim(location)) || '/' || upper(trim(product))
    AS unit_key,
  TRY_CAST(week AS DATE) AS week, TRY_CAST(units AS DOUBLE) AS quantity,
  TRY_CAST(price AS DOUBLE) AS price, TRY_CAST(active_subs AS DOUBLE) AS active_subs,
  TRY_CAST(loaded_at AS TIMESTAMP) AS loaded_at
FROM sales""",
    VOICE: """
SELECT cell || '/' || lpad(CAST(hour AS VARCHAR), 2, '0') || '/' || day_type AS unit_key,
  TRY_CAST(week AS DATE) AS week, TRY_CAST(minutes AS DOUBLE) AS quantity,
  1 - TRY_CAST(discount AS DOUBLE) AS price, TRY_CAST(active_subs AS DOUBLE) AS active_subs,
  TRY_CAST(loaded_at AS TIMESTAMP) AS loaded_at
FROM sales""",
}
MIN_DAILY_ROWS = 1.5  # mean rows of a unit in a week from which these are days
MIN_WEEK_SHARE = 0.85  # of the fullest week's rows, for a week to be complete
VALID_SALE_SQL = "week IS NOT NULL AND quantity >= 0 AND price > 0 AND active_subs > 0"
SALES_AFTER_SQL = f"""
WITH days AS (
  SELECT *, CAST(date_trunc('week', week) + INTERVAL 6 DAY AS DATE) AS ends FROM (
    SELECT *, row_number() OVER (
      PARTITION BY unit_key, week ORDER BY loaded_at DESC, quantity, price) AS nth
    FROM (FROM ({{rows}}) WHERE {VALID_SALE_SQL})
  ) WHERE nth = 1
),
fill AS (SELECT ends, count(*) / count(DISTINCT unit_key) AS days FROM days GROUP BY ends),
beside AS (SELECT *, max(days) OVER () AS most, lag(days) OVER (ORDER BY ends) AS before FROM fill),
whole AS (  -- of daily rows only complete weeks: part of a week looks like a week of low sales
  SELECT ends FROM beside WHERE most < {MIN_DAILY_ROWS} OR days >= {MIN_WEEK_SHARE} * most
    OR (days < {MIN_DAILY_ROWS} AND coalesce(before, 1) < {MIN_DAILY_ROWS})
)
SELECT unit_key, ends AS week, sum(quantity) AS quantity,
  CASE WHEN count(*) = 1 THEN max(price)
    WHEN sum(quantity) > 0 THEN sum(price * quantity) / sum(quantity)
    ELSE avg(price) END AS price,
  avg(active_subs) AS active_subs
FROM days JOIN whole USING (ends) WHERE ends > CAST($after AS DATE)
GROUP BY unit_key, ends ORDER BY unit_key, ends"""
INVALID_SALES_SQL = f"SELECT count(*) AS rows FROM ({{rows}}) WHERE ({VALID_SALE_SQL}) IS NOT TRUE"
POSTED_PRICE_SQL = {
    BUNDLES: "TRY_CAST(list_price AS DOUBLE)",
    VOICE: "1 - TRY_CAST(posted_discount AS DOUBLE)",
}
LAST_POSTED_SQL = (
    "SELECT unit_key, arg_max(posted, week) AS posted FROM ({with_posted}) GROUP BY unit_key"
)
SUPPORT_SQL = (
    "SELECT unit_key, min(price) AS support_lo, max(price) AS support_hi"
    f" FROM ({{rows}}) WHERE {VALID_SALE_SQL} GROUP BY unit_key"
)


@dataclass(frozen=True, slots=True)
class Sales:
    """The locations of the sales: of each source a file or folder, or its rows."""

    locations: Mapping[str, Any]

    def after(self, day: dt.date) -> pa.Table:
        """Return the weeks that end after that day.

        Columns: unit_key, week, quantity, price (voice: a share of the tariff), active_subs.
        """
        return self._ask(SALES_AFTER_SQL, after=day)

    def unsound(self) -> int:
        """Return the number of invalid rows: without a date, quantity, price or subscribers."""
        return int(sum(self._ask(INVALID_SALES_SQL)["rows"].to_pylist()))

    def support(self) -> pa.Table:
        """Return unit_key, support_lo, support_hi: the range of prices paid in any week.

        Voice: as a share of the tariff.
        """
        return self._ask(SUPPORT_SQL)

    def last_posted(self) -> pa.Table:
        """Return unit_key, posted: each unit's last posted price; voice: a share of the tariff."""
        return self._ask(LAST_POSTED_SQL)

    def _ask(self, query: str, **values: Any) -> pa.Table:
        import duckdb  # expensive, and only needed here

        found = []
        with duckdb.connect() as duck:
            for source, location in self.locations.items():
                try:
                    create_sales_view(duck, location)
                    found.append(
                        duck.sql(
                            query.format(rows=ROWS_SQL[source], with_posted=_with_posted(source)),
                            params=values or None,
                        ).to_arrow_table()
                    )
                except duckdb.Error as error:
                    raise UsageError(
                        f"the sales in {location if isinstance(location, str) else source}"
                        f" cannot be read: {str(error).splitlines()[0]}",
                        hint=f"wanted a CSV or Parquet file with the columns of {source}",
                    ) from error
        return pa.concat_tables(found)


def _with_posted(source: str) -> str:
    return ROWS_SQL[source].replace(
        "\nFROM sales", f", {POSTED_PRICE_SQL[source]} AS posted\nFROM sales"
    )


def sales_of(
    release: Release, home: RunHome, given: Mapping[str, str] | None = None
) -> Sales | None:
    """Return the sales of the given files, or of the release's run; None if these are gone."""
    if given:
        return Sales({name: str(Path(location).expanduser()) for name, location in given.items()})
    locations = {
        name: location
        for name in ROWS_SQL
        if (location := sales_location(name, release, home)) is not None
    }
    return Sales(locations) if locations else None


def sales_location(source: str, release: Release, home: RunHome) -> Any:
    """Return a run's source as it was used: a path for DuckDB, or the rows; None if it is gone."""
    found = accepted_source(home, release.run, source)
    if found is None:
        found = given_source(home, release.run, source)
    if isinstance(found, Path):
        return str(found) if found.exists() else None
    return found


def create_sales_view(duck: Any, location: Any) -> None:
    """Create the view `sales` of a file, a folder, or rows."""
    if not isinstance(location, str):
        duck.execute("DROP VIEW IF EXISTS sales")
        duck.register("sales", location)
        return
    path = Path(location)
    files = (
        sorted(str(f) for f in path.rglob("*") if f.suffix in (".csv", ".parquet", ".pq"))
        if path.is_dir()
        else [location]
    )
    reader = (
        "read_parquet" if files and Path(files[0]).suffix in (".parquet", ".pq") else "read_csv"
    )
    if not files:
        raise UsageError(f"there are no sales in {location}", hint="wanted CSV or Parquet files")
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    duck.execute(
        f"CREATE OR REPLACE VIEW sales AS FROM {reader}"
        f"([{quoted}]{', all_varchar = true' if reader == 'read_csv' else ''})"
    )
