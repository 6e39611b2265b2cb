"""Which rows of a source break which rule, and the refusal of a source in which too many do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..contract import quote
from ..errors import ContractError
from ..job import Source, allowed
from ..ports.interfaces import Warehouse
from ..sql.checks import Checks, Rule, quote_part
from .validation_results import Finding

# beginnings of the rules that a value which is not a number breaks
NUMBER_RULES = (
    "must be a number",
    "must be a whole number",
    "must be a decimal",
)
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}([.]\d{3})+),\d+")
DECIMAL_POINT = re.compile(r"[+-]?\d*[.]\d+ [(]the decimal sign is a comma[)]")
# with more bad rows than this, each query finds them in the source, so that they take no disk
MAX_STORED_BAD_ROWS = 1_000_000
RULES_PER_QUERY = 64


def malformed_findings(malformed: pa.Table) -> tuple[Finding, ...]:
    """Return a finding for each rule that malformed lines break, with the first of them."""
    rules = malformed.column("rule").to_pylist()
    rows = {
        rule: malformed.slice(rules.index(rule), 1).to_pylist()[0] for rule in dict.fromkeys(rules)
    }
    found = [
        Finding("(line)", rule, rules.count(rule), row["file"], row["row"], str(row["line"])[:60])
        for rule, row in rows.items()
    ]
    return tuple(sorted(found, key=lambda finding: -finding.rows))


def select_bad_rows(checks: Checks, bad: int, warehouse: Warehouse) -> str:
    """Return a table of the rows of `judged` that break a rule, as it is written after FROM.

    Findings and rejects are read from it, so that the source is judged once for both.
    """
    select = f"SELECT * FROM ({checks.judged}) AS j WHERE {checks.any_bad}"
    if not 0 < bad <= MAX_STORED_BAD_ROWS:
        return f"({select})"
    warehouse.materialize("__bad_rows", select)
    return "__bad_rows"


def rule_findings(
    checks: Checks, bad_rows: str, exact: bool, warehouse: Warehouse
) -> tuple[Finding, ...]:
    """Return each broken rule with its first row, the most frequent first."""
    rules: Sequence[int] = range(len(checks.rules))
    if len(rules) > RULES_PER_QUERY:
        rules = _broken_rules(checks, bad_rows, warehouse)
    queries = [
        _findings_query(checks, bad_rows, rules[first : first + RULES_PER_QUERY])
        for first in range(0, len(rules), RULES_PER_QUERY)
    ]
    warehouse.prefetch(queries)
    found: dict[str, Any] = {}
    for query in queries:
        found |= warehouse.query(query).to_pylist()[0]
    findings = [
        Finding(
            rule.column,
            rule.message,
            int(found[f"k{i}"]),
            found[f"p{i}"][:-20],
            int(found[f"p{i}"][-20:]) if exact else 0,
            found[f"v{i}"],
        )
        for i, rule in enumerate(checks.rules)
        if found.get(f"k{i}")
    ]
    return tuple(sorted(findings, key=lambda finding: -finding.rows))


def _broken_rules(checks: Checks, bad_rows: str, warehouse: Warehouse) -> list[int]:
    """Return the rules that a row breaks, by number: of hundreds, most are broken by none."""
    rules = range(len(checks.rules))
    broken = ", ".join(f"max(__k{i}) AS k{i}" for i in rules)
    found = warehouse.query(f"SELECT {broken} FROM {bad_rows} AS j").to_pylist()[0]
    return [i for i in rules if found[f"k{i}"]]


def _findings_query(checks: Checks, bad_rows: str, rules: Sequence[int]) -> str:
    """Return a query of the number of rows that break each rule, and of the first of them."""
    position = "__file || lpad(CAST(__row AS VARCHAR), 20, '0')"  # sorts by file, then by row
    each = ", ".join(
        f"sum(__k{i}) AS k{i}, min({position}) FILTER (WHERE __k{i} = 1) AS p{i}, "
        f"min_by(coalesce(CAST({_raw_value(checks.rules[i], checks)} AS VARCHAR), 'null'), "
        f"{position}) FILTER (WHERE __k{i} = 1) AS v{i}"
        for i in rules
    )
    return f"SELECT {each} FROM {bad_rows} AS j"


def _raw_value(rule: Rule, checks: Checks) -> str:
    """Return the column of `judged` with the raw value that a rule checked."""
    raw = f"__raw_{quote_part(rule.column)}"
    return raw if f"AS {raw}," in checks.typed else quote(rule.column)


def decimal_hint(
    source: Source, csv: Sequence[Mapping[str, Any]], findings: Sequence[Finding]
) -> str:
    """Return a hint about the decimal sign if rejected numbers are written with the other one; else
    "".
    """
    signs = {str(facts["decimal"]) for facts in csv}
    if len(signs) != 1:
        return ""
    sign = signs.pop()
    written, other = (DECIMAL_COMMA, ",") if sign == "." else (DECIMAL_POINT, ".")
    if not any(
        f.message.startswith(NUMBER_RULES) and written.fullmatch(f.value.strip()) for f in findings
    ):
        return ""
    return (
        f"if these numbers have a decimal {'comma' if other == ',' else 'point'}, declare "
        f'it: Source("{source.name}", ..., csv=Csv(decimal="{other}")); or '
    )


def refuse_too_many(
    source: Source, rejected: int, rows: int, findings: Sequence[Finding], where: str, hint: str
) -> None:
    limit = allowed(source.max_rejected, rows)
    if rejected <= limit:
        return
    several = len({f.file for f in findings}) > 1
    width = max(len(f.column) for f in findings)
    widest = max(len(f.message) for f in findings)
    counts = max(len(f"{f.rows:,} row") + (f.rows > 1) for f in findings)
    raise ContractError(
        f"{source.name} cannot be run: {rejected:,} of {rows:,} rows break its contract, and the "
        f"limit is {limit:,}",
        problems=[
            (
                f"{f.column:<{width}}  {f.message:<{widest}}  "
                f"{f'{f.rows:,} row' + ('s' if f.rows > 1 else ''):<{counts}}   first: "
                f"{_location(f, several)} ({f.value})"
            )
            for f in findings
        ],
        hint=f"{hint}see {where}, or allow them with --max-rejected {source.name}={rejected}",
    )


def refuse_replaced(source: Source, superseded: int, rows: int, where: str) -> None:
    """Refuse a source most of whose rows supersede one another: its key lacks a column."""
    limit = allowed(source.max_replaced, rows)
    if superseded > limit:
        raise ContractError(
            f"{source.name} cannot be run: {superseded:,} of {rows:,} rows are superseded by "
            f"later rows of the same {', '.join(source.unique)}, and the limit is {limit:,}",
            hint=f"see {where}; if they are restatements, raise max_replaced of the source; if "
            "not, its `unique` lacks a column",
        )


def _location(finding: Finding, several: bool) -> str:
    """Return the place of a row, as far as it is known; the file only where there are several."""
    if not finding.row:
        return f"in {finding.file}"
    return f"row {finding.row}" + (f" of {finding.file}" if several else "")
