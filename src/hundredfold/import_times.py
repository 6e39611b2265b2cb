"""Times at which modules were imported, to find files that changed since.

A finder that finds nothing is called before all others, and so records each import and each reload.
"""

from __future__ import annotations

import sys
import time
from typing import Any

BEFORE = frozenset(sys.modules)  # modules imported before this one
SINCE = time.time_ns()
TIMES: dict[str, int] = {}  # start of the last import, in ns since the epoch


class Recorder:
    """A finder that records names and finds nothing."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG004
        TIMES[name] = time.time_ns()


sys.meta_path.insert(0, Recorder)
