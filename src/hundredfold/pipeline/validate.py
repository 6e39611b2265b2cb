"""Step 1. Validates every source against its contract, in one pass of SQL.

Rejected rows go to `rejects/` with their reasons, and every repaired value goes to `repairs/` with
its text before and after. Rows read = accepted + rejected + dropped copies, or the run stops here.
Queries read the accepted rows under the source's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..contract import Contract, quote, read_contract
from ..data.checksums import checksum_of
from ..data.layout import Layout
from ..errors import ConservationError, ContractError, JobError, QueryError, SourceError
from ..job import Job, Source
from ..ports.interfaces import AttachedSource, RunStore, SourceLocation, Warehouse
from ..sql.checks import Checks, compile_checks, duplicates, refuse_timeless
from ..sql.sources.changes import check_unchanged
from .source_findings import (
    decimal_hint,
    malformed_findings,
    refuse_replaced,
    refuse_too_many,
    rule_findings,
    select_bad_rows,
)
from .validation_results import (
    Finding,
    ValidationResult,
    read_results,
    verify_accepted,
    write_results,
)


def validate(
    job: Job,
    locations: Mapping[str, SourceLocation],
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> list[ValidationResult]:
    """Validate every source, or return the results that exist.

    Raises: SourceError or ContractError for the first source that cannot be used.
    """
    results = read_results(layout.validation_result(), store)
    for result in results:
        verify_accepted(result, store)
    if not results:
        with warehouse.together() as block:
            for source in in_order_of_reference(job.sources):
                if not _referred(source) <= {result.source for result in results}:
                    continue  # a query about the other source has not run yet
                with block():
                    results += _results_of(
                        source, locations[source.name], job, as_of, layout, warehouse, store
                    )
                    warehouse.create_view(source.name, _accepted_query(results[-1], warehouse))
        write_results(results, layout.validation_result(), store)
    refuse_changed(results, warehouse)
    for result in results:
        warehouse.create_view(result.source, _accepted_query(result, warehouse))
    return results


def _referred(source: Source) -> set[str]:
    """Return the names of the other sources that a source refers to."""
    return {target.split(".")[0] for target in source.references.values()} - {source.name}


def _results_of(
    source: Source,
    location: SourceLocation,
    job: Job,
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> list[ValidationResult]:
    """Return the result of a source, as a list of one; an earlier call may have stored it."""
    own = layout.source_validation_result(source.name)
    one = read_results(own, store) if warehouse.replays else []
    if not one:
        one = [_validate_one(source, location, job, as_of, layout, warehouse, store)]
        if warehouse.replays:
            write_results(one, own, store)
    return one


def in_order_of_reference(sources: Sequence[Source]) -> list[Source]:
    """Return the sources so that each comes after those that it refers to.

    Raises: JobError for a cycle, in which no source could be checked first.
    """
    done: list[Source] = []
    rest = list(sources)
    while rest:
        names = {source.name for source in rest}
        ready = next((s for s in rest if not _referred(s) & names), None)
        if ready is None:
            raise JobError(
                f"sources refer to one another in a cycle: {', '.join(s.name for s in rest)}",
                hint="remove one of the references; a model's query can read both sources",
            )
        done.append(ready)
        rest.remove(ready)
    return done


def _validate_one(
    source: Source,
    location: SourceLocation,
    job: Job,
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> ValidationResult:
    contract = _contract_of(source)
    wanted = {c.name: c for c in contract.columns} if contract else {}
    raw = warehouse.attach(source, location, job.folder, wanted, layout.staged(source.name))
    with naming_damage(source.name, raw.fingerprints, warehouse):
        return _check_source(source, location, raw, as_of, layout, warehouse, store)


def _contract_of(source: Source) -> Contract | None:
    return read_contract(source.contract) if source.contract else None


@dataclass(frozen=True, slots=True)
class _Totals:
    """The rows of a source, by what became of them."""

    read: int  # without malformed lines
    bad: int
    repaired: int
    malformed: int
    copies: int = 0
    superseded: int = 0
    conflicting: int = 0  # different rows with one key

    @property
    def rows(self) -> int:
        return self.read + self.malformed

    @property
    def rejected(self) -> int:
        return self.bad + self.malformed + self.conflicting

    @property
    def dropped(self) -> int:
        return self.copies + self.superseded


def _check_source(
    source: Source,
    location: SourceLocation,
    raw: AttachedSource,
    as_of: str,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> ValidationResult:
    """Check the rows of a source, and write its rejected, repaired and accepted rows."""
    contract = _contract_of(source)
    checks = compile_checks(source, contract, raw.select, raw.schema, raw.text, as_of)
    if source.name in {t.split(".")[0] for t in source.references.values()}:
        # a source that refers to itself is checked against its raw rows
        warehouse.create_view(source.name, raw.select)
    _refuse_references(source, warehouse)
    if known := _find_known(source, checks, raw, warehouse):
        checks = compile_checks(source, contract, raw.select, raw.schema, raw.text, as_of, known)
    totals = _count_rows(source, checks, raw, warehouse)
    has_duplicates = _has_duplicates(source, checks, warehouse)
    # from here on, row numbers matter
    if (totals.bad or has_duplicates) and raw.with_row_numbers is not None:
        raw = raw.with_row_numbers()
        checks = compile_checks(source, contract, raw.select, raw.schema, raw.text, as_of, known)
    _refuse_empty(source, location, totals)
    bad_rows = select_bad_rows(checks, totals.bad, warehouse)
    findings = rule_findings(checks, bad_rows, raw.in_file_order, warehouse) if totals.bad else ()
    if raw.malformed is not None:
        findings += malformed_findings(raw.malformed)
    if has_duplicates:
        totals, duplicates = _find_duplicates(source, checks, totals, raw.in_file_order, warehouse)
        findings += duplicates
    if totals.repaired:
        _write_repairs(source, checks, raw, layout, warehouse)
    if totals.rejected or totals.dropped:
        _write_rejects(checks, bad_rows, raw, totals, layout.rejects(source.name), warehouse)
    _refuse_beyond_limits(
        source, totals, findings, raw.csv, store.where(layout.rejects(source.name))
    )
    if raw.in_place and checks.as_is and not (totals.rejected or totals.dropped):
        return ValidationResult(
            source.name,
            totals.rows,
            totals.rows,
            0,
            select=checks.accepted(None),
            files=raw.fingerprints,
        )
    kept = _keep_accepted(source, checks, raw, totals, layout, warehouse, store)
    return replace(kept, findings=findings)


def _refuse_empty(source: Source, location: SourceLocation, totals: _Totals) -> None:
    if totals.rows == 0:
        found = location if isinstance(location, str) else "the table"
        raise SourceError(
            f"{source.name} is empty: {found} has no row",
            hint=f"name another path with --source {source.name}=PATH",
        )


def _count_rows(
    source: Source, checks: Checks, raw: AttachedSource, warehouse: Warehouse
) -> _Totals:
    """Count the rows of a source, the bad and the repaired ones, in one pass.

    Raises: SourceError for a damaged file, or for references and `clean` expressions that fail.
    """
    try:
        refuse_timeless(source, warehouse.columns(checks.typed))
        if source.unique:
            warehouse.prefetch([_totals_query(checks), _repeated_keys_query(source, checks)])
        row = warehouse.query(_totals_query(checks)).to_pylist()[0]
    except QueryError as error:
        paths = [entry[0] for entry in raw.fingerprints]
        if damage := warehouse.find_damage(source.name, paths, error):
            raise damage from error
        _refuse_clean(source, raw.select, warehouse)
        raise SourceError(
            f"{source.name} cannot be checked: {error.message}", hint=error.hint
        ) from error
    malformed = raw.malformed.num_rows if raw.malformed is not None else 0
    return _Totals(int(row["n"]), int(row["bad"]), int(row["repaired"]), malformed)


def _refuse_beyond_limits(
    source: Source,
    totals: _Totals,
    findings: Sequence[Finding],
    csv: Sequence[Mapping[str, Any]],
    where: str,
) -> None:
    """Raise ContractError where more rows were rejected or superseded than is allowed, or all."""
    sign = decimal_hint(source, csv, findings)
    refuse_too_many(source, totals.rejected, totals.rows, findings, where, sign)
    refuse_replaced(source, totals.superseded, totals.rows, where)
    if totals.rejected + totals.dropped == totals.rows:
        raise ContractError(
            f"{source.name}: all {totals.rows:,} rows were rejected",
            problems=[f"{f.column} {f.message}: {f.rows:,}" for f in findings],
            hint=f"{sign}see {where}",
        )


def _keep_accepted(
    source: Source,
    checks: Checks,
    raw: AttachedSource,
    totals: _Totals,
    layout: Layout,
    warehouse: Warehouse,
    store: RunStore,
) -> ValidationResult:
    """Write the accepted rows as an object of the store; return the result without findings.

    Raises: ConservationError.
    """
    has_rejects = bool(totals.rejected or totals.dropped)
    rejects = warehouse.read_parquet(layout.rejects(source.name)) if has_rejects else None
    key = f"{layout.root}/sources/{source.name}.parquet"
    accepted = warehouse.write_rows(checks.accepted(rejects), key)
    # from here on, the copy is read
    check_unchanged(source.name, raw.fingerprints, warehouse)
    rejected = totals.bad + totals.conflicting
    if accepted + rejected + totals.dropped != totals.read:
        raise ConservationError(
            f"{source.name}: {totals.read:,} rows were read, but {accepted:,} accepted + "
            f"{rejected:,} rejected + {totals.dropped:,} dropped is "
            f"{accepted + rejected + totals.dropped:,}"
        )
    written = [
        key,
        *([layout.rejects(source.name)] if has_rejects else []),
        *([layout.repairs(source.name)] if totals.repaired else []),
    ]
    checksums = {each: sum_ for each in written if (sum_ := checksum_of(store, each))}
    return ValidationResult(
        source.name,
        totals.rows,
        accepted,
        totals.rejected,
        totals.copies,
        totals.superseded,
        totals.repaired,
        accepted_key=key,
        checksums=checksums,
        csv=raw.csv,
    )


def _refuse_references(source: Source, warehouse: Warehouse) -> None:
    """Check the columns of the sources that a source refers to; their views exist by now."""
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
            f"{source.name}: its references name missing columns",
            problems=problems,
            hint="correct the reference",
        )


def _find_known(
    source: Source, checks: Checks, raw: AttachedSource, warehouse: Warehouse
) -> dict[str, str]:
    """Return a local table for each reference of local rows to a remote table.

    So the rows are checked locally, and only the values of the reference are compared remotely.
    """
    if raw.find_known is None or not source.references:
        return {}
    known: dict[str, str] = {}
    try:
        refuse_timeless(source, warehouse.columns(checks.typed))
        for column, target in source.references.items():
            table, other = target.split(".")
            values = f"SELECT DISTINCT {quote(column)} AS value FROM ({checks.typed}) AS t"
            if found := raw.find_known(values, table, other):
                known[column] = found
    except QueryError as error:
        _refuse_clean(source, raw.select, warehouse)
        raise SourceError(
            f"{source.name} cannot be checked: {error.message}", hint=error.hint
        ) from error
    return known


def _refuse_clean(source: Source, raw: str, warehouse: Warehouse) -> None:
    """Raise SourceError for the columns whose `clean` fails on the raw rows."""
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
            f"{source.name}: its clean expressions fail",
            problems=problems,
            hint="wanted an SQL expression over the columns of the source as it was read",
        )


def _accepted_query(result: ValidationResult, warehouse: Warehouse) -> str:
    """Return the query of the accepted rows, for the present place of the home."""
    return (
        f"SELECT * FROM {warehouse.read_parquet(result.accepted_key)}"
        if result.accepted_key
        else result.select
    )


def _totals_query(checks: Checks) -> str:
    """Return a query of the numbers of rows, of bad and of repaired ones."""
    return (
        f"SELECT count(*) AS n, count(*) FILTER (WHERE {checks.broken}) AS bad, count(*) FILTER "
        f"(WHERE {checks.repaired}) AS repaired FROM ({checks.typed}) AS t"
    )


def _has_duplicates(source: Source, checks: Checks, warehouse: Warehouse) -> bool:
    """Return whether two valid rows have the same key."""
    if not source.unique:
        return False
    found = warehouse.query(_repeated_keys_query(source, checks))
    return bool(found.column("n")[0].as_py())


def _repeated_keys_query(source: Source, checks: Checks) -> str:
    """Return a query of the number of keys that several valid rows have."""
    key = ", ".join(map(quote, source.unique))
    good = f"SELECT * FROM ({checks.judged}) AS j WHERE NOT ({checks.any_bad})"
    return (
        f"SELECT count(*) AS n FROM (SELECT 1 AS one FROM ({good}) AS g GROUP BY {key} HAVING "
        "count(*) > 1) AS d"
    )


def _find_duplicates(
    source: Source, checks: Checks, totals: _Totals, in_file_order: bool, warehouse: Warehouse
) -> tuple[_Totals, tuple[Finding, ...]]:
    """Find copies, superseded rows and conflicting rows, and keep them in the table `__twins`."""
    good = f"SELECT * FROM ({checks.judged}) AS j WHERE NOT ({checks.any_bad})"
    warehouse.materialize("__twins", duplicates(source, checks, good))
    counts = {
        r["reason"]: int(r["n"])
        for r in warehouse.query(
            "SELECT reason, count(*) AS n FROM __twins GROUP BY reason"
        ).to_pylist()
    }
    totals = replace(
        totals,
        copies=counts.pop("copy of another row", 0),
        superseded=counts.pop("superseded by a later row", 0),
        conflicting=sum(counts.values()),
    )
    if not totals.conflicting:
        return totals, ()
    first = warehouse.query(
        "SELECT __file, __row FROM __twins WHERE counts ORDER BY __file, __row LIMIT 1"
    ).to_pylist()[0]
    finding = Finding(
        ", ".join(source.unique),
        "must be unique",
        totals.conflicting,
        first["__file"],
        int(first["__row"]) if in_file_order else 0,
        "another row has this key",
    )
    return totals, (finding,)


def _write_rejects(
    checks: Checks,
    bad_rows: str,
    raw: AttachedSource,
    totals: _Totals,
    key: str,
    warehouse: Warehouse,
) -> None:
    """Write every row that was not accepted, as it was read, with its reasons, to one file."""
    parts = []
    if totals.bad or not (totals.dropped or totals.conflicting):
        parts.append(
            f"SELECT __file, __row, {checks.reasons} AS __reason, TRUE AS __counts FROM "
            f"{bad_rows} AS j"
        )
    if totals.dropped or totals.conflicting:
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
            f"{sql} UNION ALL BY NAME SELECT file AS __file, message AS __reason, TRUE AS "
            "__counts, line AS __line FROM __malformed"
        )
    warehouse.write(f"SELECT * FROM ({sql}) AS x ORDER BY __file, __row", key)
    warehouse.drop("__twins")
    warehouse.drop("__bad_rows")


def _write_repairs(
    source: Source, checks: Checks, raw: AttachedSource, layout: Layout, warehouse: Warehouse
) -> None:
    """Write every value that a repair changed, also in rejected rows, to one file.

    This reads the source once more.
    """
    names = [name for name in raw.schema.names if name not in ("__file", "__row")]
    warehouse.materialize("__touched", checks.touched(raw.select))
    warehouse.write(checks.repairs("__touched", names, source.unique), layout.repairs(source.name))
    warehouse.drop("__touched")


@contextmanager
def naming_damage(
    source: str, files: Sequence[Sequence[Any]], warehouse: Warehouse
) -> Iterator[None]:
    """Name the file where a query of the block fails because a file of the source is damaged.

    Raises: SourceError in place of the QueryError.
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
    """Verify that files which are read in place are those that were validated.

    Raises: SourceError for the first source that differs.
    """
    for result in results:
        check_unchanged(result.source, result.files, warehouse)
