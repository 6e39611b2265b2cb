"""Writes reference-cli.md anew from the declarations that `hundredfold --help` shows.  `make docs` runs it.

The text is made from the commands themselves and not from a terminal's rendering of them: it is the same whatever the width,
the colours and the version of Typer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from hundredfold.cli import app

PAGE = Path(__file__).with_name("reference-cli.md")
HEAD = """<!-- written by docs/cli_reference.py: change the docstrings and help texts of src/hundredfold/cli.py, then `make docs` -->
# The command line

The result goes to stdout, words about it and the progress bar to stderr.
Exit status: 0 done; 1 the run failed, or its limits hold it back; 2 the words of the command, or the job's declaration, were wrong;
130 stopped by hand (Ctrl-C, SIGTERM, or cancelled from elsewhere).
After an error the line `hint:` says what to do next.

`hundredfold --version` prints the version, `hundredfold COMMAND --help` what is told here of one command.
"""


def page() -> str:
    """The whole page."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group has them
    links = "\n".join(f"- [{name}](#{name}): {_first(command.help)}" for name, command in commands.items())
    return "\n".join([HEAD, links, *(_section(name, command) for name, command in commands.items()), ""])


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = " ".join(["hundredfold", name, *(["[OPTIONS]"] if options else []), *map(_place, arguments)])
    rows = [*(_row(f"`{_place(p)}`", p) for p in arguments), *(_row(_flag(p), p) for p in options)]
    table = ["", "| | |", "|---|---|", *rows] if rows else []
    return "\n".join(["", f"## {name}", "", " ".join((command.help or "").split()), "", f"    {words}", *table])


def _row(name: str, parameter: Any) -> str:
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| {name} | {' '.join([text, *_notes(parameter)])} |"


def _notes(parameter: Any) -> Iterator[str]:
    if isinstance(parameter.default, str | int) and not isinstance(parameter.default, bool):
        yield f"Default: `{parameter.default}`."
    if parameter.envvar:
        yield f"Environment: `{parameter.envvar}`."


def _place(argument: Any) -> str:
    metavar = str(argument.metavar or argument.name.upper())
    return metavar if argument.required or metavar.startswith("[") else f"[{metavar}]"


def _flag(option: Any) -> str:
    value = "" if option.is_flag else " VALUE"
    return f"`{', '.join(option.opts)}{value}`"


def _first(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    import from_code  # the parts of other pages that are made from the code

    from_code.main()
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
