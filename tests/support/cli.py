"""The command line as users call it: a process, its exit status and its output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from support.commands import CliResult, run_command

__all__ = ["CliResult", "RunCli", "run_hundredfold"]


class RunCli(Protocol):
    """Runs `hundredfold` with arguments; `home` replaces the home of the test."""

    def __call__(self, *arguments: str, home: str | None = None) -> CliResult: ...


def run_hundredfold(
    *arguments: str, folder: Path, environment: Mapping[str, str], stdin: str | None = None
) -> CliResult:
    """Run `hundredfold` in a folder, in a process of its own."""
    environment = {**os.environ, **environment}
    return run_command(
        "hundredfold", *arguments, folder=folder, environment=environment, stdin=stdin
    )
