"""The time and the dollars of the ways of a plan as a PNG. Needs the extra `report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..figures import duration, money

BLUE, ORANGE, GREY = "#30638e", "#d98324", "#8d99a6"
SIZE_INCHES, DPI = (9.6, 5.0), 130
TIME_TICKS_S = [
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800),
    *(3_600 * hours for hours in (1, 2, 5, 10, 24, 48, 120, 240)),
]
# in points, in turn, so that the letters of close points do not cover each other
LETTER_OFFSETS = [(4, 4), (4, -11), (-10, 4), (-10, -11)]
Way = Mapping[str, Any]


def check_matplotlib() -> None:
    """Raise UsageError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ModuleNotFoundError as error:
        raise UsageError(
            "matplotlib is not installed, and a plot as PNG needs it",
            hint="pip install 'hundredfold[report]'   or write .svg or .html, which need nothing",
        ) from error


def write_png(plan: Mapping[str, Any], ways: Sequence[Way], path: str) -> None:
    """Draw each way with its intervals of 80 %, both on log scales. Raises: OSError."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        for number, way in enumerate(ways):
            _draw_way(axis, way, number)
        axis.set(xscale="log", yscale="log", xlabel="time", ylabel="dollars")
        axis.set_title(
            f"{plan['job']}: time and dollars (simulated, intervals of 80 %)", loc="left"
        )
        axis.xaxis.set_major_locator(FixedLocator(TIME_TICKS_S))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda seconds, _: duration(seconds))
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(lambda dollars, _: money(dollars))
        axis.grid(which="major", color=GREY, alpha=0.25)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        figure.savefig(path, dpi=DPI, format="png")


def _draw_way(axis: Any, way: Way, number: int) -> None:
    """Draw a way as a point with its letter; filled if it can be deployed."""
    (low, time, high), (least, dollars, most) = way["wall"], way["dollars"]
    color = BLUE if way["deployable"] else ORANGE
    letter = chr(ord("a") + number)
    axis.errorbar(
        time,
        dollars,
        xerr=[[time - low], [high - time]],
        yerr=[[dollars - least], [most - dollars]],
        fmt="o",
        markersize=5,
        color=color,
        markerfacecolor=color if way["deployable"] else "white",
        elinewidth=0.9,
        alpha=0.85,
        label=f"{letter}  {way['title']}, {duration(time)}, {money(dollars)}"
        f"{'' if way['deployable'] else ' *'}",
    )
    axis.annotate(
        letter,
        (time, dollars),
        xytext=LETTER_OFFSETS[number % len(LETTER_OFFSETS)],
        textcoords="offset points",
        color=color,
        fontsize=9,
    )
