"""A pricing team comes in here: what becomes of a published price table until charging uses it.

Result to stdout, words to stderr; exit 0 = done, 1 = refused or a guard fails, 2 = the words were wrong, 130 = stopped by hand.
What costs time to import is imported by the command that needs it, so that `--help` answers at once.
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
    """What becomes of a published price table: check, approve, activate, export it, or take it back."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


version_argument = argument("version", "The release's version, such as 3.", type=int)
table_argument = argument(
    "version", "The release's version, such as 3; or 'active', the table that charging uses."
)
author_option = click.option(
    "--author", metavar="NAME", help="Who says it; the user of this machine, if left out."
)
reason_option = click.option("--reason", default="", metavar="WHY", help="Why, for the log.")
override_option = click.option(
    "--override",
    multiple=True,
    metavar="CODE",
    help="Set a guard that fails aside; needs --reason. Can be given again.",
)
catalogue_option = click.option(
    "--catalogue",
    metavar="FILE",
    help="The product catalogue (CSV or Parquet), if the run that has it is gone.",
)


def attribution_options(command: Any) -> Any:
    """--author and --reason."""
    return author_option(reason_option(command))


@app.command()
@target_options
@json_option
def status(target: Target, as_json: bool) -> None:
    """List the releases with their state, by whom and why, and say what charging uses."""
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
    """Hold a release against every guard, and against the table that charging uses. Exit status 1 if a guard fails."""
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
        show.show_checked(checked, clock.told)
        excuses = [word for f in checked.failed for word in ("--override", f.code)]
        if excuses:
            show.show_hints(
                [
                    (
                        _command(target, "approve", str(version), *excuses, "--reason", "WHY"),
                        "approves it all the same, and says so in the log",
                    )
                ]
            )
        else:
            show.show_hints([(_command(target, "approve", str(version)), "says yes to it")])
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
    """Say yes to a release, if every guard passes. Charging does not use it yet."""
    from tariffs.release import actions, show

    home, once = _open(target)
    clock = _clock(as_of, version, home)
    attribution = _attribution(by, reason, target, clock)
    done = actions.approve(
        version,
        attribution,
        home.store,
        once,
        _sources(home, catalogue),
        clock.now,
        _guard_codes(overrides),
    )
    show.show_decision(done, None)
    show.show_hints(
        [
            (
                _command(target, "activate", str(version)),
                "lets charging use it (another person says so)",
            )
        ]
    )


@app.command()
@version_argument
@override_option
@click.option(
    "--canary",
    multiple=True,
    metavar="PLACE",
    help="In some locations first: by name (can be given again), or a share such as 10%. Elsewhere all stays as it is.",
)
@click.option(
    "--same-person", is_flag=True, help="The one who approved it activates it too; needs --reason."
)
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
    from tariffs.release import actions, show

    home, once = _open(target)
    clock = _clock(as_of, version, home)
    attribution, sources, now, codes = (
        _attribution(by, reason, target, clock),
        _sources(home, catalogue),
        clock.now,
        _guard_codes(overrides),
    )
    if canary:
        places = _canary_locations(canary)
        done = actions.start_canary(
            version,
            places,
            attribution,
            home.store,
            once,
            sources,
            now,
            despite=codes,
            same_person=same_person,
        )
    else:
        done = actions.activate(
            version,
            attribution,
            home.store,
            once,
            sources,
            now,
            despite=codes,
            same_person=same_person,
        )
    show.show_decision(done, _active_folder(home, done.decisions))
    further = [
        (
            _command(target, "measure", "active"),
            "holds those places against the others, once there are newer sales",
        ),
        (_command(target, "activate", str(version)), "lets charging use it everywhere"),
    ]
    back = (
        _command(target, "kill", "--to", "last-approved"),
        "takes it back at once, should it be wrong",
    )
    show.show_hints([*(further if canary else []), back])


@app.command()
@version_argument
@attribution_options
@target_options
def withdraw(version: int, by: str | None, reason: str, target: Target) -> None:
    """Say that a release shall not be used; the kill switch never goes back to it. Needs --reason."""
    from tariffs.release import actions, show

    home, once = _open(target)
    show.show_decision(
        actions.withdraw(version, _attribution(by, reason, target), home.store, once), None
    )


