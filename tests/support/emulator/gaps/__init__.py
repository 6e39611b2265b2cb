"""Features that MiniStack lacks, added in one module for each service.

This code runs in the emulator's own environment. MiniStack is patched by name, so every name is
checked first (`need`): if a release has moved one, the emulator fails at its start with that name,
and does not answer wrongly later.
"""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# of this emulator: settings are read here, and faults are written
FOLDER = Path(os.environ["BENCH_FOLDER"])


def need(module: ModuleType, *names: str) -> None:
    """Raise AssertionError unless the module has the names that are to be patched or called."""
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, (
        f"{module.__name__} has no {', '.join(missing)} any more: find its replacement, and "
        f"fix {__name__}"
    )


def held(lock: threading.RLock, action: Callable[..., Any]) -> Callable[..., Any]:
    """Return an action that holds a lock while it runs."""
    assert not inspect.iscoroutinefunction(action), (
        f"{action} waits: a lock must not be held meanwhile"
    )

    def done(*arguments: Any, **named: Any) -> Any:
        with lock:
            return action(*arguments, **named)

    return done


def setting(name: str, default: Any) -> Any:
    """Return the current settings of the test."""
    global _read
    found = _FILE.stat()  # a new file each time
    if (found.st_ino, found.st_mtime_ns) != _read[0]:
        _read = (found.st_ino, found.st_mtime_ns), json.loads(_FILE.read_text())
    return _read[1].get(name, default)


_FILE = FOLDER / "settings.json"
_read: tuple[tuple[int, int], dict[str, Any]] = ((0, 0), {})
