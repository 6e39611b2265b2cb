"""Step 1. Every source against its contract, as one pass of SQL. Bad rows go to `rejects/` with
their reasons, and every value that was repaired goes to `repairs/`, before and after.

Rows in = accepted + rejected + dropped copies, or the run stops here. What was accepted stands
under the source's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from ..contract import Contract, quote, read_contract
from ..data.checksums import checksum_of, get_json, put_json, verify
from ..errors import ConservationError, ContractError, JobError, QueryError, SourceError
from ..job import Job, Layout, Source, allowed
from ..ports.interfaces import (
    AttachedSource,
    Fingerprint,
    RunStore,
    SourcePlace,
    Store,
    Warehouse,
)
from ..ports.run_facts import SourceCounts
from ..sql.checks import Checks, Rule, compile_checks, duplicates, quote_part, refuse_timeless
from ..sql.sources.changes import refuse_other_files

NUMBER_RULES = (
    "must be a number",
    "must be a whole number",
    "must be a decimal",
)  # what is said of a value that is none
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}([.]\d{3})+),\d+")
DECIMAL_POINT = re.compile(r"[+-]?\d*[.]\d+ [(]the decimal sign is a comma[)]")


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken check: how many rows, and the first of them."""

    column: str
    words: str
    rows: int
    file: str
    row: int  # 0 where the files have rows in no order
    value: str


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What validation said of one source.

    The accepted rows are an object of the store, or (`select`, `files`) read in place.
    """

    source: str
    rows: int
    accepted: int
    rejected: int
    copies: int = 0
    superseded: int = 0
    repaired: int = 0
    findings: tuple[Finding, ...] = ()
    accepted_key: str = ""
    select: str = ""
    files: list[Fingerprint] = field(default_factory=list)  # where `select` reads them in place
    checksums: Mapping[str, str] = field(
        default_factory=dict
    )  # of the objects that validation wrote, by key
    csv: list[dict[str, Any]] = field(default_factory=list)  # how its CSV files are written

    @property
    def dropped(self) -> int:
        return self.copies + self.superseded

    @property
    def counts(self) -> SourceCounts:
        """The counts of the source, as the run's record holds them."""
        return SourceCounts(
            rows=self.rows,
            accepted=self.accepted,
            rejected=self.rejected,
            dropped=self.dropped,
            repaired=self.repaired,
        )


