"""The checks of a job for Athena, before a run begins: its queries can be translated, and planned.

A command makes them before it starts a run; the first step makes them for a run that uploads start.
"""

from __future__ import annotations

from ..contract import read_contract
from ..data.result_contract import result_contract
from ..errors import QueryError
from ..job import Job
from ..sql.athena import check_translatable
from ..sql.athena.declared_tables import DeclaredTables
from ..sql.queries import load_query, query_of


def check_translates(job: Job) -> None:
    """Raise QueryError for queries that Athena does not support, before anything starts.

    Types are those of the contracts: where one is missing, the run checks them.
    """
    tables = DeclaredTables(job)
    for model in job.models:
        select = query_of(model, job)
        check_translatable(f"the query of model {model.name}", select, tables.describe)
        tables.add_results(model.name, select, model.unit, result_contract(model))
    for output in job.releases:
        select = load_query(output.query, job.folder)
        check_translatable(f"the query of {output.name}", select, tables.describe)
        tables.add_rows(output.name, select)
        for title, query in output.summaries.items():
            text = load_query(query, job.folder)
            check_translatable(f"the summary {title!r}", text, tables.describe)
    for source in job.sources:
        for column, expression in source.clean.items():
            check_translatable(
                f"{source.name}: clean of {column}", f"SELECT {expression} AS x FROM t"
            )
    _refuse_nested_checks(job)


def _refuse_nested_checks(job: Job) -> None:
    """Raise QueryError for constraints on values in lists and dicts, which Athena would have to
    check.

    Results are checked elsewhere.
    """
    contracts = [
        *((s.name, s.contract) for s in job.sources),
        *((p.name, p.contract) for p in job.releases),
    ]
    problems = [
        f"{name}: {column.name} {check.message}"
        for name, contract in contracts
        if contract is not None
        for column in read_contract(contract).columns
        for check in column.checks
        if check.inside
    ]
    if problems:
        raise QueryError(
            "a contract has constraints inside of lists or dicts, which are not checked on AWS",
            problems=problems,
            hint=(
                "remove them from the contracts of sources and releases (results are checked on "
                "AWS too), or run the job locally"
            ),
        )
