"""Terminal output: a progress bar during a run (stderr) and a summary at its end (stdout)."""

from __future__ import annotations

import math
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from ..figures import duration

if TYPE_CHECKING:  # errors are printed through this module, before anything else is imported
    from ..pipeline.collect import Collected
    from ..pipeline.stages import Stage
    from ..pipeline.validation_results import ValidationResult
    from ..pipeline.work import Progress as Done
    from ..ports.run_facts import ModelCounts, SourceCounts
    from ..runs.efficiency import Efficiency
    from ..runs.summary import RunSummary

MAX_REASONS_PER_SOURCE = 4  # the others are counted
COLUMN_GAP = 2  # characters
MIN_FIRST_COLUMN_WIDTH = 12  # characters, even in a narrower terminal

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False, soft_wrap=True)


class ProgressDisplay:
    """RunCallbacks with a progress bar: the stage, units per second, the time left."""

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

    def validated(self, validation: list[ValidationResult]) -> None:
        for v in validation:
            if v.csv:
                from ..sql.sources.csv_files import describe_facts

                for line in (line for facts in v.csv for line in describe_facts(facts)):
                    self._print(f"read {v.source} as {line}")
            self._print(
                f"validated {v.source}: {describe_rows(v.rows, v.accepted, v.rejected, v.dropped)}"
            )

    def progress(self, progress: Done) -> None:
        self.last = progress
        if self.first < 0:
            self.first = progress.done  # units of an earlier driver do not count for the rate
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
        failed = f", {collected.bad:,} failed" if collected.bad else ""
        seconds = time.monotonic() - self.began
        self._print(
            f"{collected.model}: {collected.ok:,} of {collected.units:,} units done{failed}"
            f"   ({seconds:.1f} s so far)"
        )

    def _print(self, text: str) -> None:
        stderr.print(escape(text), style="dim")


class TimingDisplay(ProgressDisplay):
    """A progress display for runs that are only timed: the current timing and its progress."""

    def run_started(self, run: str) -> None:
        self.run = run

    def validated(self, validation: list[ValidationResult]) -> None: ...

    def collected(self, collected: Collected) -> None: ...

    def timing(self, subject: str) -> None:
        self._print(f"timing {subject}")
        if self.task is not None:
            self.progress_bars.remove_task(self.task)
        self.task = self.progress_bars.add_task(subject, total=None, units="", failed="")


