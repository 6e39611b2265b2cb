"""The results as tables and one plot, between the markers of README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import fill, wrap
from typing import Any

from benchmarks.compare import EXTRAPOLATED, MISSING, OK, engine, read
from benchmarks.engines import ENGINES, FLOOR, OURS, PEER, VECTORISED, Engine
from benchmarks.workloads import WORKLOADS, Workload

HERE = Path(__file__).parent
README = HERE / "README.md"
FIGURES = HERE / "figures"
Run = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """All runs of one engine on one workload."""

    engine: Engine
    workload: Workload
    runs: tuple[Run, ...]

    @property
    def ended(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run["status"] == OK)

    @property
    def counted(self) -> tuple[Run, ...]:
        """The quiet runs, or all where none was."""
        return tuple(run for run in self.ended if run["quiet"]) or self.ended

    @property
    def wall(self) -> float | None:
        """Seconds, or None where it does not do the work."""
        if self.runs[-1]["status"] == EXTRAPOLATED:
            return float(self.runs[-1]["seconds"])
        return self._of("wall") if self.ended and self.runs[-1]["status"] == OK else None

    def _of(self, figure: str) -> float:
        return float(median(run[figure] for run in self.counted))

    @property
    def cells(self) -> list[str]:
        """The engine, what it hands over, wall, CPU, microseconds a unit, memory, runs, remark; the
        two ratios are put in later.
        """
        head = [
            f"**{self.engine.title}**" if self.engine.kind == OURS else self.engine.title,
            self.engine.form,
        ]
        if not self.ended:
            wall = f"~{self.wall:,.0f}" if self.wall else "-"
            each = f"{1e6 * self.wall / self.workload.units:,.0f}" if self.wall else "-"
            return [*head, wall, "-", each, "-", "-", self.remark]
        walls = [run["wall"] for run in self.ended]
        spread = f" ({seconds(min(walls))}-{seconds(max(walls))})" if len(walls) > 1 else ""
        runs = f"{len(walls)}/{sum(run['quiet'] for run in self.ended)}"
        each = f"{1e6 * self._of('wall') / self.workload.units:,.1f}"
        return [
            *head,
            seconds(self._of("wall")) + spread,
            seconds(self._of("cpu")),
            each,
            f"{self._of('peak') / 2**20:,.0f}",
            runs,
            self.remark,
        ]

    @property
    def remark(self) -> str:
        last = self.runs[-1]
        if last["status"] == EXTRAPOLATED:
            return f"does not finish: extrapolated from {last['units']:,} units"
        if last["status"] != OK:
            return str(last["note"]).replace("|", "/")
        tolerance = max(run["difference"] for run in self.ended)
        notes = [f"equal within {tolerance:.0e}" if tolerance else "equal to the last bit"]
        notes += [last["note"]] * bool(last["note"])
        notes += [
            "a process outlives it" if last["left"] == 1 else f"{last['left']} processes outlive it"
        ] * bool(last["left"])
        return "; ".join(notes)


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def rows_of(runs: Sequence[Run], workload: Workload, free: bool = False) -> list[Row]:
    """The rows of one workload, the fastest first and those without a time last."""
    names = dict.fromkeys(
        run["engine"]
        for run in runs
        if run["workload"] == workload.name and ("@" in run["engine"]) is free
    )
    rows = [
        Row(
            engine(name),
            workload,
            tuple(
                run for run in runs if run["workload"] == workload.name and run["engine"] == name
            ),
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (row.wall is None, row.wall or 0.0))


def wall_of(rows: Iterable[Row], name: str) -> float | None:
    return next((row.wall for row in rows if row.engine.name == name), None)


def ratio(wall: float | None, to: float | None, digits: int = 2) -> str:
    if wall is None or to is None:
        return "-"
    found = wall / to
    return f"{found:.{digits}f}" if found < 10 else f"{found:,.0f}"


HEAD = [
    "engine",
    "handed over",
    "wall, s (min-max)",
    "x bare",
    "x Hundredfold",
    "CPU, s",
    "us a unit",
    "peak MiB",
    "runs/quiet",
    "remark",
]


def table(rows: Sequence[Row], against: Sequence[Row]) -> str:
    floor, ours = wall_of(against, "bare"), wall_of(against, "hundredfold")
    lines = [HEAD, ["---"] * len(HEAD)]
    lines += [
        [*(cells := row.cells)[:3], ratio(row.wall, floor), ratio(row.wall, ours), *cells[3:]]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sections(runs: Sequence[Run]) -> str:
    """A table for each workload, and one of BLAS left alone."""
    parts = []
    for workload in WORKLOADS.values():
        pinned, free = rows_of(runs, workload), rows_of(runs, workload, free=True)
        present = [row for row in pinned if row.runs[-1]["status"] != MISSING]
        if present:
            parts.append(f"### {heading(workload)}\n\n{table(present, pinned)}")
        if free:
            beside = [
                row
                for row in pinned
                if any(row.engine.name == other.engine.name.partition("@")[0] for other in free)
            ]
            rows = sorted([*beside, *free], key=lambda row: (row.wall is None, row.wall or 0.0))
            parts.append(
                f"### {workload.name}, the threads of BLAS left alone\n\n{table(rows, pinned)}"
            )
    return "\n\n".join(parts)


def machine_facts(facts: dict[str, Any]) -> str:
    """When, by what command, where, and of what versions."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))
    return (
        f"Measured on {facts['date']} with `{facts['command']}`: {facts['cores']} cores "
        f"({facts['processor']}), "
        f"{facts['memory'] / 2**30:.0f} GiB of memory, {facts['system']}, Python "
        f"{facts['python']}; {versions}"
    )


