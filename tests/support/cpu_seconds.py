"""CPU seconds of each test, for `pytest --cpu FILE`: they do not depend on other processes.

A test is charged with the CPU time of its process and of all descendants while it ran: workers,
servers and commands are included, even those that a forkserver started. A fixture is charged to the
test that requested it first.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PROPERTY = "cpu_s"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu",
        metavar="FILE",
        type=Path,
        help="write the CPU seconds of each test to FILE, heaviest first (Linux)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.cpu is not None:
        config.pluginmanager.register(CpuSeconds(), "cpu_seconds")
        if not hasattr(config, "workerinput"):  # not a worker of xdist
            config.pluginmanager.register(Report(config.option.cpu.absolute()), "cpu_report")


class CpuSeconds:
    """Adds the CPU seconds to the report of each phase, in each process that runs tests."""

    def __init__(self) -> None:
        self.before = tree_s(os.getpid())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = tree_s(os.getpid())
        # negative if a process ended whose parent had ended before
        report.user_properties.append((PROPERTY, max(now - self.before, 0.0)))
        self.before = now
        return report


class Report:
    """Writes the CPU seconds to a file, in the process that receives all reports."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.unlink(missing_ok=True)
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # every later phase repeats the properties of those before it
        for name, value in report.user_properties[-1:]:
            if name == PROPERTY:
                seconds = float(str(value))
                self.seconds[report.nodeid, report.when] += seconds
                with self.file.open("a") as file:  # for a session that does not end
                    file.write(line(seconds, report.when, report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self.file.write_text(
            "".join(
                line(seconds, when, nodeid)
                for (nodeid, when), seconds in sorted(
                    self.seconds.items(), key=lambda each: -each[1]
                )
            )
        )
        terminalreporter.write_line(
            f"{sum(self.seconds.values()):.0f} CPU seconds in tests: {self.file}"
        )


def line(seconds: float, when: str, nodeid: str) -> str:
    return f"{seconds:9.2f} {when:8} {nodeid}\n"


def tree_s(root: int) -> float:
    """Return the CPU seconds of a process, its descendants, and those that it waited for."""
    seconds: dict[int, float] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended; its parent has its seconds
            children[int(fields[1])].append(int(process.name))
            seconds[int(process.name)] = sum(map(int, fields[11:15])) / TICKS_PER_S
    tree = [root]
    for pid in tree:
        tree += children[pid]
    return sum(seconds[pid] for pid in tree)
