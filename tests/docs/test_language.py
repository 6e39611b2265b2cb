"""The prose of the project is plain technical English: its pages, and the texts in its source.

Checked for each page and each package: rates of some words, words that are out, and the length of
lines. The texts of a package are its docstrings, its comments and its messages.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*/*.md")
    for page in ROOT.glob(pattern)
)
MAX_LINE_CHARACTERS = 100
MIN_WORDS_OF_A_PROSE_CELL = 4
MIN_WORDS_OF_A_MESSAGE = 4

# pages that still wait for their translation: one that passes leaves this list, and none enters it
NOT_YET_TRANSLATED: set[str] = set()

# packages whose docstrings, comments and messages still wait; the same holds for this list
PACKAGES_NOT_YET_TRANSLATED: set[str] = set()

# occurrences per 1,000 words; eight projects of the field have 0 to 1.4 and 0 to 0.5
MAX_RATES = {
    r"what": 2.0,  # a clause with "what" in place of a noun must be read twice
    r"tell|tells|told|say|says|said": 0.5,  # programs print, report, return or raise
}

# words of a private idiom, each with the word to write instead
OUT = {
    r"crews?": "worker pool",
    r"desks?": "runner",
    r"doors?": "port, interface",
    r"house": "package, project",
    r"rooms?": "space, memory, module",
    r"mend(s|ed|ing)?": "fix, correct",
    r"dear(er|est)?": "expensive",
    r"nobody|whoever": "name the agent",
    r"so many": "a count",
    r"such a share": "a fraction",
    r"in silence": "silently",
    r"lies?|lay|lain": "is, is stored",
    r"stands|stood": "is",
    r"anew": "again",
    r"afar|thither|hither|whence": "name the place",
    r"hands? out": "distributes, delivers",
    r"handed": "passed, returned",
    r"outlasts?|outlasted": "exceeds",
    r"for want of": "without, out of",
    r"comes? of it": "result, consequence",
}

FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"<!-- (\w+): written by .*?<!-- end of \1 -->", re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n]*\n|\n(?= {4}))+")
NOT_PROSE = re.compile(r"<!--.*?-->|`[^`]*`|(?<=\])\([^)]*\)|https?://\S+", re.DOTALL)
SQL = re.compile(r"\b(SELECT|CREATE|INSERT|DELETE FROM|UPDATE|DROP|COPY|WHERE|PRAGMA)\b")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def without_code(text: str) -> str:
    return INDENTED.sub("", FENCED.sub("", GENERATED.sub("", text)))


def prose(text: str) -> str:
    """Return a page's prose: no code, no link targets, no table cells of figures or names."""
    text = NOT_PROSE.sub("", without_code(text))
    return "\n".join(
        _cells(line) if line.lstrip().startswith("|") else line for line in text.splitlines()
    )


def _cells(row: str) -> str:
    return "\n".join(
        cell for cell in row.split("|") if len(WORD.findall(cell)) >= MIN_WORDS_OF_A_PROSE_CELL
    )


def long_lines(text: str) -> list[str]:
    """Return lines that are too long, except tables, code and links, which cannot be wrapped."""
    lines = without_code(text).splitlines()
    return [
        line
        for line in lines
        if len(line) > MAX_LINE_CHARACTERS
        and not line.lstrip().startswith("|")
        and " " in line.strip()
    ]


def words_that_are_out(text: str) -> list[str]:
    found = [
        (hit[0], instead)
        for word, instead in OUT.items()
        for hit in re.finditer(rf"\b({word})\b", text, re.IGNORECASE)
    ]
    return [
        f"{word!r} {count} times: write {instead}"
        for (word, instead), count in Counter(found).items()
    ]


def too_frequent(text: str, *, allowed: int) -> list[str]:
    """Return words whose rate is too high; `allowed` occurrences pass, since pages can be short."""
    thousands = len(WORD.findall(text)) / 1_000
    counts = {word: len(re.findall(rf"\b({word})\b", text, re.IGNORECASE)) for word in MAX_RATES}
    return [
        f"{word!r}: {count} times, {count / thousands:.1f} per 1,000 words, "
        f"not below {MAX_RATES[word]}"
        for word, count in counts.items()
        if count > allowed and count >= MAX_RATES[word] * thousands
    ]


