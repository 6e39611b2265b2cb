"""The command `tariffs`, for a pricing team: from a published price table to charging.

Results go to stdout, messages to stderr.  Exit status: 0 = done, 1 = refused or a guard fails,
2 = usage error, 130 = interrupted.  Each command imports its expensive modules itself, so that
`--help` is fast.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hundredfold import __version__
from hundredfold.cli.options import (
    Group,
    Target,
    argument,
    as_of_option,
    invoke,
    json_option,
    target_options,
)
from hundredfold.errors import UsageError
from tariffs import data_quality
from tariffs.evaluation.commands import evidence

JOB = "tariffs"


@click.group(
    cls=Group,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(
    __version__, message="tariffs %(version)s", help="Print the version and exit."
)
@click.pass_context
def app(context: click.Context) -> None:
    """Check, approve, activate, measure and export a published price table, or take it back."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


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


@app.command()
@target_options
@json_option
def status(target: Target, as_json: bool) -> None:
    """List the releases with state, author and reason, and the table that charging uses."""
    from hundredfold.cli import display
    from tariffs.release import actions, repository, show

    home, _ = _open(target)
    _repair_pointer(home.store)
    decisions = repository.read_log(home.store)
    facts = actions.status_facts(decisions, home.store)
    if as_json:
        display.print_json(facts)
        return
    show.show_status(facts, home, _active_folder(home, decisions))
    show.show_hints(_next_commands(facts, target))


@app.command()
@version_argument
@catalogue_option
@as_of_option
@target_options
@json_option
def check(
    version: int, catalogue: str | None, as_of: str | None, target: Target, as_json: bool
) -> None:
    """Check a release with every guard and against the active table; exit status 1 if one fails."""
    from dataclasses import asdict

    from hundredfold.cli import display
    from tariffs.release import actions, repository, show

    home, _ = _open(target)
    clock = _clock(as_of, version, home)
    checked = actions.check(
        version, repository.read_log(home.store), home.store, _sources(home, catalogue), clock.now
    )
    if as_json:
        display.print_json({**asdict(checked), "passed": not checked.failed})
    else:
        show.show_checked(checked, clock.description)
        overrides = [word for f in checked.failed for word in ("--override", f.code)]
        if overrides:
            command = _command(target, "approve", str(version), *overrides, "--reason", "WHY")
            show.show_hints([(command, "approves it nevertheless; the log records it")])
        else:
            show.show_hints([(_command(target, "approve", str(version)), "approves it")])
    sys.exit(bool(checked.failed))


@app.command()
@version_argument
@override_option
@attribution_options
@catalogue_option
@as_of_option
@target_options
def approve(
    version: int,
    overrides: Sequence[str],
    by: str | None,
    reason: str,
    catalogue: str | None,
    as_of: str | None,
    target: Target,
) -> None:
    """Approve a release, if every guard passes. Charging does not use it yet."""
    from tariffs.release import actions, show

    home, log_writer = _open(target)
    clock = _clock(as_of, version, home)
    attribution = _attribution(by, reason, target, clock)
    done = actions.approve(
        version,
        attribution,
        home.store,
        log_writer,
        _sources(home, catalogue),
        clock.now,
        _guard_codes(overrides),
    )
    show.show_decision(done, None)
    show.show_hints(
        [
            (
                _command(target, "activate", str(version)),
                "lets charging use it (by another person)",
            )
        ]
    )


@app.command()
@version_argument
@override_option
@click.option(
    "--canary",
    multiple=True,
    metavar="LOCATION",
    help="Start in some locations: by name (can be repeated), or a share such as 10%. "
    "Elsewhere prices stay.",
)
@click.option("--same-person", is_flag=True, help="The approver activates it too; needs --reason.")
@attribution_options
@catalogue_option
@as_of_option
@target_options
def activate(
    version: int,
    overrides: Sequence[str],
    canary: Sequence[str],
    same_person: bool,
    by: str | None,
    reason: str,
    catalogue: str | None,
    as_of: str | None,
    target: Target,
) -> None:
    """Let charging use an approved release; the one that it used is withdrawn."""
    from functools import partial

    from tariffs.release import actions, show

    home, log_writer = _open(target)
    clock = _clock(as_of, version, home)
    start = (
        partial(actions.start_canary, version, _canary_locations(canary))
        if canary
        else partial(actions.activate, version)
    )
    done = start(
        _attribution(by, reason, target, clock),
        home.store,
        log_writer,
        _sources(home, catalogue),
        clock.now,
        overridden=_guard_codes(overrides),
        same_person=same_person,
    )
    show.show_decision(done, _active_folder(home, done.decisions))
    show.show_hints(_after_activation(version, target, canary=bool(canary)))


