"""Arguments, options and first steps that several commands of `tariffs` share."""

from __future__ import annotations

import datetime as dt
from typing import Any

import click

from hundredfold.cli.options import (
    Target,
    argument,
)
from hundredfold.errors import UsageError

JOB = "tariffs"
version_argument = argument("version", "The release's version, such as 3.", type=int)
table_argument = argument(
    "version", "The release's version, such as 3; or 'active': the table that charging uses."
)
author_option = click.option(
    "--author",
    "by",
    metavar="NAME",
    help="The person who decides; this machine's user, if left out.",
)
reason_option = click.option(
    "--reason", default="", metavar="WHY", help="The reason, recorded in the log."
)
override_option = click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="CODE",
    help="Set aside a guard that fails; needs --reason. Can be repeated.",
)
catalogue_option = click.option(
    "--catalogue",
    metavar="FILE",
    help="The product catalogue (CSV or Parquet), if the run that read it is gone.",
)


def attribution_options(command: Any) -> Any:
    """--author and --reason."""
    return author_option(reason_option(command))


def open_home(target: Target) -> tuple[Any, Any]:
    """Return the home of the releases, and the writer of its decision log: the store itself."""
    home = target.open(JOB)
    return home, home.store


def repair_pointer(store: Any) -> None:
    from hundredfold.cli import display
    from tariffs.release import repository

    if repository.repair_pointer(store):
        display.stderr.print(
            "active.json was older than the log (a command was interrupted): it is repaired",
            style="yellow",
        )


def attribution_of(by: str | None, reason: str, target: Target, clock: Any = None) -> Any:
    """Return the person, the account and the reason of a decision.

    Raises UsageError if the person is unknown, or if the time is set without a reason.
    """
    import secrets

    from tariffs.release.clock import local_account, principal
    from tariffs.release.decision_log import Attribution

    account, user = local_account()
    account = principal(target.backend().caller()) or account
    if not (by or user).strip():
        raise UsageError(
            "the person who decides is unknown on this machine", hint="add --author NAME"
        )
    if clock is not None and clock.is_explicit and not reason.strip():
        raise UsageError(
            "checking as of another time than now needs a reason, which the log records",
            hint="add --reason WHY",
        )
    at = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    description = clock.description if clock is not None else ""
    return Attribution(
        (by or user).strip(),
        f"{user or '?'}@{_host_name()}",
        at,
        reason.strip(),
        secrets.token_hex(4),
        account,
        description,
    )


def _host_name() -> str:
    import platform

    return platform.node() or "?"


def clock_of(as_of: str | None, version: int, home: Any) -> Any:
    """Return the time that counts as now for the guards."""
    from tariffs.release import clock, repository

    return clock.clock_of(as_of, repository.stored_release(version, home.store).release, home)


def sources_of(home: Any, catalogue: str | None) -> Any:
    from tariffs.release.catalogue import catalogue_of, locations_of
    from tariffs.release.checks import Sources
    from tariffs.release.sales import sales_of

    return Sources(
        lambda release: catalogue_of(release, home, catalogue),
        lambda release: sales_of(release, home),
        lambda release: locations_of(release, home),
    )


def active_folder(home: Any, decisions: Any) -> str | None:
    """Return the folder of the table that charging uses."""
    from tariffs.release import repository

    return str(home.where(repository.table_folder(decisions.active))) if decisions.active else None


def day_of(text: str | None, option: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} is {text!r}, wanted a day such as 2026-06-30") from None


def command_text(target: Target, *parts: str) -> str:
    import shlex

    return shlex.join(["tariffs", *parts, *target.cli_options])
