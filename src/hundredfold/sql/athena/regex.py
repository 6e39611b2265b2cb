"""Regular expressions: what DuckDB's (RE2) and Athena's (Java's, or RE2) read in the same way, and the rest put so that they do."""

from __future__ import annotations

import re

from ...errors import QueryError

CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}  # of ASCII alone, as RE2 has them
AS_IS = "AzntrfpP"  # escapes that mean the same, and punctuation
PROPERTY = re.compile(r"\{[A-Z][a-z]?\}|[LMNPSZ]")


def pattern_of(pattern: str, flags: str = "") -> str:
    """The pattern in the words that both have; QueryError for what they read in two ways. `flags` are DuckDB's: c, i, s."""
    if set(flags) - set("cis"):
        raise QueryError(
            f"the options {flags!r} of a regular expression: c, i and s are known on AWS",
            hint="write the pattern without them",
        )
    any_one = r"[\s\S]" if "s" in flags else r"[^\n]"
    parts, at = [], 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            part, at = _escape(pattern, at, inside=False)
        elif letter == "[":
            part, at = _bracket(pattern, at)
        elif pattern.startswith("(?", at) and not pattern.startswith("(?:", at):
            raise _refused(pattern, pattern[at : at + 3])
        else:
            part, at = {".": any_one, "^": r"\A", "$": r"\z"}.get(letter, letter), at + 1
        parts.append(part)
    return ("(?i)" if "i" in flags else "") + "".join(parts)


def replacement_of(text: str) -> str:
    r"""What stands for a match: \1 is $1 there."""
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


def _escape(pattern: str, at: int, *, inside: bool) -> tuple[str, int]:
    """An escape from its backslash on, and where it ends."""
    letter = pattern[at + 1 : at + 2]
    if letter in CLASSES:
        return (CLASSES[letter] if inside else f"[{CLASSES[letter]}]"), at + 2
    if letter.lower() in CLASSES and letter and not inside:
        return f"[^{CLASSES[letter.lower()]}]", at + 2
    if letter in "pP" and letter:
        found = PROPERTY.match(pattern, at + 2)
        if found:
            return f"\\{letter}{{{found[0].strip('{}')}}}", found.end()
    elif (
        letter
        and (letter in AS_IS or not (letter.isalnum() or letter.isspace()))
        and letter.isascii()
    ):
        return pattern[at : at + 2], at + 2
    raise _refused(pattern, pattern[at : at + 2])


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    """A class in brackets, and where it ends."""
    start = at
    at += 1
    parts = ["["]
    if pattern.startswith("^", at):
        parts, at = ["[^"], at + 1
    if pattern.startswith("]", at):
        parts, at = [*parts, r"\]"], at + 1
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\":
            part, at = _escape(pattern, at, inside=True)
        elif pattern.startswith("[:", at):
            raise _refused(pattern, pattern[at : at + 2])
        else:
            # Java's classes can be nested and cut
            part, at = ((f"\\{pattern[at]}" if pattern[at] in "[&~|^" else pattern[at]), at + 1)
        parts.append(part)
    if at >= len(pattern):
        raise _refused(pattern, pattern[start:])
    return "".join([*parts, "]"]), at + 1


def _refused(pattern: str, part: str) -> QueryError:
    return QueryError(
        f"the regular expression {pattern!r}: {part!r} is read in another way on AWS",
        hint="write it with classes in brackets",
    )