def _after_activation(version: int, target: Target, *, canary: bool) -> list[tuple[str, str]]:
    further = [
        (
            _command(target, "measure", "active"),
            "compares these locations with the others, once there are newer sales",
        ),
        (_command(target, "activate", str(version)), "lets charging use it everywhere"),
    ]
    back = (
        _command(target, "kill", "--to", "last-approved"),
        "takes it back at once, if it is wrong",
    )
    return [*(further if canary else []), back]


@app.command()
@version_argument
@attribution_options
@target_options
def withdraw(version: int, by: str | None, reason: str, target: Target) -> None:
    """Bar a release from use; the kill switch never returns to it. Needs --reason."""
    from tariffs.release import actions, show

    home, log_writer = _open(target)
    show.show_decision(
        actions.withdraw(version, _attribution(by, reason, target), home.store, log_writer), None
    )


@app.command()
@click.option(
    "--to",
    required=True,
    type=click.Choice(["last-approved", "rule", "unchanged"]),
    help="last-approved: the last approved table before it; rule: a step towards the prices of the "
    "rule, which need no model; unchanged: the present prices, frozen.",
)
@click.option("--dry-run", is_flag=True, help="Show the effect on prices, and change nothing.")
@attribution_options
@target_options
def kill(to: Any, dry_run: bool, by: str | None, reason: str, target: Target) -> None:
    """Take the active table away from charging at once. One person is enough, no guard is checked.

    Control units never move. The way to the rule's prices keeps the limits on steps, cliffs and the
    share of prices that change at once: if they are far, it takes several steps, one for each call.
    """
    from hundredfold.errors import StateError
    from tariffs.release import actions, show

    home, log_writer = _open(target)
    if dry_run:
        show.show_preview(actions.preview_kill(to, home.store))
        show.show_hints([(_command(target, "kill", "--to", to, "--reason", "WHY"), "does it")])
        return
    try:
        found = actions.preview_kill(to, home.store)
    except StateError:
        found = None  # damage elsewhere does not stop the kill switch; it reports its own obstacle
    done = actions.kill(
        to, _attribution(by, reason or "kill switch", target), home.store, log_writer
    )
    if found is not None and found.table == done.entry.active:
        show.show_preview(found, done=True)
    show.show_decision(done, _active_folder(home, done.decisions))
    further = [
        (_command(target, "kill", "--to", "rule"), "takes a further step to the rule's prices")
    ]
    stepping = done.entry.active is not None and done.entry.active.step
    show.show_hints(
        [
            *(further if stepping else []),
            (_command(target, "status"), "shows the present state"),
        ]
    )


@app.command()
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

    home, _ = _open(target)
    made = files.write_delta(version, against, home, out, whole=whole)
    if as_json:
        display.print_json(made.facts())
    else:
        show.show_delta(made.old, made.new, made.change, made.files, made.rows)


@app.command()
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

    home, _ = _open(target)
    rows = files.export(version, format, home, Path(out) if out else None, base)
    display.stderr.print(f"{rows:,} prices{f' in {out}' if out else ''}", style="dim")


@app.command()
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

    home, _ = _open(target)
    given = {name: path for name, path in (("bundle_sales", sales), ("voice_usage", usage)) if path}
    found = outcome.outcome(
        version,
        home,
        since=_day(since, "--since"),
        until=_day(until, "--until"),
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


@app.command()
@argument("version", "A release's version; the whole log, if left out.", type=int, required=False)
@target_options
@json_option
def log(version: int | None, target: Target, as_json: bool) -> None:
    """Show who decided what, when and why, oldest first."""
    from dataclasses import asdict

    from hundredfold.cli import display
    from tariffs.release import repository, show

    home, _ = _open(target)
    decisions = repository.read_log(home.store)
    entries = list(decisions.entries) if version is None else decisions.entries_of(version)
    if version is not None and not entries:
        repository.load_verified(version, home.store)  # raises if there is no such version
    if as_json:
        display.print_json([asdict(entry) for entry in entries])
    else:
        show.show_log(entries, version)


@app.command()
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A new limit from now on; needs --reason. Can be repeated.",
)
@attribution_options
@target_options
@json_option
def limits(
    given: Sequence[str], by: str | None, reason: str, target: Target, as_json: bool
) -> None:
    """Show the limits of the guards, or change them."""
    from dataclasses import asdict

    from hundredfold.cli import display
    from tariffs.release import actions, repository, show
    from tariffs.release.guards import limits_with

    home, log_writer = _open(target)
    if given:
        actions.set_limits(
            _attribution(by, reason, target), _limit_values(given), home.store, log_writer
        )
    decisions = repository.read_log(home.store)
    now = asdict(limits_with(decisions.limits))
    if as_json:
        display.print_json(now)
    else:
        show.show_limits(decisions, now)


