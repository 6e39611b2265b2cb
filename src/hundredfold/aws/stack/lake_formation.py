"""Grants of Lake Formation, for accounts whose catalog it governs beside IAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aws_cdk import Stack, aws_lakeformation
from constructs import Construct

from .settings import Settings

OF_OWN_DATABASE = ("CREATE_TABLE", "DESCRIBE")
OF_OWN_TABLES = ("SELECT", "DESCRIBE", "ALTER", "DROP")
OF_SOURCES = ("SELECT", "DESCRIBE")


def grant_tables(
    scope: Construct, settings: Settings, database: Any, roles: Sequence[tuple[str, Any]]
) -> None:
    """Grant the stack's tables and its sources in Glue to the roles that query them.

    database: the stack's own, as a construct. roles: by name.
    """
    catalog = Stack.of(scope).account
    own = {"catalogId": catalog, "databaseName": database.ref}
    grants = [
        ("Database", {"database": {"catalogId": catalog, "name": database.ref}}, OF_OWN_DATABASE),
        ("Tables", {"table": {**own, "tableWildcard": {}}}, OF_OWN_TABLES),
    ] + [
        (
            f"Source{number}",
            {"table": {"catalogId": catalog, "databaseName": name, "name": table}},
            OF_SOURCES,
        )
        for number, (name, table) in enumerate(settings.tables)
    ]
    for name, role in roles:
        for kind, resource, permissions in grants:
            aws_lakeformation.CfnPrincipalPermissions(
                scope,
                f"{name}{kind}Grant",
                principal={"dataLakePrincipalIdentifier": role.role_arn},
                resource=resource,
                permissions=list(permissions),
                permissions_with_grant_option=[],
            )
