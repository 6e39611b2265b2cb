"""The time and the dollars of the ways of a plan as a plot of characters, both on log scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .figures import duration, money

HEIGHT, MAX_WIDTH, MIN_WIDTH = 12, 72, 30  # characters of the plot, without its labels
LABEL_WIDTH = 10  # of the dollars
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FORMATS = (".svg", ".html")
Facts = Mapping[str, Any]


def plot_lines(plan: Facts, width: int) -> list[str]:
    """Return the plot and its legend. Ways without a time or without dollars are not in it."""
    ways = [way for way in plan["ways"] if way["wall"] and way["dollars"]]
    if not ways:
        return ["no way has both a time and dollars: there is nothing to plot"]
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
    """Raise UsageError for a file whose format is not known."""
    if Path(path).suffix.lower() not in FORMATS:
        raise UsageError(f"--plot-file is {path!r}, wanted a name that ends with .svg or .html")


def write_plot(plan: Facts, path: str) -> None:
    """Write the plot as SVG or HTML, by the ending of the name."""
    import os

    from rich.console import Console
    from rich.text import Text

    lines = plot_lines(plan, MAX_WIDTH + LABEL_WIDTH + 3)
    widest = max(map(len, lines))
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, file=nowhere, width=widest, highlight=False)
        console.print(Text("\n".join(lines)), soft_wrap=True)
        title = f"{plan['job']}: time and dollars"
        text = (
            console.export_svg(title=title)
            if Path(path).suffix.lower() == ".svg"
            else console.export_html()
        )
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--plot-file {path} cannot be written: {error.strerror}") from error
