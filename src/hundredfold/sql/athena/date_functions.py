"""Dates, times and intervals that have another meaning in Athena than in DuckDB."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from .casts import call, sql
from .expressions import Rewrite, untranslatable
from .types import kind_of_type, own_type

MONTHS = {"month": 1, "quarter": 3, "year": 12}
DAYS = {"day": 1, "week": 7}
CLOCK = frozenset(["hour", "minute", "second"])


def add(node: exp.Add | exp.Sub, kinds: Sequence[str]) -> exp.Expr:
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
        raise untranslatable(
            node, "this sum of times", "use date_diff('second', a, b), or + INTERVAL"
        )
    return node


def _add_interval(node: exp.Expr, value: exp.Expr, interval: exp.Interval, kind: str) -> exp.Expr:
    unit, size, number = _interval_unit(interval)
    if kind_of_type(kind) not in ("date", "timestamp"):
        raise untranslatable(
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
        raise untranslatable(
            interval,
            "this interval",
            "use one number and one of year, quarter, month, week, day, hour, minute, second",
        )
    unit_there = "month" if name in MONTHS else "day" if name in DAYS else name
    bare = number.unnest()
    if isinstance(bare, exp.Literal) and bare.is_string:
        if not bare.name.strip().lstrip("+-").isdigit():
            raise untranslatable(interval, "this interval", "use an integer of one unit")
        number = exp.Literal.number(int(bare.name))
    return unit_there, size, number


def interval_literal(node: exp.Interval, _: Sequence[str]) -> exp.Expr:
    """Return an interval in the frame of a window; those in sums are rewritten already."""
    if node.find_ancestor(exp.WindowSpec) is None and not isinstance(
        node.parent, exp.Add | exp.Sub
    ):
        raise untranslatable(node, "an interval as a value", "use the number of days or seconds")
    if isinstance(node.parent, exp.Add | exp.Sub):
        return node
    unit, size, number = _interval_unit(node)
    if not isinstance(number, exp.Literal):
        raise untranslatable(node, "this interval in a window", "use a plain number")
    return exp.Interval(
        this=exp.Literal.string(str(int(number.name) * size)), unit=exp.Var(this=unit.upper())
    )


def truncated(node: exp.Expr, kinds: Sequence[str]) -> exp.Expr:
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


def extract(node: exp.Extract, _: Sequence[str]) -> exp.Expr:
    return _time_part(node.name.lower(), node.expression)


def date_part(node: exp.Anonymous, _: Sequence[str]) -> exp.Expr:
    return _time_part(node.expressions[0].name.lower(), node.expressions[1])


def time_part_function(name: str) -> Rewrite:
    return lambda node, _: _time_part(
        name, node.expressions[0] if isinstance(node, exp.Anonymous) else node.this
    )


def difference(node: exp.DateDiff, kinds: Sequence[str]) -> exp.Expr:
    """Return the number of unit boundaries between two times; Athena counts whole units."""
    unit = node.args["unit"].name.lower().rstrip("s")
    later, earlier = node.this, node.expression
    if unit == "day" and list(map(kind_of_type, kinds[:2])) == ["date", "date"]:
        return call("date_diff", "day", earlier, later)
    cut = [
        call("date_trunc", unit, exp.cast(value.copy(), "timestamp")) for value in (earlier, later)
    ]
    return call("date_diff", unit, *cut)


def nanoseconds(node: exp.Anonymous, _: Sequence[str]) -> exp.Expr:
    return sql("CAST(round(to_unixtime(t) * 1e3) AS BIGINT) * 1000000", t=node.expressions[0])
