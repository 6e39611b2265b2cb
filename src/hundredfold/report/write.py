"""Making the report of a run: one file, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import UsageError
from ..ports.object_keys import TEMP_PREFIX
from ..runs.run import Run
from ..runs.summary import RunSummary, summarize
from ..sql.duckdb import DuckWarehouse
from .page import page
from .run_files import RunFiles

MEMORY_BYTES = 2**29  # of DuckDB
THREADS = 2


def report_of(run: Run, summary: RunSummary | None = None, options: Sequence[str] = ()) -> str:
    """Return the report of a run as HTML.

    summary: of the run, if it is known already. options: of commands, which name its backend.
    """
    with (
        TemporaryDirectory(prefix="hundredfold-report-") as folder,
        DuckWarehouse(
            run.home.store, Path(folder) / "scratch", memory=MEMORY_BYTES, threads=THREADS
        ) as warehouse,
    ):
        return page(RunFiles(run, summary or summarize(run), warehouse, options))


def write_report(run: Run, path: str | Path | None = None) -> Path:
    """Write the report of a run as one HTML file, and return its path.

    path: default: `report.html` in the run's folder; for a run on AWS, `report-RUN.html` in the
    current folder.

    Raises: UsageError if the file cannot be written.
    """
    return save_report(run, path)


def save_report(
    run: Run,
    path: str | Path | None = None,
    *,
    summary: RunSummary | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Write the report as `write_report` does, with the arguments of `report_of`."""
    place = Path(path) if path is not None else default_path(run)
    text = report_of(run, summary, options)
    half = place.with_name(f"{TEMP_PREFIX}{place.name}-{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(place)
    except OSError as error:
        with suppress(OSError):
            half.unlink()
        raise UsageError(
            f"the report {place} cannot be written: {error}", hint="name another file with --out"
        ) from error
    return place


def default_path(run: Run) -> Path:
    """Return the place of a report that was given none."""
    folder = Path(run.location)
    return folder / "report.html" if folder.is_dir() else Path(f"report-{run.id}.html")
