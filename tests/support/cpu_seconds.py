"""CPU seconds of each test, for `pytest --cpu FILE`: unlike durations, they do not depend on what else the machine does.

A test is charged with what its process and all processes below it used while it ran: workers, servers and commands that it
started are included, even those that a forkserver started for it. A fixture is charged to the test that first asked for it.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
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
        if not hasattr(config, "workerinput"):  # this is no process of xdist
            config.pluginmanager.register(Report(config.option.cpu.absolute()), "cpu_report")


class CpuSeconds:
    """Adds to the report of each phase of a test what it used: in each process that runs tests."""

    def __init__(self) -> None:
        self.before = tree_s(os.getpid())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = tree_s(os.getpid())
        # less than nothing is what a process took with it whose parent ended before it
        report.user_properties.append((PROPERTY, max(now - self.before, 0.0)))
        self.before = now
        return report


class Report:
    """Writes the CPU seconds into a file: in the one process that hears of all tests."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.unlink(missing_ok=True)
        self.seconds: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # every later phase repeats the properties of those before it
        for name, value in report.user_properties[-1:]:
            if name == PROPERTY:
                self.seconds[report.nodeid, report.when] += value
                with self.file.open("a") as file:  # for a run that does not reach its end
                    file.write(line(value, report.when, report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self.file.write_text(
            "".join(
                line(seconds, when, nodeid)
                for (nodeid, when), seconds in self.seconds.most_common()
            )
        )
        terminalreporter.write_line(f"{self.seconds.total():.0f} CPU seconds in tests: {self.file}")


def line(seconds: float, when: str, nodeid: str) -> str:
    return f"{seconds:9.2f} {when:8} {nodeid}\n"


def tree_s(root: int) -> float:
    """Return the CPU seconds of this process, of its living descendants, and of those that were waited for."""
    seconds: dict[int, float] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile: the one that waits for it has its seconds
            children[int(fields[1])].append(int(process.name))
            seconds[int(process.name)] = sum(map(int, fields[11:15])) / TICKS_PER_S
    tree = [root]
    for pid in tree:
        tree += children[pid]
    return sum(seconds[pid] for pid in tree)
