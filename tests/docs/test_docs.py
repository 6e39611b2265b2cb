"""The documentation: its code runs and prints the shown output, links work, nothing is missing."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path
from types import ModuleType

import click
import pytest

import hundredfold
from hundredfold.cli.aws import SETTINGS
from hundredfold.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
MODULES = [
    "hundredfold.cli.bench",
    "hundredfold.testing",
    "hundredfold.ports.run_states",
    "hundredfold.sql.queries",
    "hundredfold.contract",
    "hundredfold.job",
    "hundredfold.runs.resources",
]
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def tool(name: str) -> ModuleType:
    """Return the module of a tool in docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BLOCKS = tool("blocks")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_code(pages: list[Path]) -> list[Path]:
    """Return the pages with code, the longest first, so that it does not start last."""
    runs = [
        page
        for page in pages
        if any(
            block.kind in ("python", "console") for block in BLOCKS.blocks(page.read_text("utf-8"))
        )
    ]
    return sorted(runs, key=lambda page: -page.read_text("utf-8").count("$ hundredfold"))


@pytest.mark.parametrize("page", with_code(PAGES), ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page: Path) -> None:
    wrong = BLOCKS.check(page)
    assert not wrong, "\n\n".join(
        [*wrong, f"to write the real output: python docs/blocks.py --write {name_of(page)}"]
    )


def test_values_that_differ_between_runs_are_equal() -> None:
    shown = "run 20261122-081152-da8e  done in 1.8 s\n...\norders  201  0.10\n"
    assert BLOCKS.alike(
        shown, "run 20301231-235959-ffff  done in 12.0 s\nany\nlines\norders   201   7.55"
    )
    assert not BLOCKS.alike(shown, "run 20301231-235959-ffff  done in 12.0 s\norders  200  0.10")


def test_the_reference_of_the_command_line_is_made_from_the_commands() -> None:
    assert (DOCS / "reference-cli.md").read_text("utf-8") == tool("cli_reference").page(), (
        "run: make docs"
    )


def rows_of_commands() -> dict[str, dict[str, str]]:
    """Return the parameters in the reference of the command line, each with its meaning."""
    text = (DOCS / "reference-cli.md").read_text("utf-8")
    sections = re.split(r"^## (\S+)$", text, flags=re.MULTILINE)[1:]
    row = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)
    pairs = zip(sections[::2], sections[1::2], strict=True)
    return {name: dict(row.findall(section)) for name, section in pairs}


def test_every_parameter_of_every_command_is_in_the_reference() -> None:
    rows = rows_of_commands()
    assert list(rows) == list(app.commands)
    for name, command in app.commands.items():
        for parameter in command.params:
            options = {*parameter.opts, *parameter.secondary_opts}
            words = options if isinstance(parameter, click.Option) else {parameter.opts[0].upper()}
            assert any(words <= set(re.split(r"[\s,\[\]]+", row)) for row in rows[name]), (
                name,
                words,
            )


def test_every_parameter_in_the_reference_has_a_meaning_for_people() -> None:
    literal = re.compile(r"\b(None|True|False|Sentinel\.\w+)\b|`?\(\)`?|\bmetavar\b")
    for name, rows in rows_of_commands().items():
        for parameter, meaning in rows.items():
            assert not literal.search(f"{parameter} {meaning}"), (name, parameter, meaning)
            sentence = meaning.split(" Default: ")[0].split(" Environment: ")[0]
            assert len(sentence.split()) >= 2, (name, parameter, meaning)
            assert sentence.endswith("."), (name, parameter, meaning)


def test_options_in_the_reference_show_their_values() -> None:
    """An option that takes a value shows its placeholder or its choices; a flag shows none."""
    rows = rows_of_commands()
    assert rows["run"]["--backend {local,aws}"].endswith(" Default: `local`.")
    assert rows["run"]["--workers N"].endswith(" Default: one per core.")
    assert rows["bench"]["--seconds N"].endswith(" Default: `60`.")
    assert rows["deploy"]["--tracing, --no-tracing"].endswith(" Default: `--tracing`.")
    assert "--detach" in rows["run"]
    for name, command in app.commands.items():
        shown = {text.split()[0].rstrip(","): text for text in rows[name]}
        for option in command.params:
            if isinstance(option, click.Option):
                takes_value = not option.is_flag
                assert (" " in shown[option.opts[0]].replace(", ", "")) == takes_value, option.name


