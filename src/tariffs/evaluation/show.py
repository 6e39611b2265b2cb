"""Output of the evaluation: tables of 80 columns with explanations, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from hundredfold.cli.display import stdout
from tariffs.evaluation.backtest import Backtest
from tariffs.evaluation.calibration import MAX_SHOWN_P_GAIN, Band, Calibration
from tariffs.evaluation.elasticity_recovery import ESTIMATORS, Recovery, Score
from tariffs.evaluation.prior import PriorSummary
from tariffs.evaluation.risk_sweep import Dial, Setting
from tariffs.evaluation.simulation import Loop
from tariffs.evaluation.substitution import SubstitutionEstimate

LINE_NAMES = {"bundle": "Bundles", "voice": "Voice"}
ESTIMATOR_TEXTS = {
    "shrunk": "the posterior that prices are made of",
    "prior": "the mean of the unit's kind",
    "pooled": "one for all units",
    "alone": "the unit's own fit, cut off at -6 and 0",
}


def show_recovery(found: Recovery) -> None:
    """Print bias, coverage and RMSE of all units, and of each level of each factor."""
    _head(f"{LINE_NAMES[found.line]}: elasticities against the truth")
    grid = _grid(
        "",
        "units",
        "true mean",
        "bias",
        "cover 90 %",
        *(f"RMSE: {way}" if way == "shrunk" else way for way in _ways()),
    )
    factor = "all"
    for score in found.scores:
        if score.factor != factor:
            factor = score.factor
            grid.add_row(f"[dim]{escape(factor)}[/]")
        grid.add_row(*_score(score))
    _print(grid)
    _print_hanging(
        f"tau, the spread around the mean of a kind: {found.tau:.3f} estimated,"
        f" {found.true_tau:.3f} true"
    )


def show_ways() -> None:
    """Print the names of the four estimators."""
    stdout.print()
    for way in _ways():
        _print_hanging(f"{way:<7} {ESTIMATOR_TEXTS[way]}")


def show_calibration(found: Calibration | None, kind: str) -> None:
    """Print promised and realised gains, by bands of P(gain)."""
    _head(f"{LINE_NAMES[kind]}: does P(gain) keep its word?")
    if found is None:
        _print_hanging("nothing moved in this table, so nothing was promised")
        return
    grid = _grid("promised P(gain)", "moves", "mean", "gained", "95 % interval", "", "")
    for band in found.bands:
        grid.add_row(f"{band.lowest:.3f} to {band.highest:.3f}", *_band(band))
    grid.add_row("[bold]all moves[/]", *_band(found.all))
    _print(grid)
    _print_hanging(
        f"margin a week: {found.promised_margin:+,.0f} promised, {found.true_margin:+,.0f} true"
    )


def show_bars() -> None:
    """Print the legend of the bars of `show_calibration`."""
    stdout.print()
    _print_hanging(
        "bar: 0 to 1; = 95 % interval of what gained, | the promise, which belongs inside"
    )
    _print_hanging("Moves that promise little are forced: by a full cell, a floor, the ladder.")


def show_dial(found: Dial) -> None:
    """Print lift and harm at each setting, a table for each line."""
    for kind, name in LINE_NAMES.items():
        settings = [s for s in found.settings if s.line == kind]
        _head(f"{name}: the whole job at other settings of z")
        known = settings[0].truly is not None
        grid = _grid(
            "z",
            "moved",
            "promised lift",
            "P(gain)",
            *(("true lift", "gained", "harmed") if known else ()),
        )
        for s in settings:
            grid.add_row(*_setting(s))
        _print(grid)
        if kind == "bundle" and found.oracle is not None:
            _print_hanging(
                f"with known elasticities, {found.oracle:+.2%} could be gained"
                " within the same limits"
            )
    stdout.print()
    _print_hanging("moved: share of the units; lift: of margin, against today's prices;")
    if any(s.truly for s in found.settings):
        _print_hanging(
            "P(gain): mean promise of the moves; gained: the share of them that keep it;"
        )
        _print_hanging("harmed: share of the units that lose margin by their move")


def show_prior(found: PriorSummary) -> None:
    """Print the verdict on the prices, the noise of each group, and the gate's choice."""
    _head(f"{LINE_NAMES[found.line]}: do prices answer to demand?  {found.exogeneity}")
    _print_hanging(found.meaning)
    if found.rho_p >= 0:
        _print_hanging(
            f"rho {found.rho:+.3f} (se {found.rho_se:.3f}, p {found.rho_p:.3g});"
            f" taken out of every unit's weeks: {found.rho_used:+.3f}"
        )
        _print_hanging(
            f"the test sees a rho of {found.visible:.2f} four times in five;"
            " a smaller one it may miss"
        )
        for text in _beside(found):
            _print_hanging(text)
    _print_hanging(
        f"trials: {found.trials:.1%} of the weeks;"
        f" sold out, at the cell's capacity: {found.censored:.1%}"
    )
    grid = _grid(found.factor, "elasticity", "phi", "c", "gate", "units", "own fits", "mean alone")
    for group in found.groups:
        cells = (
            [f"{value:.4f}" for value in (group.deviance_eb, group.deviance_pooled)]
            if group.tested
            else ["-", "-"]
        )
        noise = [f"{group.elasticity:.2f}", f"{group.dispersion:.2f}", f"{group.inflation:.2f}"]
        grid.add_row(escape(group.name), *noise, group.gate, f"{group.tested:,}", *cells)
    _print(grid)
    _print_hanging(
        f"tau, the spread around the mean of a kind: {found.tau:.3f},"
        f" from {found.telling:,} of {found.units:,} units"
    )


