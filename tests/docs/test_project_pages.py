"""The pages on the project itself name the tree as it is: decisions, packages, errors, verbs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hundredfold import HundredfoldError, errors

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "src/hundredfold"
FOR_CONTRIBUTORS = ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".pre-commit-config.yaml"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def find(pattern: str, text: str) -> list[str]:
    """Return what a pattern's group finds; `^` is the beginning of a line."""
    return re.findall(pattern, text, re.MULTILINE)


def sections(heading: str, text: str) -> dict[str, str]:
    """Return the text below each heading, by the name in the heading's group."""
    parts = re.split(heading, text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def file_of(name: str) -> Path | None:
    """Return the file or folder that a page names, from the root or from the engine's package."""
    return next((base / name for base in (ROOT, ENGINE) if (base / name).exists()), None)


def test_decisions_are_numbered_dated_and_listed_in_order() -> None:
    pages = sorted(page.name for page in (ROOT / "docs/decisions").glob("0*.md"))
    assert find(r"^- \[\d{4}\]\((\S+\.md)\)", text_of("docs/decisions/README.md")) == pages
    assert [int(page[:4]) for page in pages] == list(range(1, len(pages) + 1))
    dates = [find(r"^(\d{4}-\d\d-\d\d) · ", text_of(f"docs/decisions/{page}")) for page in pages]
    assert [page for page, found in zip(pages, dates, strict=True) if len(found) != 1] == []
    assert dates == sorted(dates)


@pytest.mark.parametrize("part", ["Context", "Choice", "Alternatives"])
def test_each_decision_has_its_paragraphs(part: str) -> None:
    pages = sorted((ROOT / "docs/decisions").glob("0*.md"))
    assert [page.name for page in pages if f"\n**{part}.** " not in page.read_text("utf-8")] == []


def packages(root: Path) -> set[str]:
    """Return the packages below a package, as `aws/adapters/`."""
    return {f"{path.parent.relative_to(root).as_posix()}/" for path in root.rglob("*/__init__.py")}


@pytest.mark.parametrize("package", ["hundredfold", "tariffs"])
def test_the_architecture_page_names_every_package(package: str) -> None:
    tables = sections(r"^\| folder of `src/(\w+)` .*$", text_of("docs/architecture.md"))
    named = set(find(r"^\| `([\w/]+/)` ", tables[package].split("\n\n")[0]))
    root = ROOT / "src" / package
    assert packages(root) - {"./"} - named == set()
    assert [folder for folder in named if not (root / folder).is_dir()] == []


def test_the_architecture_page_has_the_layers_of_the_test() -> None:
    tree = ast.parse(text_of("tests/architecture/test_layers.py"))
    assigned = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    held = {ast.unparse(node.target): node.value for node in assigned}["LAYERS"]
    page = text_of("docs/architecture.md")
    picture = page.split("<!-- layers")[1].split("<!-- end of layers")[0]
    drawn = [set(names.split(" · ")) for names in find(r"^ +│ (.+?) +│", picture)]
    assert held is not None
    assert drawn[::-1] == ast.literal_eval(held)


def test_the_architecture_page_names_every_folder_of_tests() -> None:
    page = text_of("docs/architecture.md")
    folders = sorted({path.parent.name for path in (ROOT / "tests").glob("*/*.py")})
    assert [name for name in folders if f"| `tests/{name}` |" not in page] == []


def test_the_architecture_page_names_modules_of_ports_that_exist() -> None:
    table = text_of("docs/architecture.md").split("| port |")[1].split("\n\n")[0]
    rows = [row.split("|")[3:5] for row in table.splitlines()[2:]]
    local = [ENGINE / name for cell, _ in rows for name in find(r"`(\S+\.py)`", cell)]
    aws = [ENGINE / "aws" / name for _, cell in rows for name in find(r"`(\S+\.py)`", cell)]
    assert len(local) == len(aws) == len(rows)
    assert [path for path in [*local, *aws] if not path.is_file()] == []


def test_every_error_has_a_section_with_its_exit_code() -> None:
    page = sections(r"^### (\w+)$", text_of("docs/errors.md"))
    on_page = {name: re.findall(r"\A\n\nExit (\d+)\.", text) for name, text in page.items()}
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    kinds = [kind for kind in classes if issubclass(kind, HundredfoldError)]
    assert on_page == {kind.__name__: [str(kind.exit_code)] for kind in kinds}


def texts_of_the_engine() -> Iterator[str]:
    """Yield every string of the engine's code, with `...` for a value that is put into it."""
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(text_in(part) or "..." for part in node.values)
            elif text := text_in(node):
                yield text


def text_in(node: ast.AST) -> str:
    """Return the text of a string; "" for any other node."""
    return str(node.value) if isinstance(node, ast.Constant) else ""


def test_every_message_that_the_page_of_errors_quotes_exists() -> None:
    """A message is quoted as `*"its text"*`, with `...` for a part that differs between cases."""
    page = " ".join(text_of("docs/errors.md").split())
    quoted = [[part.strip() for part in quote.split("...")] for quote in find(r'\*"(.+?)"\*', page)]
    texts = list(texts_of_the_engine())
    lost = [parts for parts in quoted if not any(all(p in text for p in parts) for text in texts)]
    assert len(quoted) > 20
    assert lost == [], "the page shows messages that are not in the code"


def test_terms_are_in_alphabetical_order_and_each_links_to_a_page() -> None:
    parts = re.split(r"^\*\*([\w -]+)\*\*: ", text_of("docs/glossary.md"), flags=re.MULTILINE)
    terms = parts[1::2]
    assert terms == sorted(set(terms), key=str.lower)
    assert len(terms) > 50
    assert [term for term, text in zip(terms, parts[2::2], strict=True) if "](" not in text] == []


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS)
def test_pages_for_contributors_name_verbs_and_files_that_exist(page: str) -> None:
    verbs = set(find(r"^([a-z-]+):.*## ", text_of("Makefile")))
    assert set(find(r"(?:`|^ +|run: )make ([a-z-]+)", text_of(page))) <= verbs
    named = find(r"`([\w.-]+/[\w./-]*(?:\.\w+|/))`", text_of(page))
    assert [name for name in named if "-N." not in name and not file_of(name)] == []


def test_names_are_in_the_files_that_contributing_gives_for_them() -> None:
    given = re.findall(r"`(\w+)`\s+(?:in|of)\s+`([\w./]+\.py)`", text_of("CONTRIBUTING.md"))
    assert len(given) > 4
    lost = [name for name, file in given if not defines(file_of(file), name)]
    assert lost == []


def defines(file: Path | None, name: str) -> bool:
    return file is not None and bool(find(rf"^(?:class |def )?{name}\b", file.read_text("utf-8")))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_pages_for_contributors_name_constants_that_exist(page: str) -> None:
    code = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests/architecture").glob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in code)
    named = set(find(r"`([A-Z][A-Z_]{3,})`", text_of(page)))
    assert named
    assert {name for name in named if not re.search(rf"^{name}\b.* =", text, re.MULTILINE)} == set()
