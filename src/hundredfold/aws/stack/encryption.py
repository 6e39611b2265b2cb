"""The customer-managed key of a stack's data, if the settings name one."""

from __future__ import annotations

from typing import Any

from aws_cdk import aws_kms
from constructs import Construct

from .settings import Settings


def key_of(scope: Construct, settings: Settings) -> Any | None:
    """Return the key, as one construct for all resources; None for keys of AWS.

    Its policy is its owner's: it must let the services use it that act for themselves, CloudWatch
    Logs, and S3 where it sends events to the queue.
    """
    if settings.key is None:
        return None
    return scope.node.try_find_child("Key") or aws_kms.Key.from_key_arn(scope, "Key", settings.key)
