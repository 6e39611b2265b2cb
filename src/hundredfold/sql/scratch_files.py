"""A scratch folder in which DuckDB stages the files of a source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import HundredfoldError
from ..ports.object_keys import checked_key


@dataclass(frozen=True, slots=True)
class ScratchFiles:
    """Files below a folder that only this process reads: neither atomic nor durable."""

    root: Path

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.root / checked_key(key)

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Return a path to write to.

        Raises: HundredfoldError where the disk is full or cannot be written.
        """
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
        except OSError as error:
            raise HundredfoldError(
                f"{path} cannot be written: {error.strerror or error}",
                hint="a source of this size needs more scratch space",
            ) from error
