"""The declared repairs of dirty values, as SQL.

A repair must be certain: look-alike letters, blanks and case in keys, a code that lost its zeros or
was renamed, a currency before a price, a decimal comma, a price in pesewas where the row's own list
price shows it, a discount in percent.  The treatment of each kind of dirt: docs/tariffs-dirt.md.
"""

from __future__ import annotations

import unicodedata

RENAMED_PRODUCTS = {"DAILY_150": "DAY_150"}  # former names in the exports of some systems
LATIN = dict(
    zip(
        "\u0410\u0412\u0415\u041a\u041c\u041d\u041e"
        "\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405",
        "ABEKMHOPCTYXIJS",
        strict=True,
    )
)  # Cyrillic capitals that look like Latin ones
LATIN |= dict(
    zip(
        "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
        "ABEZHIKMNOPTYX",
        strict=True,
    )
)  # Greek
HYPHENS = dict.fromkeys("-\u2010\u2011\u2012\u2013\u2212", "_")
BLANKS = dict.fromkeys("\u00a0\u202f\t", " ")
UNSEEN = (  # marks of direction and of line breaks
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060"
    "\u2066\u2067\u2068\u2069\ufeff\u00ad"
)
ACCENTED = (  # in names of locations
    "\u00e1\u00e0\u00e2\u00e3\u00e4\u00e9\u00e8\u00ea\u00eb\u00ed\u00ec\u00ee\u00ef"
    "\u00f3\u00f2\u00f4\u00f5\u00f6\u00fa\u00f9\u00fb\u00fc\u00e7\u00f1\u00c9"
)
APOSTROPHES = "'\u2018\u2019\u02bc"  # a spreadsheet's mark of a text cell


def translated(expression: str, into: dict[str, str], without: str = "") -> str:
    """Return SQL that replaces single characters and removes those of `without`."""
    before, after = ("".join(part).replace("'", "''") for part in ((*into, without), into.values()))
    return f"translate({expression}, '{before}', '{after}')"


def composed(expression: str) -> str:
    """Return SQL that composes (NFC) each of ACCENTED where it is a letter and a mark."""
    for one in ACCENTED:
        expression = f"replace({expression}, '{unicodedata.normalize('NFD', one)}', '{one}')"
    return expression


_CODE = f"trim({translated('upper({column})', LATIN | HYPHENS | BLANKS, UNSEEN + APOSTROPHES)})"
TIDY_CODE = (
    f"CASE WHEN regexp_full_match({{column}}, '[A-Z0-9_]+') THEN {{column}} ELSE {_CODE} END"
)
_LOCATION = _CODE.format(column="location")
TIDY_LOCATION = f"""
CASE
  WHEN regexp_full_match(location, 'LOC_[0-9]{{5}}') THEN location
  WHEN regexp_full_match({_LOCATION}, 'LOC_[0-9]{{1,4}}')
  THEN 'LOC_' || lpad(substr({_LOCATION}, 5), 5, '0')
  ELSE {_LOCATION}
END
""".strip()
_NAMES = " ".join(f"WHEN '{former}' THEN '{name}'" for former, name in RENAMED_PRODUCTS.items())
_PRODUCT = TIDY_CODE.format(column="product")
TIDY_PRODUCT = f"CASE {_PRODUCT} {_NAMES} ELSE {_PRODUCT} END"
TIDY_NAME = f"trim({composed(translated('{column}', BLANKS, UNSEEN))})"
_TEXT = "trim(replace(upper(CAST(price AS VARCHAR)), 'GHS', ''))"
_POINT = f"replace({_TEXT}, ',', '.')"
_LIST = "TRY_CAST(list_price AS DOUBLE)"
_PRICE = "TRY_CAST(price AS DOUBLE)"
_NUMBER = f"TRY_CAST({_TEXT} AS DOUBLE)"
TIDY_PRICE = f"""
CASE
  WHEN {_LIST} IS NULL THEN CAST(price AS VARCHAR)
  WHEN {_PRICE} <= 20 * {_LIST} THEN CAST(price AS VARCHAR)
  WHEN {_PRICE} <= 2000 * {_LIST} THEN CAST({_PRICE} / 100 AS VARCHAR)
  WHEN {_PRICE} IS NOT NULL THEN 'beyond all prices: ' || CAST(price AS VARCHAR)
  WHEN {_NUMBER} <= 20 * {_LIST} THEN {_TEXT}
  WHEN {_NUMBER} <= 2000 * {_LIST} THEN CAST({_NUMBER} / 100 AS VARCHAR)
  WHEN {_NUMBER} IS NOT NULL THEN 'beyond all prices: ' || CAST(price AS VARCHAR)
  WHEN regexp_full_match({_TEXT}, '[0-9]+,[0-9]+')
    AND TRY_CAST({_POINT} AS DOUBLE) BETWEEN {_LIST} / 20 AND 20 * {_LIST}
  THEN {_POINT}
  ELSE {_TEXT}
END
""".strip()
TIDY_SHARE = """
CASE
  WHEN TRY_CAST({column} AS DOUBLE) > 1 AND TRY_CAST({column} AS DOUBLE) < 100
  THEN CAST(TRY_CAST({column} AS DOUBLE) / 100 AS VARCHAR)
  ELSE CAST({column} AS VARCHAR)
END
""".strip()
_MINUTES = "TRY_CAST(capacity_minutes AS DOUBLE)"
_ROOM = f"CASE WHEN {_MINUTES} > 0 THEN {_MINUTES} END"
TIDY_CAPACITY = f"""
CASE
  WHEN TRY_CAST(capacity_minutes AS DOUBLE) > 0 THEN CAST(capacity_minutes AS VARCHAR)
  WHEN min({_ROOM}) OVER (PARTITION BY cell) = max({_ROOM}) OVER (PARTITION BY cell)
  THEN CAST(max({_ROOM}) OVER (PARTITION BY cell) AS VARCHAR)
  ELSE CAST(capacity_minutes AS VARCHAR)
END
""".strip()
SCOPE_OF = "CASE WHEN kind = '{kind}' AND scope <> '*' THEN scope END"


def tidy(*columns: str) -> dict[str, str]:
    """Return repairs of key columns: Latin letters, upper case, no stray blanks or marks."""
    return {column: TIDY_CODE.format(column=column) for column in columns}
