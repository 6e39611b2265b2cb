"""The page: its sections in order, its style and its script, all in one file.

The page loads nothing. Its policy forbids the browser any request and any script but its own, whose
hash it names: a text of a user that slipped through the escaping could do nothing. The script
sorts and filters tables and unfolds everything for printing; without it the page is complete.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files

from .._package import VERSION
from ..errors import HundredfoldError
from .columns import columns_section
from .html import Markup, element, join
from .plan import plan_section
from .release import release_section
from .rows import rows_section
from .run_files import RunFiles
from .seconds import seconds_section
from .timeline import timeline_section
from .units import units_section
from .verdict import provenance, verdict

FORBIDDEN = "default-src 'none'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Part:
    """A section of the page. make: returns its content, or None if the run has none."""

    id: str
    title: str
    make: Callable[[RunFiles], Markup | None]


PARTS: Sequence[Part] = (
    Part("rows", "Rows", rows_section),
    Part("units", "Units", units_section),
    Part("release", "Release", release_section),
    Part("columns", "Columns of the results", columns_section),
    Part("timeline", "Timeline", timeline_section),
    Part("seconds", "Seconds", seconds_section),
    Part("plan", "Plan and run", plan_section),
    Part("provenance", "Provenance", provenance),
)


def page(files: RunFiles, parts: Sequence[Part] = PARTS) -> str:
    """Return the page of a run."""
    made = [(part, content) for part in parts if (content := _content(part, files)) is not None]
    record = files.record
    links = [element("li", element("a", part.title, href=f"#{part.id}")) for part, _ in made]
    sections = [
        element("section", element("h2", part.title), content, id=part.id) for part, content in made
    ]
    style, script = _asset("style.css"), _asset("script.js")
    policy = f"{FORBIDDEN}; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content_="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content_=policy),
        element("meta", name_="color-scheme", content_="light dark"),
        element("title", f"{record.job} {files.summary['state']}: run {record.id}"),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        verdict(files),
        element("nav", element("ul", links), aria_label="Sections"),
        element("main", sections, id="content"),
        element("footer", f"Report of run {record.id}, by hundredfold {VERSION}."),
        element("script", Markup(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _content(part: Part, files: RunFiles) -> Markup | None:
    """Return the content of a section; if a file of it is damaged or gone, the error instead."""
    try:
        return part.make(files)
    except (HundredfoldError, KeyError, OSError) as error:
        reason = str(error) if isinstance(error, HundredfoldError) else repr(error)
        return join([element("p", f"This section could not be made: {reason}", class_="problem")])


@cache
def _asset(name: str) -> str:
    return package_files(__package__).joinpath(name).read_text("utf-8").strip()


def _hash(text: str) -> str:
    """Return the hash by which a policy allows a style or a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
