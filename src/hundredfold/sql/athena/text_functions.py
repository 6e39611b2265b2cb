"""Functions of text that have another meaning in Athena than in DuckDB."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from .casts import bind_once, call, sql, to_text
from .expressions import literal_integer, paren, untranslatable
from .regex import translate_pattern, translate_replacement
from .types import kind_of_type

# characters that DuckDB trims
TRIMMED_SPACES = (
    " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u202f\u205f\u3000"
)


def join(node: exp.DPipe, kinds: Sequence[str]) -> exp.Expr:
    if len(kinds) < 2 or {"list", "blob"} & set(map(kind_of_type, kinds)):
        return exp.DPipe(this=node.this.copy(), expression=node.expression.copy(), safe=False)
    left, right = (
        paren(to_text(value, kind))
        for value, kind in zip((node.this, node.expression), kinds, strict=True)
    )
    return exp.DPipe(this=left, expression=right, safe=False)


def concat(node: exp.Concat, kinds: Sequence[str]) -> exp.Expr:
    if "list" in map(kind_of_type, kinds):
        raise untranslatable(node, "concat of lists", "use ||")
    parts = [
        exp.Coalesce(this=to_text(value, kind).copy(), expressions=[exp.Literal.string("")])
        for value, kind in zip(node.expressions, kinds, strict=True)
    ]
    return call("concat", *parts) if len(parts) > 1 else parts[0]


def concat_with(node: exp.ConcatWs, kinds: Sequence[str]) -> exp.Expr:
    return call(
        "concat_ws",
        *(to_text(value, kind) for value, kind in zip(node.expressions, kinds, strict=True)),
    )


def length_of(node: exp.Length, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) in ("list", "map"):
        return call("cardinality", node.this)
    return call("length", node.this)


def trim(node: exp.Trim, _: Sequence[str]) -> exp.Expr:
    position = str(node.args.get("position") or "BOTH").upper()
    return exp.Trim(
        this=node.this.copy(),
        expression=(node.expression or exp.Literal.string(TRIMMED_SPACES)).copy(),
        position=position,
    )


def substring(node: exp.Substring, _: Sequence[str]) -> exp.Expr:
    return substring_from(node.this, node.args["start"], node.args.get("length"))


def left_part(node: exp.Left, _: Sequence[str]) -> exp.Expr:
    number = node.expression
    if (literal_integer(number) or 0) >= 0 and literal_integer(number) is not None:
        return call("substr", node.this, 1, number)
    return bind_once(
        node.this,
        lambda t: sql(
            "substr(t, 1, n)",
            t=t,
            n=_case_by_sign(number, sql("greatest(length(t) + n, 0)", t=t, n=number), number),
        ),
    )


def right_part(node: exp.Right, _: Sequence[str]) -> exp.Expr:
    number = node.expression
    return bind_once(
        node.this,
        lambda t: sql(
            "substr(t, n)",
            t=t,
            n=_case_by_sign(
                number, sql("1 - n", n=number), sql("greatest(length(t) - n + 1, 1)", t=t, n=number)
            ),
        ),
    )


def substring_from(value: exp.Expr, start: exp.Expr, size: exp.Expr | None) -> exp.Expr:
    """Return DuckDB's substring.

    Positions count from 1; 0 and less are before the text, negative ones count from its end; a
    negative size extends backwards.
    """
    if (literal_integer(start) or 0) > 0 and (size is None or (literal_integer(size) or -1) >= 0):
        return call("substr", value, start, *([size] if size is not None else []))

    def cut(text: exp.Expr) -> exp.Expr:
        first = _case_by_sign(start, sql("length(t) + s + 1", t=text, s=start), start)
        if size is None:
            return sql("substr(t, greatest(first, 1))", t=text, first=first)
        low, high = (
            _case_by_sign(size, *ends)
            for ends in (
                (sql("a + n", a=first, n=size), first),
                (first, sql("a + n", a=first, n=size)),
            )
        )
        return sql(
            "substr(t, greatest(low, 1), greatest(high - greatest(low, 1), 0))",
            t=text,
            low=low,
            high=high,
        )

    return bind_once(value, cut)


def _case_by_sign(number: exp.Expr, below: exp.Expr, else_: exp.Expr) -> exp.Expr:
    """Return an expression with one value if a number is below 0, and another if it is not."""
    known = literal_integer(number)
    if known is not None:
        return below if known < 0 else else_
    return sql("CASE WHEN n < 0 THEN below ELSE other END", n=number, below=below, other=else_)


def replace_text(node: exp.Replace, _: Sequence[str]) -> exp.Expr:
    searched = node.expression
    done = call("replace", node.this, searched, node.args["replacement"])
    if isinstance(searched, exp.Literal) and searched.name:
        return done
    return sql("CASE WHEN s = '' THEN t ELSE done END", s=searched, t=node.this, done=done)


def contains(node: exp.Contains, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) != "text":
        raise untranslatable(node, "contains of a list", "join unnest(list)")
    return sql("strpos(t, s) > 0", t=node.this, s=node.expression)


def ends_with(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    text, end = (
        node.expressions if isinstance(node, exp.Anonymous) else (node.this, node.expression)
    )
    return bind_once(
        text,
        lambda t: sql(
            "length(t) >= length(s) AND substr(t, length(t) - length(s) + 1) = s", t=t, s=end
        ),
    )


def starts_with(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    text, start = (
        node.expressions if isinstance(node, exp.Anonymous) else (node.this, node.expression)
    )
    return sql("substr(t, 1, length(s)) = s", t=text, s=start)


def split_part(node: exp.SplitPart, _: Sequence[str]) -> exp.Expr:
    if (literal_integer(node.args["part_index"]) or 0) < 1:
        raise untranslatable(
            node, "a part of a text that is not counted from 1", "use a number from 1 on"
        )
    part = call("split_part", node.this, node.args["delimiter"], node.args["part_index"])
    return sql("CASE WHEN t IS NOT NULL THEN coalesce(part, '') END", t=node.this, part=part)


def md5(node: exp.MD5, _: Sequence[str]) -> exp.Expr:
    return call("lower", call("to_hex", call("md5", call("to_utf8", node.this))))


def _pattern(node: exp.Expr, flags: exp.Expr | None = None) -> str:
    for part in (node.expression, flags):
        if part is not None and not (isinstance(part, exp.Literal) and part.is_string):
            raise untranslatable(
                node,
                "a regular expression that is no plain text",
                "write the pattern as a text literal",
            )
    return translate_pattern(node.expression.name, flags.name if flags is not None else "")


def matches_pattern(node: exp.RegexpLike, _: Sequence[str]) -> exp.Expr:
    return call("regexp_like", node.this, _pattern(node, node.args.get("flag")))


def matches_whole(node: exp.RegexpFullMatch, _: Sequence[str]) -> exp.Expr:
    return call(
        "regexp_like",
        node.this,
        rf"\A(?:{_pattern(node, node.args.get('options') or node.args.get('flag'))})\z",
    )


def extracted(node: exp.RegexpExtract, _: Sequence[str]) -> exp.Expr:
    group = node.args.get("group") or exp.Literal.number(0)
    found = call("regexp_extract", node.this, _pattern(node, node.args.get("parameters")), group)
    return sql("CASE WHEN t IS NOT NULL THEN coalesce(found, '') END", t=node.this, found=found)


def replaced(node: exp.RegexpReplace, _: Sequence[str]) -> exp.Expr:
    flags, text = node.args.get("modifiers"), node.args.get("replacement")
    letters = flags.name if isinstance(flags, exp.Literal) else ""
    if "g" not in letters or not isinstance(text, exp.Literal):
        raise untranslatable(
            node,
            "regexp_replace of only the first match",
            "replace all of them, with the option 'g'",
        )
    pattern = _pattern(node, exp.Literal.string(letters.replace("g", "")))
    return call("regexp_replace", node.this, pattern, translate_replacement(text.name))
