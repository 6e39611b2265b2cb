"""Capital and small letters: the same mapping in Athena as in DuckDB.

Both map each character to one character. Trino has the mapping of its Java, Java 17 or newer, and
DuckDB its own: it writes ß as ẞ, and knows letters that Java 17 does not. `tests/aws` compares all
characters. Letters of Unicode 16, of 2024, stay as they are in DuckDB, and have a capital in Java
24 or newer.

A regular expression that ignores case lists the letters itself: Trino's engine compares ss with ß.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sqlglot import exp

from .casts import call

# small letters of Unicode 14, with their capitals
_PAIRS = (
    ("\u2c5f", "\u2c2f"),
    ("\ua7c1", "\ua7c0"),
    ("\ua7d1", "\ua7d0"),
    ("\ua7d7", "\ua7d6"),
    ("\ua7d9", "\ua7d8"),
    *(
        (chr(small), chr(small - 0x27))
        for small in range(0x10597, 0x105BD)
        if small not in (0x105A2, 0x105B2, 0x105BA)
    ),
)
CAPITALS = {"ß": "ẞ", **dict(_PAIRS)}  # that DuckDB's upper() writes, and Java's may not
SMALL = {capital: small for small, capital in _PAIRS}
MAX_RANGE = 1024  # letters in a range of a regular expression whose other case is listed


def upper(node: exp.Upper, _: Sequence[str]) -> exp.Expr:
    return exp.Upper(this=_mapped(node, node.this, CAPITALS))


def lower(node: exp.Lower, _: Sequence[str]) -> exp.Expr:
    return exp.Lower(this=_mapped(node, node.this, SMALL))


def like_any_case(node: exp.ILike, _: Sequence[str]) -> exp.Expr:
    """Return ILIKE, which Athena lacks, with both sides in small letters, as DuckDB compares."""
    left, right = node.this, node.expression
    plain = exp.Like(this=exp.Lower(this=left.copy()), expression=exp.Lower(this=right.copy()))
    if _lacks(right, SMALL):
        return plain
    return exp.Like(
        this=exp.Lower(this=_mapped(node, left, SMALL)),
        expression=exp.Lower(this=_mapped(node, right, SMALL)),
    )


def _mapped(node: exp.Expr, value: exp.Expr, letters: dict[str, str]) -> exp.Expr:
    """Return a text with the letters mapped that Athena may not map."""
    if _lacks(value, letters) or _is_compared(node, letters):
        return value.copy()
    return call("translate", value, "".join(letters), "".join(letters.values()))


def _lacks(value: exp.Expr, letters: dict[str, str]) -> bool:
    """Return whether a value is a literal without these letters, and without those mapped to."""
    bare = value.unnest()
    return isinstance(bare, exp.Literal) and not set(bare.name) & {*letters, *letters.values()}


def _is_compared(node: exp.Expr, letters: dict[str, str]) -> bool:
    """Return whether a text is only compared with literals that such letters do not equal."""
    parent = node.parent
    if isinstance(parent, exp.In):
        listed = parent.expressions
        return parent.this is node and bool(listed) and all(_lacks(v, letters) for v in listed)
    if isinstance(parent, exp.EQ | exp.NEQ | exp.Like):
        return _lacks(parent.expression if parent.this is node else parent.this, letters)
    return False


def variants(letter: str) -> str:
    """Return the other letters that equal one if case is ignored, such as K and the sign of Kelvin
    for k.
    """
    key = _folded(letter)
    return "".join(other for other in _letters_by_case().get(key, "") if other != letter)


@cache
def _letters_by_case() -> dict[str, str]:
    """Return all characters that have a case, by the form that ignores it."""
    found: dict[str, str] = {}
    for code in range(0x1E944):  # the last character with a case, of Adlam
        letter = chr(code)
        if letter.lower() != letter or letter.upper() != letter:
            key = _folded(letter)
            found[key] = found.get(key, "") + letter
    return found


def _folded(letter: str) -> str:
    """Return a character's simple case folding: one character, unlike str.casefold()."""
    folded = letter.casefold()
    small = folded if len(folded) == 1 else letter.lower()
    return small if len(small) == 1 else letter
