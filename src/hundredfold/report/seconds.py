"""The times of units and steps: the engine's share, seconds per unit, and the slowest units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..figures import duration
from .charts import Segment, axis, bar, colour, figure, histogram, legend
from .html import Content, Markup, element
from .run_files import RunFiles
from .tables import details, percent, seconds, table

BINS = 30  # of a histogram
SLOWEST = 10


def seconds_section(files: RunFiles) -> Markup | None:
    """Return the engine's share, the time of each step, and the seconds per unit of each model."""
    parts: list[Content] = [_share(files), _stages(files)]
    if files.collected:
        parts += _per_unit(files)
    return Markup("".join(part for part in parts if isinstance(part, Markup))) or None


def _share(files: RunFiles) -> Markup | None:
    """Return the core time of the run: the part in the user's function, and the rest."""
    found = files.summary["efficiency"]
    if found is None:
        return None
    whole = found["wall"] * found["cores"]
    work = min(found["work"], whole)
    rest = whole - work
    text = (
        f"{duration(whole)} of core time: {duration(work)} in the function "
        f"({100 * work / whole:.0f} %), {duration(rest)} in the engine or waiting. Efficiency "
        f"{100 * found['share']:.0f} %: at best {duration(found['best'])} on {found['cores']:,} "
        f"cores, took {duration(found['wall'])}; longest unit {duration(found['longest'])}."
    )
    segments = [
        Segment(work, "c0", f"function {duration(work)}"),
        Segment(rest, "calm", f"engine or waiting {duration(rest)}"),
    ]
    return Markup(
        legend([("c0", "in the function"), ("calm", "in the engine, or waiting")])
        + figure("Share of the function and of the engine", bar(segments, whole), label=text)
        + element("p", text)
    )


def _stages(files: RunFiles) -> Markup | None:
    found = files.summary["efficiency"]
    if found is None or not found["stages"]:
        return None
    most = max(found["stages"].values())
    rows = [
        (stage, bar([Segment(spent, "c0")], most), seconds(spent), percent(spent / found["wall"]))
        for stage, spent in found["stages"].items()
    ]
    return table("Time of each step", ("step", "time", "seconds", "share"), rows)


def _per_unit(files: RunFiles) -> Iterator[Markup]:
    """Yield quantiles of all models, then the histogram and the slowest units of each."""
    stats = files.query(
        "SELECT position, any_value(model) AS model, count(*) AS units, sum(seconds) AS sum, "
        "avg(seconds) AS mean, quantile_cont(seconds, [0.5, 0.9, 0.99]) AS q, "
        "max(seconds) AS longest, min(seconds) FILTER (WHERE seconds > 0) AS shortest, "
        f"max_by(struct_pack(unit := unit, seconds := seconds, rows_in := rows_in, "
        f"rows_out := rows_out, status := status, ran_on := ran_on), seconds, {SLOWEST}) "
        f"AS slowest FROM {files.units} GROUP BY position ORDER BY position"
    )
    rows = [
        (s["model"], s["units"], *map(seconds, (s["mean"], *s["q"], s["longest"], s["sum"])))
        for s in stats
    ]
    heads = ("model", "units", "mean", "median", "90 %", "99 %", "longest", "all")
    yield table("Seconds per unit", heads, rows)
    shapes = _histograms(files, stats)
    drawn = [_histogram(s, shapes.get(s["position"], {})) for s in stats if s["units"] > 1]
    yield element("div", drawn, class_="grid")
    for each in stats:
        if each["units"] > 1:
            yield _slowest(files, each)


def _range(stats: Mapping[str, Any]) -> tuple[float, float]:
    """Return the decimal logarithms of the shortest and the longest time, a little apart."""
    low = math.log10(stats["shortest"] or 1e-6)
    return low, max(math.log10(max(stats["longest"], 1e-6)), low + 0.1)


def _histograms(
    files: RunFiles, stats: Sequence[Mapping[str, Any]]
) -> Mapping[int, Mapping[int, int]]:
    """Return the number of units in each bin of the logarithm of their seconds, by model."""
    cases = []
    for each in stats:
        if each["units"] == 1:
            continue
        low, high = _range(each)
        cases.append(f"({each['position']}, {low!r}, {(high - low) / BINS!r})")
    if not cases:
        return {}
    found = files.query(
        f"SELECT position, least(greatest(floor((log10(seconds) - low) / width), 0), {BINS - 1})"
        f"::INT AS bin, count(*) AS n FROM {files.units} JOIN (VALUES {', '.join(cases)}) AS "
        "v(p, low, width) ON position = p WHERE seconds > 0 GROUP BY ALL"
    )
    shapes: dict[int, dict[int, int]] = {}
    for row in found:
        shapes.setdefault(row["position"], {})[row["bin"]] = row["n"]
    return shapes


def _histogram(stats: Mapping[str, Any], shape: Mapping[int, int]) -> Markup:
    low, high = _range(stats)
    counts = [shape.get(i, 0) for i in range(BINS)]
    middle = duration(stats["q"][0])
    return figure(
        f"{stats['model']}: units by seconds, on a logarithmic scale",
        histogram(counts, colour(stats["position"])),
        axis([duration(10**low), duration(10 ** ((low + high) / 2)), duration(10**high)]),
        label=f"Median {middle}, longest {duration(stats['longest'])}.",
    )


def _slowest(files: RunFiles, stats: Mapping[str, Any]) -> Markup:
    """Return the slowest units of a model with their keys."""
    found = sorted(stats["slowest"], key=lambda unit: (-unit["seconds"], unit["unit"]))
    keys = files.unit_keys(stats["model"], [each["unit"] for each in found])
    rows = [
        (
            key,
            bar([Segment(each["seconds"], "c0")], stats["longest"]),
            seconds(each["seconds"]),
            each["rows_in"],
            each["rows_out"],
            each["status"],
            each["ran_on"],
        )
        for key, each in zip(keys, found, strict=True)
    ]
    heads = ("unit", "time", "seconds", "rows", "results", "status", "worker")
    title = f"The {len(rows)} slowest units of {stats['model']}"
    return details(title, table(title, heads, rows))
