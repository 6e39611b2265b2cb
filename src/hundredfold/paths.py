"""Paths as users write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import UsageError


def expand_user(path: str | Path) -> Path:
    """Return a path with ~ expanded. For an unknown user it stays (Path.expanduser raises).

    Raises:
        UsageError: the path is not valid UTF-8, which SQLite, DuckDB and Arrow require.
    """
    found = Path(os.path.expanduser(path))  # noqa: PTH111
    try:
        str(found.absolute()).encode()
    except UnicodeEncodeError:
        ascii_only = sys.getfilesystemencoding() != "utf-8"
        raise UsageError(
            f"the path {str(found.absolute())!a} is not text in UTF-8",
            hint="this process reads paths as ASCII: set LC_ALL=C.UTF-8, or remove PYTHONUTF8=0"
            if ascii_only
            else "rename it",
        ) from None
    return found
