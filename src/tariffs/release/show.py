"""Output for people: tables and sentences on stdout, with the next commands.

It is readable without colour, and at 100 columns.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from hundredfold.cli.display import (
    fits_a_terminal,
    print_indented,
    relative_path,
    show_next,
    stderr,
    stdout,
)
from tariffs.contracts import TOTALS_TITLE
from tariffs.release.checks import Checked
from tariffs.release.decide import Done
from tariffs.release.decision_log import DecisionLog, Finding, LogEntry, Table
from tariffs.release.delta import Delta
from tariffs.release.guards import UNITS_OF
from tariffs.release.states import Event

PIPE_WIDTH_CHARACTERS = 120  # of a line without a terminal
MIN_SHOWN_OPTIMISM = 0.0005  # below it, 0.0% would be printed
WRAPPED_COLUMNS = (
    "why",
    "found",
    "allowed",
    "last decision (UTC)",
    "of",
    "when (UTC)",
    "largest",
    "volume",
    "revenue",
    "margin",
)  # columns that may be wrapped
STATE_STYLES = {
    "draft": "yellow",
    "approved": "cyan",
    "canary": "magenta",
    "active": "bold green",
    "withdrawn": "dim",
}
EVENT_VERBS = {
    Event.APPROVE: "approved",
    Event.TRY: "tried",
    Event.ACTIVATE: "activated",
    Event.REPLACE: "replaced",
    Event.WITHDRAW: "withdrawn",
    Event.KILL: "killed",
    Event.RESTORE: "restored",
}

EVENT_RESULTS = {
    Event.APPROVE: "approved",
    Event.TRY: "tried in some locations",
    Event.ACTIVATE: "active",
    Event.REPLACE: "replaced, and so withdrawn",
    Event.WITHDRAW: "withdrawn",
    Event.KILL: "killed, and so withdrawn",
    Event.RESTORE: "restored, and so active",
}


def show_status(facts: Mapping[str, Any], home: Any, folder: str | None) -> None:
    """Print every release with its state, and the active table."""
    if not facts["releases"]:
        stdout.print(
            f"no price table is published in {escape(relative_path(home.description))} yet"
        )
        return
    grid = grid_of(
        "",
        "release",
        "state",
        "as of",
        "prices",
        "last decision (UTC)",
        "by",
        "why",
        right={"release", "prices"},
    )
    for r in facts["releases"]:
        used = facts["active"] and r["version"] in (
            facts["active"]["version"],
            facts["active"]["canary"],
        )
        decided = f"{EVENT_VERBS[Event(r['event'])]} {_minute(r['at'])}" if r["at"] else "-"
        why = "; ".join(
            [
                *([r["reason"]] if r["reason"] else []),
                *([f"despite {', '.join(r['overridden'])}"] if r["overridden"] else []),
            ]
        )
        state = f"[{STATE_STYLES[r['state']]}]{r['state']}[/]"
        grid.add_row(
            "*" if used else "",
            str(r["version"]),
            state,
            (r["as_of"] or "-")[:16],
            f"{r['prices']:,}" if r["prices"] else "-",
            decided,
            escape(r["author"] or "-"),
            escape(why or "-"),
        )
    print_grid(grid)
    for r in facts["releases"]:
        for damage in r["damage"]:
            stdout.print(f"[red]release {r['version']}: {escape(damage)}[/]")
    show_charging(facts["active"], folder)


def show_charging(charging: Mapping[str, Any] | None, folder: str | None) -> None:
    if charging is None:
        stdout.print("\nCharging uses no table yet: none was activated.")
        return
    names = ("version", "rule", "canary", "unchanged", "step", "after")
    table = Table(
        **{name: charging[name] for name in names}, locations=tuple(charging["locations"])
    )
    stdout.print()
    print_indented(
        "",
        f"Charging uses {table} (*), since {_minute(charging['since'])} UTC,"
        f" by {charging['author']}",
        "bold",
    )
    if table.locations:
        stdout.print(f"  release {table.canary} in {escape(_first_names(table.locations))}")
    if folder:
        stdout.print(f"  {escape(relative_path(folder))}")


def show_checked(checked: Checked, clock: str = "") -> None:
    """Print a line for each guard, and the first cases of those that fail."""
    against = (
        f"against {checked.compared_with}, which charging uses"
        if checked.compared_with
        else "no other table is active"
    )
    stdout.print(f"[bold]Release {checked.version}[/], {against}")
    stdout.print(f"{f'as of {escape(clock)}' + chr(10) if clock else ''}")
    grid = grid_of("guard", "", "found", "allowed")
    for f in checked.findings:
        grid.add_row(
            f.code, "ok" if f.passed else "[bold red]FAILS[/]", escape(f.found), escape(f.limit)
        )
    print_grid(grid)
    _show_totals(checked.totals)
    for limits in checked.limits:
        stdout.print()
        print_indented("", _limits_text(limits))
    for f in checked.failed:
        show_cases(f)
    failed = len(checked.failed)
    fail = f"[bold]{failed} of {len(checked.findings)} guards fail.[/]"
    stdout.print(f"\n{fail if failed else 'All guards pass.'}")


def _show_totals(totals: Sequence[Mapping[str, Any]]) -> None:
    """Print the expected changes of the whole table, by kind, with intervals."""
    if not totals:
        return
    grid = grid_of(
        "", "expected", "change a week", "from", "to", right={"change a week", "from", "to"}
    )
    for row in totals:
        for name in ("revenue", "margin", "volume"):
            low, high = (row.get(f"{name} {end}", row.get(end)) for end in ("from", "to"))
            if row.get(name) is not None and low is not None and high is not None:
                grid.add_row(
                    str(row["line"]) if name == "revenue" else "",
                    name,
                    f"{row[name]:+,.0f}",
                    f"{low:+,.0f}",
                    f"{high:+,.0f}",
                )
    stdout.print(f"\n[bold]{escape(TOTALS_TITLE)}[/]")
    print_grid(grid)
    for row in totals:
        if float(row.get("optimism") or 0.0) >= MIN_SHOWN_OPTIMISM:
            words = (
                f"{row['line']}: {row['optimism']:.1%} less margin than the units' changes add up"
                " to, since the moves were chosen for looking best"
            )
            print_indented("", words)


def _limits_text(row: Mapping[str, Any]) -> str:
    """Return the outcome of a kind's limits on the whole table, and the gap to the best prices."""
    words = f"{row['line']}, {row['limits']}: {row['outcome']}"
    if not isinstance(row["gap"], int | float):  # "nan" in older releases
        return words
    return (
        f"{words}; worth {row['worth']:,.0f} a week, and no prices within these limits are worth"
        f" {row['gap']:,.2f} more ({row['%']:.4f}%)"
    )


