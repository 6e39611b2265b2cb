"""Plots of the evaluation: one figure per command, as SVG and PNG.  Needs the extra `report`.

Equal results give equal SVG, to the byte, with one version of matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hundredfold.errors import UsageError
from tariffs.evaluation.backtest import Backtest
from tariffs.evaluation.calibration import Calibration
from tariffs.evaluation.elasticity_recovery import ESTIMATORS, Recovery
from tariffs.evaluation.risk_sweep import Dial
from tariffs.evaluation.show import LINE_NAMES
from tariffs.evaluation.simulation import Loop

RED, BLUE, GREY, GREEN, ORANGE = "#d1495b", "#30638e", "#8d99a6", "#3a7d44", "#d98324"
ESTIMATOR_STYLES = {
    "pooled": (GREY, "s"),
    "prior": (BLUE, "^"),
    "shrunk": (RED, "o"),
    "alone": (ORANGE, "D"),
}


def draw(
    folder: str,
    name: str,
    panels: Sequence[Callable[[Any], None]],
    size: tuple[float, float] = (4.6, 3.9),
) -> list[Path]:
    """Draw these panels side by side; return the files.  UsageError without matplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UsageError(
            "matplotlib is not installed, and plots need it",
            hint="pip install 'hundredfold[report]'",
        ) from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {
            "svg.hashsalt": "tariffs",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure = Figure(figsize=(size[0] * len(panels), size[1]), layout="constrained")
        FigureCanvasAgg(figure)
        for axis, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            panel(axis)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = [target / f"{name}.svg", target / f"{name}.png"]
        figure.savefig(files[0], metadata={"Date": None})
        figure.savefig(files[1], dpi=130)
    return files


def recovery(found: Recovery) -> Callable[[Any], None]:
    """Return a panel of true against estimated values, a point for each unit of a sample."""

    def panel(axis: Any) -> None:
        true, shrunk = np.array(found.sample).T
        low, high = min(true.min(), shrunk.min()), max(true.max(), shrunk.max())
        axis.scatter(true, shrunk, s=7, alpha=0.35, color=BLUE, edgecolors="none", rasterized=True)
        axis.plot([low, high], [low, high], color=RED, linewidth=1)
        every = found.scores[0]
        axis.set(
            xlabel="true elasticity",
            ylabel="estimated (shrunk)",
            title=f"{LINE_NAMES[found.line]}: {every.units:,} units",
        )
        text = (
            f"bias {every.bias:+.3f}\nRMSE {every.rmse['shrunk']:.3f}\n"
            f"90 % intervals hold {every.cover:.1%}"
        )
        axis.text(0.03, 0.97, text, transform=axis.transAxes, va="top")

    return panel


def calibration(found: Calibration) -> Callable[[Any], None]:
    """Return a panel of promised against realised shares, each point's area by its moves."""

    def panel(axis: Any) -> None:
        x, y = (
            np.array([b.promised for b in found.bands]),
            np.array([b.realised for b in found.bands]),
        )
        reach = np.abs(np.array([b.interval for b in found.bands]).T - y)
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        axis.errorbar(x, y, yerr=reach, fmt="none", ecolor=BLUE, elinewidth=1, capsize=2)
        moves = np.array([b.moves for b in found.bands])
        axis.scatter(
            x,
            y,
            s=12 + 120 * moves / moves.max(),
            color=BLUE,
            alpha=0.8,
            edgecolors="white",
            zorder=3,
        )
        axis.set(
            xlabel="promised P(gain)",
            ylabel="share that gained",
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.03),
        )
        axis.set_title(f"{LINE_NAMES[found.line]}: {found.all.moves:,} moves")
        axis.text(
            0.03,
            0.97,
            f"promised {found.all.promised:.3f}\ngained {found.all.realised:.3f}",
            transform=axis.transAxes,
            va="top",
        )

    return panel


def dial(found: Dial, kind: str) -> Callable[[Any], None]:
    """Return a panel of lift, and units harmed, by z."""

    def panel(axis: Any) -> None:
        settings = [s for s in found.settings if s.line == kind]
        z = [s.z for s in settings]
        axis.plot(
            z,
            [100 * s.promised for s in settings],
            "o--",
            color=GREY,
            label="promised lift",
            markersize=4,
        )
        axis.set(xlabel="z", ylabel="margin, %", title=LINE_NAMES[kind])
        if settings[0].truly is None:
            axis.legend(frameon=False)
            return
        axis.plot(
            z,
            [100 * s.truly.lift for s in settings if s.truly],
            "o-",
            color=BLUE,
            label="true lift",
        )
        if kind == "bundle" and found.oracle is not None:
            axis.axhline(
                100 * found.oracle, color=GREEN, linestyle=":", label="knowing every elasticity"
            )
        axis.set_ylim(0, 1.12 * axis.get_ylim()[1])
        right = axis.twinx()
        right.plot(
            z,
            [100 * s.truly.harmed for s in settings if s.truly],
            "s-",
            color=RED,
            label="units harmed (right)",
            markersize=4,
        )
        right.set(ylabel="units harmed, %")
        right.set_ylim(0, 1.12 * right.get_ylim()[1])
        right.spines["right"].set_visible(True)
        lines = axis.get_lines() + right.get_lines()
        axis.legend(
            lines, [line.get_label() for line in lines], frameon=False, fontsize=8, loc="lower left"
        )

    return panel


def backtest(found: Backtest) -> Callable[[Any], None]:
    """Return a panel of each estimator's deviance against pooled, by level."""

    def panel(axis: Any) -> None:
        at = np.arange(len(found.judged))[::-1]
        for way in ESTIMATORS:
            colour, mark = ESTIMATOR_STYLES[way]
            worse = [100 * (j.deviance[way] / j.deviance["pooled"] - 1) for j in found.judged]
            axis.plot(worse, at, mark, color=colour, label=way, markersize=5)
        axis.axvline(0, color=GREY, linewidth=1)
        axis.set_yticks(at, [j.level for j in found.judged])
        axis.set(
            xlabel="deviance of the held-out weeks against pooled, %",
            title=f"{LINE_NAMES[found.line]}: last {found.held_out} weeks",
        )
        axis.legend(frameon=False, fontsize=8)

    return panel


def loop(found: Loop) -> Callable[[Any], None]:
    """Return a panel of the true lift after each cycle, by policy."""
    looks = {
        "hold": (GREY, "-"),
        "plug-in": (ORANGE, "-"),
        "thompson": (GREEN, "-"),
        "robust 0.84": (RED, "-"),
        "robust 1.28": (BLUE, "-"),
    }

    def panel(axis: Any) -> None:
        for way in found.ways:
            colour, line = looks[way.policy]
            axis.plot(
                range(len(way.lift) + 1),
                [0.0, *(100 * v for v in way.lift)],
                line,
                color=colour,
                label=f"{way.policy}, {way.harmed:.0%} harmed",
            )
        axis.set(
            xlabel=f"cycles of {found.weeks} weeks",
            ylabel="true margin against the start, %",
            title=f"{found.units:,} bundle units",
        )
        axis.axhline(
            100 * found.oracle, color=GREY, linestyle=":", label="knowing every elasticity"
        )
        axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.08))

    return panel
