"""The pages on the project itself name what is in the tree: decisions, packages, errors, terms, verbs."""

from __future__ import annotations

import re
from pathlib import Path

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
