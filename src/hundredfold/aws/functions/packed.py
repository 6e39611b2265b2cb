"""Distributions that a package holds as zips, unpacked when a function starts.

Lambda limits the unzipped size of a package, but not that of a function's temporary folder. So a
package that would be too large holds its largest libraries as zips (deploy/packing.py).

The module imports the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

from ..lambda_platform import FINGERPRINT_FILE, PACKED_FOLDER


def unpack_distributions(root: str = os.environ.get("LAMBDA_TASK_ROOT", "")) -> None:
    """Unpack the zips of a package into the temporary folder, and append that to the path.

    A function that starts again in the same environment finds them unpacked.
    """
    archives = sorted(Path(root, PACKED_FOLDER).glob("*.zip")) if root else []
    if not archives:
        return
    sealed = Path(root, FINGERPRINT_FILE)
    code = sealed.read_text("ascii") if sealed.is_file() else ""
    names = hashlib.sha256(":".join([code, *(path.name for path in archives)]).encode())
    target = Path(tempfile.gettempdir()) / f"{PACKED_FOLDER}-{names.hexdigest()[:16]}"
    if not target.is_dir():
        _unpack(archives, target)
    if str(target) not in sys.path:
        sys.path.append(str(target))


def _unpack(archives: list[Path], target: Path) -> None:
    """Unpack all archives; a call that is interrupted leaves no folder of that name."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda archive: _extract(archive, scratch), archives):
            pass  # reraises the error of a thread
    try:
        scratch.rename(target)
    except OSError:
        if not target.is_dir():  # another function of this machine was first
            raise


def _extract(archive: Path, folder: Path) -> None:
    with ZipFile(archive) as file:
        file.extractall(folder)
