"""Options and arguments that several commands share, and how a command line is run.

`invoke` runs a group of commands: it protects the standard streams, prints every error in one form
(`error:`, then `hint:`), and ends the process with the exit status.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource, augment_usage_errors

from ..errors import NEW_CODE, TRACEBACK_HINT, HundredfoldError, UsageError, add_options, error_text
from ..workers.start_method import prestart_forkserver
from . import streams

if TYPE_CHECKING:
    from ..ports.interfaces import RunHome
    from ..runs.backend import Backend

DEFAULT_HOME = ".hundredfold"
MAX_HELP_WIDTH = 100  # columns of --help; fewer in a narrower terminal


@contextmanager
def importing() -> Iterator[None]:
    """Import large modules without garbage collections, and exclude them from all later ones.

    Collections would take a fifth of the time of the imports, and find next to nothing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Argument(click.Argument):
    """An argument with a line of help, which click has only in its newest versions.

    may_be_empty  accept "" as a value
    """

    def __init__(
        self, *declarations: Any, about: str, may_be_empty: bool = False, **options: Any
    ) -> None:
        super().__init__(*declarations, **options)
        self.about, self.may_be_empty = about, may_be_empty


class Command(click.Command):
    """A command whose help lists its arguments, then its options."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        # without this, click does not name the command when an option lacks its value
        with augment_usage_errors(context):
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
    """Raise UsageError for a blank value on the command line.

    A blank value would otherwise mean the same as none: the newest run, for one.
    """
    if getattr(parameter, "may_be_empty", False):
        return
    given = context.params.get(parameter.name or "")
    values = given if isinstance(given, tuple) else (given,)
    typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    if typed and any(isinstance(value, str) and not value.strip() for value in values):
        is_option = isinstance(parameter, click.Option)
        name = max(parameter.opts, key=len) if is_option else parameter.human_readable_name
        raise UsageError(
            f"{name} is empty",
            hint="give a value, or omit it; an unset shell variable expands to an empty text",
        )


class Group(click.Group):
    """A group that lists its commands in the order of declaration, each with a summary."""

    command_class = Command

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(each)) for name, each in self.commands.items()])


def summary(command: click.Command) -> str:
    """Return the first paragraph of a command's help."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def argument(name: str, about: str, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator that adds an argument with its line of help to a command."""
    return click.argument(name, cls=Argument, about=about, **options)


@contextmanager
def report_write_errors(option: str, folder: Path) -> Iterator[None]:
    """Raise UsageError if the folder that an option names cannot be written.

    Errors of the system about other paths are raised as they are.
    """
    path = folder.absolute()
    try:
        existing = next(each for each in (path, *path.parents) if os.path.lexists(each))
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
        yield
    except OSError as error:
        failed = Path(os.fsdecode(error.filename or path)).absolute()
        if not (failed.is_relative_to(path) or path.is_relative_to(failed)):
            raise
        raise UsageError(
            f"{option} {folder} cannot be written: {failed}: {error.strerror}",
            hint=f"name a folder that you can write to with {option}",
        ) from error


@dataclass(frozen=True, slots=True)
class Target:
    """The backend that the options name: a home folder on this machine, or a stack on AWS."""

    home: str = DEFAULT_HOME
    name: str = "local"
    stack: str | None = None

    def prestart(self) -> None:
        """Start the fork server of a local run, which imports while this process imports.

        This precedes `backend`, which imports everything that a run needs.
        """
        if self.name == "local":
            prestart_forkserver()

    def backend(self) -> Backend:
        """Return the backend; UsageError if the packages that it needs are not installed."""
        with importing():
            from ..api import backend_of

        return (
            backend_of("local", self.home)
            if self.name == "local"
            else backend_of(self.name, stack=self.stack)
        )

    @property
    def cli_options(self) -> list[str]:
        """The options that name this target again, for commands that are shown to the user."""
        return self.backend().cli_options

    def open(self, job: str | None = None) -> RunHome:
        """Return the home of its runs, which must exist."""
        return self.backend().open_home(job)


def target_options(command: Any) -> Any:
    """Add --home, --backend and --stack, which the command receives as `target`.

    Commands in the hint of an error get the same options.
    """

    @wraps(command)
    def wrapper(home: str, backend: str, stack: str | None, **options: Any) -> Any:
        target = Target(home, backend, stack)
        try:
            return command(target=target, **options)
        except HundredfoldError as error:
            error.hint = _with_options(error.hint or "", target.cli_options) or None
            raise

    return home_option(backend_option(stack_option(wrapper)))


def _with_options(hint: str, options: Sequence[str]) -> str:
    """Return a hint with options added to the commands of this engine and of the program itself."""
    hint = add_options(hint, options)
    program = click.get_current_context().find_root()
    if not options or not isinstance(program.command, click.Group):
        return hint
    accepting = [
        name
        for name, each in program.command.commands.items()
        if any(options[0] in parameter.opts for parameter in each.params)
    ]
    return add_options(hint, options, program.info_name or "", accepting)


report_option = click.option(
    "--report/--no-report",
    default=True,
    show_default=True,
    help="Whether a local run ends with a report: report.html in its folder.",
)


