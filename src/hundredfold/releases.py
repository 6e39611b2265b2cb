"""The public interface to the releases of a job, for applications that extend them.

An application can keep objects of its own below `releases_folder(job)`; the engine reads and
writes only its numbered folders and `current.json` there.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from .data.checksums import parse_json
from .data.layout import releases_of as releases_folder
from .errors import DamagedFile, needing
from .pipeline.releases import Release
from .pipeline.releases import release_folder as release_folder
from .ports.interfaces import RunHome, Store
from .ports.release_tables import Stamp, Written
from .release_tables import DynamoDB

__all__ = [
    "Release",
    "RunHome",
    "Stamp",
    "Store",
    "Written",
    "parse_release",
    "release_folder",
    "releases_folder",
    "write_to_table",
]


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


def write_to_table(table: DynamoDB, rows: pa.Table, stamp: Stamp) -> Written:
    """Write rows to a table as `Publish(to=...)` does, for an application with a pointer of its
    own, such as one whose releases are approved first.

    stamp: their origin; its `order` grows with each move of that pointer.

    Raises: PublishRefused for rows that the table cannot hold, before any is written; StateError
    where an item of something else has one of the keys.
    """
    with needing("aws"):
        from .aws.adapters.release_table import open_release_table
    opened = open_release_table(table.facts)
    opened.check([rows])
    return opened.write([rows], stamp, lambda: True)
