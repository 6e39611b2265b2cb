"""What cdk-nag finds and a person has looked at: each finding with the reason why it stays."""

from __future__ import annotations

from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import Construct

TRACES = "X-Ray has no resources that a right could name"
LOGS = (
    "the rights by which Step Functions has its logs delivered take no resource: AWS knows them "
    "for all log groups or none"
)


def reviewed(construct: Construct, rule: str, why: str) -> None:
    """Accept what a rule of AwsSolutions finds at a construct."""
    Validations.of(construct).acknowledge(Acknowledgment(id=f"AwsSolutions-{rule}", reason=why))


def reviewed_wildcard(construct: Construct, resource: str, why: str) -> None:
    """Accept that a right names many resources at once by `resource`, an ARN with a `*` in it."""
    reviewed(construct, f"IAM5[Resource::{_as_found(Stack.of(construct).resolve(resource))}]", why)


def _as_found(resolved: Any) -> str:
    """A resource as cdk-nag writes it: <Bucket.Arn>/runs/*."""
    if isinstance(resolved, str):
        return resolved
    kind, value = next(iter(resolved.items()))
    if kind == "Fn::Join":
        return str(value[0]).join(_as_found(part) for part in value[1])
    return f"<{value if kind == 'Ref' else '.'.join(value)}>"
