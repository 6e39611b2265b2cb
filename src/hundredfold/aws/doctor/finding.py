"""A finding of the doctor: a fact, its consequence, and the command that fixes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    WRONG = "wrong"  # it loses or stops work
    RISK = "risk"  # it will do so under load, or with more data
    NOTE = "note"  # slower or more expensive than necessary, or not checked


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    what: str
    consequence: str
    command: str


def aws(service: str, operation: str, *options: str) -> str:
    """Return a command of the AWS CLI, quoted for a shell."""
    return shlex.join(["aws", service, operation, *options])
