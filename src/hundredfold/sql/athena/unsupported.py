"""The parts of DuckDB's SQL that Athena lacks or interprets differently, reported with their lines
before a run.

Anything that is not known to be safe is rejected: only the functions and the parts of a query that
are listed in this module are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from .planner_limits import PlannerLimit
from .windows import (
    has_frame_without_effect,
    has_no_order,
    is_distinct_window,
    is_filtered_window,
    is_ordered_argument_of_window,
)

# DuckDB's functions that may be called; "list" and "if" are keywords of SQL, too
_FUNCTIONS = """
abs acos any_value arbitrary arg_max arg_min argmax argmin array_agg array_length asin atan atan2
avg bool_and bool_or cardinality cbrt ceil ceiling char_length character_length coalesce concat
concat_ws contains cos count cume_dist date date_diff date_part date_trunc datediff datepart
datetrunc day dayofmonth dayofweek dayofyear degrees dense_rank ends_with epoch epoch_ns every
exists exp extract first_value floor greatest group_concat grouping hour if ifnull instr isfinite
isinf isnan isodow lag last_day last_value lcase lead least left len length list listagg ln log
log10 log2 lower lpad ltrim max max_by md5 mean min min_by minute mod month nth_value ntile nullif
percent_rank pi position pow power prefix quarter radians rank regexp_extract regexp_full_match
regexp_matches regexp_replace replace right round row_number rpad rtrim second sign sin split_part
sqrt starts_with stddev stddev_pop stddev_samp strftime string_agg strpos strptime substr
substring suffix sum tan today translate trim trunc ucase upper var_pop var_samp variance week
weekday weekofyear year
"""
REPLACEMENTS = {  # of functions that are often used
    "count_if": "use count(*) FILTER (WHERE ...), which is 0 if there is none",
    "first": "use min_by(x, y), which determines the order",
    "last": "use max_by(x, y), which determines the order",
    "median": "Athena has approximate quantiles only; take it in the model's function",
    "mode": "count the values, and take the first by row_number()",
    "quantile": "Athena has approximate quantiles only; take it in the model's function",
    "quantile_cont": "Athena has approximate quantiles only; take it in the model's function",
    "quantile_disc": "Athena has approximate quantiles only; take it in the model's function",
    "random": "a query must return the same rows each time",
    "uuid": "a query must return the same rows each time",
    "now": "use as_of of the table `run`, which remains the same",
    "read_parquet": "declare the file as a source",
    "read_csv": "declare the file as a source",
    "read_csv_auto": "declare the file as a source",
    "read_json": "declare the file as a source",
    "read_json_auto": "declare the file as a source",
    "parquet_scan": "declare the file as a source",
    "age": "use date_diff",
    "date_sub": "use date_diff",
    "date_add": "use +",
    "unnest": "use FROM t CROSS JOIN unnest(t.list) AS u(x)",
}
TYPES = frozenset(
    [
        "TINYINT",
        "SMALLINT",
        "INT",
        "BIGINT",
        "FLOAT",
        "DOUBLE",
        "DECIMAL",
        "BOOLEAN",
        "VARCHAR",
        "CHAR",
        "TEXT",
        "VARBINARY",
        "BLOB",
        "DATE",
        "TIMESTAMP",
        "TIMESTAMPNTZ",
        "TIMESTAMPTZ",
        "TIMESTAMPLTZ",
        "ARRAY",
        "LIST",
        "MAP",
        "UNKNOWN",
    ]
)
INTERNAL_TYPES = {"UNKNOWN", "LIST", "BLOB", "TIMESTAMPNTZ", "TIMESTAMPLTZ"}
NODES = (
    exp.Select,
    exp.From,
    exp.Join,
    exp.Where,
    exp.Group,
    exp.Having,
    exp.Order,
    exp.Ordered,
    exp.Limit,
    exp.Offset,
    exp.Distinct,
    exp.Qualify,
    exp.With,
    exp.CTE,
    exp.Subquery,
    exp.Table,
    exp.TableAlias,
    exp.SetOperation,
    exp.Values,
    exp.Tuple,
    exp.Column,
    exp.Identifier,
    exp.Star,
    exp.Alias,
    exp.Paren,
    exp.Literal,
    exp.Boolean,
    exp.Null,
    exp.And,
    exp.Or,
    exp.Not,
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.Is,
    exp.In,
    exp.Between,
    exp.Like,
    exp.ILike,
    exp.Escape,
    exp.Case,
    exp.If,
    exp.Cast,
    exp.DataType,
    exp.DataTypeParam,
    exp.Interval,
    exp.Var,
    exp.Window,
    exp.WindowSpec,
    exp.Filter,
    exp.IgnoreNulls,
    exp.RespectNulls,
    exp.Exists,
    exp.Add,
    exp.Sub,
    exp.Mul,
    exp.Div,
    exp.IntDiv,
    exp.Mod,
    exp.Neg,
    exp.DPipe,
    exp.Dot,
    exp.LimitOptions,
    exp.Bracket,
    exp.Array,
    exp.Unnest,
    exp.Rollup,
    exp.Cube,
    exp.GroupingSets,
    exp.CurrentDate,
    exp.Func,
    exp.Explode,
)
UNITS = frozenset(["year", "quarter", "month", "week", "day", "hour", "minute", "second"])
DATE_DIFF_UNITS = UNITS - {
    "week"
}  # of date_diff: the meaning of a week has changed with DuckDB's versions
PARTS = UNITS | {"dow", "dayofweek", "weekday", "isodow", "doy", "dayofyear", "epoch"}
FORMATS = frozenset("YmdHMSjy")  # letters of strftime that have the same meaning
# keywords that may precede an opening bracket and are no functions
_KEYWORDS = """
all and any array as between by case cast char columns cross cube decimal distinct else end escape
except exclude exists filter following from full group having ilike in inner intersect interval is
join lateral left like limit list map materialized natural not null nulls numeric offset on or
order outer over partition pivot preceding qualify range recursive replace right rollup row rows
select semi anti sets some table text then time timestamp try_cast union unnest using values
varchar when where window with within
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
KEYWORDS = frozenset(_KEYWORDS.split())
# a predicate, the problem in words, and its SQL
Rule = tuple[Callable[[exp.Expr], bool], str, str]


