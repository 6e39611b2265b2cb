"""The pages on the project itself name what is in the tree: decisions, packages, errors, terms, verbs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hundredfold import HundredfoldError, errors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_decisions_are_numbered_dated_and_listed_in_order() -> None:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    listed = re.findall(r"^- \[(\d{4})\]\((\S+\.md)\)", (DOCS / "decisions/README.md").read_text("utf-8"), re.MULTILINE)
    assert [(page.name[:4], page.name) for page in pages] == listed
    assert [int(number) for number, _ in listed] == list(range(1, len(pages) + 1))
    dates = [re.findall(r"^(\d{4}-\d\d-\d\d) · ", page.read_text("utf-8"), re.MULTILINE) for page in pages]
    assert [page.name for page, found in zip(pages, dates, strict=True) if len(found) != 1] == []
    assert dates == sorted(dates)


def test_each_decision_has_a_context_a_choice_and_alternatives() -> None:
    pages = {page.name: page.read_text("utf-8") for page in (DOCS / "decisions").glob("0*.md")}
    wanted = ("Context", "Choice", "Alternatives")
    assert [name for name, text in pages.items() if not all(f"\n**{part}.** " in text for part in wanted)] == []


def packages(root: Path) -> list[str]:
    """The folders below a package that are packages themselves, as `aws/adapters/`."""
    found = sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("*/__init__.py"))
    return [f"{name}/" for name in found]


def test_the_architecture_page_names_every_package() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    tables = re.split(r"^\| folder of `src/(\w+)` .*$", text, flags=re.MULTILINE)
    named = {name: set(re.findall(r"^\| `([\w/]+/)` ", rows.split("\n\n")[0], re.MULTILINE)) for name, rows in pairs(tables[1:])}
    assert set(named) == {path.parent.name for path in (ROOT / "src").glob("*/__init__.py")}
    for name, rows in named.items():
        root = ROOT / "src" / name
        assert [folder for folder in packages(root) if folder not in rows] == []
        assert [folder for folder in rows if not (root / folder).is_dir()] == []


def pairs(parts: list[str]) -> list[tuple[str, str]]:
    return list(zip(parts[::2], parts[1::2], strict=True))


def test_the_architecture_page_has_the_layers_of_the_test() -> None:
    tree = ast.parse((ROOT / "tests/architecture/test_layers.py").read_text("utf-8"))
    held = next(node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "LAYERS")
    picture = (DOCS / "architecture.md").read_text("utf-8").split("<!-- layers")[1].split("<!-- end of layers")[0]
    drawn = [set(names.split(" · ")) for names in re.findall(r"^ +│ (.+?) +│", picture, re.MULTILINE)]
    assert drawn[::-1] == ast.literal_eval(held)


def test_the_architecture_page_names_every_folder_of_tests() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    folders = [path for path in sorted((ROOT / "tests").iterdir()) if path.is_dir() and any(path.glob("*.py"))]
    assert [path.name for path in folders if f"| `tests/{path.name}` |" not in text] == []


def test_the_architecture_page_names_modules_that_exist() -> None:
    """The modules in the table of ports, by the folder that its heading or the cell itself gives."""
    text = (DOCS / "architecture.md").read_text("utf-8").split("| port |")[1].split("\n\n")[0]
    engine = ROOT / "src/hundredfold"
    lost = [
        found
        for row in text.splitlines()[2:]
        for cell, base in zip(row.split("|")[3:5], (engine, engine / "aws"), strict=True)
        for found in re.findall(r"`(\S+\.py)`", cell)
        if not (base / found).is_file()
    ]
    assert lost == []


def test_every_error_has_a_section_with_its_exit_code() -> None:
    page = re.split(r"^### (\w+)$", (DOCS / "errors.md").read_text("utf-8"), flags=re.MULTILINE)
    said = {name: re.findall(r"\A\n\nExit (\d+)\.", text) for name, text in pairs(page[1:])}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HundredfoldError)]
    assert said == {kind.__name__: [str(kind.exit_code)] for kind in kinds}


def texts_of_the_engine() -> list[str]:
    """Every string of the engine's code, with `...` for a value that is put into it."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "src/hundredfold").rglob("*.py")]
    plain = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    joined = [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
    ]
    return [*plain, *joined]


def test_every_message_that_the_page_of_errors_quotes_exists() -> None:
    """A message is quoted as `*"its text"*`, with `...` for what differs from case to case."""
    quoted = [" ".join(found.split()) for found in re.findall(r'\*"(.+?)"\*', (DOCS / "errors.md").read_text("utf-8"), re.DOTALL)]
    texts = texts_of_the_engine()
    lost = [quote for quote in quoted if not any(all(part.strip() in text for part in quote.split("...")) for text in texts)]
    assert len(quoted) > 20
    assert lost == [], "the page shows messages that no code has"


def test_terms_are_in_alphabetical_order_and_each_links_to_a_page() -> None:
    terms = pairs(re.split(r"^\*\*([\w -]+)\*\*: ", (DOCS / "glossary.md").read_text("utf-8"), flags=re.MULTILINE)[1:])
    names = [name for name, _ in terms]
    assert names == sorted(set(names), key=str.lower)
    assert len(names) > 50
    assert [name for name, text in terms if "](" not in text] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".pre-commit-config.yaml"])
def test_a_page_for_contributors_names_verbs_and_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    verbs = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ +|run: )make ([a-z-]+)", text, re.MULTILINE)) <= verbs
    named = re.findall(r"`([\w.-]+/[\w./-]*(?:\.\w+|/))`", text)
    bases = (ROOT, ROOT / "src/hundredfold")
    assert [name for name in named if not any((base / name).exists() for base in bases) and "-N." not in name] == []
