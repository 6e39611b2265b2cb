"""What a person sees: a bar while a run goes on (stderr), and at its end a summary in plain words (stdout)."""

from __future__ import annotations

import math
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..errors import HundredfoldError

if TYPE_CHECKING:  # what goes wrong is also told through here, and then nothing else is needed
    from ..pipeline.collect import Collected
    from ..pipeline.stages import Stage
    from ..pipeline.validate import Verdict
    from ..pipeline.work import Progress as Done

REASONS_SHOWN = 4  # of one source; the rest is a count

words = Console(stderr=True, highlight=False)
result = Console(highlight=False, soft_wrap=True)


class Live:
    """A Watcher with a bar: what is being done, units a second, time left."""

    def __init__(self) -> None:
        self.run = ""
        self.last: Done | None = None
        self.began = time.monotonic()
        self.task: TaskID | None = None
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[units]}"),
            TextColumn("[red]{task.fields[failed]}"),
            TimeRemainingColumn(compact=True),
            console=words,
            transient=True,
            disable=not words.is_terminal,
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begun(self, run: str) -> None:
        self.run = run
        self._say(f"run {run}")

    def stage(self, stage: Stage) -> None:
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.last, self.since, self.first = None, time.monotonic(), -1
        self.task = self.bars.add_task(str(stage), total=None, units="", failed="")

    def validated(self, verdicts: list[Verdict]) -> None:
        from ..sql.sources.csv_files import in_words

        for v in verdicts:
            for facts in v.csv:
                for line in in_words(facts):
                    self._say(f"read {v.source} as {line}")
            self._say(f"validated {v.source}: {rows_in_words(v.rows, v.accepted, v.rejected, v.dropped)}")

    def progress(self, progress: Done) -> None:
        self.last = progress
        if self.first < 0:
            self.first = progress.done  # what an earlier driver did does not count as our speed
        rate = (progress.done - self.first) / max(time.monotonic() - self.since, 1e-3)
        units = f"{progress.done:,}/{progress.units:,} units" + (f"  {rate:,.0f}/s" if rate else "")
        if self.task is not None:
            self.bars.update(
                self.task,
                completed=progress.done,
                total=progress.units,
                units=units,
                failed=f"{progress.failed:,} failed" if progress.failed else "",
            )

    def collected(self, collected: Collected) -> None:
        bad = f", {collected.bad:,} failed" if collected.bad else ""
        seconds = time.monotonic() - self.began
        self._say(f"{collected.model}: {collected.ok:,} of {collected.units:,} units done{bad}   ({seconds:.1f} s so far)")

    def _say(self, text: str) -> None:
        words.print(escape(text), style="dim")


class Timing(Live):
    """The same for a run whose only fruit is its time: what is timed, and how far it is."""

    def begun(self, run: str) -> None:
        self.run = run

    def validated(self, verdicts: list[Verdict]) -> None: ...

    def collected(self, collected: Collected) -> None: ...

    def timing(self, what: str) -> None:
        self._say(f"timing {what}")
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(what, total=None, units="", failed="")


def rows_in_words(rows: int, accepted: int, rejected: int, dropped: int) -> str:
    told = [f"{rows:,} rows in", f"{accepted:,} accepted"]
    told += [f"{rejected:,} rejected"] if rejected else []
    told += [f"{dropped:,} copies and superseded rows dropped"] if dropped else []
    return ", ".join(told)


def show_error(error: HundredfoldError) -> None:
    """Found, wanted, where; and the next command."""
    words.print(Text("error: ", style="bold red") + Text(str(error)), soft_wrap=True)
    if error.hint:
        words.print(Text("hint: ", style="bold cyan") + Text(error.hint), soft_wrap=True)


