"""When modules were imported.  It is asked when a module's file is newer than the module in memory may be.

A finder that finds nothing, before all others, is told each import, and each reload, as it begins.
"""

from __future__ import annotations

import sys
import time
from typing import Any

BEFORE = frozenset(sys.modules)  # what was imported before this module was
SINCE = time.time_ns()
TIMES: dict[str, int] = {}  # when the import of a module began last, in ns since the epoch


class Recorder:
    """A finder that records names and finds nothing."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG004  # what finders are called with
        TIMES[name] = time.time_ns()


sys.meta_path.insert(0, Recorder)