@app.command()
@click.option(
    "--to",
    required=True,
    type=click.Choice(["last-approved", "rule", "unchanged"]),
    help="The last approved table before it; a step towards the prices of the rule, which need no model; or the prices that are asked now, frozen.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what it would do to prices, and change nothing."
)
@attribution_options
@target_options
def kill(to: Any, dry_run: bool, by: str | None, reason: str, target: Target) -> None:
    """Take the active table away from charging at once. One person is enough, and no guard is asked. Control units never move.

    The way to the rule's prices keeps the limits on steps, cliffs and the share of prices that change at once: where they are far, it takes
    several steps, one for each call.
    """
    from hundredfold.errors import StateError
    from tariffs.release import actions, show

    home, once = _open(target)
    if dry_run:
        show.show_preview(actions.preview_kill(to, home.store))
        show.show_hints([(_command(target, "kill", "--to", to, "--reason", "WHY"), "does it")])
        return
    try:
        found = actions.preview_kill(to, home.store)
    except StateError:
        found = (
            None  # what is broken does not stop the kill switch; it says itself what it cannot do
        )
    done = actions.kill(to, _attribution(by, reason or "kill switch", target), home.store, once)
    if found is not None and found.table == done.entry.charging:
        show.show_preview(found, done=True)
    show.show_decision(done, _active_folder(home, done.decisions))
    further = [
        (_command(target, "kill", "--to", "rule"), "goes a step further towards the rule's prices")
    ]
    stepping = done.entry.charging is not None and done.entry.charging.step
    show.show_hints(
        [
            *(further if stepping else []),
            (_command(target, "status"), "shows where all of it stands now"),
        ]
    )


@app.command()
@table_argument
@click.option(
    "--against",
    default="active",
    show_default=True,
    metavar="VERSION",
    help="The table before: a version, or 'active'.",
)
@click.option(
    "--out", metavar="FOLDER", help="Write the files there, instead of beside the releases."
)
@click.option(
    "--whole", is_flag=True, help="Compare all columns, also those that only explain a price."
)
@target_options
@json_option
def delta(
    version: str, against: str, out: str | None, whole: bool, target: Target, as_json: bool
) -> None:
    """Write what charging has to change to come from one table to another: rows added, changed, removed (CSV and Parquet)."""
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
    help="TM Forum's ProductOfferingPrice as one JSON array, or a JSON object a line; or the full table.",
)
@click.option("--out", metavar="FILE", help="Write to this file, instead of stdout.")
@click.option(
    "--base", metavar="URL", help="The catalogue's address; gives every TMF620 price its href."
)
@target_options
def export(version: str, format: str, out: str | None, base: str | None, target: Target) -> None:
    """Give a table to another system, with the state that it has now."""
    from hundredfold.cli import display
    from tariffs.release import files

    home, _ = _open(target)
    rows = files.export(version, format, home, Path(out) if out else None, base)
    display.stderr.print(f"{rows:,} prices{f' in {out}' if out else ''}", style="dim")


@app.command()
@argument(
    "version",
    "The release's version, such as 3; or 'active', the table that charging uses.",
    required=False,
    default="active",
)
@click.option(
    "--since",
    metavar="DATE",
    help="The day from which its prices were asked, if another than the log says.",
)
@click.option("--until", metavar="DATE", help="The day from which they were asked no more.")
@click.option(
    "--sales",
    metavar="PLACE",
    help="The sales of bundles (CSV or Parquet), if not those of the newest release's run.",
)
@click.option("--usage", metavar="PLACE", help="The same for voice.")
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
    """Say what a table did, from the sales since: against the control group, against what it promised, and whether it drifts."""
    from hundredfold.cli import display
    from tariffs.release import outcome, show_outcome
    from tariffs.release.measure import to_json

    home, _ = _open(target)
    given = {
        name: place for name, place in (("bundle_sales", sales), ("voice_usage", usage)) if place
    }
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
        repository.load_verified(version, home.store)  # there must be one of that version
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
    help="A new limit, from now on; needs --reason. Can be given again.",
)
@attribution_options
@target_options
@json_option
def limits(
    given: Sequence[str], by: str | None, reason: str, target: Target, as_json: bool
) -> None:
    """Show what the guards allow, or change it."""
    from dataclasses import asdict

    from hundredfold.cli import display
    from tariffs.release import actions, repository, show
    from tariffs.release.guards import limits_with

    home, once = _open(target)
    if given:
        actions.set_limits(_attribution(by, reason, target), _limit_values(given), home.store, once)
    decisions = repository.read_log(home.store)
    now = asdict(limits_with(decisions.limits))
    if as_json:
        display.print_json(now)
    else:
        show.show_limits(decisions, now)


