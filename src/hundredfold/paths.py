"""Paths as users write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import UsageError


def expand_user(path: str | Path) -> Path:
    """Return a path with the user's folder for ~; as it is for a user that there is none of, where Path.expanduser raises.

    Raises: UsageError for a path that is no text (in full: SQLite, DuckDB and Arrow take paths as UTF-8).
    """
    found = Path(os.path.expanduser(path))  # noqa: PTH111
    try:
        str(found.absolute()).encode()
    except UnicodeEncodeError:
        ascii_only = sys.getfilesystemencoding() != "utf-8"
        raise UsageError(
            f"the path {str(found.absolute())!a} is not text in UTF-8",
            hint="this process reads paths as ASCII: set LC_ALL=C.UTF-8, or leave PYTHONUTF8=0 out"
            if ascii_only
            else "rename it",
        ) from None
    return found