def test_deploy_shows_the_defaults_of_the_settings_of_a_stack() -> None:
    settings = pytest.importorskip("hundredfold.aws.stack.settings")
    fields = {field.name: field.default for field in dataclasses.fields(settings.Settings)}
    fields["concurrency"] = 300  # the default of the stack without pollers
    fields["trigger"] = "direct, or messages with --pollers"
    fields["batch_size"] = "one a core"
    fields["task_memory"] = "2048 a core"
    rows = {re.split(r"[ ,]", name)[0]: text for name, text in rows_of_commands()["deploy"].items()}
    for name in SETTINGS:
        shown = re.search(r" Default: (.+)\.$", rows[f"--{name.replace('_', '-')}"])
        assert (shown[1] if shown else None) == (
            str(fields[name]) if fields[name] is not None else None
        ), name


def test_the_reference_of_the_command_line_has_every_exit_status() -> None:
    text = (DOCS / "reference-cli.md").read_text("utf-8")
    classes = [found for found in vars(hundredfold.errors).values() if isinstance(found, type)]
    codes = {kind.exit_code for kind in classes if issubclass(kind, hundredfold.HundredfoldError)}
    assert set(map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE))) == codes | {0}


@pytest.mark.parametrize("name", sorted(tool("from_code").PAGES))
def test_parts_that_are_generated_are_up_to_date(name: str) -> None:
    text = (DOCS / name).read_text("utf-8")
    assert text == tool("from_code").page(name, text), "run: make docs"
    assert f"written by docs/from_code.py -->\n\n{tool('from_code').PAGES[name][1]()}" in text


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text("utf-8")
    assert [name for name in hundredfold.__all__ if name not in text] == []


# named once, above the table
COMMON_PARAMETERS = {"backend", "home", "stack", "callbacks", "wait"}


@pytest.mark.parametrize("name", ["adjust", "cancel", "publish", "replay", "resume", "retry"])
def test_the_parameters_of_a_later_call_are_in_its_row(name: str) -> None:
    [row] = re.findall(
        rf"^\| `{name}\(.*$", (DOCS / "reference.md").read_text("utf-8"), re.MULTILINE
    )
    parameters = set(inspect.signature(getattr(hundredfold, name)).parameters)
    assert {p for p in parameters - COMMON_PARAMETERS if not re.search(rf"\b{p}\b", row)} == set()


@pytest.mark.parametrize("name", ["Job", "Source", "Model", "Publish", "run"])
def test_every_parameter_is_in_the_reference(name: str) -> None:
    text = (DOCS / "reference.md").read_text("utf-8")
    section = text.split(f"\n### {name}\n")[1].split("\n##")[0]
    assert [
        p
        for p in inspect.signature(getattr(hundredfold, name)).parameters
        if not re.search(rf"\b{p}\b", section)
    ] == []


def test_every_public_attribute_of_a_run_is_in_the_reference() -> None:
    section = (DOCS / "reference.md").read_text("utf-8").split("\n### Run\n")[1].split("\n##")[0]
    public = [name for name in vars(hundredfold.Run) if not name.startswith("_")]
    assert [name for name in public if f"run.{name}" not in section] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_have_targets(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    lost = [
        link
        for link in LINK.findall(text)
        if not link.startswith(("http:", "https:", "mailto:")) and not has_target(page, link)
    ]
    assert lost == []


def has_target(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page if not path else (page.parent / path).resolve()
    if not target.exists():
        return False
    return not anchor or anchor in {
        anchor_of(h) for h in HEADING.findall(FENCED.sub("", target.read_text("utf-8")))
    }


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_page_is_on_the_index() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    pages = [
        page.relative_to(DOCS).as_posix()
        for page in DOCS.rglob("*.md")
        if page != DOCS / "README.md"
    ]
    assert [
        page for page in pages if f"({page})" not in index and not page.startswith("decisions/0")
    ] == []


def test_the_readme_gives_the_lower_bounds_that_are_declared() -> None:
    """`DuckDB (2.0 or newer)` and the like are the bounds of pyproject.toml, and of Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    declared: dict[str, str] = {"python": project["requires-python"].removeprefix(">=")}
    for need in chain(project["dependencies"], extras):
        name, _, bound = need.partition(">=")
        declared.setdefault(name, bound.split(";")[0].split(",")[0].strip())
    text = (ROOT / "README.md").read_text()
    stated = re.findall(r"(\w+)\s+\(?(\d+(?:\.\d+)*)\s+or\s+newer", text)
    assert len(stated) >= 6
    assert dict(stated) == {name: declared[name.lower()] for name, _ in stated}


def test_the_readme_names_targets_of_make_that_exist() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    verbs = set(
        re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"^    make (\w+)", text, re.MULTILINE)) <= verbs


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_folder_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|Users)/", page.read_text("utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_pass(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
