"""The words of the command line that several commands take, and how help tells of them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource, augment_usage_errors

from ..errors import NEW_CODE, TRACEBACK_HINT, HundredfoldError, UsageError, placed, text_of_error
from . import streams

if TYPE_CHECKING:
    from ..ports.interfaces import RunHome
    from ..runs.backend import Backend

DEFAULT_HOME = ".hundredfold"  # where runs are kept


class Argument(click.Argument):
    """An argument that the help tells of. Only the newest click has such a thing itself. `may_be_empty`: "" is a value of it."""

    def __init__(self, *words: Any, about: str, may_be_empty: bool = False, **options: Any) -> None:
        super().__init__(*words, **options)
        self.about, self.may_be_empty = about, may_be_empty


class Command(click.Command):
    """A command whose help tells its arguments, then its options."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        with augment_usage_errors(
            context
        ):  # of an option without its value, click would not say whose it is
            rest = super().parse_args(context, args)
        if not context.resilient_parsing:
            for parameter in self.params:
                _refuse_empty(context, parameter)
        return rest

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [
            (p.human_readable_name, p.about) for p in self.params if isinstance(p, Argument)
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(context, formatter)


def _refuse_empty(context: click.Context, parameter: click.Parameter) -> None:
    """Raise UsageError for a value that is given and blank: it would be taken for one that is left out, as the newest run."""
    given = context.params.get(parameter.name or "")
    values = given if isinstance(given, tuple) else (given,)
    typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    if (
        typed
        and not getattr(parameter, "may_be_empty", False)
        and any(isinstance(v, str) and not v.strip() for v in values)
    ):
        raise UsageError(
            f"{max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name} is empty",
            hint="give a value, or leave it out; a shell variable that is not set gives an empty text",
        )


class Group(click.Group):
    """Commands in the order in which they are declared, each told in full."""

    command_class = Command

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.help or "") for name, command in self.commands.items()]
            )


def argument(name: str, about: str, **options: Any) -> Callable[[Any], Any]:
    """A command's argument, with its line of help."""
    return click.argument(name, cls=Argument, about=about, **options)


@contextmanager
def report_write_errors(option: str, folder: Path) -> Iterator[None]:
    """Let what the system reports about a folder that an option names, and is written into, be a UsageError."""
    place = folder.absolute()
    try:
        above = next(each for each in (place, *place.parents) if os.path.lexists(each))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
        yield
    except OSError as error:
        at = Path(os.fsdecode(error.filename or place)).absolute()
        if not (at.is_relative_to(place) or place.is_relative_to(at)):
            raise
        raise UsageError(
            f"{option} {folder} cannot be written: {at}: {error.strerror}",
            hint=f"name a folder that you may write in with {option}",
        ) from error


@dataclass(frozen=True, slots=True)
class Target:
    """Where runs are kept: in a folder of this machine, or by a stack on AWS."""

    home: str = DEFAULT_HOME
    name: str = "local"
    stack: str | None = None

    def backend(self) -> Backend:
        """The backend that the options name; UsageError where what it needs is not installed."""
        from ..api import backend_of

        return (
            backend_of("local", self.home)
            if self.name == "local"
            else backend_of(self.name, stack=self.stack)
        )

    @property
    def cli_options(self) -> list[str]:
        """The options that say the same again."""
        return self.backend().cli_options

    def open(self, job: str | None = None) -> RunHome:
        """The home of its runs, which must be there."""
        return self.backend().open_home(job)


def target_options(command: Any) -> Any:
    """--home, --backend and --stack, handed on as `where`; what an error advises to do is told with them."""

    @wraps(command)
    def wrapper(home: str, backend: str, stack: str | None, **options: Any) -> Any:
        target = Target(home, backend, stack)
        try:
            return command(target=target, **options)
        except HundredfoldError as error:
            error.hint = placed(error.hint or "", target.cli_options) or None
            raise

    return home_option(backend_option(stack_option(wrapper)))


def pool_options(command: Any) -> Any:
    """--workers and --memory."""
    return workers_option(memory_option(command))


