"""The product catalogue of a price table: guards compare prices with its floors and price points.

The run that made the release has it while its files are kept: a copy, or the path of the original.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from hundredfold.errors import HundredfoldError, UsageError
from hundredfold.finished_runs import accepted_source, given_source, staged_source
from hundredfold.releases import Release, RunHome
from tariffs.release.tables import read_parquet

SOURCE = "product_catalog"
COLUMNS = {
    "product": pa.string(),
    "list_price": pa.float64(),
    "price_tick": pa.float64(),
    "price_floor": pa.float64(),
    "price_ceiling": pa.float64(),
}
OPTIONAL_COLUMNS = {  # used by some guards, if the catalogue has them
    "unit_cost": pa.float64(),
    "currency": pa.string(),
    "ladder": pa.string(),
    "rung": pa.float64(),
    "volume_mb": pa.float64(),
    "validity_days": pa.float64(),
    "competitor_min": pa.float64(),
    "competitor_reference": pa.float64(),
}


def catalogue_of(release: Release, home: RunHome, given: str | None = None) -> pa.Table | None:
    """Return the rows of a given file, or those of the release's run; None if these are gone."""
    if given is not None:
        return _typed(_read_file(Path(given).expanduser()), given)
    name = f"of run {release.run}"
    if (staged := staged_source(home, release.run, SOURCE)) is not None:
        return _typed(staged, name)
    accepted = accepted_source(home, release.run, SOURCE)
    if isinstance(accepted, pa.Table):
        return _typed(accepted, name)
    return _from_original_file(release, home)


def locations_of(release: Release, home: RunHome) -> pa.Table | None:
    """Return location, control and time_zone as the release's run accepted them; None if gone."""
    try:
        found = accepted_source(home, release.run, "locations")
        rows = read_parquet(found.read_bytes()) if isinstance(found, Path) else found
        if rows is None:
            return None
        zone = (
            rows["time_zone"].cast(pa.string())
            if "time_zone" in rows.column_names
            else pa.nulls(rows.num_rows, pa.string())
        )
        return pa.table(
            {
                "location": rows["location"].cast(pa.string()),
                "control": rows["control"].cast(pa.bool_()),
                "time_zone": zone,
            }
        )
    except (KeyError, OSError, pa.ArrowException):
        return None  # without these columns, or no longer readable


def _from_original_file(release: Release, home: RunHome) -> pa.Table | None:
    """Return the catalogue from its original path; None if it is gone."""
    given = given_source(home, release.run, SOURCE)
    try:
        if given is None:
            return None
        rows = _read_file(given) if isinstance(given, Path) else given
        return _typed(rows, f"of run {release.run}")
    except HundredfoldError:
        return None


def _read_file(path: Path) -> pa.Table:
    try:
        if path.suffix in (".parquet", ".pq"):
            return read_parquet(path.read_bytes())
        return pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types=COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"the catalogue {path} cannot be read: {error}",
            hint="wanted a CSV or Parquet file: --catalogue FILE",
        ) from error


def _typed(table: pa.Table, source: str) -> pa.Table:
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UsageError(
            f"the catalogue {source} lacks {', '.join(missing)}",
            hint=f"wanted the columns {', '.join(COLUMNS)}: --catalogue FILE",
        )
    try:
        kinds = {
            name: kind
            for name, kind in {**COLUMNS, **OPTIONAL_COLUMNS}.items()
            if name in table.column_names
        }
        return pa.table([table[name].cast(kind) for name, kind in kinds.items()], names=list(kinds))
    except pa.ArrowException as error:
        raise UsageError(
            f"the catalogue {source} holds a value that is no price: {error}",
            hint="--catalogue FILE",
        ) from error
