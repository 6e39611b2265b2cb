"""What the doctor says: what is so, what comes of it, and the command that mends it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    WRONG = "wrong"  # work is lost or stopped by it
    RISK = "risk"  # it will be, on a bad day or with more data
    NOTE = "note"  # slower or dearer than need be, or not looked at


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    what: str
    consequence: str
    command: str


def aws(service: str, operation: str, *words: str) -> str:
    """A command of the AWS CLI, as a shell takes it."""
    return shlex.join(["aws", service, operation, *words])
