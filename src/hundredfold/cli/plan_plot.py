"""The time and the dollars of the ways of a plan as a plot of characters, both on log scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..figures import duration, money
from .plan_figure import check_matplotlib, write_png

HEIGHT, MAX_WIDTH, MIN_WIDTH = 12, 72, 30  # characters of the plot, without its labels
LABEL_WIDTH = 10  # of the dollars
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FORMATS = (".svg", ".html", ".png")
# the colours of the reader's browser, light or dark
HTML_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="UTF-8">
<style>
{stylesheet}
:root {{ color-scheme: light dark; }}
body {{ background: Canvas; color: CanvasText; }}
</style>
</head>
<body>
<pre style="font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace">{code}</pre>
</body>
</html>
"""
NOTHING = "no way has both a time and dollars: there is nothing to plot"
Facts = Mapping[str, Any]


def plotted_ways(plan: Facts) -> list[Facts]:
    """Return the ways with a time and dollars."""
    return [way for way in plan["ways"] if way["wall"] and way["dollars"]]


def plot_lines(plan: Facts, width: int) -> list[str]:
    """Return the plot and its legend. Ways without a time or without dollars are not in it."""
    ways = plotted_ways(plan)
    if not ways:
        return [NOTHING]
    columns = max(min(width - LABEL_WIDTH - 3, MAX_WIDTH), MIN_WIDTH)
    times, dollars = ([float(way[name][1]) for way in ways] for name in ("wall", "dollars"))
    across, up = positions(times, columns), positions(dollars, HEIGHT)
    grid = [[" "] * columns for _ in range(HEIGHT)]
    for letter, x, y in zip(LETTERS, across, up, strict=False):
        row = grid[HEIGHT - 1 - y]
        row[x] = letter if row[x] == " " else "*"
    labels = {0: money(max(dollars)), HEIGHT - 1: money(min(dollars))}
    lines = [
        f"{labels.get(number, ''):>{LABEL_WIDTH}} | {''.join(row)}".rstrip()
        for number, row in enumerate(grid)
    ]
    first, last = duration(min(times)), duration(max(times))
    gap = max(columns - len(first) - len(last), 1)
    lines += [
        f"{'dollars':>{LABEL_WIDTH}} +-{'-' * columns}",
        f"{'time':>{LABEL_WIDTH}}   {first}{' ' * gap}{last}",
        "",
    ]
    lines += [
        f"  {letter}  {way['title']}, {duration(way['wall'][1])}, {money(way['dollars'][1])}"
        for letter, way in zip(LETTERS, ways, strict=False)
    ]
    return [*lines, *(["  *  several"] if any("*" in row for row in grid) else [])]


def positions(values: Sequence[float], size: int) -> list[int]:
    """Return where each value is on a log scale of `size` cells, from the least to the largest."""
    logs = [math.log(max(value, 1e-9)) for value in values]
    low, span = min(logs), max(logs) - min(logs)
    return [round((each - low) / span * (size - 1)) if span else 0 for each in logs]


def check_plot_file(path: str) -> None:
    """Raise UsageError for a file whose format is not known, or cannot be written here."""
    if Path(path).suffix.lower() not in FORMATS:
        raise UsageError(
            f"--plot-file is {path!r}, wanted a name that ends with .svg, .html or .png"
        )
    if Path(path).suffix.lower() == ".png":
        check_matplotlib()


def write_plot(plan: Facts, path: str) -> None:
    """Write the plot as SVG, HTML or PNG, by the ending of the name. Raises: UsageError."""
    try:
        if Path(path).suffix.lower() != ".png":
            Path(path).write_text(_page(plan, path), encoding="utf-8")
        elif ways := plotted_ways(plan):
            write_png(plan, ways, path)
        else:
            raise UsageError(NOTHING)
    except OSError as error:
        raise UsageError(f"--plot-file {path} cannot be written: {error.strerror}") from error


def _page(plan: Facts, path: str) -> str:
    """Return the plot of characters as SVG or HTML."""
    import os

    from rich.console import Console
    from rich.text import Text

    lines = plot_lines(plan, MAX_WIDTH + LABEL_WIDTH + 3)
    widest = max(map(len, lines))
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, file=nowhere, width=widest, highlight=False)
        console.print(Text("\n".join(lines)), soft_wrap=True)
        if Path(path).suffix.lower() == ".svg":
            return console.export_svg(title=f"{plan['job']}: time and dollars")
        return console.export_html(code_format=HTML_PAGE)