def _beside(found: PriorSummary) -> tuple[str, ...]:
    """Return lines on rho beside the sales that other products or hours take."""
    if math.isnan(found.chi):
        return ("sales that other products or hours take are not removed from rho",)
    return (
        f"sales that neighbouring products take: chi {found.chi:+.3f} (se {found.chi_se:.3f})",
        f"with these removed, rho is {found.rho_beside:+.3f} (se {found.rho_beside_se:.3f})",
    )


def show_gates() -> None:
    """Print the legend of `show_prior`."""
    stdout.print()
    _print_hanging("rho     what chosen prices and demand have in common; 0: prices are innocent")
    _print_hanging("chi     sales gained where a neighbour's price rises: tariffs evidence")
    _print_hanging("        substitution; a cross effect raises chi, foresight raises rho")
    _print_hanging("phi, c  the noise: dispersion, and what weeks that go together add to it")
    _print_hanging("gate    EB: units keep their own fits; POOLED: the mean of the kind foretold")
    _print_hanging("        held-out weeks better (less deviance) and prices; EB_UNTESTED: too few")


def show_backtest(found: Backtest) -> None:
    """Print the deviance of the held-out weeks, by estimator and level; the best is marked."""
    _head(f"{LINE_NAMES[found.line]}: the last {found.held_out} weeks, by fits of the weeks before")
    grid = _grid(
        found.factor, "units", "weeks", *_ways(), "best", *(["gate"] if found.gate else [])
    )
    for judged in found.judged:
        cells = [f"{judged.deviance[way]:.4f}" for way in _ways()]
        grid.add_row(
            escape(judged.level),
            f"{judged.units:,}",
            f"{judged.weeks:,}",
            *cells,
            judged.best,
            found.gate.get(judged.level, ""),
        )
    _print(grid)
    _print_hanging("Poisson deviance per week: less is better; the levels and the season of these")
    _print_hanging("weeks are at their own best for each: what differs is the answer to price")