def _complete_files(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[Any]:
    """Let the shell complete the path of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _complete_run_ids(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[Any]:
    """The ids of the runs of this machine's home, newest first, for a shell's completion."""
    from click.shell_completion import CompletionItem

    home = str(context.params.get("home") or DEFAULT_HOME)
    try:
        records = Target(home).open().ledger.runs()
    except HundredfoldError:
        return []
    return [
        CompletionItem(r.id, help=f"{r.job} {r.state.value}")
        for r in records
        if r.id.startswith(incomplete)
    ]


# what several commands take; what a command only hands on, it takes as **crew or **how
job_argument = argument(
    "job",
    "The job, as module:attribute or path/to/file.py:attribute, such as my_job.job:job. The attribute can be left out where there is one job.",
    shell_complete=_complete_files,
)
run_argument = argument(
    "run",
    "A run's id; the newest run, if left out.",
    required=False,
    shell_complete=_complete_run_ids,
)
source_option = click.option(
    "--source",
    "-s",
    multiple=True,
    metavar="NAME=PATH",
    help="NAME=PATH: where a source's rows are (a file, a glob in quotes, a folder). Can be given again.",
)
as_of_option = click.option(
    "--as-of", metavar="TIME", help="What counts as now, in UTC: 2026-06-30 or 2026-06-30T12:00."
)
home_option = click.option(
    "--home",
    default=DEFAULT_HOME,
    envvar="HUNDREDFOLD_HOME",
    show_default=True,
    show_envvar=True,
    metavar="FOLDER",
    help="The folder that keeps the runs.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["local", "aws"]),
    default="local",
    show_default=True,
    help="On this machine, or on AWS, where the job was deployed.",
)
stack_option = click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="The stack on AWS; that of the job, or the only one, if left out.",
)
workers_option = click.option(
    "--workers", type=int, metavar="N", help="Worker processes; one for each core, if left out."
)
memory_option = click.option(
    "--memory",
    metavar="SIZE",
    help="Memory for all processes together, such as 2GB; 70 % of the machine's, if left out.",
)
new_code_option = click.option(
    NEW_CODE,
    is_flag=True,
    help="Go on with other code than the run began with. Units that are done keep theirs. On AWS: other code than was deployed then.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON to stdout, for a script."
)


def invoke(app: click.Group, name: str) -> None:
    """Run a command line, and end the process with its status.

    0: done. 1: it failed, or its result could not be written. 2: the command line was wrong. 130: stopped by hand.
    """
    streams.protect()
    _complete(app, name)
    code = _exit_code(app, name)
    error = streams.streams.result_error()
    if error is not None:
        _print_error(
            HundredfoldError(f"the result cannot be written to standard output: {error.strerror}")
        )
        code = code or 1
    sys.exit(code)


def _exit_code(app: click.Group, name: str) -> Any:
    try:
        with app.make_context(name, sys.argv[1:]) as context:
            app.invoke(context)
    except click.exceptions.Exit as end:  # after --help and --version
        return end.exit_code
    except click.UsageError as error:
        return _print_error(_as_usage_error(error, name))
    except HundredfoldError as error:
        return _print_error(error)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code
    except Exception as error:  # noqa: BLE001  # no traceback reaches a person; it is kept for whoever looks for the cause
        return _print_error(_unexpected(error))
    return 0


def _complete(app: click.Group, name: str) -> None:
    """Answer a shell that asks for completions or for its completion script, as click's own `main` does, and end."""
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    if instruction := os.environ.get(variable):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(app, {}, name, variable, instruction))


def report_unprinted_result(outcome: str, hint: str) -> None:
    """Report once on stderr that a command's result was not printed, and what became of its work.

    The exit status stays that of the work: a run that was published is published.
    """
    error = streams.streams.result_error()
    if error is not None:
        _print_error(
            HundredfoldError(
                f"the result cannot be written to standard output: {error.strerror}; {outcome}",
                hint=hint,
            )
        )


def _print_error(error: HundredfoldError) -> int:
    """Print an error, and return its exit status."""
    from . import display

    display.show_error(error)
    return error.exit_code


def _unexpected(error: Exception) -> HundredfoldError:
    """Return an error that is not ours as one line, with the file that keeps its traceback."""
    log = next(
        (
            note.removeprefix(TRACEBACK_HINT)
            for note in getattr(error, "__notes__", ())
            if note.startswith(TRACEBACK_HINT)
        ),
        "",
    )
    if not log:
        import tempfile
        import traceback

        with tempfile.NamedTemporaryFile(
            "w",
            prefix="hundredfold-",
            suffix=".log",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write("".join(traceback.format_exception(error)))
        log = file.name
    text = " ".join(text_of_error(error).split())
    return HundredfoldError(
        f"unexpected {type(error).__name__}" + (f": {text}" if text else ""),
        hint=f"{TRACEBACK_HINT}{log}",
    )


def _as_usage_error(error: click.UsageError, name: str) -> UsageError:
    """What click finds wrong with the words is told as every other error is."""
    command = error.ctx.command_path if error.ctx else name
    usage = (
        [" ".join(["usage:", command, *error.ctx.command.collect_usage_pieces(error.ctx)])]
        if error.ctx
        else []
    )
    return UsageError(error.format_message(), problems=usage, hint=f"{command} --help")
