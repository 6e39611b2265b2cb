"""Hundredfold runs a Python function over every unit of a table, in parallel, as a pipeline.

    from hundredfold import Job, Model, Source, run

Public names: Job, Model, Source, Csv, Publish, DynamoDB; run, and the actions on a Run; map, one
call for a frame; Unit and Units, the light forms of rows; HundredfoldError, the root of all errors.
Names are loaded at their first use, so that the import is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import import_times as _imported  # noqa: F401  # first, to record all imports
from ._package import VERSION
from .errors import HundredfoldError
from .job import Csv, Job, Model, Publish, Source
from .release_tables import DynamoDB

if TYPE_CHECKING:
    from .api import (
        adjust,
        cancel,
        clean,
        diff,
        open_run,
        publish,
        replay,
        resume,
        retry,
        rollback,
        run,
    )
    from .data.batch import Unit, Units
    from .mapping import map
    from .report.write import write_report
    from .runs.run import Rows, Run

__version__ = VERSION
__all__ = [
    "Csv",
    "DynamoDB",
    "HundredfoldError",
    "Job",
    "Model",
    "Publish",
    "Rows",
    "Run",
    "Source",
    "Unit",
    "Units",
    "adjust",
    "cancel",
    "clean",
    "diff",
    "map",
    "open_run",
    "publish",
    "replay",
    "resume",
    "retry",
    "rollback",
    "run",
    "write_report",
]

_MODULE_OF = {  # modules of the names that are loaded at their first use
    "Unit": "data.batch",
    "Units": "data.batch",
    "Rows": "runs.run",
    "Run": "runs.run",
    "adjust": "api",
    "cancel": "api",
    "clean": "api",
    "diff": "api",
    "map": "mapping",
    "open_run": "api",
    "publish": "api",
    "replay": "api",
    "resume": "api",
    "retry": "api",
    "rollback": "api",
    "run": "api",
    "write_report": "report.write",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hundredfold' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