def pool_options(command: Any) -> Any:
    """Add --workers and --memory."""
    return workers_option(memory_option(command))


def complete_files(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[Any]:
    """Let the shell complete the path of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_run_ids(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[Any]:
    """Return the ids of local runs, newest first, for completion by the shell."""
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


# shared by several commands; values that a command only passes on arrive in its **options
job_argument = argument(
    "job",
    "The job, as module:attribute or path/to/file.py:attribute, such as my_job.job:job. "
    "The attribute can be omitted if the module has only one job.",
    shell_complete=complete_files,
)
run_argument = argument(
    "run",
    "Id of the run; the newest run if omitted.",
    required=False,
    shell_complete=complete_run_ids,
)
source_option = click.option(
    "--source",
    "-s",
    multiple=True,
    metavar="NAME=PATH",
    help="Location of a source's rows: a file, a quoted glob or a folder; on AWS s3:// or "
    "glue://. Repeatable.",
)
as_of_option = click.option(
    "--as-of",
    metavar="TIME",
    show_default="now",
    help="Time that counts as now, in UTC: 2026-06-30 or 2026-06-30T12:00.",
)
home_option = click.option(
    "--home",
    default=DEFAULT_HOME,
    envvar="HUNDREDFOLD_HOME",
    show_default=True,
    show_envvar=True,
    metavar="FOLDER",
    help="Folder that keeps the runs.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["local", "aws"]),
    default="local",
    show_default=True,
    help="This machine, or the stack on AWS to which the job was deployed.",
)
stack_option = click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="Stack on AWS; the job's own stack, or the only one, if omitted.",
)
workers_option = click.option(
    "--workers",
    type=int,
    metavar="N",
    show_default="one per core",
    help="Number of worker processes.",
)
memory_option = click.option(
    "--memory",
    metavar="SIZE",
    show_default="70 % of the machine's",
    help="Memory for all processes together, such as 2GB.",
)
new_code_option = click.option(
    NEW_CODE,
    is_flag=True,
    help="Continue although the code differs from the run's (on AWS: from the code that was "
    "deployed then). Units that are done keep their results.",
)


def fleet_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option of a run's fleets. default: as the help prints it."""
    return click.option(
        "--fleet",
        "fleets",
        multiple=True,
        metavar="NAME[:TASKS]",
        show_default=default,
        help="On AWS: the workers, lambda or a fleet of the stack with its maximum of tasks (10), "
        "such as fargate-spot:20. Repeatable: several work together.",
    )


budget_option = click.option(
    "--budget",
    metavar="AMOUNT",
    help="Stop when the run has spent this much: core time, such as 30m; on AWS dollars, by the "
    "calls of the workers. Completed units are kept.",
)
prices_option = click.option(
    "--prices", metavar="FILE", help="TOML file with prices that override the table's."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def parse_pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """Parse NAME=VALUE texts; raise UsageError for any other text and for a repeated name."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            example = "sales=data/sales.csv" if option == "--source" else "sales=0.05"
            raise UsageError(
                f"{option} is {text!r}, wanted NAME=VALUE", hint=f"such as {option} {example}"
            )
        if name in pairs:
            raise UsageError(
                f"{option} names {name} twice: {pairs[name]} and {value}",
                hint="name one location; a quoted glob or a folder can be many files",
            )
        pairs[name] = value
    return pairs


def invoke(app: click.Group, name: str) -> None:
    """Run a command line, and end the process with its exit status.

    0: done. 1: failed, or the result could not be written. 2: usage error. 130: interrupted.
    """
    app.context_settings.setdefault("max_content_width", MAX_HELP_WIDTH)
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
    except Exception as error:  # noqa: BLE001  # its traceback goes to a file, not to the terminal
        return _print_error(_unexpected(error))
    return 0


def _complete(app: click.Group, name: str) -> None:
    """Answer a shell's request for completions or for the completion script, and exit.

    Click's own `main` does the same.
    """
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    if instruction := os.environ.get(variable):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(app, {}, name, variable, instruction))


def report_unprinted_result(outcome: str, hint: str) -> None:
    """Report once on stderr that a command's result was not printed, and the outcome of its work.

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
    """Print an error and return its exit status."""
    from . import display

    display.show_error(error)
    return error.exit_code


def _unexpected(error: Exception) -> HundredfoldError:
    """Convert an unexpected exception to one line and the path of the file with its traceback."""
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
    text = " ".join(error_text(error).split())
    return HundredfoldError(
        f"unexpected {type(error).__name__}" + (f": {text}" if text else ""),
        hint=f"{TRACEBACK_HINT}{log}",
    )


def _as_usage_error(error: click.UsageError, name: str) -> UsageError:
    """Convert click's usage error to the form of every other error."""
    command = error.ctx.command_path if error.ctx else name
    usage = (
        [" ".join(["usage:", command, *error.ctx.command.collect_usage_pieces(error.ctx)])]
        if error.ctx
        else []
    )
    return UsageError(error.format_message(), problems=usage, hint=f"{command} --help")
