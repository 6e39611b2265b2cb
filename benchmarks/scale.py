"""Hundredfold alone, through its command line: the cost of a unit and the memory on ever more
units, and the speed-up by workers.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import machine, now, read
from benchmarks.engines import ENGINES, versions
from benchmarks.measure import CORES, Measured, measure, scratch
from benchmarks.report import FIGURES, machine_facts, put, seconds, wrapped
from benchmarks.workloads import DATA, WORKLOADS, ready, sales

HUNDREDFOLD = ENGINES["hundredfold"]
USED = ("hundredfold", "duckdb", "numpy", "pyarrow")
SPEEDUP = ("W2", "W4")  # one whose time is the function's, one whose time is the engine's


def series(
    units: Sequence[int],
    rows: int,
    memory: str,
    workers: Sequence[int],
    rounds: int,
    results: Path,
    resume: bool,
    command: Sequence[str],
) -> None:
    """Every size, then every number of workers; each run is added to the results as soon as it is
    known.
    """
    if not resume or not results.exists():
        results.parent.mkdir(parents=True, exist_ok=True)
        facts = machine() | {
            "versions": {name: versions([HUNDREDFOLD])[name] for name in USED},
            "command": " ".join(command),
        }
        results.write_text(json.dumps(facts) + "\n")
    had = Counter(same(run) for run in read(results)[1])
    with results.open("a") as log:
        for number in range(rounds):
            for asked in plan(units, rows, memory, workers):
                if had[same(asked)] > number:
                    continue
                run = asked | once(asked)
                log.write(json.dumps(run) + "\n")
                log.flush()
                print(
                    f"{asked}: {run['wall']:.2f} s, {run['peak'] / 2**20:,.0f} MiB, others "
                    f"{run['others']:.2f}",
                    flush=True,
                )


def plan(
    units: Sequence[int], rows: int, memory: str, workers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for count in units:
        yield {"kind": "units", "units": count, "rows": rows, "memory": memory}
    for name in SPEEDUP:
        for count in workers:
            if count <= CORES:
                yield {"kind": "workers", "workload": name, "workers": count}


def same(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        run.get(name) for name in ("kind", "units", "rows", "memory", "workload", "workers")
    )


def once(asked: dict[str, Any]) -> dict[str, Any]:
    by_units = asked["kind"] == "units"
    with scratch() as folder:
        workload = WORKLOADS["W4"] if by_units else ready(asked["workload"])
        command = HUNDREDFOLD.command(workload, folder)
        if by_units:
            command += [
                "--source",
                f"sales={data(asked['units'], asked['rows'])}",
                "--memory",
                asked["memory"],
            ]
        else:
            command += ["--workers", str(asked["workers"])]
        measured = measure(command, folder, cap=3600)
        check(measured, HUNDREDFOLD.answer(folder), asked["units"] if by_units else workload.units)
    figures = {
        "wall": measured.wall,
        "cpu": measured.cpu,
        "others": measured.others,
        "quiet": measured.quiet,
        "peak": measured.peak,
    }
    return figures | {"at": now()}


def data(units: int, rows: int) -> Path:
    """The file of so many units; the shape of W4."""
    path = DATA / f"scale-{units}x{rows}.parquet"
    if not path.exists():
        sales(units, rows, 1_000, 100, 4)(path)
    path.read_bytes()  # into the system's cache
    return path


def check(measured: Measured, answer: Sequence[str], units: int) -> None:
    import pyarrow.parquet as pq

    if measured.code != 0:
        sys.exit(f"Hundredfold failed: {measured.why}")
    found = sum(pq.read_metadata(path).num_rows for path in answer)
    if found != units:
        sys.exit(f"Hundredfold published {found:,} units of {units:,}")


# ---- the report


def grouped(runs: Sequence[dict[str, Any]], kind: str) -> dict[tuple[Any, ...], dict[str, float]]:
    """Medians of the quiet runs (of all where none was), by what was asked."""
    by: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if run["kind"] == kind:
            by[same(run)[1:]].append(run)
    found = {}
    for asked, each in sorted(
        by.items(), key=lambda item: tuple(str(word).zfill(12) for word in item[0])
    ):
        counted = [run for run in each if run["quiet"]] or each
        figures = {name: median(run[name] for run in counted) for name in ("wall", "cpu", "peak")}
        found[asked] = figures | {"runs": len(each), "quiet": sum(run["quiet"] for run in each)}
    return found


def publish(results: Path) -> None:
    """Tables and plot into README.md."""
    facts, runs = read(results)
    sizes, pool_sizes = grouped(runs, "units"), grouped(runs, "workers")
    plot(sizes, pool_sizes, FIGURES / "scale.svg")
    machine_text = wrapped(f"{machine_facts(facts)}.")
    parts = [f"![cost of a unit, memory and speed-up](figures/scale.svg)\n\n{machine_text}"]
    if sizes:
        parts.append(
            "| units | rows | wall, s | us a unit | CPU, s | peak MiB | runs/quiet |\n"
            "|---|---|---|---|---|---|---|\n"
            + "\n".join(
                f"| {units:,} | {units * rows:,} | {seconds(f['wall'])} | "
                f"{1e6 * f['wall'] / units:.1f} | {seconds(f['cpu'])} | "
                f"{f['peak'] / 2**20:,.0f} | {f['runs']:.0f}/{f['quiet']:.0f} |"
                for (units, rows, *_), f in sizes.items()
            )
        )
    if pool_sizes:
        one = {name: f["wall"] for (*_, name, workers), f in pool_sizes.items() if workers == 1}
        parts.append(
            "| workload | workers | wall, s | speed-up | CPU, s | peak MiB | runs/quiet |\n"
            "|---|---|---|---|---|---|---|\n"
            + "\n".join(
                f"| {name} | {workers} | {seconds(f['wall'])} | {one[name] / f['wall']:.2f} | "
                f"{seconds(f['cpu'])} | {f['peak'] / 2**20:,.0f} | "
                f"{f['runs']:.0f}/{f['quiet']:.0f} |"
                for (*_, name, workers), f in pool_sizes.items()
                if name in one
            )
        )
    put("scale", "\n\n".join(parts))


def plot(
    sizes: dict[tuple[Any, ...], dict[str, float]],
    pool_sizes: dict[tuple[Any, ...], dict[str, float]],
    path: Path,
) -> None:
    """Microseconds a unit, memory, and speed-up."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    matplotlib.rcParams.update({"svg.hashsalt": "hundredfold", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, (cost, memory, speed) = plt.subplots(1, 3, figsize=(11, 3.4))
    units = [asked[0] for asked in sizes]
    colour = "#d1495b"
    each = [1e6 * f["wall"] / n for n, f in zip(units, sizes.values(), strict=True)]
    cost.plot(units, each, "o-", color=colour)
    for n, value in zip(units, each, strict=True):
        cost.annotate(
            f"{value:.1f}",
            (n, value),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=8,
        )
    cost.set(xscale="log", yscale="log", title="microseconds a unit", xlabel="units")
    peaks = [f["peak"] / 2**20 for f in sizes.values()]
    memory.plot(units, peaks, "o-", color=colour)
    for n, value in zip(units, peaks, strict=True):
        memory.annotate(
            f"{value:,.0f}",
            (n, value),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=8,
        )
    given = next((asked[2] for asked in sizes), None)
    memory.set(
        xscale="log",
        ylim=(0, max(peaks, default=1) * 1.25),
        title=f"peak MiB, with --memory {given}",
        xlabel="units",
    )
    for name, style in zip(SPEEDUP, ("o-", "s--"), strict=True):
        found = {
            workers: f["wall"]
            for (*_, workload, workers), f in pool_sizes.items()
            if workload == name
        }
        if 1 in found:
            speed.plot(
                list(found),
                [found[1] / wall for wall in found.values()],
                style,
                color=colour,
                label=WORKLOADS[name].title,
            )
    largest = max((asked[-1] for asked in pool_sizes), default=1)
    speed.plot([1, largest], [1, largest], ":", color="#5f6b76", label="as many times as workers")
    speed.set(
        title="speed-up of the whole run",
        xlabel="workers",
        xticks=sorted({asked[-1] for asked in pool_sizes}),
    )
    speed.legend(fontsize=7, frameon=False)
    for axis in (cost, memory, speed):
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(0.12)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(figure)
