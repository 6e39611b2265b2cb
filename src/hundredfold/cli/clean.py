"""The command `hundredfold clean`: remove the files of old runs from a home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .options import Command, home_option, json_option

if TYPE_CHECKING:
    from ..local.cleaning import CleanedRun


@click.command(cls=Command)
@click.option(
    "--keep",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Keep the newest N runs of each job.",
)
@click.option(
    "--older-than", metavar="TIME", help="Only runs without a change for that long: 30d, 12h."
)
@click.option("--job", metavar="NAME", help="Only runs of this job.")
@click.option(
    "--unfinished", is_flag=True, help="Failed, held and stopped runs too: they cannot be resumed."
)
@click.option(
    "--rows-only",
    is_flag=True,
    help="Only the rows of units and the outcomes of runs that are done; results stay.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@home_option
@json_option
def clean(
    keep: int,
    older_than: str | None,
    job: str | None,
    unfinished: bool,
    rows_only: bool,
    dry_run: bool,
    home: str,
    as_json: bool,
) -> None:
    """Remove the files of old runs. Releases and the records of the runs stay.

    The runs of a job's current release and of the one before it are kept, too.
    """
    from ..api import clean as clean_runs
    from ..runs.budgets import parse_time
    from . import display

    found = clean_runs(
        home=home,
        keep=keep,
        older_than=0.0 if older_than is None else parse_time("--older-than", older_than),
        job=job,
        unfinished=unfinished,
        rows_only=rows_only,
        dry_run=dry_run,
    )
    if as_json:
        display.print_json([asdict(each) for each in found])
    else:
        show_cleaned(found, dry_run=dry_run)


def show_cleaned(found: Sequence[CleanedRun], *, dry_run: bool) -> None:
    """Print the runs whose files were removed, and the space that this freed."""
    from . import display
    from .display import TableColumn

    if not found:
        display.stdout.print("no run to clean")
        return
    display.print_columns(
        [
            TableColumn("run", [each.run for each in found]),
            TableColumn("job", [each.job for each in found]),
            TableColumn("state", [each.state for each in found]),
            TableColumn("last change", [each.updated[:16].replace("T", " ") for each in found]),
            TableColumn.of_numbers("MiB", [f"{each.size / 2**20:,.1f}" for each in found]),
        ]
    )
    verb = "would be freed" if dry_run else "freed"
    size = sum(each.size for each in found) / 2**20
    display.stdout.print(f"{size:,.1f} MiB {verb}: {found[0].files} of {len(found):,} runs")
