"""Output of a measurement for people: realised beside promised figures, with notes."""

from __future__ import annotations

import math

from rich.markup import escape

from hundredfold.cli.display import stdout
from tariffs.release.drift import CUSUM_ALARM
from tariffs.release.effect import Effect
from tariffs.release.measure import Kpi, Measured
from tariffs.release.outcome import Outcome
from tariffs.release.show import MIN_SHOWN_OPTIMISM, grid_of, print_grid

MIN_CONTROL_LOCATIONS = 5


def show_outcome(found: Outcome) -> None:
    m = found.measured
    until = f" until {found.until}" if found.until else ""
    stdout.print(
        f"[bold]{str(found.table).capitalize()}[/], in use from {found.since}{until};"
        f" sales of {escape(found.read)}"
    )
    stdout.print(
        f"{_weeks(m.before)} before against {_weeks(m.after)} after;"
        f" {m.moved:.1%} of the prices moved\n"
    )
    if not m.kpis:
        stdout.print("Nothing can be compared: no control unit sold both before and after.")
    else:
        _show_kpis(m)
    for line in [
        *notes(m),
        *(
            [f"{found.unsound:,} rows of sales are invalid: no date, quantity, price or subscriber"]
            if found.unsound
            else []
        ),
    ]:
        stdout.print(f"  {line}")
    if m.bands:
        _show_bands(m)
    _show_champion(m)
    _show_drift(m)


def _show_kpis(m: Measured) -> None:
    grid = grid_of(
        "per active subscriber",
        "",
        "promised",
        "realised",
        "95 % of chance",
        "money a week",
        right={"promised", "realised", "money a week"},
    )
    for k in m.kpis:
        money = f"{k.effect.extra:+,.0f}" if k.name in ("revenue", "margin") else ""
        grid.add_row(
            k.kind, k.name, _share(k.promised), _share(k.effect.change), _interval(k.effect), money
        )
    for k in m.placebo:
        grid.add_row(
            k.kind,
            "[dim]placebo: revenue, within the weeks before[/]",
            _share(0.0),
            _share(k.effect.change),
            _interval(k.effect),
            "",
        )
    print_grid(grid)


def notes(m: Measured) -> list[str]:
    """Return remarks that qualify the figures."""
    remarks = []
    for kind in dict.fromkeys(k.kind for k in m.kpis):
        e = next(k.effect for k in m.kpis if k.kind == kind)
        remarks.append(
            f"{kind}: {e.units:,} units repriced and {e.held:,} held,"
            f" {e.control_locations:,} of {e.locations:,} locations are control"
        )
        if e.control_locations < MIN_CONTROL_LOCATIONS:
            remarks.append(
                f"{kind}: with few control locations, the interval assumes the same variation"
                " there as elsewhere"
            )
    remarks += [
        f"{_named(k)}: the weeks before differ already by {k.effect.change:+.1%};"
        " do not rely on its effect"
        for k in m.placebo
        if _is_significant(k.effect)
    ]
    remarks += [
        f"{kind}: the promise is {share:.1%} of the units' changes less than they add up to, since"
        " the moves were chosen for looking best; the bands below are the units' own"
        for kind, share in m.optimism.items()
        if share >= MIN_SHOWN_OPTIMISM
    ]
    if m.unknown:
        remarks.append(f"{m.unknown:,} rows of sales are of units outside the table")
    if m.set_aside:
        remarks.append(f"{m.set_aside:,} rows of sales are spikes, set aside")
    return remarks


def _show_bands(m: Measured) -> None:
    grid = grid_of(
        "P(gain)",
        "bundles moved",
        "mean P(gain)",
        "promised margin",
        "realised margin",
        "95 % of chance",
        right={"bundles moved", "mean P(gain)"},
    )
    for b in m.bands:
        realised, chance = (
            (_share(b.effect.change), _interval(b.effect)) if b.effect else ("-", "-")
        )
        grid.add_row(
            f"{b.lo:.2f} to {b.hi:.2f}",
            f"{b.units:,}",
            ">0.99" if b.p_gain > 0.99 else f"{b.p_gain:.2f}",
            _share(b.promised),
            realised,
            chance,
        )
    stdout.print()
    print_grid(grid)


def _show_champion(m: Measured) -> None:
    if not m.champion:
        return
    grid = grid_of(
        "expected margin a week",
        "this table",
        "the rule",
        "no change",
        right={"this table", "the rule", "no change"},
    )
    for kind, prices in m.champion.items():
        grid.add_row(
            kind, f"{prices['table']:,.0f}", f"{prices['rule']:,.0f}", f"{prices['no change']:,.0f}"
        )
    stdout.print()
    print_grid(grid)
    stdout.print("  by the table's own elasticities, since the rule's prices are not in use")


def _show_drift(m: Measured) -> None:
    if not m.charts:
        stdout.print(
            "\nDrift cannot be measured: the table expects no volumes, or there is no control unit."
        )
        return
    grid = grid_of(
        "segment", "sold against expected", "CUSUM", "", right={"sold against expected", "CUSUM"}
    )
    for c in m.charts:
        grid.add_row(
            escape(c.name),
            f"{c.ratio:+.1%}",
            f"{c.peak:.1f}",
            "[bold red]DRIFTS[/]" if c.alarm else "ok",
        )
    stdout.print()
    print_grid(grid)
    alarms = [c.name for c in m.charts if c.alarm]
    text = (
        f"[bold]Demand differs from the expectation (CUSUM beyond {CUSUM_ALARM:g}):"
        f" {escape(', '.join(alarms))}.[/]"
        if alarms
        else f"No segment drifts (beyond {CUSUM_ALARM:g})."
    )
    stdout.print(text)


def _is_significant(e: Effect) -> bool:
    return math.isfinite(e.lo) and (e.lo > 0 or e.hi < 0)


def _named(k: Kpi) -> str:
    return f"{k.kind}, {k.name}"


def _share(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "-"


def _interval(e: Effect) -> str:
    return f"{e.lo:+.1%} to {e.hi:+.1%}" if math.isfinite(e.lo) else "too few locations"


def _weeks(days: tuple[str, ...]) -> str:
    return (
        f"{len(days)} week{'s' * (len(days) != 1)} ({days[0]} to {days[-1]})"
        if len(days) > 1
        else f"1 week ({days[0]})"
        if days
        else "no week"
    )
