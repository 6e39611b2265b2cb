"""A check that a source's files are still those with which a run began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ...errors import SourceError
from ...ports.interfaces import Fingerprint


class Fingerprinting(Protocol):
    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]: ...


def check_unchanged(source: str, files: Sequence[Sequence[Any]], warehouse: Fingerprinting) -> None:
    """Raise SourceError if files differ from their recorded fingerprints, or are gone."""
    if not files:
        return
    try:
        now = warehouse.fingerprints([entry[0] for entry in files])
    except OSError as error:
        raise SourceError(
            f"{source}: {error.filename} existed when the run began, and is gone",
            hint="restore it, then run the job again: a run reads one state of its sources",
        ) from error
    changed = [then[0] for then, after in zip(files, now, strict=True) if list(then) != list(after)]
    if changed:
        raise SourceError(
            f"{source} has changed since the run began",
            problems=changed,
            hint="run the job again: a run reads one state of its sources",
        )
