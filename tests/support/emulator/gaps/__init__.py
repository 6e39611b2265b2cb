"""What MiniStack lacks, filled in: one room for each service.

This runs inside the emulator's own environment.

MiniStack is patched by name, so every name is asked for first (`need`): a release that moved one
fails at the start and says which, instead of answering wrongly later.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(
    os.environ["BENCH_FOLDER"]
)  # of this emulator: settings come in here, and what was done goes out


def need(module: ModuleType, *names: str) -> None:
    """AssertionError unless the module still has what is going to be patched or called."""
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, (
        f"{module.__name__} has no {', '.join(missing)} any more: look at what replaced it, and "
        f"mend {__name__}"
    )


def setting(name: str, default: Any) -> Any:
    """What the test set just now."""
    global _read
    found = _FILE.stat()  # a new file each time
    if (found.st_ino, found.st_mtime_ns) != _read[0]:
        _read = (found.st_ino, found.st_mtime_ns), json.loads(_FILE.read_text())
    return _read[1].get(name, default)


_FILE = FOLDER / "settings.json"
_read: tuple[tuple[int, int], dict[str, Any]] = ((0, 0), {})
