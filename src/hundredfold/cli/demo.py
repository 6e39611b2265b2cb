"""Demos that come with installed packages, found by their entry point in the group `hundredfold.demos`.

An entry point names a module with JOB (module:attribute), AS_OF (a date), SIZES and make(size, folder) -> {source: path}; and, if it
likes, NEXT: commands that make sense after its run, each with what it does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..errors import UsageError

GROUP = "hundredfold.demos"


@dataclass(frozen=True, slots=True)
class Demo:
    """Data that can be made, and the job that runs on it."""

    name: str
    module: Any

    @property
    def job(self) -> str:
        return str(self.module.JOB)

    @property
    def as_of(self) -> str:
        return str(self.module.AS_OF)

    def next(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """The demo's own commands after its run, with the options that say where the run is."""
        return [
            (shlex.join([*shlex.split(command), *words]), does)
            for command, does in getattr(self.module, "NEXT", ())
        ]

    def folder(self, data: str | None, home: str, size: str) -> Path:
        return Path(data) if data else Path(home) / "demo" / f"{self.name}-{size}"

    def check(self, size: str) -> None:
        """UsageError for a size that there is not."""
        if size not in self.module.SIZES:
            raise UsageError(
                f"the demo {self.name} has no size {size!r}; it has {', '.join(self.module.SIZES)}"
            )

    def make(self, size: str, folder: Path) -> Mapping[str, str]:
        """Make the data; where the rows of each source are."""
        return {name: str(path) for name, path in self.module.make(size, folder).items()}


def find_demo(name: str) -> Demo:
    """The demo of that name; UsageError names those that are installed."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(
            f"there is no demo {name!r}; installed are {', '.join(sorted(found)) or 'none'}"
        )
    return Demo(name, found[name].load())
