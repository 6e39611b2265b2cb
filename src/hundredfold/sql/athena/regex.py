"""Translation of regular expressions: syntax with the same meaning in DuckDB (RE2) and Athena (Java
or RE2) is kept, the rest is rewritten.
"""

from __future__ import annotations

import re

from ...errors import QueryError
from .letter_case import MAX_RANGE, variants

ASCII_CLASSES = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": r"\t\n\f\r ",
}  # ASCII only, as in RE2
COMMON_ESCAPES = "AzntrfpP"  # escapes with the same meaning, beside punctuation
PROPERTY = re.compile(r"\{[A-Z][a-z]?\}|[LMNPSZ]")


def translate_pattern(pattern: str, flags: str = "") -> str:
    """Return the pattern in syntax common to both; QueryError for parts that they interpret
    differently.

    flags: DuckDB's: c, i, s.
    """
    if set(flags) - set("cis"):
        raise QueryError(
            f"the options {flags!r} of a regular expression: AWS supports c, i and s",
            hint="write the pattern without them",
        )
    any_one, any_case = (r"[\s\S]" if "s" in flags else r"[^\n]"), "i" in flags
    parts, at = [], 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            part, at = _escape(pattern, at, inside=False, any_case=any_case)
        elif letter == "[":
            part, at = _bracket(pattern, at, any_case=any_case)
        elif pattern.startswith("(?", at) and not pattern.startswith("(?:", at):
            raise _unsupported(pattern, pattern[at : at + 3])
        else:
            others = variants(letter) if any_case else ""
            plain = f"[{letter}{others}]" if others else letter
            part, at = {".": any_one, "^": r"\A", "$": r"\z"}.get(letter, plain), at + 1
        parts.append(part)
    return "".join(parts)


def translate_replacement(text: str) -> str:
    r"""Return the replacement of a match in Athena's syntax: $1 for \1."""
    parts = re.findall(r"\\[0-9\\]|[^\\]|\\", text)
    return "".join(
        f"${part[1]}"
        if len(part) == 2 and part[1].isdigit()
        else r"\\"
        if part[0] == "\\"
        else r"\$"
        if part == "$"
        else part
        for part in parts
    )


def _escape(pattern: str, at: int, *, inside: bool, any_case: bool = False) -> tuple[str, int]:
    """Return the translation of an escape, and where it ends."""
    letter = pattern[at + 1 : at + 2]
    if letter in ASCII_CLASSES:
        return (ASCII_CLASSES[letter] if inside else f"[{ASCII_CLASSES[letter]}]"), at + 2
    if letter.lower() in ASCII_CLASSES and letter and not inside:
        return f"[^{ASCII_CLASSES[letter.lower()]}]", at + 2
    if letter in "pP" and letter:
        found = PROPERTY.match(pattern, at + 2)
        if found and not (any_case and found[0].strip("{}") in ("Lu", "Ll", "Lt")):
            return f"\\{letter}{{{found[0].strip('{}')}}}", found.end()
    elif (
        letter
        and (letter in COMMON_ESCAPES or not (letter.isalnum() or letter.isspace()))
        and letter.isascii()
    ):
        return pattern[at : at + 2], at + 2
    raise _unsupported(pattern, pattern[at : at + 2])


def _bracket(pattern: str, at: int, *, any_case: bool) -> tuple[str, int]:
    """Return the translation of a class in brackets, and where it ends."""
    start, letters = at, []
    at += 1
    parts = ["["]
    if pattern.startswith("^", at):
        parts, at = ["[^"], at + 1
    if pattern.startswith("]", at):
        parts, at = [*parts, r"\]"], at + 1
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\":
            part, at = _escape(pattern, at, inside=True, any_case=any_case)
        elif pattern.startswith("[:", at):
            raise _unsupported(pattern, pattern[at : at + 2])
        else:
            letters.append(_letters_from(pattern, at) if any_case else "")
            # in Java, classes can be nested and intersected
            part, at = ((f"\\{pattern[at]}" if pattern[at] in "[&~|^" else pattern[at]), at + 1)
        parts.append(part)
    if at >= len(pattern):
        raise _unsupported(pattern, pattern[start:])
    more = {other for letter in "".join(letters) for other in variants(letter)}
    return "".join([*parts, *sorted(more - set("".join(letters))), "]"]), at + 1


def _letters_from(pattern: str, at: int) -> str:
    """Return the characters of a class that begin at a position: one, or those of a range."""
    first, dash, last = pattern[at : at + 1], pattern[at + 1 : at + 2], pattern[at + 2 : at + 3]
    if dash != "-" or last in ("", "]"):
        return first
    if last == "\\" or ord(last) - ord(first) > MAX_RANGE:
        raise _unsupported(pattern, pattern[at : at + 4])
    return "".join(map(chr, range(ord(first), ord(last) + 1)))


def _unsupported(pattern: str, part: str) -> QueryError:
    return QueryError(
        f"the regular expression {pattern!r}: {part!r} has another meaning on AWS",
        hint="write it with classes in brackets",
    )
