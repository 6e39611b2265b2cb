"""The kinds of dirt that repairs remove, recognised by the value before and after."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from tariffs.cleaning import APOSTROPHES, HYPHENS, LATIN, RENAMED_PRODUCTS, UNSEEN

CODES = ("segment", "location", "product")
LOOK_ALIKES = "".join(LATIN) + "".join(LATIN).lower()
Told = Callable[[str, str, str], bool]  # of column, value before, value after


def kind_of(column: str, before: str | None, after: str | None) -> str:
    """Return the kind of dirt that a repair removed from a column."""
    return next(
        (name for name, is_it in KINDS if is_it(column, before or "", after or "")),
        f"untidy_{column}",
    )


def _in(*columns: str) -> Told:
    return lambda column, _, __: column in columns


def _has(characters: str, *columns: str) -> Told:
    return lambda column, before, _: column in columns and bool(set(characters) & set(before))


KINDS: tuple[tuple[str, Told], ...] = (  # the first match counts
    ("capacity_missing", lambda column, before, _: column == "capacity_minutes" and not before),
    ("capacity_zero", _in("capacity_minutes")),
    ("percent_discount", _in("discount", "posted_discount")),
    ("decimal_comma", _has(",", "price")),
    ("currency_text", lambda column, before, _: column == "price" and "GHS" in before.upper()),
    ("price_in_pesewas", _in("price")),
    ("hidden_marks", _has(UNSEEN, *CODES)),
    ("look_alike_letters", _has(LOOK_ALIKES, *CODES)),
    ("no_break_hyphen", _has("".join(HYPHENS), *CODES)),
    ("apostrophe", _has(APOSTROPHES, *CODES)),
    (
        "renamed_product",
        lambda column, before, _: (
            column == "product" and before.strip().upper() in RENAMED_PRODUCTS
        ),
    ),
    (
        "no_leading_zeros",
        lambda column, before, after: column == "location" and len(before.strip()) < len(after),
    ),
    ("name_with_marks", _has(UNSEEN, "name")),
    (
        "name_taken_apart",
        lambda column, before, _: (
            column == "name" and unicodedata.normalize("NFC", before) != before
        ),
    ),
)
