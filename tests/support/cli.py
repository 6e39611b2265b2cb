"""The command line as users call it: a process, its exit status and its output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from support.waits import HANG_S


@dataclass(frozen=True)
class CliResult:
    """The exit status of a command, and its output."""

    code: int
    out: str
    err: str


class RunCli(Protocol):
    """Runs `hundredfold` with arguments; `home` replaces the home of the test."""

    def __call__(self, *arguments: str, home: str | None = None) -> CliResult: ...


def run_hundredfold(
    *arguments: str, folder: Path, environment: Mapping[str, str], stdin: str | None = None
) -> CliResult:
    """Run `hundredfold` in a folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "hundredfold", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    return CliResult(done.returncode, done.stdout, done.stderr)