app.add_command(evidence)


def _open(target: Target) -> tuple[Any, Any]:
    """Return the home of the releases, and the writer of its decision log: the store itself."""
    home = target.open(JOB)
    return home, home.store


def _repair_pointer(store: Any) -> None:
    from hundredfold.cli import display
    from tariffs.release import repository

    if repository.repair_pointer(store):
        display.stderr.print(
            "active.json was older than the log (a command was interrupted): it is repaired",
            style="yellow",
        )


def _attribution(by: str | None, reason: str, target: Target, clock: Any = None) -> Any:
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


def _clock(as_of: str | None, version: int, home: Any) -> Any:
    """Return the time that counts as now for the guards."""
    from tariffs.release import repository
    from tariffs.release.clock import clock_of

    return clock_of(as_of, repository.stored_release(version, home.store).release, home)


def _sources(home: Any, catalogue: str | None) -> Any:
    from tariffs.release.actions import Sources
    from tariffs.release.catalogue import catalogue_of, locations_of
    from tariffs.release.sales import sales_of

    return Sources(
        lambda release: catalogue_of(release, home, catalogue),
        lambda release: sales_of(release, home),
        lambda release: locations_of(release, home),
    )


def _active_folder(home: Any, decisions: Any) -> str | None:
    """Return the folder of the table that charging uses."""
    from tariffs.release import repository

    return str(home.where(repository.table_folder(decisions.active))) if decisions.active else None


app.add_command(data_quality.command)


def _canary_locations(given: Sequence[str]) -> Sequence[str] | float:
    """Return locations by name, or one share."""
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if len(names) == 1 and names[0].endswith("%"):
        try:
            return float(names[0].removesuffix("%")) / 100.0
        except ValueError:
            raise UsageError(
                f"--canary is {names[0]!r}, wanted locations, or a share such as 10%"
            ) from None
    return names


def _day(text: str | None, option: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{option} is {text!r}, wanted a day such as 2026-06-30") from None


def _guard_codes(given: Sequence[str]) -> list[str]:
    return [code.strip().upper() for text in given for code in text.split(",")]


def _limit_values(given: Sequence[str]) -> dict[str, float]:
    numbers = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            numbers[name.strip()] = float(value)
        except ValueError:
            raise UsageError(
                f"--set is {text!r}, wanted NAME=VALUE", hint="such as --set data_age=21"
            ) from None
    return numbers


def _next_commands(facts: Any, target: Target) -> list[tuple[str, str]]:
    """Return the useful next commands: for the newest release, and for the active one."""
    commands = []
    newest = facts["releases"][0] if facts["releases"] else None
    if newest is None:
        return [("hundredfold run tariffs.job:job", "publishes the first one")]
    version = str(newest["version"])
    if newest["state"] == "draft" and not newest["damage"]:
        commands.append((_command(target, "check", version), "checks it with every guard"))
    if newest["state"] == "approved":
        commands.append((_command(target, "activate", version), "lets charging use it"))
    if facts["active"]:
        commands.append(
            (
                _command(target, "log", str(facts["active"]["version"])),
                "shows the decisions about the table that charging uses",
            )
        )
        commands.append(
            (
                _command(target, "kill", "--to", "last-approved"),
                "takes that table away from charging at once",
            )
        )
    return commands


def _command(target: Target, *parts: str) -> str:
    import shlex

    return shlex.join(["tariffs", *parts, *target.cli_options])


def main() -> None:
    """Run the command `tariffs`."""
    invoke(app, "tariffs")


if __name__ == "__main__":
    main()