def wrapped(text: str) -> str:
    """Return a paragraph in lines as long as those of other pages."""
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def setting(facts: dict[str, Any], runs: Sequence[Run]) -> str:
    missing = dict.fromkeys(engine(run["engine"]).title for run in runs if run["status"] == MISSING)
    missing_note = f"\n\nNot installed, so not measured: {', '.join(missing)}." if missing else ""
    limit = f"A run is stopped after {facts['cap']:,.0f} s."
    return wrapped(f"{machine_facts(facts)}. {limit}") + missing_note


def plot(runs: Sequence[Run], path: Path) -> None:
    """Wall time of every engine as a multiple of the bare prototype's, one panel a workload, on a
    log scale.
    """
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    matplotlib.rcParams.update({"svg.hashsalt": "hundredfold", "font.size": 9})
    import matplotlib.pyplot as plt

    panels = {w.name: rows for w in WORKLOADS.values() if wall_of(rows := rows_of(runs, w), "bare")}
    names, across = in_order(panels), min(3, len(panels))
    down = -(-len(panels) // across)
    size = (2.6 + 2.8 * across, 0.6 + down * (0.9 + 0.19 * len(names)))
    figure, axes = plt.subplots(down, across, sharey=True, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, rows) in zip(axes.flat, panels.items(), strict=False):
        panel(axis, WORKLOADS[name], {row.engine.name: row for row in rows}, names)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(names)), [ENGINES[name].title for name in names])
        for label, name in zip(axis.get_yticklabels(), names, strict=True):
            label.set(
                color=INK[ENGINES[name].kind],
                fontweight="bold" if ENGINES[name].kind == OURS else "normal",
            )
    axes[0][0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(
        "Time of the whole run, as a multiple of the bare prototype's (log scale, shorter is "
        "faster)",
        fontsize=11,
    )
    figure.tight_layout(h_pad=1.6)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


COLOURS = {OURS: "#d1495b", FLOOR: "#5f6b76", VECTORISED: "#b7bec5", PEER: "#6c9bc4"}
INK = {OURS: "#d1495b", FLOOR: "#5f6b76", VECTORISED: "#5f6b76", PEER: "black"}


def in_order(panels: dict[str, list[Row]]) -> list[str]:
    """The reference points, Hundredfold, and the peers by the middle of their ratios; those that
    never finish come last.
    """
    found: dict[str, list[float]] = {}
    for rows in panels.values():
        floor = wall_of(rows, "bare") or 1.0
        for row in rows:
            if row.runs[-1]["status"] != MISSING:
                found.setdefault(row.engine.name, []).append(row.wall / floor if row.wall else 1e9)
    kinds = (VECTORISED, FLOOR, OURS, PEER)
    return sorted(found, key=lambda name: (kinds.index(ENGINES[name].kind), median(found[name])))


def panel(axis: Any, workload: Workload, rows: dict[str, Row], names: Sequence[str]) -> None:
    floor = wall_of(rows.values(), "bare") or 1.0
    ratios = {name: row.wall / floor for name, row in rows.items() if row.wall}
    low, high = min(0.5, *ratios.values()) / 1.3, max(ratios.values()) * 6
    for row, name in enumerate(names):
        kind = ENGINES[name].kind
        if kind == OURS:
            axis.axhspan(
                machine_facts - 0.5,
                machine_facts + 0.5,
                color=COLOURS[OURS],
                alpha=0.09,
                linewidth=0,
            )
        if name in ratios:
            rough = rows[name].runs[-1]["status"] == EXTRAPOLATED
            axis.barh(
                row,
                ratios[name] - low,
                left=low,
                height=0.72,
                color=COLOURS[kind],
                alpha=0.45 if rough else 1.0,
            )
            text = f"{'~' if rough else ''}{ratio(rows[name].wall, floor, 1)}"
            axis.text(
                ratios[name] * 1.08,
                row,
                text,
                va="center",
                fontsize=8,
                fontweight="bold" if kind == OURS else "normal",
            )
        elif name in rows and rows[name].runs[-1]["status"] != MISSING:
            axis.text(
                low * 1.15,
                row,
                rows[name].runs[-1]["status"],
                va="center",
                fontsize=8,
                style="italic",
                color="#b00020",
            )
        else:
            axis.text(low * 1.15, row, "-", va="center", fontsize=8, color="#999999")
    axis.set(xscale="log", xlim=(low, high))
    axis.xaxis.set_minor_formatter(
        ""
    )  # where all bars are about 1 it would write its ticks over one another
    axis.set_title("\n".join(wrap(heading(workload), 42)), fontsize=8.5, loc="left")
    axis.xaxis.set_major_formatter(
        lambda value, _: f"{value:g}" if value < 10_000 else f"{value:,.0f}"
    )
    axis.axvline(1, color=COLOURS[FLOOR], linewidth=0.8, linestyle=":")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def heading(workload: Workload) -> str:
    return (
        workload.title
        if workload.title.startswith(workload.name)
        else f"{workload.name}, {workload.title}"
    )


def put(marker: str, text: str) -> None:
    """`text` between the marker's two lines in README.md."""
    begin, end = (
        f"<!-- {marker}: written by `python -m benchmarks` -->",
        f"<!-- end of {marker} -->",
    )
    before = README.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    assert pattern.search(before), f"README.md has no marker {marker}"
    README.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", before))


def publish(results: Path) -> None:
    """Tables and plot of a series into README.md."""
    facts, runs = read(results)
    plot(runs, FIGURES / "peers.svg")
    put(
        "peers",
        f"![wall time of every engine](figures/peers.svg)\n\n{setting(facts, runs)}\n\n"
        f"{sections(runs)}",
    )


def summary(results: Path) -> str:
    """The same tables, to be read at once."""
    facts, runs = read(results)
    return f"{setting(facts, runs)}\n\n{sections(runs)}"