def show_summary(facts: Mapping[str, Any], verdicts: Sequence[Verdict], seconds: float | None) -> None:
    """A run at its end, for the person who started it."""
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    result.print(f"\n[bold]{facts['job']}[/]  run {facts['run']}  [bold]{facts['state']}[/]{took}")
    _show_sources(verdicts, facts["sources"])
    _show_models(facts["models"])
    for why in facts["reasons"]:
        result.print(f"  [red]{why['units']:,}[/] of {why['model']}: {escape(why['reason'])}   first: {escape(why['first'])}")
    bad = sum(m.get("failed", 0) + m.get("dead", 0) for m in facts["models"].values())
    told = sum(why["units"] for why in facts["reasons"])
    if told < bad:
        result.print(f"  and {bad - told:,} more, for other reasons")
    for line in _repairs(facts):
        result.print(f"  {escape(line)}")
    if facts["reason"] and facts["state"] not in ("done", "running"):
        result.print(f"\n{escape(facts['reason'])}")
    release = facts["release"]
    if release:
        for title, rows in release["digest"].items():
            _show_rows(title, rows)
        other = "" if release["current"] else f"   (not current: release {release['current_version']} is)"
        result.print(f"\n[bold]Release {release['version']}[/]{other}")
        for line in _mixed_code(release["code"]):
            result.print(f"  {escape(line)}")
        for path in release["files"]:
            result.print(f"  {escape(near(path))}")


def _repairs(facts: Mapping[str, Any]) -> list[str]:
    """Say which workers were replaced, and what was recomputed since a file was damaged, each in one line."""
    lines = []
    if replaced := facts.get("workers_replaced"):
        whys = ", ".join(f"{count:,} x {why}" for why, count in sorted(replaced.items(), key=lambda each: (-each[1], each[0])))
        lines.append(f"workers replaced: {sum(replaced.values()):,} ({whys})")
    if damaged := facts.get("recomputed"):
        files = f"{len(damaged):,} damaged files" if len(damaged) > 1 else "1 damaged file"
        lines.append(f"recomputed: {facts['units_recomputed']:,} units, for {files}; the first: {damaged[0]}")
    return lines


