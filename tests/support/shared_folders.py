"""Folders that all processes of a test session share, each filled by the first that needs it.

What they contain is read; a test that changes it copies it first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of the session, also in a process of xdist."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def filled_once(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Return a folder that `fill` has filled, in this process or in another one."""
    filled = folder.with_name(f"{folder.name}.filled")
    with FileLock(f"{folder}.lock"):
        if not filled.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that ended too early
            folder.mkdir()
            fill(folder)
            filled.touch()
    return folder