def show_cases(finding: Finding) -> None:
    if not finding.examples:
        return
    stdout.print(f"\n[bold]{finding.code}[/]")
    for case in finding.examples:
        print_indented("  ", case)
    if finding.count > len(finding.examples):
        stdout.print(f"  and {finding.count - len(finding.examples):,} more")


def show_decision(done: Done, folder: str | None) -> None:
    """Print the results of a decision."""
    for passed in done.skipped:
        stderr.print(f"skipped {escape(passed)}", style="yellow")
    entry = done.entry
    for version, event in entry.moves:
        stdout.print(f"release {version} is [bold]{EVENT_RESULTS[event]}[/]")
    if entry.overridden:
        stdout.print(f"set aside: {', '.join(entry.overridden)}")
    if entry.action in ("activate", "canary", "kill") and entry.active:
        stdout.print(f"[bold]charging uses {entry.active}[/]")
        if entry.active.locations:
            locations = escape(_first_names(entry.active.locations))
            stdout.print(f"  release {entry.active.canary} in {locations}")
        if folder:
            stdout.print(f"  {escape(relative_path(folder))}")
    stdout.print(
        f"entry {entry.number} of the log, {_minute(entry.attribution.at)} UTC,"
        f" by {escape(_who(entry))}",
        style="dim",
    )


def show_log(entries: Sequence[LogEntry], version: int | None) -> None:
    if not entries:
        stdout.print(
            "nothing was decided yet"
            if version is None
            else f"nothing was decided about release {version} yet: it is a draft"
        )
        return
    for entry in entries:
        reason = f": {escape(entry.attribution.reason)}" if entry.attribution.reason else ""
        stdout.print(
            f"[bold]{entry.number:>4}[/]  {_minute(entry.attribution.at)} UTC"
            f"  [bold]{entry.action}[/]  by {escape(_who(entry))}{reason}"
        )
        for line in _lines_of(entry):
            stdout.print(f"      {escape(line)}")