def _mixed_code(code: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say how many units of a release earlier code did, where there were several versions; the last is named first."""
    if len(code) < 2:
        return []
    earlier: dict[str, int] = {}
    for units in list(code.values())[1:]:
        for model, count in units.items():
            earlier[model] = earlier.get(model, 0) + count
    counts = ", ".join(f"{count:,} units of {model}" for model, count in earlier.items())
    return [f"made by {len(code)} versions of the code: {counts} by earlier ones"]


def near(path: str | Path) -> str:
    """A path as a person would type it here: relative, where it lies below this folder; an address in S3 as it is."""
    if str(path).startswith("s3://"):
        return str(path)
    full = Path(path)
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def show_next(commands: Iterable[tuple[str, str]]) -> None:
    result.print("\n[bold]Next[/]")
    for command, why in commands:
        result.print(f"  [cyan]{escape(command)}[/]")
        print_hanging("      ", why)


def _show_sources(verdicts: Sequence[Verdict], sources: Mapping[str, Any]) -> None:
    if not sources:
        return
    columns = ("in", "accepted", "repaired", "rejected", "dropped")
    table = _table("rows", *columns)
    for name, counts in sources.items():
        cells = [_number(counts.get(k, 0)) for k in ("rows", *columns[1:])]
        table.add_row(name, *cells)
    result.print(table)
    _show_reasons([v for v in verdicts if v.source in sources and v.findings])


def _show_reasons(verdicts: Sequence[Verdict]) -> None:
    """Print why rows were rejected, one reason a line: as a column it would be folded to pieces at 80 characters."""
    if not verdicts:
        return
    result.print("\n[dim]why rows were rejected[/]")
    lines = [line for verdict in verdicts for line in _reason_lines(verdict)]
    names, digits = (max(len(line[i]) for line in lines) for i in (0, 1))
    for name, count, reason in lines:
        print_hanging(f"  {name:<{names}}  {count:>{digits}}  ", reason)
    result.print()


def print_hanging(start: str, text: str, style: str = "") -> None:
    """Print a text after `start`; where the terminal is narrower, its further lines begin below the first."""
    lines = textwrap.wrap(text, max(result.width - len(start), 20), break_on_hyphens=False) if fits_a_terminal() else [text]
    result.print(escape(start + ("\n" + " " * len(start)).join(lines)), style=style)


def _reason_lines(verdict: Verdict) -> Iterator[tuple[str, str, str]]:
    """Yield the source's name (once), a count and the reason, for the most frequent reasons; then what is left."""
    name, rest = verdict.source, verdict.findings[REASONS_SHOWN:]
    for finding in verdict.findings[:REASONS_SHOWN]:
        yield name, f"{finding.rows:,}", f"{finding.column} {finding.words}"
        name = ""
    if rest:
        yield "", f"{sum(f.rows for f in rest):,}", f"{len(rest):,} more reason{'s' if len(rest) > 1 else ''}"


def _show_models(models: Mapping[str, Any]) -> None:
    if not models:
        return
    table = _table("units", "planned", "ok", "failed", "dead", "rows", "seconds of work")
    for name, m in models.items():
        counts = [_number(m[k]) if k in m else "" for k in ("ok", "failed", "dead", "rows_in")]
        table.add_row(
            name, _number(m.get("units", 0)), *counts, f"{m['seconds']:,.2f}" if "seconds" in m else f"{m.get('done', 0):,} units done"
        )
    result.print(table)


def _show_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    result.print(f"\n[bold]{escape(title)}[/]")
    if not rows:
        result.print("  none")
        return
    if len(rows) == 1:
        for name, value in rows[0].items():
            result.print(f"  {escape(name.replace('_', ' ')):<36} {_cell(value)}")
        return
    for number, columns in enumerate(_pieces(rows)):
        if number:
            result.print()
        _show_columns(columns, rows)


def fits_a_terminal() -> bool:
    """Whether lines end where a terminal does; in a pipe they may be as long as they like."""
    return result.is_terminal or "COLUMNS" in os.environ


def _pieces(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Part the columns so that each part fits the terminal; the first column, which names the rows, is in every part.

    Where only the last column is too much and is text, it stays: its words take several lines.
    """
    first, *others = rows[0]
    if not fits_a_terminal():
        return [[first, *others]]
    width = {name: max(len(_head(name)), *(len(_cell(row[name])) for row in rows)) + 2 for name in (first, *others)}
    pieces = [[first]]
    for name in others:
        taken = sum(width[column] for column in pieces[-1])
        least = width[name]
        if name == others[-1] and isinstance(rows[0][name], str):
            least = 2 + max(len(word) for row in rows for word in (_head(name), *_cell(row[name]).split(), ""))
        if len(pieces[-1]) > 1 and taken + least - 2 > result.width:
            pieces.append([first])
        pieces[-1].append(name)
    return pieces


def _show_columns(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print some columns of rows as a table, within the terminal where they fit; a figure is never shortened."""
    room = result.options.update(max_width=10_000)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        value = rows[0][name]
        wraps = name == columns[-1] and isinstance(value, str)
        table.add_column(_head(name), justify="right" if isinstance(value, int | float) else "left", no_wrap=not wraps)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(Measurement.get(result, room, cell).maximum for cell in (column.header, *column.cells))
    wanted = Measurement.get(result, room, table)
    wide = Console(highlight=False, width=max(wanted.minimum, min(wanted.maximum, result.width)) if fits_a_terminal() else wanted.maximum)
    with wide.capture() as printed:
        wide.print(table)
    for line in printed.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def _head(name: str) -> str:
    return escape(name.replace("_", " "))


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title=None)
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 or size == 0 else f"{value:,.2f}" if size >= 1 else f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escape(str(value))


def print_json(facts: Any) -> None:
    """For a script: JSON on stdout, and nothing else there."""
    import json

    sys.stdout.write(json.dumps(plain(facts), indent=2, default=str, ensure_ascii=False, allow_nan=False) + "\n")


def plain(facts: Any) -> Any:
    """The same without NaN and infinities, which JSON does not have: they become null."""
    if isinstance(facts, float) and not math.isfinite(facts):
        return None
    if isinstance(facts, Mapping):
        return {key: plain(value) for key, value in facts.items()}
    return [plain(value) for value in facts] if isinstance(facts, list | tuple) else facts
