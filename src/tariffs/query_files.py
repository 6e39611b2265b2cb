"""The texts of the models' queries, with the weeks of a model and of its prior declared once.

`queries/bundle_weeks.sql` and `queries/voice_weeks.sql` are the common table expressions that make
weeks of a source's rows, be they days or weeks.  A model reads all rows, its prior those of the
units that it picks, so that neither computes a week that it does not use:

    {weeks}  in a model's query: these expressions
    {rows}   in the expressions: the rows that are read
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "queries"
PICKED_SALES = """(
    SELECT s.* FROM picked AS u
    JOIN bundle_sales AS s ON s.segment = u.segment AND s.location = u.location
      AND s.product = u.product
  )"""
PICKED_USAGE = """(
    SELECT s.* FROM picked AS u
    JOIN voice_usage AS s ON s.cell = u.cell AND s.hour = u.hour AND s.day_type = u.day_type
  )"""
WEEKS = {
    "bundles": ("bundle_weeks", "bundle_sales"),
    "prior": ("bundle_weeks", PICKED_SALES),
    "voice": ("voice_weeks", "voice_usage"),
    "voice_prior": ("voice_weeks", PICKED_USAGE),
}  # of each query of weeks: the expressions, and the rows that they read


def query_text(name: str) -> str:
    """Return the text of `queries/NAME.sql`, with its weeks if it reads weeks."""
    text = _read(name)
    if name not in WEEKS:
        return text
    weeks, rows = WEEKS[name]
    return text.replace("{weeks}", _read(weeks).rstrip("\n").replace("{rows}", rows))


def _read(name: str) -> str:
    return (FOLDER / f"{name}.sql").read_text(encoding="utf-8")
