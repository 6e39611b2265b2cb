"""Whether a source's files are still those that a run began with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ...errors import SourceError
from ...ports.interfaces import Fingerprint


class Fingerprinting(Protocol):
    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]: ...


def refuse_other_files(
    source: str, files: Sequence[Sequence[Any]], warehouse: Fingerprinting
) -> None:
    """Compare files with their earlier prints. Raises: SourceError that names those that differ or are gone."""
    if not files:
        return
    try:
        now = warehouse.fingerprints([entry[0] for entry in files])
    except OSError as error:
        raise SourceError(
            f"{source}: {error.filename} was there when the run began, and is gone",
            hint="put it back, then run the job again: a run reads one state of its sources",
        ) from error
    changed = [then[0] for then, after in zip(files, now, strict=True) if list(then) != list(after)]
    if changed:
        raise SourceError(
            f"{source} has changed since the run began",
            problems=changed,
            hint="run the job again: a run reads one state of its sources",
        )