@contextmanager
def timing_display() -> Iterator[TimingDisplay]:
    """Show the progress of a command that keeps nothing; Ctrl-C and SIGTERM end it with a line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TimingDisplay() as listener:
        try:
            yield listener
        except KeyboardInterrupt:
            listener.progress_bars.stop()
            stderr.print("stopped; nothing was kept")
            sys.exit(130)


def describe_rows(rows: int, accepted: int, rejected: int, dropped: int) -> str:
    counts = [f"{rows:,} rows in", f"{accepted:,} accepted"]
    counts += [f"{rejected:,} rejected"] if rejected else []
    counts += [f"{dropped:,} copies and superseded rows dropped"] if dropped else []
    return ", ".join(counts)


def show_error(error: HundredfoldError) -> None:
    """Print an error and its hint."""
    stderr.print(Text("error: ", style="bold red") + Text(str(error)), soft_wrap=True)
    if error.hint:
        stderr.print(Text("hint: ", style="bold cyan") + Text(error.hint), soft_wrap=True)


def show_summary(
    facts: RunSummary, validation: Sequence[ValidationResult], seconds: float | None
) -> None:
    """Print the summary of a run: its sources, models, failures, and its release."""
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    stdout.print(f"\n[bold]{facts['job']}[/]  run {facts['run']}  [bold]{facts['state']}[/]{took}")
    _show_sources(validation, facts["sources"])
    _show_models(facts["models"])
    _show_failures(facts)
    for line in further_lines(facts):
        stdout.print(f"  {escape(line)}")
    if facts["reason"] and facts["state"] not in ("done", "running"):
        stdout.print(f"\n{escape(facts['reason'])}")
    if facts["release"]:
        _show_release(facts["release"])


def _show_failures(facts: RunSummary) -> None:
    """Print the most frequent reasons of failures, and the number of the other failures."""
    for reason in facts["reasons"]:
        stdout.print(
            f"  [red]{reason['units']:,}[/] of {reason['model']}: {escape(reason['reason'])}"
            f"   first: {escape(reason['first'])}"
        )
    failed = sum(m.get("failed", 0) + m.get("crashed", 0) for m in facts["models"].values())
    shown = sum(reason["units"] for reason in facts["reasons"])
    if shown < failed:
        stdout.print(f"  and {failed - shown:,} more, for other reasons")


def _show_release(release: Mapping[str, Any]) -> None:
    """Print the summaries, the version and the files of a release."""
    for title, rows in release["summaries"].items():
        _show_rows(title, rows)
    other = (
        "" if release["current"] else f"   (not current: release {release['current_version']} is)"
    )
    stdout.print(f"\n[bold]Release {release['version']}[/]{other}")
    for line in _code_version_lines(release["code"]):
        stdout.print(f"  {escape(line)}")
    for path in release["files"]:
        stdout.print(f"  {escape(relative_path(path))}")
    for written in release.get("tables", {}).values():
        stdout.print(f"  {escape(_table_line(written))}")


def show_report(path: Path) -> None:
    """Print the path of the report of a run."""
    stdout.print(f"\n[bold]Report[/]\n  {escape(relative_path(path))}")


def _table_line(written: Mapping[str, Any]) -> str:
    table = f"the DynamoDB table {written['dynamodb']}"
    if written["superseded"]:
        return f"not all rows are in {table}: a later release is"
    removed = f", {written['removed']:,} marked as removed" if written["removed"] else ""
    return f"{written['rows']:,} rows in {table}{removed}"


def further_lines(facts: RunSummary) -> list[str]:
    """Return lines on the efficiency of a run, the results of its plan's pilot, the costs of its
    units, its budget, the warehouse of a run on AWS, uploads that are not read, replaced workers,
    and units recomputed because of damaged files.
    """
    lines = [_efficiency_line(found)] if (found := facts.get("efficiency")) else []
    lines += _pilot_lines(facts.get("models", {}))
    lines += _packing_lines(facts.get("models", {}))
    lines += [f"budget: {facts['spent']}"] if facts.get("spent") else []
    lines += [f"queries: {facts['warehouse']}"] if facts.get("warehouse") else []
    if uploads := facts.get("replaced_uploads"):
        lines.append(
            f"not read, since a newer upload of the source replaced it: {', '.join(uploads)}"
        )
    if replaced := facts.get("workers_replaced"):
        reasons = ", ".join(
            f"{count:,} x {reason}"
            for reason, count in sorted(replaced.items(), key=lambda each: (-each[1], each[0]))
        )
        lines.append(f"workers replaced: {sum(replaced.values()):,} ({reasons})")
    if damaged := facts.get("recomputed"):
        files = f"{len(damaged):,} damaged files" if len(damaged) > 1 else "1 damaged file"
        lines.append(
            f"recomputed: {facts['units_recomputed']:,} units, for {files}; the first: {damaged[0]}"
        )
    return lines


def _efficiency_line(found: Efficiency) -> str:
    """Return the efficiency of a run in one line."""
    cores = f"{found['cores']:,} core{'s' if found['cores'] > 1 else ''}"
    return (
        f"efficiency {100 * found['share']:.0f} %: at best {duration(found['best'])} on {cores}, "
        f"took {duration(found['wall'])}; longest unit {duration(found['longest'])}"
    )


def _pilot_lines(models: Mapping[str, ModelCounts]) -> Iterator[str]:
    """Yield a line with the units whose results are those of the plan's pilot, and a line for each
    reason why results of it were not taken.
    """
    taken = [
        f"{m['pilot_units']:,} of {m['units']:,} units of {name} ({duration(m['pilot_seconds'])})"
        for name, m in models.items()
        if m.get("pilot_units")
    ]
    if taken:
        yield f"taken from the pilot of the plan: {', '.join(taken)}"
    reasons: dict[str, list[str]] = {}
    for name, m in models.items():
        if reason := m.get("pilot_refused"):
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield f"not taken from the pilot of the plan, for {', '.join(names)}: {reason}"


def _packing_lines(models: Mapping[str, ModelCounts]) -> Iterator[str]:
    """Yield a line for each earlier run whose measured seconds packed the batches of models."""
    sources: dict[str, list[str]] = {}
    for name, m in models.items():
        if run := m.get("costs_from"):
            known = f"{m['costs_known']:,} of {m['units']:,}" if "units" in m else "some"
            sources.setdefault(run, []).append(f"{name} ({known} units)")
    for run, names in sources.items():
        yield f"batches by the seconds of run {run}: {', '.join(names)}"


def _code_version_lines(code: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line with the units of a release by earlier code; none for one version of code.

    code  {version: {model: units}}, the newest version first
    """
    if len(code) < 2:
        return []
    earlier: dict[str, int] = {}
    for units in list(code.values())[1:]:
        for model, count in units.items():
            earlier[model] = earlier.get(model, 0) + count
    counts = ", ".join(f"{count:,} units of {model}" for model, count in earlier.items())
    return [f"made by {len(code)} versions of the code: {counts} by earlier ones"]


