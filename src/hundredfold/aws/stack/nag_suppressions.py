"""Findings of cdk-nag and the CDK that a person has reviewed, each with the reason to accept it."""

from __future__ import annotations

from functools import cache
from typing import Any

from aws_cdk import Acknowledgment, App, Stack, Validations
from constructs import Construct

TRACES_REASON = "X-Ray has no resources that a permission could name"
LOGS_REASON = (
    "the permissions by which Step Functions delivers its logs take no resource: AWS grants them "
    "for all log groups or none"
)


def accept_finding(construct: Construct, rule: str, reason: str) -> None:
    """Accept the finding of an AwsSolutions rule at a construct."""
    acknowledge(construct, f"AwsSolutions-{rule}", reason)


@cache
def accepts_resources() -> bool:
    """Return whether this version of the CDK can accept a finding of cdk-nag about one resource.

    Older ones, such as 2.268, do not allow a second `::` in the id of a finding.
    """
    try:
        acknowledge(App(), "AwsSolutions-IAM5[Resource::<AWS::Region>]", "a trial")
    except RuntimeError:
        return False
    return True


def acknowledge(construct: Construct, finding: str, reason: str) -> None:
    """Accept a finding of any plugin at a construct."""
    Validations.of(construct).acknowledge(Acknowledgment(id=finding, reason=reason))


def accept_wildcard(construct: Construct, resource: str, reason: str) -> None:
    """Accept a permission for many resources at once: `resource` is an ARN with a `*` in it."""
    if not accepts_resources():
        return
    accept_finding(
        construct,
        f"IAM5[Resource::{_cdk_nag_notation(Stack.of(construct).resolve(resource))}]",
        reason,
    )


def _cdk_nag_notation(resolved: Any) -> str:
    """Return a resource in the notation of cdk-nag: <Bucket.Arn>/runs/*."""
    if isinstance(resolved, str):
        return resolved
    kind, value = next(iter(resolved.items()))
    if kind == "Fn::Join":
        return str(value[0]).join(_cdk_nag_notation(part) for part in value[1])
    return f"<{value if kind == 'Ref' else '.'.join(value)}>"
