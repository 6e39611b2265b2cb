"""`tariffs evidence`: the evaluation of a model, for data scientists and for approvers.

Results go to stdout, messages to stderr.  Each command imports its expensive modules itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from hundredfold.cli.options import Group, Target, home_option, json_option, run_argument

truth_option = click.option(
    "--truth",
    metavar="FOLDER",
    help="The folder of the generator's truth; beside the run's sources, if left out.",
)
plots_option = click.option(
    "--plots",
    metavar="FOLDER",
    help="Draw plots as SVG and PNG in this folder (needs the extra 'report').",
)


def finished_run_options(command: Any) -> Any:
    """Add the options of a run, its home and its truth."""
    return run_argument(truth_option(plots_option(home_option(json_option(command)))))


@click.group(cls=Group)
def evidence() -> None:
    """Compare the results of a finished run with a known truth, and with held-out weeks."""


@evidence.command()
@finished_run_options
def truth(run: str | None, truth: str | None, plots: str | None, home: str, as_json: bool) -> None:
    """Compare elasticities with the truth: bias, coverage of 90 % intervals, and RMSE."""
    from tariffs.evaluation import elasticity_recovery as recovery
    from tariffs.evaluation import show
    from tariffs.evaluation.product_lines import LINES

    finished = _open(home, run, truth)
    found = [recovery.recover(finished, line) for line in LINES]
    if as_json:
        _json(
            [{name: value for name, value in asdict(f).items() if name != "sample"} for f in found]
        )
    else:
        for f in found:
            show.show_recovery(f)
        show.show_ways()
    _plot(plots, "truth", lambda draw: [draw.recovery(f) for f in found])


@evidence.command()
@finished_run_options
def calibration(
    run: str | None, truth: str | None, plots: str | None, home: str, as_json: bool
) -> None:
    """Compare P(gain) with the outcomes: of the moves with 80 %, do 80 % gain?"""
    from tariffs.evaluation import show
    from tariffs.evaluation.calibration import calibrate
    from tariffs.evaluation.product_lines import LINES
    from tariffs.evaluation.true_value import market

    finished = _open(home, run, truth)
    found = {line.kind: calibrate(market(finished, line)) for line in LINES}
    if as_json:
        _json({kind: asdict(f) if f else None for kind, f in found.items()})
    else:
        for kind, f in found.items():
            show.show_calibration(f, kind)
        show.show_bars()
    _plot(plots, "calibration", lambda draw: [draw.calibration(f) for f in found.values() if f])


@evidence.command()
@click.option(
    "--z",
    "settings",
    type=float,
    multiple=True,
    metavar="Z",
    help="A setting to try (repeatable); 0, 0.5, 0.84, 1.28 and 1.96, if left out.",
)
@finished_run_options
def dial(
    settings: Sequence[float],
    run: str | None,
    truth: str | None,
    plots: str | None,
    home: str,
    as_json: bool,
) -> None:
    """Run the job at other settings of the risk dial z: lift and harm. Publishes nothing."""
    from tariffs.evaluation import show
    from tariffs.evaluation.product_lines import LINES
    from tariffs.evaluation.risk_sweep import SETTINGS, sweep

    found = sweep(_open(home, run, truth), settings or SETTINGS, _report_progress)
    if as_json:
        _json(asdict(found))
    else:
        show.show_dial(found)
    _plot(plots, "dial", lambda draw: [draw.dial(found, line.kind) for line in LINES])


@evidence.command()
@run_argument
@home_option
@json_option
def prior(run: str | None, home: str, as_json: bool) -> None:
    """Show the prior's findings on its data, and the gate's choices. Needs no truth."""
    from tariffs.evaluation import show
    from tariffs.evaluation.prior import summarise_prior
    from tariffs.evaluation.product_lines import LINES

    finished = _open(home, run, None)
    found = [summarise_prior(finished, line) for line in LINES]
    if as_json:
        _json([asdict(f) for f in found])
    else:
        for f in found:
            show.show_prior(f)
        show.show_gates()


@evidence.command()
@click.option(
    "--weeks",
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Number of weeks at the end that are held out.",
)
@finished_run_options
def backtest(
    weeks: int, run: str | None, truth: str | None, plots: str | None, home: str, as_json: bool
) -> None:
    """Score shrunk, pooled and own fits on held-out weeks of the run. Needs no truth."""
    from tariffs.evaluation import show
    from tariffs.evaluation.backtest import backtest as test
    from tariffs.evaluation.product_lines import LINES

    finished = _open(home, run, truth)
    found = [test(finished, line, weeks) for line in LINES]
    if as_json:
        _json(
            [
                {**asdict(f), "judged": [{**asdict(j), "best": j.best} for j in f.judged]}
                for f in found
            ]
        )
    else:
        for f in found:
            show.show_backtest(f)
        show.show_ways()
    _plot(plots, "backtest", lambda draw: [draw.backtest(f) for f in found])


@evidence.command()
@run_argument
@home_option
@json_option
def substitution(run: str | None, home: str, as_json: bool) -> None:
    """Estimate substitution within a bundle, beside the policy's value. Needs no truth."""
    from tariffs.evaluation import show
    from tariffs.evaluation.substitution import substitution as tell

    found = tell(_open(home, run, None))
    if as_json:
        _json({**asdict(found), "interval": found.found.interval})
    else:
        show.show_substitution(found)


@evidence.command()
@click.option(
    "--cycles",
    type=int,
    default=12,
    show_default=True,
    metavar="N",
    help="Number of cycles of four weeks.",
)
@click.option(
    "--seed",
    type=int,
    default=7,
    show_default=True,
    metavar="N",
    help="Seed of the customers' draws and of Thompson sampling.",
)
@finished_run_options
def loop(
    cycles: int,
    seed: int,
    run: str | None,
    truth: str | None,
    plots: str | None,
    home: str,
    as_json: bool,
) -> None:
    """Simulate a year: five policies, each learning from the weeks that its own prices made."""
    from tariffs.evaluation import show
    from tariffs.evaluation.simulation import simulate

    found = simulate(_open(home, run, truth), cycles, seed, _report_progress)
    if as_json:
        _json(asdict(found))
    else:
        show.show_loop(found)
    _plot(plots, "loop", lambda draw: [draw.loop(found)])


def _open(home: str, run: str | None, truth: str | None) -> Any:
    from tariffs.evaluation.run_data import open_finished

    return open_finished(Target(home).open(), run, truth)


def _report_progress(words: str) -> None:
    from hundredfold.cli import display

    display.stderr.print(words, style="dim")


def _json(found: Any) -> None:
    from hundredfold.cli import display

    display.print_json(found)


def _plot(folder: str | None, name: str, panels: Callable[[Any], list[Any]]) -> None:
    if folder is None:
        return
    from hundredfold.cli import display
    from tariffs.evaluation import plots

    for file in plots.draw(folder, name, panels(plots)):
        display.stderr.print(display.relative_path(file), style="dim")
