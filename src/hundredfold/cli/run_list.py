"""The command `hundredfold list`: the runs of a home or of a stack, the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .options import Command, Target, json_option, target_options

if TYPE_CHECKING:
    from ..runs.summary import ListedRun

STATES = ("new", "running", "stopped", "held", "failed", "cancelled", "done")


@click.command("list", cls=Command)
@click.option("--job", metavar="NAME", help="Only runs of this job.")
@click.option(
    "--state", type=click.Choice(STATES), multiple=True, help="Only runs in this state. Repeatable."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Maximum number to show; all of them with --json.",
)
@target_options
@json_option
def list_command(
    job: str | None, state: Sequence[str], limit: int, target: Target, as_json: bool
) -> None:
    """List the runs, the newest first: state, units, and release of each."""
    from ..runs.summary import list_runs
    from . import display

    found = [run for run in list_runs(target.open(), job) if not state or run["state"] in state]
    if as_json:
        display.print_json(found)
    elif not found:
        display.stdout.print("no run" + (" of that kind" if job or state else ""))
    else:
        _show(found[:limit])
        if len(found) > limit:
            display.stdout.print(f"\n{limit:,} of {len(found):,} runs; --limit N shows more")


def _show(runs: Sequence[ListedRun]) -> None:
    from . import display
    from .display import TableColumn

    units = [f"{run['ok']:,} of {run['units']:,}" if run["units"] else "-" for run in runs]
    display.print_columns(
        [
            TableColumn("run", [run["run"] for run in runs]),
            TableColumn("job", [run["job"] for run in runs]),
            TableColumn("state", [run["state"] for run in runs]),
            TableColumn.of_numbers("units ok", units),
            TableColumn.of_numbers("release", [str(run["release"] or "-") for run in runs]),
            TableColumn("created (UTC)", [run["created"][:16].replace("T", " ") for run in runs]),
        ]
    )
