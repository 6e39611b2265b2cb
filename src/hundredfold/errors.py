"""The tree of errors.

    HundredfoldError
    |-- JobError           a declaration is wrong: a name, key, parameter or import (exit 2)
    |-- UsageError         the command line or an argument is wrong                 (exit 2)
    |-- SourceError        a source is missing, empty, or lacks columns of its contract
    |-- ContractError      more rows break a contract than the job allows
    |-- QueryError         a query fails, or its result lacks columns that the model needs
    |-- HomeError          the home of runs is not writable, full, or of a newer format
    |   |-- DamagedFile    a file is missing or differs from its checksum
    |   |-- NoSuchRun      no run has this id                                       (exit 2)
    |   `-- RunBusy        another driver executes this run
    |-- StateError         the state of the run does not allow this action
    |-- ConservationError  rows or units in do not equal rows or units out
    |-- PublishRefused     the run is complete, but exceeds a limit of the job
    |-- WorkerError        a worker process does not start, or dies at its start
    |-- BudgetSpent        the run has spent its budget; completed units are kept
    |-- Stopped            the run was stopped; nothing is lost                     (exit 130)
    |-- ConversionError    a unit's rows cannot be converted to the form of the function
    `-- ResultError        the value that the function returned for a unit is not valid

The last two are failures of one unit and do not stop a run. An error reports the value found, the
value wanted, the location and the next action (`hint`), and lists all problems at once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# commands that accept the options of a backend; `demo` accepts only --home
BACKEND_COMMANDS = (
    "adjust",
    "cancel",
    "diff",
    "failures",
    "list",
    "plan",
    "publish",
    "replay",
    "report",
    "resume",
    "retry",
    "rollback",
    "run",
    "status",
)
HOME_COMMANDS = (*BACKEND_COMMANDS, "clean", "demo")
NEW_CODE = "--accept-new-code"
TRACEBACK_HINT = "its traceback is kept in "  # begins the note of an unexpected exception
MAX_PROBLEMS_SHOWN = 5  # the others are counted


def add_options(
    hint: str,
    options: Sequence[str],
    program: str = "hundredfold",
    commands: Sequence[str] | None = None,
) -> str:
    """Return a hint with options, such as --backend aws, added to each of a program's commands.

    A command extends to three blanks or to the end of the hint. One that has the options stays.

    commands  those that accept the options; for hundredfold, they are known
    """
    if not options:
        return hint
    if commands is None:
        commands = HOME_COMMANDS if options[0] == "--home" else BACKEND_COMMANDS
    if not commands:
        return hint
    command = re.compile(
        rf"\b{re.escape(program)} (?:{'|'.join(map(re.escape, commands))})(?=\s|$)"
        r"(?:(?!   | --backend\b| --home\b).)*(?=   |$)"
    )
    return command.sub(lambda found: f"{found[0]} {shlex.join(options)}", hint)


def error_text(error: BaseException) -> str:
    """Return the text of an exception in a printable form, even if its __str__ raises."""
    try:
        text = str(error)
    except Exception as raised:  # noqa: BLE001  # code of the user
        text = f"({type(error).__name__}, whose __str__ raises {type(raised).__name__})"
    return _printable(text)


def _printable(text: str) -> str:
    """Return text with escapes for characters that UTF-8 lacks; names of files can hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class HundredfoldError(Exception):
    """The root. `problems` lists all findings; `hint` is the next command or change."""

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
            self.add_note(f"hint: {hint}")  # for tracebacks in scripts and notebooks

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems[:MAX_PROBLEMS_SHOWN])]
        if len(self.problems) > MAX_PROBLEMS_SHOWN:
            lines.append(f"  and {len(self.problems) - MAX_PROBLEMS_SHOWN} more")
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
    """A file is missing or damaged. `key` is its key in the store; "" for other files."""

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


class BudgetSpent(HundredfoldError): ...


class Stopped(HundredfoldError):
    exit_code = 130


class ConversionError(HundredfoldError): ...


class ResultError(HundredfoldError): ...


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Raise UsageError if a package of an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise UsageError(
            f"{package} is not installed, and the backend aws needs it",
            hint=f"pip install 'hundredfold[{extra}]'",
        ) from error