def show_substitution(found: SubstitutionEstimate) -> None:
    """Print the estimate of chi, and its meaning for a pricing team."""
    chi, (low, high) = found.found, found.found.interval
    _head("Bundles: what the sizes of one ladder take from one another")
    _print_hanging(
        f"chi: {chi.chi:+.3f}, standard error {chi.se:.3f},"
        f" 95 % interval {low:+.3f} to {high:+.3f}, p = {chi.p:.3f}"
    )
    _print_hanging(f"from {chi.weeks:,} weeks in {chi.clusters:,} locations")
    if low > 0:
        _print_hanging(
            "If a size costs a tenth more, its neighbours sell"
            f" {math.expm1(0.1 * chi.chi):.1%} more."
        )
    elif high < 0:
        _print_hanging(
            "Neighbours sell less if a size costs more: they are bought together,"
            " or their prices follow demand."
        )
    else:
        _print_hanging("No substitution is seen: the interval holds zero.")
    values = ", ".join(f"{scope} {value:g}" for scope, value in found.policy.items())
    _print_hanging(f"The policy's cross_effect is: {values or 'nothing (0)'}")


def show_loop(found: Loop) -> None:
    """Print the true lift in margin after each cycle."""
    cycles = len(found.ways[0].lift)
    _head(
        f"{cycles} cycles of {found.weeks} weeks, {found.units:,} bundle units: true lift in margin"
    )
    shown = sorted({0, 1, 2, cycles // 2 - 1, cycles - 1} & set(range(cycles)))
    grid = _grid("policy", *(f"cycle {n + 1}" for n in shown), "mean", "moved", "harmed")
    for way in found.ways:
        lifts = [f"{way.lift[n]:+.1%}" for n in shown]
        grid.add_row(
            way.policy,
            *lifts,
            f"{sum(way.lift) / cycles:+.1%}",
            f"{way.moved:.0%}",
            f"{way.harmed:.1%}",
        )
    _print(grid)
    _print_hanging(f"with known elasticities, without steps: {found.oracle:+.1%}")
    _print_hanging("against the start, before the ladder; moved: mean share of units in a cycle;")
    _print_hanging("harmed: share of units that earn less at the end than at the start")


def _score(score: Score) -> list[str]:
    return [
        escape(f"  {score.level}" if score.factor != "all" else score.level),
        f"{score.units:,}",
        f"{score.truth:.2f}",
        f"{score.bias:+.3f}",
        f"{score.cover:.1%}",
        *(f"{score.rmse[way]:.3f}" for way in _ways()),
    ]


def _band(band: Band) -> list[str]:
    low, high = band.interval
    verdict = "" if band.fits else "outside"
    return [
        f"{band.moves:,}",
        chance(band.promised),
        f"{band.realised:.3f}",
        f"{low:.3f} to {high:.3f}",
        _bar(band),
        verdict,
    ]


def _bar(band: Band) -> str:
    """Return twenty characters from 0 to 1: = the interval, | the promise."""
    low, high, promise = (min(int(20 * value), 19) for value in (*band.interval, band.promised))
    return "".join("|" if n == promise else "=" if low <= n <= high else "." for n in range(20))


def chance(p: float) -> str:
    """Return a probability of gain, never shown as certain."""
    return ">0.99" if p > MAX_SHOWN_P_GAIN else f"{p:.3f}"


def _setting(s: Setting) -> list[str]:
    cells = [f"{s.z:g}", f"{s.moved:.1%}", f"{s.promised:+.2%}", chance(s.p_gain)]
    return [
        *cells,
        *(
            [f"{s.truly.lift:+.2%}", f"{s.truly.realised:.3f}", f"{s.truly.harmed:.1%}"]
            if s.truly
            else []
        ),
    ]


def _ways() -> Sequence[str]:
    return [way for way in ESTIMATOR_TEXTS if way in ESTIMATORS]


def _head(words: str) -> None:
    stdout.print(f"\n[bold]{escape(words)}[/]")


def _print_hanging(words: str) -> None:
    stdout.print(words, style="dim")


def _grid(*columns: str) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for number, name in enumerate(columns):
        grid.add_column(name, justify="right" if number else "left", no_wrap=True)
    return grid


def _print(grid: Grid) -> None:
    Console(highlight=False, width=max(stdout.width, 110)).print(grid)
