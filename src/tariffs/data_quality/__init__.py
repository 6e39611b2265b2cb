"""The treatment of dirty rows: `tariffs dirt`.

The command imports its expensive modules itself, so that `--help` is fast.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hundredfold.cli.options import Target, argument, json_option, target_options


@click.command("dirt")
@argument("run", "The run's id; the newest, if left out.", required=False)
@click.option(
    "--out",
    metavar="FILE",
    help="Write the ledger to FILE (.csv or .parquet): a row for each affected value.",
)
@target_options
@json_option
def command(run: str | None, out: str | None, target: Target, as_json: bool) -> None:
    """Show the treatment of dirty rows, and reconcile the money. Exit status 1 on a difference."""
    import hundredfold
    from hundredfold.cli import display
    from tariffs.data_quality import show
    from tariffs.data_quality.reconciliation import reconcile

    balances, ledger = reconcile(hundredfold.open_run(run, home=target.open("tariffs")))
    if out:
        show.write(ledger, Path(out))
    if as_json:
        display.print_json([show.facts(balance, ledger) for balance in balances])
    else:
        show.show(balances, ledger)
    sys.exit(not all(balance.even for balance in balances))
