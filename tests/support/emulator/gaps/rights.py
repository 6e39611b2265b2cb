"""Permissions of the caller's role, for calls that MiniStack makes unchecked: by state machines,
queries and mappings.

Athena acts with the permissions of the principal that started the query, Step Functions with the
state machine's role, and Lambda receives messages with the function's. MiniStack asks IAM only for
requests from outside, so all would pass with empty roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import athena

from . import need

need(app, "AUTH")
need(
    iam_evaluator,
    "EvalContext",
    "evaluate",
    "caller_arn",
    "_request_caller_arn",
    "_gather_role_policies",
    "_gather_user_policies",
)
need(iam_actions, "_action_from_target", "_action_from_query", "extract_resource_arn")
need(iam_actions, "_safe_json_field")
need(athena, "_executions")
BATCHES = {  # calls whose permission has the name of their single form
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}


def fill() -> None:
    iam_actions.extract_resource_arn = _with_workgroup(iam_actions.extract_resource_arn)
    for name in ("_action_from_target", "_action_from_query"):
        setattr(iam_actions, name, _single(getattr(iam_actions, name)))


def _single(named: Callable[..., str | None]) -> Callable[..., str | None]:
    def action(*asked: Any) -> str | None:
        found = named(*asked)
        return BATCHES.get(found, found) if found else found

    return action


def _with_workgroup(found: Callable[..., str]) -> Callable[..., str]:
    """Name the workgroup of a query for calls that name the query alone."""

    def resource(service: str, *rest: Any, **named: Any) -> str:
        arn = found(service, *rest, **named)
        if service == "athena" and arn == "*":
            body = next((each for each in (*rest, *named.values()) if isinstance(each, bytes)), b"")
            query = athena._executions.get(iam_actions._safe_json_field(body, "QueryExecutionId"))
            if query:
                here = f"{get_region()}:{get_account_id()}"
                return f"arn:aws:athena:{here}:workgroup/{query['WorkGroup']}"
        return arn

    return resource


class DeniedError(Exception):
    """IAM denies the action; the message is IAM's."""


@contextmanager
def acting_as(role_arn: str) -> Iterator[None]:
    """Act as a session of that role, in this thread and those that it starts."""
    session = f"arn:aws:sts::{get_account_id()}:assumed-role/{role_arn.rsplit('/', 1)[-1]}/bench"
    token = iam_evaluator._request_caller_arn.set(session)
    try:
        yield
    finally:
        iam_evaluator._request_caller_arn.reset(token)


def check(action: str, resource: str, keys: Mapping[str, str] | None = None) -> None:
    """Raise DeniedError unless the caller's policies allow the action. keys: of its conditions."""
    caller = iam_evaluator.caller_arn()
    if not app.AUTH or caller.endswith(":root"):
        return
    kind, name = caller.split(":", 5)[5].split("/")[:2]
    gather = (
        iam_evaluator._gather_user_policies
        if kind == "user"
        else iam_evaluator._gather_role_policies
    )
    context = iam_evaluator.EvalContext(
        principal_arn=caller,
        principal_type="User" if kind == "user" else "AssumedRole",
        principal_account=get_account_id(),
        action=action,
        resource_arn=resource,
        region=get_region(),
        service_context={key.lower(): value for key, value in (keys or {}).items()},
    )
    if iam_evaluator.evaluate(context, gather(name, get_account_id())).decision != "Allow":
        raise DeniedError(
            f"User: {caller} is not authorized to perform: {action} on resource: {resource} "
            f"because no identity-based policy allows the {action} action"
        )


def check_s3(action: str, bucket: str, key: str = "") -> None:
    check(action, f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}")


def check_glue(action: str, database: str, table: str | None = None) -> None:
    """Yield the permissions of the Data Catalog: on the catalog, the database and the table."""
    at = f"arn:aws:glue:{get_region()}:{get_account_id()}"
    for resource in [
        "catalog",
        f"database/{database}",
        *([f"table/{database}/{table}"] if table else []),
    ]:
        check(action, f"{at}:{resource}")
