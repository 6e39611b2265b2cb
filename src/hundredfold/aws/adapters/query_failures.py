"""Why a query of Athena failed, from the error that the state machine passes on.

Step Functions puts the query into the error's Cause, and cuts it after 32,768 characters. A long
statement comes before the reason there, so that a cut Cause lacks it. Athena is then asked for the
query, under its id, or under the beginning of its statement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import translate_errors
from .session import client

QUERY_ID = re.compile(r'"QueryExecutionId":"([0-9a-fA-F-]{36})"')
# a text of JSON without its end
STATEMENT = re.compile(r'"Query":"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')
PAGE = 50  # queries that one call lists
MAX_PAGES = 4  # of the queries of a workgroup, the newest first
FAILED = ("FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class QueryFailure:
    """The reason why a query failed, and whether Athena advises to repeat it."""

    reason: str
    retryable: bool = False
    id: str = ""


def failure_of(error: Mapping[str, Any], workgroup: str) -> QueryFailure:
    """Return the failure of a query, from the error that a state caught."""
    cause = str(error.get("Cause", ""))
    try:
        query = json.loads(cause)["QueryExecution"]
    except (ValueError, KeyError, TypeError):
        query = _find(cause, workgroup)
    if query is None:
        return QueryFailure(f"{error.get('Error')}: {cause}")
    status = query["Status"]
    found = status.get("AthenaError", {})
    reason = found.get("ErrorMessage") or status.get("StateChangeReason") or status["State"]
    return QueryFailure(
        str(reason), bool(found.get("Retryable")), str(query.get("QueryExecutionId", ""))
    )


def _find(cause: str, workgroup: str) -> Mapping[str, Any] | None:
    """Return the query of a Cause that is cut; None for an error without a query."""
    athena = client("athena")
    with translate_errors("the failed query", "read"):
        if found := QUERY_ID.search(cause):
            answer = athena.get_query_execution(QueryExecutionId=found[1])
            return dict(answer["QueryExecution"])
        if (found := STATEMENT.search(cause)) and found[1]:
            beginning = json.loads(f'"{found[1]}"')
            for query in _newest(workgroup):
                if query["Status"]["State"] in FAILED and query["Query"].startswith(beginning):
                    return query
    return None


def _newest(workgroup: str) -> Iterator[Mapping[str, Any]]:
    """Yield the newest queries of a workgroup, the last one first."""
    athena = client("athena")
    request: dict[str, Any] = {"WorkGroup": workgroup, "MaxResults": PAGE}
    for _ in range(MAX_PAGES):
        answer = athena.list_query_executions(**request)
        for name in answer["QueryExecutionIds"]:
            yield athena.get_query_execution(QueryExecutionId=name)["QueryExecution"]
        if "NextToken" not in answer:
            return
        request["NextToken"] = answer["NextToken"]
