"""What a person sees: a bar while a run goes on (stderr), and at its end a summary in plain words (stdout)."""

from __future__ import annotations

import math
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..errors import HundredfoldError

if TYPE_CHECKING:  # what goes wrong is also told through here, and then nothing else is needed
    from ..pipeline.collect import Collected
    from ..pipeline.stages import Stage
    from ..pipeline.validate import ValidationResult
    from ..pipeline.work import Progress as Done
    from ..ports.run_facts import ModelCounts, SourceCounts
    from ..runs.summary import RunSummary

REASONS_SHOWN = 4  # of one source; the rest is a count
GAP = 2  # characters between two columns of a table
MIN_TEXT_WIDTH = 12  # characters of the first column, however narrow the terminal is

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False, soft_wrap=True)


class ProgressDisplay:
    """A RunCallbacks with a bar: what is being done, units a second, time left."""

    def __init__(self) -> None:
        self.run = ""
        self.last: Done | None = None
        self.began = time.monotonic()
        self.task: TaskID | None = None
        self.progress_bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[units]}"),
            TextColumn("[red]{task.fields[failed]}"),
            TimeRemainingColumn(compact=True),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )

    def __enter__(self) -> Self:
        self.progress_bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress_bars.stop()

    def run_started(self, run: str) -> None:
        self.run = run
        self._print(f"run {run}")

    def stage_started(self, stage: Stage) -> None:
        if self.task is not None:
            self.progress_bars.remove_task(self.task)
        self.last, self.since, self.first = None, time.monotonic(), -1
        self.task = self.progress_bars.add_task(str(stage), total=None, units="", failed="")

    def validated(self, verdicts: list[ValidationResult]) -> None:
        from ..sql.sources.csv_files import in_words

        for v in verdicts:
            for facts in v.csv:
                for line in in_words(facts):
                    self._print(f"read {v.source} as {line}")
            self._print(
                f"validated {v.source}: {describe_rows(v.rows, v.accepted, v.rejected, v.dropped)}"
            )

    def progress(self, progress: Done) -> None:
        self.last = progress
        if self.first < 0:
            self.first = progress.done  # what an earlier driver did does not count as our speed
        rate = (progress.done - self.first) / max(time.monotonic() - self.since, 1e-3)
        units = f"{progress.done:,}/{progress.units:,} units" + (f"  {rate:,.0f}/s" if rate else "")
        if self.task is not None:
            self.progress_bars.update(
                self.task,
                completed=progress.done,
                total=progress.units,
                units=units,
                failed=f"{progress.failed:,} failed" if progress.failed else "",
            )

    def collected(self, collected: Collected) -> None:
        bad = f", {collected.bad:,} failed" if collected.bad else ""
        seconds = time.monotonic() - self.began
        self._print(
            f"{collected.model}: {collected.ok:,} of {collected.units:,} units done{bad}   ({seconds:.1f} s so far)"
        )

    def _print(self, text: str) -> None:
        stderr.print(escape(text), style="dim")


class TimingDisplay(ProgressDisplay):
    """The same for a run whose only fruit is its time: what is timed, and how far it is."""

    def run_started(self, run: str) -> None:
        self.run = run

    def validated(self, verdicts: list[ValidationResult]) -> None: ...

    def collected(self, collected: Collected) -> None: ...

    def timing(self, what: str) -> None:
        self._print(f"timing {what}")
        if self.task is not None:
            self.progress_bars.remove_task(self.task)
        self.task = self.progress_bars.add_task(what, total=None, units="", failed="")


def describe_rows(rows: int, accepted: int, rejected: int, dropped: int) -> str:
    told = [f"{rows:,} rows in", f"{accepted:,} accepted"]
    told += [f"{rejected:,} rejected"] if rejected else []
    told += [f"{dropped:,} copies and superseded rows dropped"] if dropped else []
    return ", ".join(told)


def show_error(error: HundredfoldError) -> None:
    """Found, wanted, where; and the next command."""
    stderr.print(Text("error: ", style="bold red") + Text(str(error)), soft_wrap=True)
    if error.hint:
        stderr.print(Text("hint: ", style="bold cyan") + Text(error.hint), soft_wrap=True)


