"""What can go wrong, drawn as a tree.

    HundredfoldError
    |-- JobError             the declaration is wrong: a name, a key, a parameter, an import     (exit 2)
    |-- UsageError           the words of a command are wrong                                   (exit 2)
    |-- SourceError          a source is missing, empty, or has other columns than its contract
    |-- ContractError        more rows break a contract than the job allows
    |-- QueryError           a query does not run, or does not give what the model needs
    |-- HomeError            the folder that keeps the runs: not writable, full, or of a newer format
    |   |-- DamagedFile      a file is not what was written, or is missing
    |   |-- NoSuchRun
    |   `-- RunBusy          another driver is at work on this run
    |-- StateError           the run is in a state that does not allow this
    |-- ConservationError    rows or units in do not equal rows or units out
    |-- PublishRefused       the run is whole, but outside of the limits that the job sets
    |-- WorkerError          a worker process cannot be started, or does not survive its start
    |-- Stopped              a person stopped the run: nothing is lost
    |-- ConversionError      a unit's rows cannot come in the form that the function asks for (a failure of one unit)
    `-- ResultError          what the user's function returned cannot be used (a failure of one unit)

An error says what was found, what was wanted, where, and what to do; all problems at once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

COMMAND = re.compile(
    r"hundredfold (?:cancel|failures|publish|replay|resume|retry|rollback|status)\b(?:(?!   | --on | --home ).)*(?=   |$)"
)
NEW_CODE = "--accept-new-code"
TRACEBACK_HINT = "its traceback is kept in "  # begins the note of an error that is not ours
SHOWN = 5  # so many problems in words; the rest is a count


def placed(hint: str, words: Sequence[str]) -> str:
    """A hint whose commands also say where their run is kept: `words`, such as --backend aws. A command goes to three blanks, or to the end."""
    return COMMAND.sub(lambda found: f"{found[0]} {shlex.join(words)}", hint) if words else hint


def text_of_error(error: BaseException) -> str:
    """Return what an error of others says, as text that can be printed, also where its own __str__ raises."""
    try:
        text = str(error)
    except Exception as raised:  # noqa: BLE001  # whatever it raises
        text = f"({type(error).__name__}, whose __str__ raises {type(raised).__name__})"
    return _printable(text)


def _printable(text: str) -> str:
    """Return text without what UTF-8 cannot encode: names of files hold it, and it could not be printed or recorded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class HundredfoldError(Exception):
    """The root. `problems` lists every single finding; `hint` is the next command or change."""

    exit_code = 1

    def __init__(
        self, message: str, *, problems: Sequence[str] = (), hint: str | None = None
    ) -> None:
        message, hint = _printable(message), _printable(hint) if hint else hint
        super().__init__(message)
        self.message = message
        self.problems = tuple(map(_printable, problems))
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # a traceback, in a script or a notebook, shows it too

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems[:SHOWN])]
        if len(self.problems) > SHOWN:
            lines.append(f"  and {len(self.problems) - SHOWN} more")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.problems, self.hint)


def _rebuild(
    kind: type[HundredfoldError], message: str, problems: tuple[str, ...], hint: str | None
) -> HundredfoldError:
    return kind(message, problems=problems, hint=hint)


class JobError(HundredfoldError):
    exit_code = 2


class UsageError(HundredfoldError):
    exit_code = 2


class SourceError(HundredfoldError): ...


class ContractError(HundredfoldError): ...


class QueryError(HundredfoldError): ...


class HomeError(HundredfoldError): ...


class DamagedFile(HomeError):
    """A file is not what was written. `key` names it in the store ("" where it is no object of the store)."""

    def __init__(
        self, message: str, *, problems: Sequence[str] = (), hint: str | None = None, key: str = ""
    ) -> None:
        super().__init__(message, problems=problems, hint=hint)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_damaged, (self.message, self.problems, self.hint, self.key)


def _rebuild_damaged(
    message: str, problems: tuple[str, ...], hint: str | None, key: str
) -> DamagedFile:
    return DamagedFile(message, problems=problems, hint=hint, key=key)


class NoSuchRun(HomeError):
    exit_code = 2


class RunBusy(HomeError): ...


class StateError(HundredfoldError): ...


class ConservationError(HundredfoldError): ...


class PublishRefused(HundredfoldError): ...


class WorkerError(HundredfoldError): ...


class Stopped(HundredfoldError):
    exit_code = 130


class ConversionError(HundredfoldError): ...


class ResultError(HundredfoldError): ...


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """UsageError where what an extra brings is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed, and what runs on AWS needs it",
            hint=f"pip install 'hundredfold[{extra}]'",
        ) from error
