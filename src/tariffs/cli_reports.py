"""Commands that report or export and decide nothing: differences, export, effect, log."""

from __future__ import annotations

from pathlib import Path

import click

from hundredfold.cli.options import (
    Command,
    Target,
    argument,
    json_option,
    target_options,
)
from tariffs.cli_shared import (
    catalogue_option,
    day_of,
    open_home,
    table_argument,
)


@click.command(cls=Command)
@table_argument
@click.option(
    "--against",
    default="active",
    show_default=True,
    metavar="VERSION",
    help="The earlier table: a version, or 'active'.",
)
@click.option(
    "--out", metavar="FOLDER", help="Write the files into this folder, not beside the releases."
)
@click.option(
    "--whole", is_flag=True, help="Compare all columns, including those that only explain a price."
)
@target_options
@json_option
def delta(
    version: str, against: str, out: str | None, whole: bool, target: Target, as_json: bool
) -> None:
    """Write the difference of two tables: rows added, changed, removed (CSV and Parquet)."""
    from hundredfold.cli import display
    from tariffs.release import files, show

    home, _ = open_home(target)
    made = files.write_delta(version, against, home, out, whole=whole)
    if as_json:
        display.print_json(made.facts())
    else:
        show.show_delta(made.old, made.new, made.change, made.files, made.rows)


@click.command(cls=Command)
@table_argument
@click.option(
    "--format",
    type=click.Choice(["tmf620", "tmf620-lines", "csv", "parquet"]),
    default="tmf620",
    show_default=True,
    help="TM Forum's ProductOfferingPrice as one JSON array, or one JSON object a line; "
    "or the full table.",
)
@click.option("--out", metavar="FILE", help="Write to this file, instead of stdout.")
@click.option(
    "--base", metavar="URL", help="The catalogue's address; gives every TMF620 price its href."
)
@target_options
def export(version: str, format: str, out: str | None, base: str | None, target: Target) -> None:
    """Export a table to another system, with its present state."""
    from hundredfold.cli import display
    from tariffs.release import files

    home, _ = open_home(target)
    rows = files.export(version, format, home, Path(out) if out else None, base)
    display.stderr.print(f"{rows:,} prices{f' in {out}' if out else ''}", style="dim")


@click.command(cls=Command)
@argument(
    "version",
    "The release's version, such as 3; or 'active': the table that charging uses.",
    required=False,
    default="active",
)
@click.option(
    "--since",
    metavar="DATE",
    help="The first day of its prices, if different from the log.",
)
@click.option("--until", metavar="DATE", help="The first day without its prices.")
@click.option(
    "--sales",
    metavar="PATH",
    help="The sales of bundles (CSV or Parquet), if not those of the newest release's run.",
)
@click.option("--usage", metavar="PATH", help="The same for voice.")
@catalogue_option
@target_options
@json_option
def measure(
    version: str,
    since: str | None,
    until: str | None,
    sales: str | None,
    usage: str | None,
    catalogue: str | None,
    target: Target,
    as_json: bool,
) -> None:
    """Measure a table by the sales since: its effect, its promises, and the drift of demand."""
    from hundredfold.cli import display
    from tariffs.release import outcome, show_outcome
    from tariffs.release.measure import to_json

    home, _ = open_home(target)
    given = {name: path for name, path in (("bundle_sales", sales), ("voice_usage", usage)) if path}
    found = outcome.outcome(
        version,
        home,
        since=day_of(since, "--since"),
        until=day_of(until, "--until"),
        given=given,
        catalogue=catalogue,
    )
    if as_json:
        display.print_json(
            {
                "table": str(found.table),
                "since": str(found.since),
                "read": found.read,
                "unsound": found.unsound,
                **to_json(found.measured),
            }
        )
    else:
        show_outcome.show_outcome(found)


@click.command(cls=Command)
@argument("version", "A release's version; the whole log, if left out.", type=int, required=False)
@target_options
@json_option
def log(version: int | None, target: Target, as_json: bool) -> None:
    """Show who decided what, when and why, oldest first."""
    from dataclasses import asdict

    from hundredfold.cli import display
    from tariffs.release import repository, show

    home, _ = open_home(target)
    decisions = repository.read_log(home.store)
    entries = list(decisions.entries) if version is None else decisions.entries_of(version)
    if version is not None and not entries:
        repository.load_verified(version, home.store)  # raises if there is no such version
    if as_json:
        display.print_json([asdict(entry) for entry in entries])
    else:
        show.show_log(entries, version)
