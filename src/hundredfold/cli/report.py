"""The command `hundredfold report`, and the report that is made when a run has ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import error_text
from .options import Command, Target, json_option, run_argument, target_options

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..runs.summary import RunSummary

ENDED = ("done", "held", "failed")


@click.command(cls=Command)
@run_argument
@click.option(
    "--out",
    metavar="FILE",
    show_default="report.html in the run's folder; on AWS report-RUN.html",
    help="File to write.",
)
@target_options
@json_option
def report(run: str | None, out: str | None, target: Target, as_json: bool) -> None:
    """Write the report of a run: one HTML file with its rows, units, times, results and release."""
    from ..api import open_run
    from ..report.write import save_report
    from . import display

    found = open_run(run, home=target.open())
    path = save_report(found, out, options=target.cli_options)
    if as_json:
        display.print_json({"run": found.id, "report": str(path.absolute())})
    else:
        display.stdout.print(display.relative_path(path.absolute()), markup=False)


def report_at_end(found: Run, facts: RunSummary, target: Target) -> Path | None:
    """Make the report of a local run that has ended; None if there is none.

    A report that cannot be made never fails a run: it is a line on stderr.
    """
    if target.name != "local" or facts["state"] not in ENDED or facts["folder"] is None:
        return None
    from rich.markup import escape

    from . import display

    try:
        from ..report.write import save_report

        return save_report(found, summary=facts, options=target.cli_options)
    except KeyboardInterrupt:
        display.stderr.print("stopped while the report was made; the run is not affected")
    except Exception as error:  # noqa: BLE001  # the run has ended, whatever happens here
        text = f"{type(error).__name__}: {error_text(error)}"
        display.stderr.print(f"warning: the report could not be made: {escape(text)}")
    return None
