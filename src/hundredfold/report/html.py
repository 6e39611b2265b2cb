"""HTML as values: a text is escaped wherever it is put, unless it is `Markup`.

Texts of users reach the page: keys, errors, names of columns, values. Beside the characters that
HTML gives a meaning, those are escaped that would hide or reorder the text around them: control
characters, marks of the writing direction, and invisible ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

# void elements: without an end tag
VOID = frozenset({"br", "circle", "line", "meta", "path", "polygon", "polyline", "rect"})
SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"}
# C0 and C1 without tab and line feed; soft hyphen; marks of direction; invisible and unassigned
# format characters; separators; surrogates; tags
HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
UNSAFE = re.compile(f"[&<>\"'{HIDDEN}]")


class Markup(str):
    """HTML that is used as it is."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"


def escape(text: str) -> str:
    r"""Return a text for HTML; hidden characters become their escape sequences.

    >>> escape("<b>\u202e")
    '&lt;b&gt;\\u202e'
    """
    return UNSAFE.sub(_replacement, text)


def _replacement(found: re.Match[str]) -> str:
    character = found[0]
    return SPECIAL.get(character) or _escape_sequence(ord(character))


def _escape_sequence(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def element(name: str, *content: Content, **attributes: object) -> Markup:
    """Return an element. Attributes that are None or False are left out; True has no value.

    `class_` is the attribute class, and `data_key` is data-key.
    """
    opening = f"<{name}{''.join(map(_attribute, attributes.items()))}>"
    if name in VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(content)}</{name}>")


def join(content: Content) -> Markup:
    """Return texts and elements one after the other, the texts escaped."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(content))
    return Markup("".join(map(join, content)))


def _attribute(item: tuple[str, object]) -> str:
    name, value = item
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