app.add_command(evidence)


def _open(target: Target) -> tuple[Any, Any]:
    """The home of the releases, and the door through which entries go into their log."""
    home = target.open(JOB)
    from tariffs.release.repository import LockedPutIfAbsent, PutIfAbsent

    if isinstance(home.store, PutIfAbsent):
        return home, home.store  # S3 itself refuses to write over an entry
    return home, LockedPutIfAbsent(
        home.store, lambda: home.publishing(f"{JOB}_approvals")
    )  # not that of a run that publishes: it may hang


def _repair_pointer(store: Any) -> None:
    from hundredfold.cli import display
    from tariffs.release import repository

    if repository.repair_pointer(store):
        display.stderr.print(
            "active.json lagged behind the log (a command was stopped in between): it is put right",
            style="yellow",
        )


def _attribution(by: str | None, reason: str, target: Target, clock: Any = None) -> Any:
    """Who says it, by name and by account; UsageError where nobody does, or where the clock is set without a reason."""
    import secrets

    from tariffs.release.clock import local_account, principal
    from tariffs.release.decision_log import Attribution

    account, user = local_account()
    account = principal(target.backend().caller()) or account
    if not (by or user).strip():
        raise UsageError(
            "this machine does not know who says this", hint="say it with --author NAME"
        )
    if clock is not None and clock.by_hand and not reason.strip():
        raise UsageError(
            "to ask the guards as of another time than now needs a reason, which the log keeps",
            hint="add --reason WHY",
        )
    at = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    told = clock.told if clock is not None else ""
    return Attribution(
        (by or user).strip(),
        f"{user or '?'}@{_host_name()}",
        at,
        reason.strip(),
        secrets.token_hex(4),
        account,
        told,
    )


def _host_name() -> str:
    import platform

    return platform.node() or "?"


def _clock(as_of: str | None, version: int, home: Any) -> Any:
    """What counts as now for the guards."""
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
    """Where the table that charging uses lies."""
    from tariffs.release import repository

    return (
        str(home.target(repository.table_folder(decisions.charging)))
        if decisions.charging
        else None
    )


app.add_command(data_quality.command)


def _canary_locations(given: Sequence[str]) -> Sequence[str] | float:
    """Locations by name, or one share."""
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
    """The commands that make sense now: for the newest release, and for the active one."""
    told = []
    newest = facts["releases"][0] if facts["releases"] else None
    if newest is None:
        return [("hundredfold run tariffs.job:job", "publishes the first one")]
    version = str(newest["version"])
    if newest["state"] == "draft" and not newest["damage"]:
        told.append((_command(target, "check", version), "holds it against the guards"))
    if newest["state"] == "approved":
        told.append((_command(target, "activate", version), "lets charging use it"))
    if facts["charging"]:
        told.append(
            (
                _command(target, "log", str(facts["charging"]["version"])),
                "says who decided what about the table that charging uses",
            )
        )
        told.append(
            (
                _command(target, "kill", "--to", "last-approved"),
                "takes that table away from charging, at once",
            )
        )
    return told


def _command(target: Target, *parts: str) -> str:
    import shlex

    return shlex.join(["tariffs", *parts, *target.cli_options])


def main() -> None:
    """The command `tariffs`."""
    invoke(app, "tariffs")


if __name__ == "__main__":
    main()