def unsupported_parts(select: str, tree: exp.Expr) -> list[tuple[int, str]]:
    """Return the parts of a query that Athena lacks or would misinterpret: (line, problem), by
    line.
    """
    tokens = sqlglot.tokenize(select, read="duckdb")
    found = [*_unsupported_calls(tokens, tree), *_unsupported_syntax(tokens)]
    for node in tree.walk():
        for is_so, words, phrase in RULES:
            if is_so(node):
                found.append((_line_of_phrase(tokens, phrase, node) or _line(node), words))
                break
        else:
            if not isinstance(node, NODES) and not _is_in_a_struct(node):
                found.append(
                    (
                        _line(node),
                        f"{' '.join(node.sql('duckdb').split())[:60]}, which Athena's SQL cannot"
                        " express",
                    )
                )
    return sorted(set(found))


def limit_lines(select: str, limits: Sequence[PlannerLimit]) -> list[tuple[int, str]]:
    """Return the parts of a query that Athena's planner refuses: (line, problem)."""
    tokens = sqlglot.tokenize(select, read="duckdb")
    return [
        (_line_of_phrase(tokens, limit.phrase, limit.node) or _line(limit.node), limit.problem)
        for limit in limits
    ]


def _unsupported_calls(tokens: list[Token], tree: exp.Expr) -> Iterator[tuple[int, str]]:
    """Yield calls of functions that are not listed."""
    named = {alias.name.lower() for alias in tree.find_all(exp.TableAlias) if alias.name}
    for before, token, following in zip([None, *tokens], tokens, tokens[1:], strict=False):
        name = token.text.lower()
        if following.token_type != TokenType.L_PAREN or token.token_type in (
            TokenType.IDENTIFIER,
            TokenType.STRING,
            TokenType.NUMBER,
        ):
            continue
        if (
            not name.replace("_", "").isalnum()
            or name in named
            or (before is not None and before.token_type == TokenType.ALIAS)
        ):
            continue
        if name not in FUNCTIONS and (
            name not in KEYWORDS or (name == "unnest" and _is_selected(before))
        ):
            advice = REPLACEMENTS.get(name)
            yield (
                token.line,
                f"the function {name}, which Athena does not have"
                + (f"; {advice}" if advice else ""),
            )


def _is_selected(before: Token | None) -> bool:
    """Return whether a call is in the list of columns, as far as the preceding token shows."""
    return before is not None and before.token_type in (TokenType.SELECT, TokenType.DISTINCT)


