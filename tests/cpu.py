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
    parser.addoption("--cpu", metavar="FILE", type=Path, help="write the CPU seconds of each test to FILE, heaviest first (Linux)")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.cpu is not None:
        config.pluginmanager.register(CpuSeconds(config.option.cpu.absolute()), "cpu_seconds")


class CpuSeconds:
    """Measures in the processes that run tests, and writes in the one that reports."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = tree_s(os.getpid())
        self.seconds: Counter[tuple[str, str]] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = tree_s(os.getpid())
        report.user_properties.append((PROPERTY, now - self.before))
        self.before = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # every later phase repeats the properties of those before it
        for name, value in report.user_properties[-1:]:
            if name == PROPERTY:
                self.seconds[report.nodeid, report.when] += value

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = [f"{seconds:9.2f} {when:8} {nodeid}" for (nodeid, when), seconds in self.seconds.most_common()]
        self.file.write_text("\n".join(lines) + "\n")
        terminalreporter.write_line(f"{self.seconds.total():.0f} CPU seconds in tests: {self.file}")


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