def relative_path(path: str | Path) -> str:
    """Return a path relative to the current folder if it is below it; an S3 address unchanged."""
    if str(path).startswith("s3://"):
        return str(path)
    full = Path(path)
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def show_next(commands: Iterable[tuple[str, str]]) -> None:
    stdout.print("\n[bold]Next[/]")
    for command, effect in commands:
        stdout.print(f"  [cyan]{escape(command)}[/]")
        print_indented("      ", effect)


def _show_sources(
    validation: Sequence[ValidationResult], sources: Mapping[str, SourceCounts]
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
    _show_reasons([v for v in validation if v.source in sources and v.findings])


def _show_reasons(validation: Sequence[ValidationResult]) -> None:
    """Print why rows were rejected, one reason per line: a column would not fit 80 characters."""
    if not validation:
        return
    stdout.print("\n[dim]why rows were rejected[/]")
    lines = [line for found in validation for line in _reason_lines(found)]
    names, digits = (max(len(line[i]) for line in lines) for i in (0, 1))
    for name, count, reason in lines:
        print_indented(f"  {name:<{names}}  {count:>{digits}}  ", reason)
    stdout.print()


def print_indented(start: str, text: str, style: str = "") -> None:
    """Print `start` and a text; if the text is wrapped, its further lines are indented to match."""
    lines = (
        textwrap.wrap(text, max(stdout.width - len(start), 20), break_on_hyphens=False)
        if fits_a_terminal()
        else [text]
    )
    stdout.print(escape(start + ("\n" + " " * len(start)).join(lines)), style=style)


def _reason_lines(found: ValidationResult) -> Iterator[tuple[str, str, str]]:
    """Yield the source (once), a count and a reason for each frequent reason, then for the rest."""
    name, rest = found.source, found.findings[MAX_REASONS_PER_SOURCE:]
    for finding in found.findings[:MAX_REASONS_PER_SOURCE]:
        yield name, f"{finding.rows:,}", f"{finding.column} {finding.message}"
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
    """A column of a table: its head and its cells as printed."""

    head: str
    cells: Sequence[str]
    is_number: bool = False

    @classmethod
    def of_numbers(cls, head: str, cells: Sequence[str]) -> TableColumn:
        """Return a column with right-aligned cells."""
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
    """Print a table, split into several if the terminal is too narrow; numbers are never broken.

    The first column, which names the rows, is in each of them.
    """
    for number, part in enumerate(_parts(columns)):
        if number:
            stdout.print()
        _print_part(part)


def fits_a_terminal() -> bool:
    """Return whether lines must fit a terminal; in a pipe they can have any length."""
    return stdout.is_terminal or "COLUMNS" in os.environ


def _parts(columns: Sequence[TableColumn]) -> list[list[TableColumn]]:
    """Return the columns in groups that fit the terminal, the first column in each of them.

    If only the last column is too wide and is text, it is not split off: its text is wrapped.
    """
    first, *others = columns
    if not fits_a_terminal():
        return [[first, *others]]
    parts = [[first]]
    for column in others:
        wraps = column is others[-1] and not column.is_number
        taken = sum(each.width + COLUMN_GAP for each in parts[-1])
        needed = column.longest_word if wraps else column.width
        if len(parts[-1]) > 1 and taken + needed > stdout.width:
            parts.append([first])
        parts[-1].append(column)
    return parts


def _print_part(columns: Sequence[TableColumn]) -> None:
    """Print columns side by side; text that does not fit is wrapped: first the last column's."""
    available = (
        stdout.width if fits_a_terminal() else sum(column.width + COLUMN_GAP for column in columns)
    )
    widths = [column.width for column in columns]
    for position in (len(columns) - 1, 0):
        if not columns[position].is_number:
            free = available - sum(widths) - COLUMN_GAP * (len(widths) - 1)
            least = (
                min(columns[position].longest_word, widths[position])
                if position
                else MIN_FIRST_COLUMN_WIDTH
            )
            widths[position] = min(widths[position], max(widths[position] + free, least))
    table = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="dim")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            escape(column.head),
            justify="right" if column.is_number else "left",
            width=width,
            overflow="fold",
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(escape, row))
    wide = Console(highlight=False, width=sum(widths) + COLUMN_GAP * len(widths))
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
    """Print JSON to stdout."""
    import json

    sys.stdout.write(
        json.dumps(without_nan(facts), indent=2, default=str, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def without_nan(facts: Any) -> Any:
    """Return the facts with None for NaN and infinities, which JSON does not have."""
    if isinstance(facts, float) and not math.isfinite(facts):
        return None
    if isinstance(facts, Mapping):
        return {key: without_nan(value) for key, value in facts.items()}
    return [without_nan(value) for value in facts] if isinstance(facts, list | tuple) else facts
