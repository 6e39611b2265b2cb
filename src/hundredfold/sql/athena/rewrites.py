"""Rewrites of expressions that have another meaning in Athena than in DuckDB.

Each kind of node that needs one has a function in this module, which receives the node and the
types of its operands. Its result has the type that DuckDB gives the node, since the rewrites of the
outer nodes rely on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from ...errors import QueryError
from .casts import bind_once, call, constant_of, from_text, sql, to_text
from .letter_case import like_any_case, lower, upper
from .regex import translate_pattern, translate_replacement
from .types import kind_of_type, operand_types, own_type

# characters that DuckDB trims
TRIMMED_SPACES = (
    " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u202f\u205f\u3000"
)
MONTHS = {"month": 1, "quarter": 3, "year": 12}
DAYS = {"day": 1, "week": 7}
CLOCK = frozenset(["hour", "minute", "second"])
TIMES = frozenset(["date", "timestamp"])
NUMBERS = frozenset(["integer", "decimal", "float"])
Rewrite = Callable[[Any, Sequence[str]], exp.Expr]


def operands_of(node: exp.Expr) -> Sequence[exp.Expr | None] | None:
    """Return the nodes whose types the rewrite of a node needs; None if it needs no type.

    The first is the node itself (None if its own type is not needed), then its operands.
    """
    kind = type(node)
    if kind not in TYPED_NODES:
        return None
    values = [
        value
        for part, found in node.args.items()
        if part != "query"
        for value in (found if isinstance(found, list) else [found])
    ]
    bare = [_bare(value) for value in values if isinstance(value, exp.Expr)]
    return [
        node if kind in NODES_WITH_OWN_TYPE else None,
        *(value for value in bare if _is_value(value)),
    ]


def rewrite(tree: exp.Expr) -> exp.Expr:
    """Return the tree with every node rewritten, inner ones first."""
    holder = exp.Paren(this=tree)
    _exact_averages(holder)
    for node in reversed(list(tree.walk())):
        rewrite_node = (
            REWRITES_BY_NAME.get(node.name.lower())
            if isinstance(node, exp.Anonymous)
            else REWRITES.get(type(node))
        )
        if rewrite_node is not None:
            node.replace(rewrite_node(node, operand_types(node)))
    whole: exp.Expr = holder.this
    whole.parent = None
    return whole


def _bare(value: exp.Expr) -> exp.Expr:
    """Return the value in an aggregate's argument, without DISTINCT and ORDER BY."""
    if isinstance(value, exp.Order):
        return _bare(value.this)
    if isinstance(value, exp.Distinct) and len(value.expressions) == 1:
        return _bare(value.expressions[0])
    return value


def _is_value(value: exp.Expr) -> bool:
    return isinstance(value, exp.Condition | exp.Subquery) and not isinstance(
        value, exp.Star | exp.Interval | exp.Var | exp.Tuple | exp.Any | exp.All
    )


def _double(value: exp.Expr) -> exp.Expr:
    return exp.cast(value.copy(), "double")


def _cast_to_own_type(value: exp.Expr, node: exp.Expr) -> exp.Expr:
    """Return a value cast to the type that DuckDB gives a node, if Athena's could differ."""
    kind = own_type(node)
    return (
        exp.cast(value, exp.DataType.build(kind, dialect="duckdb"))
        if kind_of_type(kind) in ("float", "decimal", "integer") and kind != "HUGEINT"
        else value
    )


# ---- numbers


def _divide(node: exp.Div, kinds: Sequence[str]) -> exp.Expr:
    left, right = node.this, node.expression
    if "interval" in map(kind_of_type, kinds):
        raise _untranslatable(
            node, "a division of an interval", "divide the number of seconds, days or months"
        )
    # as doubles, since division by 0 would be an error otherwise
    whole = left if kinds[:1] == ("DOUBLE",) and isinstance(left, exp.Column) else _double(left)
    return exp.Div(this=whole.copy(), expression=right.copy(), typed=True, safe=False)


def _divide_whole(node: exp.IntDiv, kinds: Sequence[str]) -> exp.Expr:
    if any(kind_of_type(kind) not in ("integer", "") for kind in kinds):
        raise _untranslatable(node, "// of numbers that are not integers", "use floor(a / b)")
    return exp.Div(this=node.this.copy(), expression=node.expression.copy(), typed=True, safe=False)


