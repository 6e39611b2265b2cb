"""Demos of installed packages, found by their entry points in the group `hundredfold.demos`.

An entry point names a module with JOB (module:attribute), AS_OF (a date), SIZES and
make(size, folder) -> {source: path}. Optional is NEXT: commands to run after the demo, each with
its effect.
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
    """A generator of data, and the job that runs on the data."""

    name: str
    module: Any

    @property
    def job(self) -> str:
        return str(self.module.JOB)

    @property
    def as_of(self) -> str:
        return str(self.module.AS_OF)

    def next(self, cli_options: Sequence[str]) -> list[tuple[str, str]]:
        """Return the demo's next commands, each with its effect and the options of the target."""
        return [
            (shlex.join([*shlex.split(command), *cli_options]), effect)
            for command, effect in getattr(self.module, "NEXT", ())
        ]

    def folder(self, data: str | None, home: str, size: str) -> Path:
        return Path(data) if data else Path(home) / "demo" / f"{self.name}-{size}"

    def check(self, size: str) -> None:
        """Raise UsageError for an unknown size."""
        if size not in self.module.SIZES:
            raise UsageError(
                f"the demo {self.name} has no size {size!r}, wanted one of "
                f"{', '.join(self.module.SIZES)}"
            )

    def make(self, size: str, folder: Path) -> Mapping[str, str]:
        """Generate the data and return the path of each source."""
        return {name: str(path) for name, path in self.module.make(size, folder).items()}


def find_demo(name: str) -> Demo:
    """Return the demo of that name; UsageError with the installed ones if there is none."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(
            f"no demo {name!r} is installed; installed demos: {', '.join(sorted(found)) or 'none'}"
        )
    return Demo(name, found[name].load())