def show_summary(
    facts: RunSummary, verdicts: Sequence[ValidationResult], seconds: float | None
) -> None:
    """A run at its end, for the person who started it."""
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    stdout.print(f"\n[bold]{facts['job']}[/]  run {facts['run']}  [bold]{facts['state']}[/]{took}")
    _show_sources(verdicts, facts["sources"])
    _show_models(facts["models"])
    for why in facts["reasons"]:
        stdout.print(
            f"  [red]{why['units']:,}[/] of {why['model']}: {escape(why['reason'])}   first: {escape(why['first'])}"
        )
    bad = sum(m.get("failed", 0) + m.get("crashed", 0) for m in facts["models"].values())
    told = sum(why["units"] for why in facts["reasons"])
    if told < bad:
        stdout.print(f"  and {bad - told:,} more, for other reasons")
    for line in _recovery_lines(facts):
        stdout.print(f"  {escape(line)}")
    if facts["reason"] and facts["state"] not in ("done", "running"):
        stdout.print(f"\n{escape(facts['reason'])}")
    release = facts["release"]
    if release:
        for title, rows in release["summaries"].items():
            _show_rows(title, rows)
        other = (
            ""
            if release["current"]
            else f"   (not current: release {release['current_version']} is)"
        )
        stdout.print(f"\n[bold]Release {release['version']}[/]{other}")
        for line in _code_version_lines(release["code"]):
            stdout.print(f"  {escape(line)}")
        for path in release["files"]:
            stdout.print(f"  {escape(relative_path(path))}")


def _recovery_lines(facts: RunSummary) -> list[str]:
    """Say which workers were replaced, and what was recomputed since a file was damaged, each in one line."""
    lines = []
    if replaced := facts.get("workers_replaced"):
        whys = ", ".join(
            f"{count:,} x {why}"
            for why, count in sorted(replaced.items(), key=lambda each: (-each[1], each[0]))
        )
        lines.append(f"workers replaced: {sum(replaced.values()):,} ({whys})")
    if damaged := facts.get("recomputed"):
        files = f"{len(damaged):,} damaged files" if len(damaged) > 1 else "1 damaged file"
        lines.append(
            f"recomputed: {facts['units_recomputed']:,} units, for {files}; the first: {damaged[0]}"
        )
    return lines


