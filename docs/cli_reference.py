"""Write reference-cli.md from the declarations of the commands. `make docs` runs it.

The page is made from the commands themselves, not from the output of `--help`: it does not depend
on the width of a terminal, on colours, or on the version of click.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from click import Choice, Command, Option, Parameter

from hundredfold.cli.main import app
from hundredfold.cli.options import Argument, summary

PAGE = Path(__file__).with_name("reference-cli.md")
HEAD = """\
<!-- written by docs/cli_reference.py from the help texts in src/hundredfold/cli: `make docs` -->
# The command line

Results go to stdout, messages and the progress bar to stderr. After an error, a line that begins
with `hint:` names the next command or change.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | the run failed, or is held because it exceeds a limit |
| 2 | usage error: the command line or the declaration of the job is wrong |
| 130 | interrupted (Ctrl-C, SIGTERM), or cancelled from another terminal |

If stdout or stderr cannot be written (a full disk, a reader such as `head` that has exited), a run
continues, and the exit status is that of the run. One line on stderr reports that the summary was
not printed, and the outcome of the run. A command that only prints, such as `status`, exits with
status 1.

To complete commands, options and run ids in the shell, add one of these lines to its startup file:

    eval "$(_HUNDREDFOLD_COMPLETE=bash_source hundredfold)"     # bash 4.4 or newer
    eval "$(_HUNDREDFOLD_COMPLETE=zsh_source hundredfold)"      # zsh
    _HUNDREDFOLD_COMPLETE=fish_source hundredfold | source      # fish

`hundredfold --version` prints the version; `hundredfold COMMAND --help` prints the section of this
page on one command.
"""


def page() -> str:
    """Return the whole page."""
    commands = app.commands.items()
    links = [f"| [{name}](#{name}) | {summary(command)} |" for name, command in commands]
    return "\n".join(
        [
            HEAD,
            "| command | effect |",
            "|---|---|",
            *links,
            *(section(*each) for each in commands),
            "",
        ]
    )


def section(name: str, command: Command) -> str:
    """Return the section of a command: its help, its usage, and a table of its parameters."""
    arguments = [p for p in command.params if isinstance(p, Argument)]
    options = [p for p in command.params if isinstance(p, Option)]
    usage = ["hundredfold", name, *(["[OPTIONS]"] if options else []), *map(shown_name, arguments)]
    rows = [
        *(row(f"`{shown_name(p)}`", p.about, p) for p in arguments),
        *(row(f"`{flag(p)}`", p.help, p) for p in options),
    ]
    table = ["", "| parameter | meaning |", "|---|---|", *rows] if rows else []
    help_text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    return "\n".join(["", f"## {name}", "", help_text, "", f"    {' '.join(usage)}", *table])


def row(name: str, text: str | None, parameter: Parameter) -> str:
    meaning = " ".join([*(text or "").split(), *notes(parameter)]).replace("|", "\\|")
    return f"| {name} | {meaning} |"


def notes(parameter: Parameter) -> Iterator[str]:
    """Yield the default of a parameter and the environment variable that sets it."""
    if (default := default_of(parameter)) is not None:
        yield f"Default: {default}."
    if parameter.envvar:
        yield f"Environment: `{parameter.envvar}`."


def default_of(parameter: Parameter) -> str | None:
    """Return a default as a user would write it; None without a default, and for flags."""
    if isinstance(parameter, Option) and isinstance(parameter.show_default, str):
        return parameter.show_default
    if isinstance(parameter, Option) and parameter.secondary_opts:
        on, off = parameter.opts[0], parameter.secondary_opts[0]
        return f"`{on if parameter.default else off}`"
    value = parameter.default
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def shown_name(argument: Argument) -> str:
    name = argument.human_readable_name
    return name if argument.required else f"[{name}]"


def flag(option: Option) -> str:
    """Return an option as it is written on the command line, with its value."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    if isinstance(option.type, Choice):
        return f"{names} {{{','.join(map(str, option.type.choices))}}}"
    return f"{names} {option.metavar}"


if __name__ == "__main__":
    import from_code  # the parts of other pages that are made from the code

    from_code.main()
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
