"""Output of `hundredfold bench`: a headline, a small table and notes on how to read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from ..figures import digits, duration
from .display import stdout

Facts = Mapping[str, Any]

LOOPS = {"filter": "a filter loop", "groupby": "a groupby loop", "call": "one call"}
MIN_S_PER_UNIT_FOR_THREADS = 0.01  # from here on, more BLAS threads may pay
MIN_UNITS_FOR_ERROR = 20  # fewer give no estimate of the sampling error


def show_comparison(facts: Facts) -> None:
    """Print the comparison: headline, table and notes."""
    stdout.print(f"[bold]{escape(headline(facts))}[/]\n")
    stdout.print(_table(facts))
    stdout.print()
    for note in dict.fromkeys(_notes(facts)):
        stdout.print(escape(note), style="dim", soft_wrap=False)


def headline(facts: Facts) -> str:
    """Return the comparison in one line.

    Such as: prices: 41 min as a filter loop (65x), 2.1 min as a groupby loop (3.3x), 38 s here.
    """
    here = facts["ways"][-1]
    loops = [way for way in facts["ways"] if _is_loop(way) and way["whole"] is not None]
    if here["whole"] is None:
        return f"{facts['name']}: too few units were done for an estimate; allow more --seconds"
    timings = [f"{_total(way)} as {LOOPS[way['way']]} ({_times(way, here)})" for way in loops]
    slower = loops and all(way["whole"] < here["whole"] for way in loops)
    verdict = (
        ": the loop is faster" if slower else "" if loops else "; it could not be timed as a loop"
    )
    return f"{facts['name']}: {', '.join([*timings, _total(here)])} here{verdict}"


def _table(facts: Facts) -> Table:
    ways, here = facts["ways"], facts["ways"][-1]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("\nunits", justify="right")
    for way in ways:
        table.add_column(
            f"{way['way']},\n{'/'.join(way['libraries'])}"
            if _is_loop(way)
            else f"here,\n{_workers(way['workers'])}",
            justify="right",
        )
    table.add_row("reading", "", *(duration(way["reading"]) for way in ways))
    for name, model in facts["models"].items():
        table.add_row(name, f"{model['units']:,}", *(_model(way["models"][name]) for way in ways))
    if here["publishing"] is not None:
        table.add_row("publishing", "", *(duration(way["publishing"]) for way in ways))
    table.add_row("together", "", *map(_total, ways), style="bold")
    table.add_row("against here", "", *(_times(way, here) for way in ways[:-1]))
    return table


def _notes(facts: Facts) -> Iterator[str]:
    entries = [(way, name, entry) for way in facts["ways"] for name, entry in way["models"].items()]
    if samples := [_sampled(*each) for each in entries if _is_part(each[2])]:
        yield "\n  ".join(["~ extrapolated", *samples])
    yield (
        "the loops check nothing, keep nothing on disk and publish nothing; the run here does all "
        "of that"
    )
    yield from _notes_on_models(facts)
    for way, name, entry in entries:
        if entry["failed"]:
            yield (
                f"{name} {_describe_way(way)}: {entry['failed']:,} of "
                f"{_count_of_units(entry['timed'])} failed"
                + (f", the first with {entry['reason']}" if entry["reason"] else "")
            )
        if entry["why"]:
            yield f"{name} {_describe_way(way)}: {entry['why']}" + (
                f" after {_count_of_units(entry['timed'])}" if entry["timed"] else ""
            )
    for way in facts["ways"]:
        if way["why"]:
            yield (
                f"reading is not in the loops: {way['why']}"
                if _is_loop(way)
                else f"{_describe_way(way)}: not timed: {way['why']}"
            )
    if facts["left_out"]:
        yield (
            f"not timed: {', '.join(facts['left_out'])}; the timings before took the "
            f"{facts['seconds']:g} s, and --seconds allows more"
        )
    if facts["before"]:
        yield f"not counted, although it must run before: {', '.join(facts['before'])}"
    if facts["rejected"]:
        yield (
            f"{facts['rejected']:,} rows break their contract and were left out; "
            "hundredfold run shows why"
        )
    if facts["refused"]:
        yield facts["refused"]


def _notes_on_models(facts: Facts) -> Iterator[str]:
    models = facts["models"].items()
    if batched := [name for name, model in models if model["batched"]]:
        yield (
            "with batched=True a call takes many units; the loops pass one, for which it is not "
            f"made: {', '.join(batched)}"
        )
    if slow := [name for name, model in models if _may_use_threads(facts, name, model["units"])]:
        yield (
            "every process, including those of the loops, uses one thread for BLAS and similar "
            f"libraries (OMP_NUM_THREADS=1): {', '.join(slow)}"
        )
    for name, model in models:
        if model["crashed"]:
            its, it = ("its", "it") if model["crashed"] == 1 else ("their", "them")
            yield (
                f"{name}: {_count_of_units(model['crashed'])} ended {its} process; "
                f"the loops left {it} out"
            )


def _count_of_units(count: int) -> str:
    return f"{count:,} unit{'' if count == 1 else 's'}"


def _sampled(way: Facts, name: str, entry: Facts) -> str:
    if not _is_loop(way):
        rest = ", its end not timed" if way["way"] == "all" else ""
        timed = _percent(entry["timed"] / entry["units"])
        return f"{name} {_describe_way(way)}: stopped, timed on {timed} of the units{rest}"
    error = f" (± {_percent(entry['error'])})" if entry["timed"] >= MIN_UNITS_FOR_ERROR else ""
    return (
        f"{name} {_describe_way(way)}: from {entry['timed']:,} of {entry['units']:,} units{error}"
    )


def _is_loop(way: Facts) -> bool:
    return way["way"] in LOOPS


def _is_part(entry: Facts) -> bool:
    """Return whether only some of its units were timed."""
    return entry["seconds"] is not None and entry["timed"] < entry["units"]


def _may_use_threads(facts: Facts, model: str, units: int) -> bool:
    """Return whether more threads could have made the loops faster."""
    looped = [way["models"][model]["seconds"] or 0.0 for way in facts["ways"] if _is_loop(way)]
    return min(looped, default=0.0) > max(1.0, MIN_S_PER_UNIT_FOR_THREADS * units)


def _describe_way(way: Facts) -> str:
    return f"as {LOOPS[way['way']]}" if _is_loop(way) else f"here with {_workers(way['workers'])}"


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _model(entry: Facts) -> str:
    return ("~" if _is_part(entry) else "") + duration(entry["seconds"])


def _total(way: Facts) -> str:
    about = way["whole"] is not None and any(map(_is_part, way["models"].values()))
    return ("~" if about else "") + duration(way["whole"])


def _times(way: Facts, here: Facts) -> str:
    if way["whole"] is None or here["whole"] is None:
        return ""
    times = way["whole"] / here["whole"]
    if times < 100:
        return f"{digits(times)}x"
    return f"{round(times, 1 - int(math.log10(times))):,.0f}x"


def _percent(share: float) -> str:
    return f"{digits(100 * share)} %"