def show_limits(decisions: DecisionLog, limits: Mapping[str, float]) -> None:
    grid = grid_of("limit", "value", "of", "set by", "when (UTC)", "why", right={"value"})
    for name, value in limits.items():
        entry = next((e for e in reversed(decisions.entries) if name in e.limits), None)
        by, at, why = (
            (
                escape(entry.attribution.author),
                _minute(entry.attribution.at),
                escape(entry.attribution.reason),
            )
            if entry
            else ("as shipped", "-", "-")
        )
        grid.add_row(name, f"{value:g}", UNITS_OF[name], by, at, why)
    print_grid(grid)


def show_delta(old: Table, new: Table, change: Delta, files: Sequence[str], rows: int) -> None:
    counts = change.counts()
    parts = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    stdout.print(
        f"[bold]From {old} to {new}[/]: {parts},"
        f" {rows - counts['added'] - counts['changed']:,} as before"
    )
    moved = change.rows.slice(0, 5).to_pylist()
    if moved:
        grid = grid_of("unit", "change", "old", "new", right={"old", "new"})
        for row in moved:
            grid.add_row(
                escape(row["unit_key"]),
                row["change"],
                money(row["old_price"]),
                money(row["new_price"]),
            )
        print_grid(grid)
        if change.rows.num_rows > len(moved):
            stdout.print(f"and {change.rows.num_rows - len(moved):,} more, in")
    for file in files:
        stdout.print(f"  {escape(relative_path(file))}")


def show_hints(commands: Sequence[tuple[str, str]]) -> None:
    if commands:
        show_next(commands)


def _lines_of(entry: LogEntry) -> list[str]:
    lines = [f"release {version}: {EVENT_VERBS[event]}" for version, event in entry.moves]
    lines += [f"account {entry.attribution.account}"] if entry.attribution.account else []
    lines += [f"as of {entry.attribution.clock}"] if entry.attribution.clock else []
    if entry.action in ("activate", "canary", "kill"):
        lines.append(f"charging uses {entry.active}")
    if entry.compared_with:
        lines.append(f"compared with {entry.compared_with}")
    lines += [
        f"{f.code} set aside: {f.found} (allowed: {f.limit})"
        for f in entry.findings
        if f.code in entry.overridden
    ]
    passed = sum(f.passed for f in entry.findings)
    lines += [f"{passed} of {len(entry.findings)} guards passed"] if entry.findings else []
    lines += [f"{name} = {value:g}" for name, value in entry.limits.items()]
    return lines


def _who(entry: LogEntry) -> str:
    """Return the name, and the account if that has another."""
    user = entry.attribution.login.partition("@")[0]
    return (
        entry.attribution.author
        if user == entry.attribution.author
        else f"{entry.attribution.author} (as {entry.attribution.login})"
    )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def money(value: float | None) -> str:
    return (
        "-"
        if value is None
        else f"{value:,.2f}"
        if round(value, 2) == round(value, 6)
        else f"{value:,.6g}"
    )


def grid_of(*columns: str, right: frozenset[str] | set[str] = frozenset()) -> Grid:
    """Return an empty table of texts and figures."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        grid.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name not in WRAPPED_COLUMNS,
        )
    return grid


def print_grid(grid: Grid) -> None:
    """Print a table within the width of the terminal.

    Figures and names are never shortened; a very narrow terminal wraps them itself.
    """
    room = stdout.options.update(max_width=10_000)
    for column in grid.columns:
        if column.no_wrap:
            column.min_width = max(
                Measurement.get(stdout, room, cell).maximum
                for cell in (column.header, *column.cells)
            )
    wanted = Measurement.get(stdout, room, grid)
    width = min(
        wanted.maximum,
        max(stdout.width if fits_a_terminal() else PIPE_WIDTH_CHARACTERS, wanted.minimum),
    )
    with (wide := Console(highlight=False, width=width)).capture() as printed:
        wide.print(grid)
    for line in printed.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")