def faults(page: Path) -> list[str]:
    text = page.read_text("utf-8")
    plain = prose(text)
    wrap = [f"longer than {MAX_LINE_CHARACTERS} characters: {line}" for line in long_lines(text)]
    return [*words_that_are_out(plain), *too_frequent(plain, allowed=1), *wrap]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page)


def texts_of_source(path: Path) -> list[tuple[int, str]]:
    """Return the docstrings, comments and messages of a Python file, each with its line."""
    source = path.read_text("utf-8")
    comments = [
        (token.start[0], token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not re.match(r"# (noqa|type):|#!", token.string)
    ]
    tree = ast.parse(source)
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in node.values}
    strings = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    ]
    strings += [(node.lineno, _without_values(node)) for node in formatted]
    return [*comments, *(found for found in strings if _is_prose(found[1]))]


def _without_values(formatted: ast.JoinedStr) -> str:
    parts = (part.value if isinstance(part, ast.Constant) else "_" for part in formatted.values)
    return "".join(map(str, parts))


def _is_prose(text: str) -> bool:
    plain = NOT_PROSE.sub("", text)
    return len(WORD.findall(plain)) >= MIN_WORDS_OF_A_MESSAGE and not SQL.search(text)


def faults_of_source(paths: list[Path], *, allowed: int = 1) -> list[str]:
    found = [(path, line, text) for path in paths for line, text in texts_of_source(path)]
    words = [
        f"{name_of(path)}:{line}: {fault}"
        for path, line, text in found
        for fault in words_that_are_out(NOT_PROSE.sub("", text))
    ]
    plain = "\n".join(NOT_PROSE.sub("", text) for _, _, text in found)
    return [*words, *too_frequent(plain, allowed=allowed)]


SOURCE = ROOT / "src"
PACKAGES = sorted({path.parent for path in SOURCE.glob("**/*.py")})


TRANSLATED = [page for page in PAGES if name_of(page) not in NOT_YET_TRANSLATED]


@pytest.mark.parametrize("page", TRANSLATED, ids=name_of)
def test_a_page_is_plain_technical_english(page: Path) -> None:
    found = faults(page)
    assert not found, "\n".join(found)


def test_the_pages_together_keep_the_rates_of_words() -> None:
    assert (
        too_frequent("\n".join(prose(page.read_text("utf-8")) for page in TRANSLATED), allowed=0)
        == []
    )


@pytest.mark.parametrize("name", sorted(NOT_YET_TRANSLATED))
def test_a_page_that_waits_for_its_translation_does_not_pass_yet(name: str) -> None:
    assert faults(ROOT / name), f"{name} passes: take it out of NOT_YET_TRANSLATED"


def test_the_check_finds_each_kind_of_fault_and_skips_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Doors\n\nWhat it says is what it said.\n\n" + "long " * 21 + "\n", "utf-8")
    assert [fault.split(":")[0] for fault in faults(page)] == [
        "'Doors' 1 times",
        "'what'",
        "'tell|tells|told|say|says|said'",
        "longer than 100 characters",
    ]
    page.write_text(
        "# Ports\n\n    what the crew says\n\n```text\nthe door says so\n```\n\n"
        "The `crew`: [it](door.md).\n",
        "utf-8",
    )
    assert faults(page) == []


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_the_texts_of_a_package_are_plain_technical_english(package: Path) -> None:
    found = faults_of_source(sorted(package.glob("*.py")))
    if name_of(package) in PACKAGES_NOT_YET_TRANSLATED:
        assert found, "passes: take it out of PACKAGES_NOT_YET_TRANSLATED"
    else:
        assert not found, "\n".join(found)


def test_the_check_reads_docstrings_comments_and_messages(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""Opens the door for you."""\n\n'
        "crew = 1  # hires a crew\n"
        'raise ValueError(f"what you said of {crew} lies here")\n'
        'QUERY = "SELECT what, door FROM rooms WHERE lies"\n',
        "utf-8",
    )
    assert [
        fault.rpartition("module.py")[2] for fault in faults_of_source([module], allowed=0)
    ] == [
        ":3: 'crew' 1 times: write worker pool",
        ":1: 'door' 1 times: write port, interface",
        ":4: 'lies' 1 times: write is, is stored",
        "'what': 1 times, 71.4 per 1,000 words, not below 2.0",
        "'tell|tells|told|say|says|said': 1 times, 71.4 per 1,000 words, not below 0.5",
    ]
