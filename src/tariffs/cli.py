"""The command `tariffs`, for a pricing team: from a published price table to charging.

Results go to stdout, messages to stderr.  Exit status: 0 = done, 1 = refused or a guard fails,
2 = usage error, 130 = interrupted.  Each command imports its expensive modules itself, so that
`--help` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from hundredfold import __version__
from hundredfold.cli.options import (
    Group,
    Target,
    as_of_option,
    invoke,
    json_option,
    target_options,
)
from hundredfold.errors import UsageError
from tariffs import data_quality
from tariffs.cli_reports import delta, export, log, measure
from tariffs.cli_shared import (
    active_folder,
    attribution_of,
    attribution_options,
    catalogue_option,
    clock_of,
    command_text,
    open_home,
    override_option,
    repair_pointer,
    sources_of,
    version_argument,
)
from tariffs.evaluation.commands import evidence


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


@app.command()
@target_options
@json_option
def status(target: Target, as_json: bool) -> None:
    """List the releases with state, author and reason, and the table that charging uses."""
    from hundredfold.cli import display
    from tariffs.release import repository, show
    from tariffs.release.status import status_facts

    home, _ = open_home(target)
    repair_pointer(home.store)
    decisions = repository.read_log(home.store)
    facts = status_facts(decisions, home.store)
    if as_json:
        display.print_json(facts)
        return
    show.show_status(facts, home, active_folder(home, decisions))
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
    from tariffs.release import checks, repository, show

    home, _ = open_home(target)
    clock = clock_of(as_of, version, home)
    checked = checks.check(
        version, repository.read_log(home.store), home.store, sources_of(home, catalogue), clock.now
    )
    if as_json:
        display.print_json({**asdict(checked), "passed": not checked.failed})
    else:
        show.show_checked(checked, clock.description)
        overrides = [word for f in checked.failed for word in ("--override", f.code)]
        if overrides:
            command = command_text(target, "approve", str(version), *overrides, "--reason", "WHY")
            show.show_hints([(command, "approves it nevertheless; the log records it")])
        else:
            show.show_hints([(command_text(target, "approve", str(version)), "approves it")])
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

    home, log_writer = open_home(target)
    clock = clock_of(as_of, version, home)
    attribution = attribution_of(by, reason, target, clock)
    done = actions.approve(
        version,
        attribution,
        home.store,
        log_writer,
        sources_of(home, catalogue),
        clock.now,
        _guard_codes(overrides),
    )
    show.show_decision(done, None)
    show.show_hints(
        [
            (
                command_text(target, "activate", str(version)),
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

    home, log_writer = open_home(target)
    clock = clock_of(as_of, version, home)
    start = (
        partial(actions.start_canary, version, _canary_locations(canary))
        if canary
        else partial(actions.activate, version)
    )
    done = start(
        attribution_of(by, reason, target, clock),
        home.store,
        log_writer,
        sources_of(home, catalogue),
        clock.now,
        overridden=_guard_codes(overrides),
        same_person=same_person,
    )
    show.show_decision(done, active_folder(home, done.decisions))
    show.show_hints(_after_activation(version, target, canary=bool(canary)))


def _after_activation(version: int, target: Target, *, canary: bool) -> list[tuple[str, str]]:
    further = [
        (
            command_text(target, "measure", "active"),
            "compares these locations with the others, once there are newer sales",
        ),
        (command_text(target, "activate", str(version)), "lets charging use it everywhere"),
    ]
    back = (
        command_text(target, "kill", "--to", "last-approved"),
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

    home, log_writer = open_home(target)
    show.show_decision(
        actions.withdraw(version, attribution_of(by, reason, target), home.store, log_writer), None
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
    from tariffs.release import kill_switch, show
    from tariffs.release.show_preview import show_preview

    home, log_writer = open_home(target)
    if dry_run:
        show_preview(kill_switch.preview_kill(to, home.store))
        show.show_hints([(command_text(target, "kill", "--to", to, "--reason", "WHY"), "does it")])
        return
    try:
        found = kill_switch.preview_kill(to, home.store)
    except StateError:
        found = None  # damage elsewhere does not stop the kill switch; it reports its own obstacle
    done = kill_switch.kill(
        to, attribution_of(by, reason or "kill switch", target), home.store, log_writer
    )
    if found is not None and found.table == done.entry.active:
        show_preview(found, done=True)
    show.show_decision(done, active_folder(home, done.decisions))
    further = [
        (command_text(target, "kill", "--to", "rule"), "takes a further step to the rule's prices")
    ]
    stepping = done.entry.active is not None and done.entry.active.step
    show.show_hints(
        [
            *(further if stepping else []),
            (command_text(target, "status"), "shows the present state"),
        ]
    )


for report in (delta, export, measure, log):
    app.add_command(report)


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

    home, log_writer = open_home(target)
    if given:
        actions.set_limits(
            attribution_of(by, reason, target), _limit_values(given), home.store, log_writer
        )
    decisions = repository.read_log(home.store)
    now = asdict(limits_with(decisions.limits))
    if as_json:
        display.print_json(now)
    else:
        show.show_limits(decisions, now)


for command in (evidence, data_quality.command):
    app.add_command(command)


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
        commands.append((command_text(target, "check", version), "checks it with every guard"))
    if newest["state"] == "approved":
        commands.append((command_text(target, "activate", version), "lets charging use it"))
    if facts["active"]:
        commands.append(
            (
                command_text(target, "log", str(facts["active"]["version"])),
                "shows the decisions about the table that charging uses",
            )
        )
        commands.append(
            (
                command_text(target, "kill", "--to", "last-approved"),
                "takes that table away from charging at once",
            )
        )
    return commands


def main() -> None:
    """Run the command `tariffs`."""
    invoke(app, "tariffs")


if __name__ == "__main__":
    main()