def _unsupported_syntax(tokens: list[Token]) -> Iterator[tuple[int, str]]:
    """Yield syntax that sqlglot would misinterpret."""
    for token, following in pairwise(tokens):
        if token.text in ("~", "!~", "~~", "!~~", "~~*", "!~~*") or token.text.upper() == "SIMILAR":
            yield token.line, f"the operator {token.text.upper()}; use LIKE or regexp_matches"
        if (
            token.token_type == TokenType.NUMBER
            and token.text == "0"
            and following.text[:1].lower() in "xb"
            and token.end + 1 == following.start
        ):
            yield token.line, f"the number 0{following.text}; write it in decimal digits"


def _line(node: exp.Expr | None) -> int:
    """Return the line of the first name in a node, or around it; 0 if there is none."""
    while node is not None:
        lines = _lines(node)
        if lines:
            return min(lines)
        node = node.parent
    return 0


def _lines(node: exp.Expr) -> list[int]:
    """Return the lines of the names in a node: no other nodes have lines."""
    return [int(part.meta["line"]) for part in node.walk() if "line" in part.meta]


def _line_of_phrase(tokens: Sequence[Token], phrase: str, node: exp.Expr) -> int:
    """Return the line of a sequence of keywords; 0 if it does not occur.

    If it occurs on several lines, return the nearest to the first name in the node or, for a node
    without names, to the last one of its SELECT.
    """
    words = phrase.upper().split()
    # GROUP BY is one token
    words_of_lines = [(word, token.line) for token in tokens for word in token.text.upper().split()]
    lines = [
        line
        for n, (_, line) in enumerate(words_of_lines)
        if words and [word for word, _ in words_of_lines[n : n + len(words)]] == words
    ]
    near = min(_lines(node), default=0) or max(_lines(node.parent or node), default=0)
    return min(lines, key=lambda line: abs(line - near), default=0)


def _has(name: str) -> Callable[[exp.Expr], bool]:
    return lambda node: bool(node.args.get(name))


def _all(*kinds: type[exp.Expr]) -> Callable[[exp.Expr], bool]:
    return lambda node: isinstance(node, kinds)


def _and(*are: Callable[[exp.Expr], bool]) -> Callable[[exp.Expr], bool]:
    return lambda node: all(is_so(node) for is_so in are)


def _joins(*words: str) -> Callable[[exp.Expr], bool]:
    return lambda node: (
        isinstance(node, exp.Join)
        and any(
            str(node.args.get(part) or "").upper() in words for part in ("method", "kind", "side")
        )
    )


def _is_ordered_by_all(node: exp.Expr) -> bool:
    return isinstance(node, exp.Order) and any(
        isinstance(key.this, exp.Column | exp.Var) and key.this.name.upper() == "ALL"
        for key in node.expressions
    )


def _is_unordered_list(node: exp.Expr) -> bool:
    return isinstance(node, exp.ArrayAgg | exp.GroupConcat) and not isinstance(node.this, exp.Order)


def _has_other_part(node: exp.Expr) -> bool:
    """Return whether a part of a time has another meaning in Athena, or none."""
    if isinstance(node, exp.Anonymous) and node.name.lower() in ("date_part", "datepart"):
        part = node.expressions[0] if node.expressions else None
        return not isinstance(part, exp.Literal) or part.name.lower() not in PARTS
    if isinstance(node, exp.Extract):
        return node.name.lower() not in PARTS
    unit = (
        node.args.get("unit")
        if isinstance(node, exp.TimestampTrunc | exp.DateTrunc | exp.DateDiff)
        else None
    )
    known = DATE_DIFF_UNITS if isinstance(node, exp.DateDiff) else UNITS
    return unit is not None and (
        not isinstance(unit, exp.Var | exp.Literal) or unit.name.lower().rstrip("s") not in known
    )


def _has_other_format(node: exp.Expr) -> bool:
    if not isinstance(node, exp.TimeToStr | exp.StrToTime):
        return False
    form = node.args.get("format")
    if not isinstance(form, exp.Literal):
        return True
    letters = form.name.split("%")[1:]
    return any(not part or part[0] not in FORMATS for part in letters)


def _is_odd_limit(node: exp.Expr) -> bool:
    return isinstance(node, exp.Limit | exp.Offset) and not (
        isinstance(node.expression, exp.Literal) and node.expression.is_int
    )


def _is_other_type(node: exp.Expr) -> bool:
    return isinstance(node, exp.DataType) and node.this.value not in TYPES