def _code_version_lines(code: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say how many units of a release earlier code did, where there were several versions; the last is named first."""
    if len(code) < 2:
        return []
    earlier: dict[str, int] = {}
    for units in list(code.values())[1:]:
        for model, count in units.items():
            earlier[model] = earlier.get(model, 0) + count
    counts = ", ".join(f"{count:,} units of {model}" for model, count in earlier.items())
    return [f"made by {len(code)} versions of the code: {counts} by earlier ones"]


def relative_path(path: str | Path) -> str:
    """A path as a person would type it here: relative, where it lies below this folder; an address in S3 as it is."""
    if str(path).startswith("s3://"):
        return str(path)
    full = Path(path)
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def show_next(commands: Iterable[tuple[str, str]]) -> None:
    stdout.print("\n[bold]Next[/]")
    for command, why in commands:
        stdout.print(f"  [cyan]{escape(command)}[/]")
        print_indented("      ", why)


def _show_sources(
    verdicts: Sequence[ValidationResult], sources: Mapping[str, SourceCounts]
) -> None:
    if not sources:
        return
    counts = {
        "in": [each["rows"] for each in sources.values()],
        "accepted": [each["accepted"] for each in sources.values()],
        "repaired": [each["repaired"] for each in sources.values()],
        "rejected": [each["rejected"] for each in sources.values()],
        "dropped": [each["dropped"] for each in sources.values()],
    }
    numbers = (
        TableColumn.of_numbers(head, [*map(_number, cells)]) for head, cells in counts.items()
    )
    print_columns([TableColumn("rows", [*sources]), *numbers])
    _show_reasons([v for v in verdicts if v.source in sources and v.findings])


def _show_reasons(verdicts: Sequence[ValidationResult]) -> None:
    """Print why rows were rejected, one reason a line: as a column it would be folded to pieces at 80 characters."""
    if not verdicts:
        return
    stdout.print("\n[dim]why rows were rejected[/]")
    lines = [line for verdict in verdicts for line in _reason_lines(verdict)]
    names, digits = (max(len(line[i]) for line in lines) for i in (0, 1))
    for name, count, reason in lines:
        print_indented(f"  {name:<{names}}  {count:>{digits}}  ", reason)
    stdout.print()


def print_indented(start: str, text: str, style: str = "") -> None:
    """Print a text after `start`; where the terminal is narrower, its further lines begin below the first."""
    lines = (
        textwrap.wrap(text, max(stdout.width - len(start), 20), break_on_hyphens=False)
        if fits_a_terminal()
        else [text]
    )
    stdout.print(escape(start + ("\n" + " " * len(start)).join(lines)), style=style)


def _reason_lines(verdict: ValidationResult) -> Iterator[tuple[str, str, str]]:
    """Yield the source's name (once), a count and the reason, for the most frequent reasons; then what is left."""
    name, rest = verdict.source, verdict.findings[REASONS_SHOWN:]
    for finding in verdict.findings[:REASONS_SHOWN]:
        yield name, f"{finding.rows:,}", f"{finding.column} {finding.words}"
        name = ""
    if rest:
        yield (
            "",
            f"{sum(f.rows for f in rest):,}",
            f"{len(rest):,} more reason{'s' if len(rest) > 1 else ''}",
        )


def _show_models(models: Mapping[str, ModelCounts]) -> None:
    if not models:
        return
    counts = {
        "planned": [m.get("units") for m in models.values()],
        "ok": [m.get("ok") for m in models.values()],
        "failed": [m.get("failed") for m in models.values()],
        "crashed": [m.get("crashed") for m in models.values()],
        "rows": [m.get("rows_in") for m in models.values()],
    }
    numbers = (
        TableColumn.of_numbers(head, ["" if cell is None else _number(cell) for cell in cells])
        for head, cells in counts.items()
    )
    took = [
        f"{m['seconds']:,.2f}" if "seconds" in m else f"{m.get('done', 0):,} units done"
        for m in models.values()
    ]
    seconds = TableColumn.of_numbers("seconds of work", took)
    print_columns([TableColumn("units", [*models]), *numbers, seconds])


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table: its head and its cells, as they are printed."""

    head: str
    cells: Sequence[str]
    is_number: bool = False

    @classmethod
    def of_numbers(cls, head: str, cells: Sequence[str]) -> TableColumn:
        """Return a column whose cells are aligned at their last digit."""
        return cls(head, cells, is_number=True)

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.head, *self.cells)))

    @property
    def longest_word(self) -> int:
        return max(
            cell_len(word) for text in (self.head, *self.cells) for word in text.split() or [""]
        )


def _show_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    stdout.print(f"\n[bold]{escape(title)}[/]")
    if not rows:
        stdout.print("  none")
        return
    if len(rows) == 1:
        for name, value in rows[0].items():
            stdout.print(f"  {escape(name.replace('_', ' ')):<36} {escape(_cell(value))}")
        return
    print_columns(
        [
            TableColumn(
                name.replace("_", " "),
                [_cell(row[name]) for row in rows],
                isinstance(rows[0][name], int | float),
            )
            for name in rows[0]
        ]
    )


def print_columns(columns: Sequence[TableColumn]) -> None:
    """Print a table, in several parts where the terminal is too narrow; no number is ever broken.

    The first column, which names the rows, is in every part.
    """
    for number, part in enumerate(_parts(columns)):
        if number:
            stdout.print()
        _print_part(part)


def fits_a_terminal() -> bool:
    """Whether lines end where a terminal does; in a pipe they may be as long as they like."""
    return stdout.is_terminal or "COLUMNS" in os.environ


def _parts(columns: Sequence[TableColumn]) -> list[list[TableColumn]]:
    """Return the columns in parts that fit the terminal, the first column in each of them.

    Where only the last column is too wide and is text, it stays: its words take several lines.
    """
    first, *others = columns
    if not fits_a_terminal():
        return [[first, *others]]
    parts = [[first]]
    for column in others:
        wraps = column is others[-1] and not column.is_number
        taken = sum(each.width + GAP for each in parts[-1])
        needed = column.longest_word if wraps else column.width
        if len(parts[-1]) > 1 and taken + needed > stdout.width:
            parts.append([first])
        parts[-1].append(column)
    return parts


def _print_part(columns: Sequence[TableColumn]) -> None:
    """Print columns side by side; where they do not fit, text is folded: at the end, then at the start."""
    room = stdout.width if fits_a_terminal() else sum(column.width + GAP for column in columns)
    widths = [column.width for column in columns]
    for place in (len(columns) - 1, 0):
        if not columns[place].is_number:
            free = room - sum(widths) - GAP * (len(widths) - 1)
            least = min(columns[place].longest_word, widths[place]) if place else MIN_TEXT_WIDTH
            widths[place] = min(widths[place], max(widths[place] + free, least))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            escape(column.head),
            justify="right" if column.is_number else "left",
            width=width,
            overflow="fold",
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(escape, row))
    wide = Console(highlight=False, width=sum(widths) + GAP * len(widths))
    with wide.capture() as printed:
        wide.print(table)
    for line in printed.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        size = abs(value)
        return (
            f"{value:,.0f}"
            if size >= 1000 or size == 0
            else f"{value:,.2f}"
            if size >= 1
            else f"{value:,.3f}"
        )
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def print_json(facts: Any) -> None:
    """For a script: JSON on stdout, and nothing else there."""
    import json

    sys.stdout.write(
        json.dumps(without_nan(facts), indent=2, default=str, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def without_nan(facts: Any) -> Any:
    """The same without NaN and infinities, which JSON does not have: they become null."""
    if isinstance(facts, float) and not math.isfinite(facts):
        return None
    if isinstance(facts, Mapping):
        return {key: without_nan(value) for key, value in facts.items()}
    return [without_nan(value) for value in facts] if isinstance(facts, list | tuple) else facts
