"""Hundredfold runs one Python function over every unit of a table, in parallel, as a dependable pipeline.

    from hundredfold import Job, Model, Source, run

The face: Job, Model, Source, Csv, Publish; run, and what can be done with a Run afterwards; Unit and Units, the light forms of
rows; HundredfoldError, the root of all errors.  Names are loaded when they are first used, so that importing costs little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import import_times as _imported  # noqa: F401  # first: it records when modules are imported from here on
from ._package import VERSION
from .errors import HundredfoldError
from .job import Csv, Job, Model, Publish, Source

if TYPE_CHECKING:
    from .api import cancel, open_run, publish, replay, resume, retry, rollback, run
    from .data.batch import Unit, Units
    from .runs.run import Rows, Run

__version__ = VERSION
__all__ = [
    "Csv", "HundredfoldError", "Job", "Model", "Publish", "Rows", "Run", "Source", "Unit", "Units",
    "cancel", "open_run", "publish", "replay", "resume", "retry", "rollback", "run",
]  # fmt: skip

_LATER = {
    "Unit": "data.batch", "Units": "data.batch", "Rows": "runs.run", "Run": "runs.run",
    **dict.fromkeys(("cancel", "open_run", "publish", "replay", "resume", "retry", "rollback", "run"), "api"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'hundredfold' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
