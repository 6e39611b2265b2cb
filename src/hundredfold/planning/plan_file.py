"""The file of a plan, and the folder beside it with the results of its pilot."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..local.filesystem import FileStore
from ..ports.object_keys import TEMP_PREFIX
from ..runs.pilot_results import FACTS
from ..runs.plans import PILOT_SUFFIX, pilot_folder


def check_output(output: str | Path) -> None:
    """Raise UsageError for a file of a plan that cannot be written."""
    path, folder = Path(output), pilot_folder(output)
    if not path.name or path.suffix == PILOT_SUFFIX or path.is_dir():
        raise UsageError(f"--out is {str(output)!r}, wanted a file, such as plan.json")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"--out {output} cannot be written: there is no folder {path.absolute().parent}",
            hint="create the folder first",
        )
    if folder.exists() and not _is_pilot_folder(folder):
        raise UsageError(
            f"--out {output} needs the folder {folder} for the results of the pilot, and it has "
            "other files",
            hint="choose another name with --out",
        )


def _is_pilot_folder(folder: Path) -> bool:
    return folder.is_dir() and ((folder / FACTS).exists() or not any(folder.iterdir()))


def empty_pilot_folder(output: str | Path) -> FileStore:
    """Return the store of a new plan's pilot; the results of an earlier one are removed."""
    folder = pilot_folder(output)
    if folder.exists():
        shutil.rmtree(folder)
    return FileStore(folder)


def write_plan(facts: Mapping[str, Any], output: str | Path) -> None:
    """Write the file of a plan, whole or not at all. Raises: UsageError."""
    path = Path(output)
    half = path.with_name(f"{TEMP_PREFIX}{path.name}-{os.getpid()}")
    try:
        half.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise UsageError(f"--out {output} cannot be written: {error.strerror}") from error
