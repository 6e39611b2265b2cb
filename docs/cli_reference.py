"""Writes reference-cli.md anew from the declarations that `hundredfold --help` shows.  `make docs` runs it.

The text is made from the commands themselves and not from a terminal's rendering of them: it is the same whatever the width,
the colours and the version of click.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from click import Command, Option, Parameter

from hundredfold.cli.main import app
from hundredfold.cli.options import Argument

PAGE = Path(__file__).with_name("reference-cli.md")
HEAD = """<!-- written by docs/cli_reference.py: change the docstrings and help texts of src/hundredfold/cli/main.py, then `make docs` -->
# The command line

The result goes to stdout, words about it and the progress bar to stderr.
Exit status: 0 done; 1 the run failed, or its limits hold it back; 2 the words of the command, or the job's declaration, were wrong;
130 stopped by hand (Ctrl-C, SIGTERM, or cancelled from elsewhere).
After an error the line `hint:` says what to do next.

Standard output or standard error that cannot be written (a full disk, a reader such as `head` that went away) does not stop a run, and the
exit status stays that of the run: one line on standard error reports that its summary was not printed, and what became of it.
A command that only prints, such as `status`, ends with status 1 then.

To complete commands, options and run ids, put one of these into the start file of your shell:

    eval "$(_HUNDREDFOLD_COMPLETE=bash_source hundredfold)"     # bash 4.4 or newer
    eval "$(_HUNDREDFOLD_COMPLETE=zsh_source hundredfold)"      # zsh
    _HUNDREDFOLD_COMPLETE=fish_source hundredfold | source      # fish

`hundredfold --version` prints the version, `hundredfold COMMAND --help` what is told here of one command.
"""


def page() -> str:
    """The whole page."""
    links = "\n".join(
        f"- [{name}](#{name}): {_line(command.help)}" for name, command in app.commands.items()
    )
    return "\n".join(
        [HEAD, links, *(_section(name, command) for name, command in app.commands.items()), ""]
    )


def _section(name: str, command: Command) -> str:
    arguments = [p for p in command.params if isinstance(p, Argument)]
    options = [p for p in command.params if isinstance(p, Option)]
    words = " ".join(
        ["hundredfold", name, *(["[OPTIONS]"] if options else []), *map(_place, arguments)]
    )
    rows = [
        *(_row(f"`{_place(p)}`", p.about, p) for p in arguments),
        *(_row(_flag(p), p.help, p) for p in options),
    ]
    table = ["", "| | |", "|---|---|", *rows] if rows else []
    return "\n".join(["", f"## {name}", "", _line(command.help), "", f"    {words}", *table])


def _row(name: str, text: str | None, parameter: Parameter) -> str:
    told = _line(text).replace("|", "\\|")
    return f"| {name} | {' '.join([told, *_notes(parameter)])} |"


def _notes(parameter: Parameter) -> Iterator[str]:
    if isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool):
        yield f"Default: `{parameter.default}`."
    if parameter.envvar:
        yield f"Environment: `{parameter.envvar}`."


def _place(argument: Argument) -> str:
    name = argument.human_readable_name
    return name if argument.required else f"[{name}]"


def _flag(option: Option) -> str:
    return f"`{', '.join(option.opts)}{'' if option.is_flag else f' {option.metavar}'}`"


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    import from_code  # the parts of other pages that are made from the code

    from_code.main()
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
