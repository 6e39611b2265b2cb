"""The engines side by side: A B C, A B C, A B C, so that a slow minute of the machine is shared by
all.

The first line of the results says the machine and the versions; each line after it is one run. An
engine that fails, answers wrong or does not finish is not asked again; a slow one is asked once.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import check
from benchmarks.engines import ENGINES, ENVIRONMENTS, REFERENCE, REQUIREMENTS, Engine, versions
from benchmarks.measure import CORES, LIMIT, Measured, measure, scratch
from benchmarks.workloads import Workload, ready

RESULTS = Path(__file__).parent / "results"
UNPINNED = ("hundredfold@free", "pool@free", "joblib@free")

OK, WRONG, FAILED, STOPPED, EXTRAPOLATED, MISSING = (
    "ok",
    "wrong",
    "failed",
    "stopped",
    "extrapolated",
    "missing",
)


@dataclass(frozen=True)
class Plan:
    """In seconds: `cap` stops a run, one that takes over `slow` is not repeated, and after `budget`
    none is begun.
    """

    workloads: Sequence[str]
    engines: Sequence[str]
    rounds: int = 3
    cap: float = 600.0
    slow: float = 60.0
    budget: float = float("inf")


def engine(name: str) -> Engine:
    """An engine by its name; with `@free` the threads of BLAS are left to it, on W3, whose matrices
    are large enough.
    """
    plain, _, free = name.partition("@")
    found = ENGINES[plain]
    return (
        replace(
            found,
            name=name,
            title=f"{found.title}, BLAS left alone",
            pinned=False,
            workloads=frozenset({"W3"}),
        )
        if free
        else found
    )


def series(plan: Plan, results: Path, resume: bool, command: Sequence[str]) -> None:
    """Run the plan, adding each run to the file of results as soon as it is known."""
    if not resume or not results.exists():
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(facts(plan, command)) + "\n")
    _, before = read(results)
    until = time.monotonic() + plan.budget
    with results.open("a") as log:
        for name in plan.workloads:
            workload = ready(name)
            known = [run for run in before if run["workload"] == name and run["status"] != MISSING]
            engines = [engine(each) for each in plan.engines if name in engine(each).workloads]
            with reference(workload) as truth:
                for run in rounds(
                    workload, engines, replace(plan, budget=until - time.monotonic()), truth, known
                ):
                    log.write(json.dumps(run) + "\n")
                    log.flush()
                    print(line(run), flush=True)


def rounds(
    workload: Workload,
    engines: Sequence[Engine],
    plan: Plan,
    truth: Sequence[str],
    known: Iterable[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The runs of one workload, a round at a time, less those that are known."""
    known = list(known)
    had = Counter(run["engine"] for run in known)
    out = {run["engine"] for run in known if done_with(run, plan.slow)}
    # into the system's cache, so that the first engine does not read from disk for the others
    workload.path.read_bytes()
    until = time.monotonic() + plan.budget
    for number in range(plan.rounds):
        for each in engines:
            if each.name in out or had[each.name] > number:
                continue
            if time.monotonic() > until:
                print(f"the time is over: the rest of {workload.name} is left out")
                return
            run = once(workload, each, plan.cap, truth)
            if done_with(run, plan.slow):
                out.add(each.name)
            yield run


def done_with(run: dict[str, Any], slow: float) -> bool:
    return run["status"] != OK or run["wall"] > slow


def once(workload: Workload, engine: Engine, cap: float, truth: Sequence[str]) -> dict[str, Any]:
    """One run, judged."""
    result = {"workload": workload.name, "engine": engine.name, "at": now()}
    if engine.python is None:
        return result | {"status": MISSING, "note": f"not installed here ({engine.environment})"}
    with scratch() as folder:
        measured = measure(engine.command(workload, folder), folder, cap, engine.pinned)
        verdict = judge(workload, engine, measured, folder, truth, cap)
    figures = {
        "wall": measured.wall,
        "cpu": measured.cpu,
        "others": measured.others,
        "quiet": measured.quiet,
    }
    counted = {"peak": measured.peak, "processes": measured.processes, "left": measured.left}
    return result | figures | counted | verdict


def judge(
    workload: Workload,
    engine: Engine,
    measured: Measured,
    folder: Path,
    truth: Sequence[str],
    cap: float,
) -> dict[str, Any]:
    if measured.over:
        return {"status": STOPPED, "note": f"needs more than {LIMIT / 2**30:.0f} GiB"}
    if measured.code is None:
        return {"status": STOPPED, "note": f"does not finish in {cap:,.0f} s"}
    if measured.code:
        return {"status": FAILED, "note": measured.why}
    for line in measured.log.splitlines():
        if line.startswith("EXTRAPOLATED "):
            return {"status": EXTRAPOLATED, **json.loads(line.removeprefix("EXTRAPOLATED "))}
    found = check.compare(workload, truth, engine.answer(folder))
    if found.wrong:
        return {"status": WRONG, "note": found.wrong}
    return {"status": OK, "difference": found.difference, "note": found.note}


@contextmanager
def reference(workload: Workload) -> Iterator[Sequence[str]]:
    """The answer of a plain pandas loop, which every other is held to."""
    with scratch() as folder:
        done = measure(REFERENCE.command(workload, folder), folder, cap=3600)
        if done.code:
            sys.exit(
                f"the reference loop fails on {workload.name}: {done.why}\nhint: make bench-peers"
            )
        yield REFERENCE.answer(folder)


def line(run: dict[str, Any]) -> str:
    head = f"{run['workload']:5} {run['engine']:20} {run['status']:9}"
    if "wall" not in run:
        return f"{head} {run['note']}"
    figures = (
        f"{run['wall']:8.2f} s  {run['cpu']:8.2f} s CPU  {run['peak'] / 2**20:7,.0f} MiB  "
        f"others {run['others']:4.2f}"
    )
    whole = f"{run['seconds']:,.0f} s in all" if "seconds" in run else ""
    return f"{head} {figures}  {run.get('note', whole)}"


def read(results: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The facts, and the runs."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return lines[0], lines[1:]


def facts(plan: Plan, command: Sequence[str]) -> dict[str, Any]:
    """What a reader needs to know of the machine, and what was asked of it."""
    chosen = [engine(name) for name in plan.engines]
    found = versions(chosen)
    if any(each.environment == "spark" and each.python for each in chosen):
        found["java"] = java()
    return machine() | {
        "versions": found,
        "command": " ".join(command),
        "cap": plan.cap,
        "rounds": plan.rounds,
    }


def machine() -> dict[str, Any]:
    return {
        "date": now()[:10],
        "cores": CORES,
        "memory": psutil.virtual_memory().total,
        "processor": processor(),
        "system": system(),
        "python": platform.python_version(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform(terse=True)


def java() -> str:
    try:
        printed = subprocess.run(
            ["java", "-version"], capture_output=True, text=True, check=True
        ).stderr
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return printed.split('"')[1] if '"' in printed else printed.splitlines()[0]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def not_installed() -> list[str]:
    """The environments that `make bench-peers` would still make."""
    return [
        path.stem
        for path in sorted(REQUIREMENTS.glob("*.txt"))
        if not (ENVIRONMENTS / path.stem / "done").exists()
    ]
