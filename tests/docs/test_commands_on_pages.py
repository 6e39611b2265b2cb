"""Commands on pages and in messages have words and options that exist; drawings connect.

A page may show `...` or `RUN` in place of a value, so values are not checked.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from hundredfold.cli.main import app as engine
from tariffs.cli import app as pricing

ROOT = Path(__file__).parents[2]
PATTERNS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*/*.md")
PAGES = sorted({page for pattern in PATTERNS for page in ROOT.glob(pattern)})
PROGRAMS: dict[str, click.Command] = {"hundredfold": engine, "tariffs": pricing}
BLOCK = re.compile(r"^```\w*\n(.*?)^```$|(?<=\n\n)((?:    [^\n]*\n|\n(?=    ))+)", re.DOTALL | re.M)
QUOTED = re.compile(r"`([^`]+)`")
# a program at the start of a line or of a quote, behind a prompt, `&&` or `bin/`
COMMAND = re.compile(r"(?:^|\$ |&& |\bbin/)(hundredfold|tariffs) (?=[a-z]|--version|--help)(.*)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each block of code, a line that ends in a backslash joined to the next."""
    for fenced, indented in BLOCK.findall(text):
        yield re.sub(r"\\\n\s*", "", fenced or indented).splitlines()


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the program and the words of each command on a page."""
    in_blocks = [line.strip() for lines in blocks(text) for line in lines]
    quotes = [" ".join(quote.split()) for quote in QUOTED.findall(BLOCK.sub("", text))]
    for line in [*in_blocks, *quotes]:
        if found := COMMAND.search(line):
            yield found[1], words_of(found[2])


def words_of(line: str) -> list[str]:
    """Return the words of a command up to a comment, a pipe, `&&` or a redirection."""
    return shlex.split(re.split(r"\s(?:[\d&]?[>|&]|#)|;", line)[0])


def fault(program: str, words: list[str]) -> str | None:
    """Return the reason why the program would refuse a command; None if it has all the words."""
    command = PROGRAMS[program]
    rest = [word for word in words if word.strip("[]") != "OPTIONS"]
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    try:
        _, extra, _ = command.make_parser(click.Context(command)).parse_args(rest)
    except click.UsageError as error:
        return f"{program} {shlex.join(words)}: {error.format_message()}"
    return f"{program} {shlex.join(words)}: {extra} is not a word of it" if extra else None


def loose_ends(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a drawing in which a vertical stroke has nothing above it."""
    for above, line in pairwise(["", *lines]):
        if any(not above[n : n + 1].strip() for n, glyph in enumerate(line) if glyph == "│"):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_on_a_page_have_words_and_options_that_exist(page: Path) -> None:
    found = commands(page.read_text("utf-8"))
    assert [wrong for program, words in found if (wrong := fault(program, words))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_drawings_on_a_page_connect(page: Path) -> None:
    assert [line for lines in blocks(page.read_text("utf-8")) for line in loose_ends(lines)] == []


def messages() -> Iterator[str]:
    """Yield the strings of the source, with `_` in the place of a value."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        parts = {
            id(p) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for p in node.values
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(p.value) if isinstance(p, ast.Constant) else "_" for p in node.values
                )
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in parts
            ):
                yield node.value


def options_of(program: str, name: str) -> set[str] | None:
    """Return the options of a command and of the commands below it; None if there is no command."""
    group = PROGRAMS[program]
    assert isinstance(group, click.Group)
    if name not in group.commands:
        return None
    found = group.commands[name]
    below = found.commands.values() if isinstance(found, click.Group) else []
    options = [p for each in (found, *below) for p in each.params if isinstance(p, click.Option)]
    return {text for option in options for text in (*option.opts, *option.secondary_opts)}


def test_commands_in_messages_have_options_that_exist() -> None:
    """A command ends at a backtick, a semicolon or several spaces."""
    shown = [
        (found[0], found[2], options)
        for text in messages()
        for found in re.finditer(r"\b(hundredfold|tariffs) ([a-z]+)((?: [^ `;]+)*)", text)
        if (options := options_of(found[1], found[2])) is not None
    ]
    assert len(shown) > 100
    used = [(text, set(re.findall(r"--[a-z-]+", text)), options) for text, _, options in shown]
    assert [text for text, named, options in used if named - options - {"--help"}] == []
