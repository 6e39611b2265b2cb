"""The public interface to the releases of a job, for applications that extend them.

An application can keep objects of its own below `releases_folder(job)`; the engine reads and
writes only its numbered folders and `current.json` there.
"""

from __future__ import annotations

from typing import Any

from .data.checksums import parse_json
from .data.layout import releases_of as releases_folder
from .errors import DamagedFile
from .pipeline.releases import Release
from .pipeline.releases import release_folder as release_folder
from .ports.interfaces import RunHome, Store

__all__ = ["Release", "RunHome", "Store", "parse_release", "release_folder", "releases_folder"]


def parse_release(store: Store, job: str, version: int, data: bytes) -> Release:
    """Return the release that the bytes of its `release.json` describe.

    Raises: ValueError if the bytes describe no release, or do not match their checksum.
    """
    key = f"{release_folder(job, version)}/release.json"
    try:
        facts: dict[str, Any] = parse_json(store, key, data)
        return Release(**facts)
    except (TypeError, DamagedFile) as error:
        raise ValueError(str(error)) from error