def validate(
    job: Job,
    places: Mapping[str, SourcePlace],
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> list[ValidationResult]:
    """Check every source, or take the verdict that is there; SourceError or ContractError for the
    first that cannot be run.
    """
    results = _load_existing(layout.validation_result(), store)
    for result in results:
        verify_accepted(result, store)
    if not results:
        for source in in_order_of_reference(job.sources):
            own = layout.source_validation_result(source.name)
            one = _load_existing(own, store) if warehouse.replays else []
            if not one:
                one = [
                    _validate_one(source, places[source.name], job, as_of, layout, warehouse, store)
                ]
                if warehouse.replays:
                    _write_results(one, own, store)
            results += one
            warehouse.create_view(source.name, _accepted_query(results[-1], warehouse))
        _write_results(results, layout.validation_result(), store)
    refuse_changed(results, warehouse)
    for result in results:
        warehouse.create_view(result.source, _accepted_query(result, warehouse))
    return results


def verify_accepted(result: ValidationResult, store: Store) -> None:
    """Raise DamagedFile if the accepted rows are an object of the store, and not what was written."""
    if result.accepted_key in result.checksums:
        verify(store, result.accepted_key, result.checksums[result.accepted_key])


def read_validation(layout: Layout, store: Store) -> list[ValidationResult]:
    """What validation said; KeyError before it has."""
    return _read_results(layout.validation_result(), store)


def move_source(
    source: str,
    files: Sequence[Sequence[Any]],
    named: Callable[[str], str],
    layout: Layout,
    store: Store,
) -> None:
    """Let a run that has validated a source read the same files at other places.

    files: prints of the files where they are now, in the order of their names; named: how a query
    names a path. Raises: SourceError for files that are not those that were validated, as far as
    size and modification time show.
    """
    results = _load_existing(layout.validation_result(), store)
    old = next((result for result in results if result.source == source), None)
    if old is None or not old.files:  # not validated yet, or the run has a copy of the rows
        return
    other = [
        new[0]
        for then, new in zip(old.files, files, strict=False)
        if list(then[1:3]) != list(new[1:3])
    ]
    if other or len(files) != len(old.files):
        raise SourceError(
            f"{source}: these are not the files that the run validated: their number, size or "
            "modification time differs",
            problems=other,
            hint="copy them with their times (cp -p), or run the job again",
        )
    select = old.select
    for then, new in zip(old.files, files, strict=True):
        select = select.replace(named(then[0]), named(new[0]))
    moved = replace(old, select=select, files=[list(entry) for entry in files])
    _write_results(
        [moved if result is old else result for result in results],
        layout.validation_result(),
        store,
    )


def _read_results(key: str, store: Store) -> list[ValidationResult]:
    found = get_json(store, key)["verdicts"]
    return [
        ValidationResult(**{**fields, "findings": tuple(Finding(**f) for f in fields["findings"])})
        for fields in found
    ]


def _load_existing(key: str, store: Store) -> list[ValidationResult]:
    try:
        return _read_results(key, store)
    except KeyError:
        return []


def _write_results(results: Sequence[ValidationResult], key: str, store: Store) -> None:
    put_json(store, key, {"verdicts": [asdict(v) for v in results]})


def in_order_of_reference(sources: Sequence[Source]) -> list[Source]:
    """A source comes after those that it refers to.

    JobError for a circle: whose rows would be rejected first?
    """
    done: list[Source] = []
    rest = list(sources)
    while rest:
        names = {source.name for source in rest}
        ready = next(
            (
                s
                for s in rest
                if not {t.split(".")[0] for t in s.references.values()} & (names - {s.name})
            ),
            None,
        )
        if ready is None:
            raise JobError(
                f"sources refer to one another in a circle: {', '.join(s.name for s in rest)}",
                hint="take out one of the references; a model's query can look at both sources",
            )
        done.append(ready)
        rest.remove(ready)
    return done


def _validate_one(
    source: Source,
    place: SourcePlace,
    job: Job,
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> ValidationResult:
    contract = read_contract(source.contract) if source.contract else None
    wanted = {c.name: c for c in contract.columns} if contract else {}
    raw = warehouse.attach(source, place, job.folder, wanted, layout.staged(source.name))
    with naming_damage(source.name, raw.fingerprints, warehouse):
        return _check_source(source, place, contract, raw, as_of, layout, warehouse, store)


def _check_source(
    source: Source,
    place: SourcePlace,
    contract: Contract | None,
    raw: AttachedSource,
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> ValidationResult:
    found = raw.fingerprints
    if source.name in {t.split(".")[0] for t in source.references.values()}:
        warehouse.create_view(
            source.name, raw.select
        )  # a source that refers to itself is checked against its raw rows
    checks = compile_checks(source, contract, raw.select, raw.schema, raw.text, as_of)
    _refuse_references(source, warehouse)
    try:
        refuse_timeless(source, warehouse.columns(checks.typed))
        rows, bad, repaired, counts = _count(checks, warehouse)
    except QueryError as error:
        if damage := warehouse.find_damage(source.name, [entry[0] for entry in found], error):
            raise damage from error
        _refuse_clean(source, raw.select, warehouse)
        raise SourceError(
            f"{source.name} cannot be checked: {error.message}", hint=error.hint
        ) from error
    has_duplicates = _has_duplicates(source, checks, warehouse)
    if (
        bad or has_duplicates
    ) and raw.with_row_numbers is not None:  # from here on it matters which row is which
        raw = raw.with_row_numbers()
        checks = compile_checks(source, contract, raw.select, raw.schema, raw.text, as_of)
    malformed = raw.malformed.num_rows if raw.malformed is not None else 0
    if rows + malformed == 0:
        raise SourceError(
            f"{source.name} is empty: {place if isinstance(place, str) else 'the table'} has no "
            "row",
            hint=f"name another place with --source {source.name}=PATH",
        )
    findings = _findings(checks, counts, raw.in_file_order, warehouse) if bad else ()
    if raw.malformed is not None:
        findings += _malformed_findings(raw.malformed)
    copies, superseded, clashes, duplicate_findings = (
        _find_duplicates(source, checks, raw.in_file_order, warehouse)
        if has_duplicates
        else (0, 0, 0, ())
    )
    findings += duplicate_findings
    if repaired:
        _write_repairs(source, checks, raw, layout, warehouse)
    rejected, dropped = bad + malformed + clashes, copies + superseded
    if rejected or dropped:
        _write_rejects(source, checks, raw, bool(copies + superseded + clashes), layout, warehouse)
    sign = _decimal_hint(source, raw.csv, findings)
    _refuse_too_many(
        source, rejected, rows + malformed, findings, store.where(layout.rejects(source.name)), sign
    )
    _refuse_replaced(source, superseded, rows + malformed, store.where(layout.rejects(source.name)))
    if rejected + dropped == rows + malformed:
        raise ContractError(
            f"{source.name}: all {rows + malformed:,} rows were rejected",
            problems=[f"{f.column} {f.words}: {f.rows:,}" for f in findings],
            hint=f"{sign}see {store.where(layout.rejects(source.name))}",
        )
    if raw.in_place and checks.as_is and not (rejected or dropped):
        return ValidationResult(
            source.name, rows, rows, 0, select=checks.accepted(None), files=found
        )
    rejects = warehouse.read_parquet(layout.rejects(source.name)) if rejected or dropped else None
    key = f"{layout.root}/sources/{source.name}.parquet"
    accepted = warehouse.write_rows(checks.accepted(rejects), key)
    refuse_other_files(source.name, found, warehouse)  # from here on the copy is read
    if accepted + bad + clashes + dropped != rows:
        raise ConservationError(
            f"{source.name}: {rows:,} rows came in, but {accepted:,} accepted + {bad + clashes:,} "
            f"rejected + {dropped:,} dropped is {accepted + bad + clashes + dropped:,}"
        )
    written = [
        key,
        *([layout.rejects(source.name)] if rejected or dropped else []),
        *([layout.repairs(source.name)] if repaired else []),
    ]
    checksums = {each: sum_ for each in written if (sum_ := checksum_of(store, each))}
    return ValidationResult(
        source.name,
        rows + malformed,
        accepted,
        rejected,
        copies,
        superseded,
        repaired,
        findings,
        key,
        checksums=checksums,
        csv=raw.csv,
    )


def _malformed_findings(malformed: pa.Table) -> tuple[Finding, ...]:
    """A finding for each rule that lines of the files break, with the first of them."""
    rules = malformed.column("rule").to_pylist()
    rows = {
        rule: malformed.slice(rules.index(rule), 1).to_pylist()[0] for rule in dict.fromkeys(rules)
    }
    found = [
        Finding("(line)", rule, rules.count(rule), row["file"], row["row"], str(row["line"])[:60])
        for rule, row in rows.items()
    ]
    return tuple(sorted(found, key=lambda finding: -finding.rows))


def _refuse_references(source: Source, warehouse: Warehouse) -> None:
    """The sources that it refers to stand by now: their columns can be looked at."""
    targets = {target: target.split(".") for target in source.references.values()}
    there = {
        table: warehouse.columns(f"SELECT * FROM {quote(table)}").names
        for table, _ in targets.values()
    }
    problems = [
        f"{column} -> {target}: {targets[target][0]} has {', '.join(there[targets[target][0]])}"
        for column, target in source.references.items()
        if targets[target][1] not in there[targets[target][0]]
    ]
    if problems:
        raise SourceError(
            f"{source.name}: references name a column that is not there",
            problems=problems,
            hint="mend the reference",
        )


def _refuse_clean(source: Source, raw: str, warehouse: Warehouse) -> None:
    """SourceError for the columns whose `clean` does not run over the raw rows."""
    problems = []
    for column, expression in source.clean.items():
        try:
            warehouse.query(
                f"SELECT max(CAST(c AS VARCHAR)) FROM (SELECT ({expression}) AS c FROM ({raw}) AS "
                "raw) AS q"
            )
        except QueryError as error:
            problems.append(f"{column}: {expression}: {error.message.splitlines()[0]}")
    if problems:
        raise SourceError(
            f"{source.name}: clean does not run",
            problems=problems,
            hint="wanted an SQL expression over the source's columns as they came",
        )


def _accepted_query(result: ValidationResult, warehouse: Warehouse) -> str:
    """The accepted rows in SQL, wherever the home lies by now."""
    return (
        f"SELECT * FROM {warehouse.read_parquet(result.accepted_key)}"
        if result.accepted_key
        else result.select
    )


def _count(checks: Checks, warehouse: Warehouse) -> tuple[int, int, int, list[int]]:
    """Rows, bad rows, repaired rows, and the count of each check: one pass, and a second one where
    there is a bad row.
    """
    totals = (
        f"SELECT count(*) AS n, count(*) FILTER (WHERE {checks.broken}) AS bad, count(*) FILTER "
        f"(WHERE {checks.repaired}) AS repaired"
    )
    row = warehouse.query(f"{totals} FROM ({checks.typed}) AS t").to_pylist()[0]
    rows, bad, repaired = int(row["n"]), int(row["bad"]), int(row["repaired"])
    if not bad:
        return rows, bad, repaired, [0] * len(checks.rules)
    each = ", ".join(f"sum(__k{i}) AS k{i}" for i in range(len(checks.rules)))
    counts = warehouse.query(f"SELECT {each} FROM ({checks.judged}) AS j").to_pylist()[0]
    return rows, bad, repaired, [int(counts[f"k{i}"]) for i in range(len(checks.rules))]


def _findings(
    checks: Checks, counts: Sequence[int], exact: bool, warehouse: Warehouse
) -> tuple[Finding, ...]:
    """Each broken check with its first row, the most frequent first."""
    broken = [
        (i, rule, count)
        for i, (rule, count) in enumerate(zip(checks.rules, counts, strict=True))
        if count
    ]
    place = "__file || lpad(CAST(__row AS VARCHAR), 20, '0')"  # the rows of a file in order
    firsts = ", ".join(
        (
            f"min({place}) FILTER (WHERE __k{i} = 1) AS p{i}, "
            f"min_by(coalesce(CAST({_raw_value(rule, checks)} AS VARCHAR), 'null'), {place}) "
            f"FILTER (WHERE __k{i} = 1) AS v{i}"
        )
        for i, rule, _ in broken
    )
    first = warehouse.query(f"SELECT {firsts} FROM ({checks.judged}) AS j").to_pylist()[0]
    found = [
        Finding(
            rule.column,
            rule.words,
            count,
            first[f"p{i}"][:-20],
            int(first[f"p{i}"][-20:]) if exact else 0,
            first[f"v{i}"],
        )
        for i, rule, count in broken
    ]
    return tuple(sorted(found, key=lambda finding: -finding.rows))


def _raw_value(rule: Rule, checks: Checks) -> str:
    """The column of `judged` that holds what a rule looked at, as it came."""
    raw = f"__raw_{quote_part(rule.column)}"
    return raw if f"AS {raw}," in checks.typed else quote(rule.column)


def _has_duplicates(source: Source, checks: Checks, warehouse: Warehouse) -> bool:
    """Whether two good rows have the same key."""
    if not source.unique:
        return False
    key = ", ".join(map(quote, source.unique))
    good = f"SELECT * FROM ({checks.judged}) AS j WHERE NOT ({checks.any_bad})"
    has_duplicates = warehouse.query(
        f"SELECT count(*) AS n FROM (SELECT 1 AS one FROM ({good}) AS g GROUP BY {key} HAVING "
        "count(*) > 1) AS d"
    )
    return bool(has_duplicates.column("n")[0].as_py())


def _find_duplicates(
    source: Source, checks: Checks, exact: bool, warehouse: Warehouse
) -> tuple[int, int, int, tuple[Finding, ...]]:
    """Copies, superseded rows, rows that clash; kept in the table `__twins`."""
    good = f"SELECT * FROM ({checks.judged}) AS j WHERE NOT ({checks.any_bad})"
    warehouse.materialize("__twins", duplicates(source, checks, good))
    counts = {
        r["reason"]: int(r["n"])
        for r in warehouse.query(
            "SELECT reason, count(*) AS n FROM __twins GROUP BY reason"
        ).to_pylist()
    }
    copies, superseded = (
        counts.pop("copy of another row", 0),
        counts.pop("superseded by a later row", 0),
    )
    clashes = sum(counts.values())
    if not clashes:
        return copies, superseded, 0, ()
    first = warehouse.query(
        "SELECT __file, __row FROM __twins WHERE counts ORDER BY __file, __row LIMIT 1"
    ).to_pylist()[0]
    return (
        copies,
        superseded,
        clashes,
        (
            Finding(
                ", ".join(source.unique),
                "must be unique",
                clashes,
                first["__file"],
                int(first["__row"]) if exact else 0,
                "another row has this key",
            ),
        ),
    )


def _write_rejects(
    source: Source,
    checks: Checks,
    raw: AttachedSource,
    duplicate_findings: bool,
    layout: Layout,
    warehouse: Warehouse,
) -> None:
    """Every row that goes no further, as it came in, with its reasons: one file."""
    parts = [
        (
            f"SELECT __file, __row, {checks.reasons} AS __reason, TRUE AS __counts FROM "
            f"({checks.judged}) AS j WHERE {checks.any_bad}"
        )
    ]
    if duplicate_findings:
        parts.append("SELECT __file, __row, reason AS __reason, counts AS __counts FROM __twins")
    gone = " UNION ALL ".join(parts)
    names = ", ".join(
        f"r.{quote(name)}" for name in raw.schema.names if name not in ("__file", "__row")
    )
    sql = (
        f"SELECT g.__file, g.__row, g.__reason, g.__counts, {names} FROM ({gone}) AS g JOIN "
        f"({raw.select}) AS r ON g.__file = r.__file AND g.__row = r.__row"
    )
    if raw.malformed is not None:
        warehouse.register("__malformed", raw.malformed)
        sql = (
            f"{sql} UNION ALL BY NAME SELECT file AS __file, words AS __reason, TRUE AS "
            "__counts, line AS __line FROM __malformed"
        )
    warehouse.write(
        f"SELECT * FROM ({sql}) AS x ORDER BY __file, __row", layout.rejects(source.name)
    )
    warehouse.drop("__twins")


def _write_repairs(
    source: Source, checks: Checks, raw: AttachedSource, layout: Layout, warehouse: Warehouse
) -> None:
    """Every value that a repair changed, also of rows that are rejected all the same: one file, and
    one more pass over the source.
    """
    names = [name for name in raw.schema.names if name not in ("__file", "__row")]
    warehouse.materialize("__touched", checks.touched(raw.select))
    warehouse.write(checks.repairs("__touched", names, source.unique), layout.repairs(source.name))
    warehouse.drop("__touched")


def _decimal_hint(
    source: Source, csv: Sequence[Mapping[str, Any]], findings: Sequence[Finding]
) -> str:
    """Return a hint about the other decimal sign where numbers of CSV files were rejected that are
    written with it; "" otherwise.
    """
    signs = {str(facts["decimal"]) for facts in csv}
    if len(signs) != 1:
        return ""
    sign = signs.pop()
    written, other = (DECIMAL_COMMA, ",") if sign == "." else (DECIMAL_POINT, ".")
    if not any(
        f.words.startswith(NUMBER_RULES) and written.fullmatch(f.value.strip()) for f in findings
    ):
        return ""
    return (
        f"if these numbers have a decimal {'comma' if other == ',' else 'point'}, say so: "
        f'Source("{source.name}", ..., csv=Csv(decimal="{other}")); or '
    )


def _refuse_too_many(
    source: Source, rejected: int, rows: int, findings: Sequence[Finding], where: str, hint: str
) -> None:
    limit = allowed(source.max_rejected, rows)
    if rejected <= limit:
        return
    several = len({f.file for f in findings}) > 1
    width = max(len(f.column) for f in findings)
    words = max(len(f.words) for f in findings)
    counts = max(len(f"{f.rows:,} row") + (f.rows > 1) for f in findings)
    raise ContractError(
        f"{source.name} cannot be run: {rejected:,} of {rows:,} rows break its contract, and the "
        f"limit is {limit:,}",
        problems=[
            (
                f"{f.column:<{width}}  {f.words:<{words}}  "
                f"{f'{f.rows:,} row' + ('s' if f.rows > 1 else ''):<{counts}}   first: "
                f"{_location(f, several)} ({f.value})"
            )
            for f in findings
        ],
        hint=f"{hint}see {where}, or allow them with --max-rejected {source.name}={rejected}",
    )


def _refuse_replaced(source: Source, superseded: int, rows: int, where: str) -> None:
    """Refuse a source most of whose rows replace one another: its key names more than one thing."""
    limit = allowed(source.max_replaced, rows)
    if superseded > limit:
        raise ContractError(
            f"{source.name} cannot be run: {superseded:,} of {rows:,} rows are superseded by "
            f"later rows of the same {', '.join(source.unique)}, and the limit is {limit:,}",
            hint=f"see {where}; if they are restatements, raise max_replaced of the source; if "
            "not, its `unique` lacks a column",
        )


def _location(finding: Finding, several: bool) -> str:
    """The place of a row, as far as it is known; the file only where there are several."""
    if not finding.row:
        return f"in {finding.file}"
    return f"row {finding.row}" + (f" of {finding.file}" if several else "")


@contextmanager
def naming_damage(
    source: str, files: Sequence[Sequence[Any]], warehouse: Warehouse
) -> Iterator[None]:
    """Let a query that fails for a damaged file of a source name that file.

    Raises: SourceError instead of the QueryError.
    """
    try:
        yield
    except QueryError as error:
        if files and (
            damage := warehouse.find_damage(source, [entry[0] for entry in files], error)
        ):
            raise damage from error
        raise


def refuse_changed(results: Sequence[ValidationResult], warehouse: Warehouse) -> None:
    """Check that files read in place are still those that were validated.

    Raises: SourceError for the first source that differs.
    """
    for result in results:
        refuse_other_files(result.source, result.files, warehouse)