def _rounded(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    return _cast_to_own_type(_unchanged(node), node)


def _sign(node: exp.Sign, _: Sequence[str]) -> exp.Expr:
    """Return the sign, which is 0 for NaN: the condition must not depend on how NaN compares."""
    text = (
        "CASE WHEN x > 0 AND x <= infinity() THEN 1 WHEN x < 0 THEN -1 WHEN x IS NOT NULL THEN 0"
        " END"
    )
    return bind_once(node.this, lambda x: sql(text, x=x))


def _logarithm(node: exp.Log, _: Sequence[str]) -> exp.Expr:
    if node.expression is None:
        return call("log10", node.this)
    return call("log", _double(node.this), _double(node.expression))


def _extreme(node: exp.Greatest | exp.Least, _: Sequence[str]) -> exp.Expr:
    """Return GREATEST or LEAST without nulls: in Athena the result is null if any argument is."""
    values = [node.this, *node.expressions]
    turned = (
        [
            exp.Coalesce(this=each.copy(), expressions=[v.copy() for v in values if v is not each])
            for each in values
        ]
        if len(values) > 1
        else values
    )
    return type(node)(this=turned[0], expressions=turned[1:], ignore_nulls=False)


def _finite(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    return call("is_finite", node.expressions[0] if isinstance(node, exp.Anonymous) else node.this)


def _infinite(node: exp.IsInf, _: Sequence[str]) -> exp.Expr:
    return call("is_infinite", node.this)


def _add(node: exp.Add | exp.Sub, kinds: Sequence[str]) -> exp.Expr:
    """Return the sum of a day or time and another value; all other sums are unchanged."""
    left, right = node.this, node.expression
    if isinstance(left, exp.Interval) and isinstance(node, exp.Add):
        left, right = right, left
    if isinstance(right, exp.Interval):
        return _add_interval(node, left, right, kinds[0] if kinds else "")
    sorts = [kind_of_type(kind) for kind in kinds]
    if sorts == ["integer", "date"] and isinstance(node, exp.Add):
        left, right, sorts = right, left, ["date", "integer"]
    if sorts == ["date", "integer"]:
        days = right if isinstance(node, exp.Add) else exp.Neg(this=exp.paren(right.copy()))
        return exp.cast(call("date_add", "day", days, left), "date")
    if sorts == ["date", "date"]:
        return call("date_diff", "day", right, left)
    if set(sorts) & {"date", "timestamp", "interval"}:
        raise _untranslatable(
            node, "this sum of times", "use date_diff('second', a, b), or + INTERVAL"
        )
    return node


def _add_interval(node: exp.Expr, value: exp.Expr, interval: exp.Interval, kind: str) -> exp.Expr:
    unit, size, number = _interval_unit(interval)
    if kind_of_type(kind) not in ("date", "timestamp"):
        raise _untranslatable(
            node,
            f"{kind or 'a value'} and an interval",
            "an interval can be added to a date or a time",
        )
    if isinstance(node, exp.Sub):
        number = exp.Neg(this=exp.paren(number.copy()))
    amount = (
        number
        if size == 1
        else exp.Mul(this=exp.paren(number.copy()), expression=exp.Literal.number(size))
    )
    return call(
        "date_add",
        unit,
        amount,
        exp.cast(value.copy(), "timestamp") if kind_of_type(kind) == "date" else value,
    )


def _interval_unit(interval: exp.Interval) -> tuple[str, int, exp.Expr]:
    """Return an interval as a unit of Athena, their number in its own unit, and its count."""
    unit = interval.args.get("unit")
    name = unit.name.lower().rstrip("s") if unit is not None else ""
    size = MONTHS.get(name) or DAYS.get(name) or (1 if name in CLOCK else 0)
    number = interval.this
    if not size or number is None:
        raise _untranslatable(
            interval,
            "this interval",
            "use one number and one of year, quarter, month, week, day, hour, minute, second",
        )
    unit_there = "month" if name in MONTHS else "day" if name in DAYS else name
    bare = number.unnest()
    if isinstance(bare, exp.Literal) and bare.is_string:
        if not bare.name.strip().lstrip("+-").isdigit():
            raise _untranslatable(interval, "this interval", "use an integer of one unit")
        number = exp.Literal.number(int(bare.name))
    return unit_there, size, number


def _interval(node: exp.Interval, _: Sequence[str]) -> exp.Expr:
    """Return an interval in the frame of a window; those in sums are rewritten already."""
    if node.find_ancestor(exp.WindowSpec) is None and not isinstance(
        node.parent, exp.Add | exp.Sub
    ):
        raise _untranslatable(node, "an interval as a value", "use the number of days or seconds")
    if isinstance(node.parent, exp.Add | exp.Sub):
        return node
    unit, size, number = _interval_unit(node)
    if not isinstance(number, exp.Literal):
        raise _untranslatable(node, "this interval in a window", "use a plain number")
    return exp.Interval(
        this=exp.Literal.string(str(int(number.name) * size)), unit=exp.Var(this=unit.upper())
    )


# ---- comparisons


def _compare(node: exp.Binary, kinds: Sequence[str]) -> exp.Expr:
    """Return a comparison in which NaN equals itself and is above all numbers.

    A text literal has the type of the other side.
    """
    if len(kinds) < 2:
        return node
    left, right = (
        _comparable_side(node, node.this, kinds[0], kinds[1]),
        _comparable_side(node, node.expression, kinds[1], kinds[0]),
    )
    plain = type(node)(this=left.copy(), expression=right.copy())
    floats = "float" in map(kind_of_type, kinds)
    if not floats or isinstance(node, exp.NullSafeEQ | exp.NullSafeNEQ):
        return plain
    nan = [_is_nan(value, kind) for value, kind in ((left, kinds[0]), (right, kinds[1]))]
    match node:
        case exp.GT() if nan[0] is not None:
            return _or(
                plain, nan[0], exp.not_(nan[1]) if nan[1] is not None else _is_not_null(right)
            )
        case exp.GTE() if nan[0] is not None:
            return _or(plain, nan[0], _is_not_null(right))
        case exp.LT() if nan[1] is not None:
            return _or(
                plain, nan[1], exp.not_(nan[0]) if nan[0] is not None else _is_not_null(left)
            )
        case exp.LTE() if nan[1] is not None:
            return _or(plain, nan[1], _is_not_null(left))
        case exp.EQ() if None not in nan and not _is_join_condition(node):
            return _or(plain, nan[0], nan[1])
        case exp.NEQ() if None not in nan:
            return exp.not_(_or(exp.EQ(this=left.copy(), expression=right.copy()), nan[0], nan[1]))
    return plain


def _is_join_condition(node: exp.Expr) -> bool:
    """Return whether a condition joins two tables: Athena joins by equal values only."""
    parent = node.parent
    while parent is not None and not isinstance(parent, exp.Query):
        if isinstance(parent, exp.Join):
            return True
        parent = parent.parent
    return False


def _is_nan(value: exp.Expr, kind: str) -> exp.Expr | None:
    """Return the condition that a value is NaN; None if it cannot be."""
    bare = value.unnest()
    return (
        call("is_nan", value)
        if kind_of_type(kind) == "float" and not isinstance(bare, exp.Literal)
        else None
    )


def _is_not_null(value: exp.Expr) -> exp.Expr | None:
    """Return the condition that a value is not null; None if it cannot be null."""
    bare = value.unnest()
    written = isinstance(bare.this if isinstance(bare, exp.Neg) else bare, exp.Literal)
    return (
        None if written else exp.not_(exp.Is(this=exp.paren(value.copy()), expression=exp.Null()))
    )


def _or(plain: exp.Expr, *also: exp.Expr | None) -> exp.Expr:
    return exp.paren(exp.or_(plain, exp.and_(*(each for each in also if each is not None))))


def _comparable_side(node: exp.Expr, value: exp.Expr, kind: str, other: str) -> exp.Expr:
    """Return a side of a comparison, with a type that Athena compares with the other side's."""
    mine, theirs = kind_of_type(kind), kind_of_type(other)
    if (mine in TIMES and theirs in TIMES) or {mine, theirs} & {"", "null"}:
        return value
    if mine == theirs or (mine in NUMBERS and theirs in NUMBERS):
        return value
    bare = value.unnest()
    if mine == "text" and isinstance(bare, exp.Literal):
        there = constant_of(bare.name, exp.DataType.build(other, dialect="duckdb"))
        if there is not None:
            return there
    if theirs == "text" and isinstance(_other_side(node, value).unnest(), exp.Literal):
        return value
    raise _untranslatable(node, f"a {kind} is compared with a {other}", "CAST one of them")


def _other_side(node: exp.Expr, value: exp.Expr) -> exp.Expr:
    other: exp.Expr = node.expression if value is node.this else node.this
    return other


def _in_list(node: exp.In, kinds: Sequence[str]) -> exp.Expr:
    if node.args.get("query") is not None or not kinds:
        return node
    listed = [
        _comparable_side(exp.EQ(this=each, expression=node.this), each, kind, kinds[0])
        for each, kind in zip(node.expressions, kinds[1:], strict=True)
    ]
    return exp.In(this=node.this.copy(), expressions=[each.copy() for each in listed])


def _between(node: exp.Between, kinds: Sequence[str]) -> exp.Expr:
    if len(kinds) < 3:
        return node
    ends = [
        _comparable_side(
            exp.EQ(this=node.args[end], expression=node.this), node.args[end], kind, kinds[0]
        )
        for end, kind in zip(("low", "high"), kinds[1:], strict=True)
    ]
    return exp.Between(this=node.this.copy(), low=ends[0].copy(), high=ends[1].copy())


def _is(node: exp.Is, _: Sequence[str]) -> exp.Expr:
    if isinstance(node.expression, exp.Boolean):
        return exp.NullSafeEQ(this=exp.paren(node.this.copy()), expression=node.expression.copy())
    return node


# ---- casts


def _cast(node: exp.Cast, kinds: Sequence[str]) -> exp.Expr:
    value, kind = node.this, node.to
    source, lenient = kind_of_type(kinds[0]) if kinds else "", isinstance(node, exp.TryCast)
    name = kind.this
    types = exp.DataType.Type
    if name in (types.VARCHAR, types.TEXT, types.CHAR):
        return to_text(value, kinds[0]) if kinds else node
    if source == "text":
        return from_text(value, kind, lenient=lenient)
    if source == "float" and name in (types.TINYINT, types.SMALLINT, types.INT, types.BIGINT):
        # round half to even
        rounded = bind_once(
            value,
            lambda x: sql(
                "CASE WHEN abs(x) % 1 = 0.5 THEN 2e0 * round(x / 2e0) ELSE round(x) END", x=x
            ),
        )
        return type(node)(this=rounded, to=kind.copy())
    if source == "float" and name == types.DECIMAL:
        return _decimal_of_float(node, value, kind)
    if name in (types.TIMESTAMP, types.TIMESTAMPNTZ, types.TIMESTAMPTZ, types.TIMESTAMPLTZ):
        # all times are UTC
        return exp.cast(value.copy(), "timestamp")
    if name in (types.ARRAY, types.LIST, types.MAP, types.BLOB, types.VARBINARY) and source not in (
        "list",
        "map",
        "blob",
        "bytes",
        "null",
        "",
    ):
        raise _untranslatable(
            node,
            f"a {kinds[0]} as {kind.sql('duckdb')}",
            "give the column this type where it is defined",
        )
    return node


def _decimal_of_float(node: exp.Cast, value: exp.Expr, kind: exp.DataType) -> exp.Expr:
    """Return a rounded number: by the number times a power of ten, as in DuckDB, not its exact
    value.
    """
    scale = int(kind.expressions[1].name) if len(kind.expressions) > 1 else 0
    digits = exp.DataType.build("decimal(38, 0)", dialect="athena")
    smallest = exp.cast(
        exp.Literal.string(f"0.{'1'.zfill(scale)}" if scale else "1"),
        exp.DataType.build(f"decimal({max(scale, 1)}, {scale})", dialect="athena"),
    )
    whole = type(node)(this=sql(f"round(x * 1e{scale})", x=value), to=digits)
    return type(node)(
        this=exp.Mul(this=whole, expression=smallest) if scale else whole, to=kind.copy()
    )


# ---- texts


def _join(node: exp.DPipe, kinds: Sequence[str]) -> exp.Expr:
    if len(kinds) < 2 or {"list", "blob"} & set(map(kind_of_type, kinds)):
        return exp.DPipe(this=node.this.copy(), expression=node.expression.copy(), safe=False)
    left, right = (
        _paren(to_text(value, kind))
        for value, kind in zip((node.this, node.expression), kinds, strict=True)
    )
    return exp.DPipe(this=left, expression=right, safe=False)


def _concat(node: exp.Concat, kinds: Sequence[str]) -> exp.Expr:
    if "list" in map(kind_of_type, kinds):
        raise _untranslatable(node, "concat of lists", "use ||")
    parts = [
        exp.Coalesce(this=to_text(value, kind).copy(), expressions=[exp.Literal.string("")])
        for value, kind in zip(node.expressions, kinds, strict=True)
    ]
    return call("concat", *parts) if len(parts) > 1 else parts[0]


def _concat_with(node: exp.ConcatWs, kinds: Sequence[str]) -> exp.Expr:
    return call(
        "concat_ws",
        *(to_text(value, kind) for value, kind in zip(node.expressions, kinds, strict=True)),
    )


def _length(node: exp.Length, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) in ("list", "map"):
        return call("cardinality", node.this)
    return call("length", node.this)


def _trim(node: exp.Trim, _: Sequence[str]) -> exp.Expr:
    position = str(node.args.get("position") or "BOTH").upper()
    return exp.Trim(
        this=node.this.copy(),
        expression=(node.expression or exp.Literal.string(TRIMMED_SPACES)).copy(),
        position=position,
    )


def _substring(node: exp.Substring, _: Sequence[str]) -> exp.Expr:
    return _substring_from(node.this, node.args["start"], node.args.get("length"))


def _left(node: exp.Left, _: Sequence[str]) -> exp.Expr:
    number = node.expression
    if (_literal_integer(number) or 0) >= 0 and _literal_integer(number) is not None:
        return call("substr", node.this, 1, number)
    return bind_once(
        node.this,
        lambda t: sql(
            "substr(t, 1, n)",
            t=t,
            n=_case_by_sign(number, sql("greatest(length(t) + n, 0)", t=t, n=number), number),
        ),
    )


def _right(node: exp.Right, _: Sequence[str]) -> exp.Expr:
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


def _substring_from(value: exp.Expr, start: exp.Expr, size: exp.Expr | None) -> exp.Expr:
    """Return DuckDB's substring.

    Positions count from 1; 0 and less are before the text, negative ones count from its end; a
    negative size extends backwards.
    """
    if (_literal_integer(start) or 0) > 0 and (size is None or (_literal_integer(size) or -1) >= 0):
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
    known = _literal_integer(number)
    if known is not None:
        return below if known < 0 else else_
    return sql("CASE WHEN n < 0 THEN below ELSE other END", n=number, below=below, other=else_)


def _literal_integer(value: exp.Expr) -> int | None:
    """Return the integer of a literal; None for anything else."""
    bare = value.unnest()
    if isinstance(bare, exp.Neg):
        above = _literal_integer(bare.this)
        return None if above is None else -above
    return int(bare.name) if isinstance(bare, exp.Literal) and bare.is_int else None


def _replace(node: exp.Replace, _: Sequence[str]) -> exp.Expr:
    searched = node.expression
    done = call("replace", node.this, searched, node.args["replacement"])
    if isinstance(searched, exp.Literal) and searched.name:
        return done
    return sql("CASE WHEN s = '' THEN t ELSE done END", s=searched, t=node.this, done=done)


def _contains(node: exp.Contains, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) != "text":
        raise _untranslatable(node, "contains of a list", "join unnest(list)")
    return sql("strpos(t, s) > 0", t=node.this, s=node.expression)


def _ends_with(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    text, end = (
        node.expressions if isinstance(node, exp.Anonymous) else (node.this, node.expression)
    )
    return bind_once(
        text,
        lambda t: sql(
            "length(t) >= length(s) AND substr(t, length(t) - length(s) + 1) = s", t=t, s=end
        ),
    )


def _starts_with(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
    text, start = (
        node.expressions if isinstance(node, exp.Anonymous) else (node.this, node.expression)
    )
    return sql("substr(t, 1, length(s)) = s", t=text, s=start)


def _split_part(node: exp.SplitPart, _: Sequence[str]) -> exp.Expr:
    if (_literal_integer(node.args["part_index"]) or 0) < 1:
        raise _untranslatable(
            node, "a part of a text that is not counted from 1", "use a number from 1 on"
        )
    part = call("split_part", node.this, node.args["delimiter"], node.args["part_index"])
    return sql("CASE WHEN t IS NOT NULL THEN coalesce(part, '') END", t=node.this, part=part)


def _md5(node: exp.MD5, _: Sequence[str]) -> exp.Expr:
    return call("lower", call("to_hex", call("md5", call("to_utf8", node.this))))


def _pattern(node: exp.Expr, flags: exp.Expr | None = None) -> str:
    for part in (node.expression, flags):
        if part is not None and not (isinstance(part, exp.Literal) and part.is_string):
            raise _untranslatable(
                node,
                "a regular expression that is no plain text",
                "write the pattern as a text literal",
            )
    return translate_pattern(node.expression.name, flags.name if flags is not None else "")


def _matches(node: exp.RegexpLike, _: Sequence[str]) -> exp.Expr:
    return call("regexp_like", node.this, _pattern(node, node.args.get("flag")))


def _matches_whole(node: exp.RegexpFullMatch, _: Sequence[str]) -> exp.Expr:
    return call(
        "regexp_like",
        node.this,
        rf"\A(?:{_pattern(node, node.args.get('options') or node.args.get('flag'))})\z",
    )


def _extracted(node: exp.RegexpExtract, _: Sequence[str]) -> exp.Expr:
    group = node.args.get("group") or exp.Literal.number(0)
    found = call("regexp_extract", node.this, _pattern(node, node.args.get("parameters")), group)
    return sql("CASE WHEN t IS NOT NULL THEN coalesce(found, '') END", t=node.this, found=found)


def _replaced(node: exp.RegexpReplace, _: Sequence[str]) -> exp.Expr:
    flags, text = node.args.get("modifiers"), node.args.get("replacement")
    letters = flags.name if isinstance(flags, exp.Literal) else ""
    if "g" not in letters or not isinstance(text, exp.Literal):
        raise _untranslatable(
            node,
            "regexp_replace of only the first match",
            "replace all of them, with the option 'g'",
        )
    pattern = _pattern(node, exp.Literal.string(letters.replace("g", "")))
    return call("regexp_replace", node.this, pattern, translate_replacement(text.name))


# ---- times


def _truncated(node: exp.Expr, kinds: Sequence[str]) -> exp.Expr:
    unit = node.args["unit"].name.lower().rstrip("s")
    value = (
        exp.cast(node.this.copy(), "timestamp")
        if kinds and kind_of_type(kinds[0]) == "date"
        else node.this
    )
    cut = call("date_trunc", unit, value)
    return exp.cast(cut, "date") if own_type(node) == "DATE" else cut


def _time_part(name: str, value: exp.Expr) -> exp.Expr:
    match name:
        case "dow" | "dayofweek" | "weekday":
            return sql("day_of_week(t) % 7", t=value)
        case "isodow":
            return call("day_of_week", value)
        case "doy" | "dayofyear":
            return call("day_of_year", value)
        case "epoch":
            return call("to_unixtime", exp.cast(value.copy(), "timestamp"))
    return call(name, value)


def _extract(node: exp.Extract, _: Sequence[str]) -> exp.Expr:
    return _time_part(node.name.lower(), node.expression)


def _date_part(node: exp.Anonymous, _: Sequence[str]) -> exp.Expr:
    return _time_part(node.expressions[0].name.lower(), node.expressions[1])


def _time_part_function(name: str) -> Rewrite:
    return lambda node, _: _time_part(
        name, node.expressions[0] if isinstance(node, exp.Anonymous) else node.this
    )


def _difference(node: exp.DateDiff, kinds: Sequence[str]) -> exp.Expr:
    """Return the number of unit boundaries between two times; Athena counts whole units."""
    unit = node.args["unit"].name.lower().rstrip("s")
    later, earlier = node.this, node.expression
    if unit == "day" and list(map(kind_of_type, kinds[:2])) == ["date", "date"]:
        return call("date_diff", "day", earlier, later)
    cut = [
        call("date_trunc", unit, exp.cast(value.copy(), "timestamp")) for value in (earlier, later)
    ]
    return call("date_diff", unit, *cut)


def _nanoseconds(node: exp.Anonymous, _: Sequence[str]) -> exp.Expr:
    return sql("CAST(round(to_unixtime(t) * 1e3) AS BIGINT) * 1000000", t=node.expressions[0])


# ---- groups


def _average(node: exp.Avg, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) not in ("integer", "decimal") and kinds[0] != "DOUBLE":
        _replace_argument(node, _double)
    return node


def _exact_averages(tree: exp.Expr) -> None:
    """Rewrite averages of decimals, which DuckDB sums exactly and returns as a double.

    Athena returns a decimal of the same scale.
    """
    for node in list(tree.find_all(exp.Avg)):
        kind = next(iter(operand_types(node)), "")
        if kind_of_type(kind) != "decimal":
            continue
        whole: exp.Expr = node
        while isinstance(whole.parent, exp.Filter | exp.Window) and whole.parent.this is whole:
            whole = whole.parent
        total, count = (
            whole.copy().transform(_replace_type(exp.Avg, other)) for other in (exp.Sum, exp.Count)
        )
        # over a window DuckDB divides once
        scale = (
            10 ** int(kind.rstrip(")").rpartition(",")[2]) if isinstance(whole, exp.Window) else 1
        )
        digits = (
            total if scale == 1 else sql(f"CAST(total * {scale} AS DECIMAL(38, 0))", total=total)
        )
        whole.replace(
            exp.paren(
                sql(f"CAST(digits AS DOUBLE) / (count * {scale})", digits=digits, count=count)
            )
        )


def _replace_type(old: type[exp.Expr], new: type[exp.Expr]) -> Callable[[exp.Expr], exp.Expr]:
    return lambda node: new(this=node.this) if isinstance(node, old) else node


def _sum(node: exp.Sum, kinds: Sequence[str]) -> exp.Expr:
    if kinds and kind_of_type(kinds[0]) == "boolean":
        _replace_argument(node, lambda value: exp.cast(value.copy(), "bigint"))
    if kinds and kinds[0] == "FLOAT":
        _replace_argument(node, _double)
    return node


def _replace_argument(node: exp.Expr, made: Callable[[exp.Expr], exp.Expr]) -> None:
    value = _bare(node.this)
    value.replace(made(value))


def _min_max_by(name: str) -> Rewrite:
    """Return the rewrite of max_by or min_by: DuckDB skips rows whose first value is null."""

    def rewrite_node(node: exp.Expr, _: Sequence[str]) -> exp.Expr:
        return call(
            name,
            node.this,
            sql("CASE WHEN x IS NOT NULL THEN y END", x=node.this, y=node.expression),
        )

    return rewrite_node


def _any_value(node: exp.AnyValue, _: Sequence[str]) -> exp.Expr:
    return call("arbitrary", node.this)


def _without_ignore_nulls(node: exp.IgnoreNulls, _: Sequence[str]) -> exp.Expr:
    """Return arbitrary() alone, which skips nulls anyway."""
    inner = node.this
    return inner if isinstance(inner, exp.Anonymous) and inner.name == "arbitrary" else node


def _string_agg(node: exp.GroupConcat, kinds: Sequence[str]) -> exp.Expr:
    """Return the texts of a group joined in order, without nulls; null if there are none."""
    order = node.this
    value = order.this
    if isinstance(value, exp.Distinct):
        raise _untranslatable(
            node,
            "the distinct values of a group as one text",
            "take them in a subquery with SELECT DISTINCT",
        )
    listed = exp.ArrayAgg(
        this=exp.Order(
            this=to_text(value, kinds[0] if kinds else "VARCHAR").copy(),
            expressions=[key.copy() for key in order.expressions],
        )
    )
    there = exp.not_(exp.Is(this=exp.paren(value.copy()), expression=exp.Null()))
    filtered = node.parent if isinstance(node.parent, exp.Filter) else None
    if filtered is not None:
        raise _untranslatable(node, "FILTER of a joined text", "use CASE inside the brackets")
    return call(
        "array_join",
        exp.Filter(this=listed, expression=exp.Where(this=there)),
        node.args.get("separator") or exp.Literal.string(","),
    )


# ---- lists


def _element(node: exp.Bracket, kinds: Sequence[str]) -> exp.Expr:
    """Return an element of a list; in sqlglot, literal positions count from 0."""
    index = node.expressions[0] if len(node.expressions) == 1 else None
    bare = index.unnest() if index is not None else None
    if isinstance(bare, exp.Literal) and bare.is_string:
        return call("element_at", node.this, bare)
    number = _literal_integer(bare) if bare is not None else None
    number = number + 1 if number is not None else None
    if not number:
        raise _untranslatable(
            node,
            "an element of a list whose position is no integer literal",
            "use list[1], or join unnest(list)",
        )
    if kinds and kind_of_type(kinds[0]) == "text":
        return _substring_from(node.this, exp.Literal.number(number), exp.Literal.number(1))
    return call("element_at", node.this, exp.Literal.number(number))


def _unchanged(node: exp.Expr) -> exp.Expr:
    return node.copy()


def _paren(value: exp.Expr) -> exp.Expr:
    return (
        exp.paren(value.copy())
        if isinstance(value, exp.Binary | exp.Connector | exp.Case)
        else value.copy()
    )


def _untranslatable(node: exp.Expr, words: str, hint: str) -> QueryError:
    return QueryError(f"{words}, in {' '.join(node.sql('duckdb').split())[:80]}", hint=hint)


REWRITES: dict[type[exp.Expr], Rewrite] = {
    exp.Div: _divide,
    exp.IntDiv: _divide_whole,
    exp.Floor: _rounded,
    exp.Ceil: _rounded,
    exp.Round: _rounded,
    exp.Trunc: _rounded,
    exp.Abs: _rounded,
    exp.Sign: _sign,
    exp.Log: _logarithm,
    exp.Greatest: _extreme,
    exp.Least: _extreme,
    exp.IsInf: _infinite,
    exp.Add: _add,
    exp.Sub: _add,
    exp.Interval: _interval,
    exp.EQ: _compare,
    exp.NEQ: _compare,
    exp.GT: _compare,
    exp.GTE: _compare,
    exp.LT: _compare,
    exp.LTE: _compare,
    exp.NullSafeEQ: _compare,
    exp.NullSafeNEQ: _compare,
    exp.In: _in_list,
    exp.Between: _between,
    exp.Is: _is,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.DPipe: _join,
    exp.Concat: _concat,
    exp.ConcatWs: _concat_with,
    exp.Length: _length,
    exp.ArraySize: _length,
    exp.Trim: _trim,
    exp.Upper: upper,
    exp.Lower: lower,
    exp.ILike: like_any_case,
    exp.Substring: _substring,
    exp.Left: _left,
    exp.Right: _right,
    exp.Replace: _replace,
    exp.Contains: _contains,
    exp.EndsWith: _ends_with,
    exp.StartsWith: _starts_with,
    exp.SplitPart: _split_part,
    exp.MD5: _md5,
    exp.RegexpLike: _matches,
    exp.RegexpFullMatch: _matches_whole,
    exp.RegexpExtract: _extracted,
    exp.RegexpReplace: _replaced,
    exp.TimestampTrunc: _truncated,
    exp.DateTrunc: _truncated,
    exp.Extract: _extract,
    exp.DayOfWeek: _time_part_function("dow"),
    exp.DayOfWeekIso: _time_part_function("isodow"),
    exp.DayOfYear: _time_part_function("doy"),
    exp.DayOfMonth: _time_part_function("day"),
    exp.WeekOfYear: _time_part_function("week"),
    exp.TimeToUnix: _time_part_function("epoch"),
    exp.DateDiff: _difference,
    exp.Avg: _average,
    exp.Sum: _sum,
    exp.ArgMax: _min_max_by("max_by"),
    exp.ArgMin: _min_max_by("min_by"),
    exp.AnyValue: _any_value,
    exp.IgnoreNulls: _without_ignore_nulls,
    exp.GroupConcat: _string_agg,
    exp.Bracket: _element,
}
REWRITES_BY_NAME: dict[str, Rewrite] = {
    "isfinite": _finite,
    "prefix": _starts_with,
    "suffix": _ends_with,
    "date_part": _date_part,
    "datepart": _date_part,
    "weekday": _time_part_function("dow"),
    "epoch_ns": _nanoseconds,
}
NODES_WITH_OWN_TYPE = frozenset(
    [exp.Floor, exp.Ceil, exp.Round, exp.Trunc, exp.Abs, exp.TimestampTrunc, exp.DateTrunc]
)
TYPED_NODES = NODES_WITH_OWN_TYPE | {
    exp.Div,
    exp.IntDiv,
    exp.Add,
    exp.Sub,
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.In,
    exp.Between,
    exp.Cast,
    exp.TryCast,
    exp.DPipe,
    exp.Concat,
    exp.ConcatWs,
    exp.Length,
    exp.ArraySize,
    exp.Contains,
    exp.DateDiff,
    exp.Avg,
    exp.Sum,
    exp.GroupConcat,
    exp.Bracket,
}