def _is_a_macro_or_lambda(node: exp.Expr) -> bool:
    return isinstance(
        node, exp.Lambda | exp.Kwarg | exp.PropertyEQ | exp.Comprehension
    ) and not _is_in_a_struct(node)


def _is_in_a_struct(node: exp.Expr) -> bool:
    """Return whether a field is in a struct literal, which is reported as a whole."""
    return isinstance(node, exp.PropertyEQ) and isinstance(node.parent, exp.Struct)


RULES: tuple[Rule, ...] = (
    (
        _and(_all(exp.SetOperation), _has("by_name")),
        "UNION BY NAME; name the columns in both halves",
        "BY NAME",
    ),
    (_and(_all(exp.Group), _has("all")), "GROUP BY ALL; name the columns", "GROUP BY ALL"),
    (_is_ordered_by_all, "ORDER BY ALL; name the columns", "ORDER BY ALL"),
    (_joins("ASOF"), "ASOF JOIN; use a window function", "ASOF"),
    (_joins("POSITIONAL"), "POSITIONAL JOIN; join by a key", "POSITIONAL JOIN"),
    (_all(exp.TableSample), "a sample, which has other rows each time", "SAMPLE"),
    (_all(exp.Pivot), "PIVOT; use CASE and GROUP BY", "PIVOT"),
    (_all(exp.Columns), "COLUMNS(...); name the columns", "COLUMNS"),
    (_all(exp.PositionalColumn), "a column by its position; name it", "#"),
    (
        _and(_all(exp.Distinct), _has("on")),
        "DISTINCT ON; use QUALIFY row_number() OVER (PARTITION BY ... ORDER BY ...) = 1",
        "DISTINCT ON",
    ),
    (
        _and(_all(exp.With), _has("recursive")),
        "WITH RECURSIVE, which ends after ten rounds in Athena",
        "RECURSIVE",
    ),
    (_all(exp.Lateral), "LATERAL; join a subquery", "LATERAL"),
    (
        _all(exp.Explode),
        "unnest among the columns; use FROM t CROSS JOIN unnest(t.list) AS u(x)",
        "unnest",
    ),
    (_is_a_macro_or_lambda, "a lambda or a named argument; write it out", "lambda"),
    (_and(_all(exp.WindowSpec), _has("exclude")), "EXCLUDE in a window", "EXCLUDE"),
    (is_distinct_window, "DISTINCT in a window function; use GROUP BY, and join it", "DISTINCT"),
    (is_filtered_window, "FILTER in a window function; use CASE WHEN in its argument", "FILTER"),
    (
        is_ordered_argument_of_window,
        "ORDER BY in the argument of a window function; use GROUP BY, and join it",
        "",
    ),
    (has_frame_without_effect, "lag or lead with a frame, which has no effect: leave it out", ""),
    (has_no_order, "lag or lead without ORDER BY in its window", ""),
    (
        _and(_all(exp.ArgMax, exp.ArgMin, exp.Max, exp.Min), _has("count")),
        "the largest or smallest n values; use QUALIFY row_number() OVER (ORDER BY ...) <= n",
        "",
    ),
    (
        _is_unordered_list,
        "a list of a group's values in no order: write ORDER BY inside the brackets",
        "",
    ),
    (
        _has_other_part,
        "a part of a time that Athena lacks, or counts differently: use"
        f" {', '.join(sorted(PARTS))}",
        "",
    ),
    (
        _has_other_format,
        f"a format of a time that Athena may interpret differently: %{', %'.join(sorted(FORMATS))}"
        " are the same",
        "",
    ),
    (_is_odd_limit, "LIMIT or OFFSET that is no integer literal", "LIMIT"),
    (_and(_all(exp.Limit), _has("limit_options")), "LIMIT in per cent", "LIMIT"),
    (
        _is_other_type,
        "a type that Athena lacks, or stores differently: use"
        f" {', '.join(sorted(TYPES - INTERNAL_TYPES))}",
        "",
    ),
    (_all(exp.ByteString), "a text with E'...'; write the characters themselves", ""),
    (_all(exp.Collate), "COLLATE; use lower()", "COLLATE"),
    (_all(exp.AtTimeZone), "AT TIME ZONE: all times are in UTC", "AT TIME ZONE"),
    (_all(exp.Glob), "GLOB; use LIKE", "GLOB"),
    (_all(exp.Struct, exp.ToMap), "a struct or map literal; name its fields as columns", "{"),
)
