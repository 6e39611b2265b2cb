"""Why tasks do not start: AWS has no capacity, which passes, or it refuses them, which no
repetition changes.

A refusal is final if the request itself is wrong: a missing permission, cluster, subnet or image.
All else (capacity, a quota that other tasks use up, throttling, a network) may pass, and so may
a reason that is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from ..adapters.errors import DENIED, error_code

# codes of ECS and Batch for a request that is wrong
FINAL = DENIED | {
    "BlockedException",
    "ClientException",
    "ClusterNotFoundException",
    "InvalidParameterException",
    "PlatformTaskDefinitionIncompatibilityException",
    "PlatformUnknownException",
    "ResourceNotFoundException",
    "UnauthorizedOperation",
    "UnsupportedFeatureException",
}
# ... although the code is one of them
CAPACITY = re.compile(
    r"capacity (is unavailable|limit exceeded)|limit on the number|rate exceeded|try again later",
    re.IGNORECASE,
)
# reasons of tasks that ended before their container began
FINAL_AT_START = re.compile(
    r"not authorized to perform|AccessDenied|403 Forbidden|not found|does not exist"
    r"|manifest unknown|does not contain descriptor matching platform|role (has|have) the perm",
    re.IGNORECASE,
)
# CloudFormation does not miss what was changed or deleted beside it
AGAIN = "a deployment without the fleet, and one with it,"
REMEDIES = (  # the first that matches an error of AWS, and the change that removes it
    (
        re.compile(r"not authorized|AccessDenied|Unauthorized|403 Forbidden", re.IGNORECASE),
        "remove the policy that denies it, such as a boundary of the account; "
        f"{AGAIN} writes those of the roles again",
    ),
    (
        re.compile(r"service[- ]linked role", re.IGNORECASE),
        "create the role: aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com",
    ),
    (
        re.compile(r"CannotPull|manifest|platform '", re.IGNORECASE),
        "push the image, or deploy with another --worker-image; its processor is that of "
        "--architecture",
    ),
    (
        re.compile(r"above your limit"),
        "deploy with fewer --task-cores, or ask AWS for a higher quota",
    ),
    (
        re.compile(r"subnet|security ?group|network", re.IGNORECASE),
        "deploy with a --subnet and a --security-group that exist, of one VPC",
    ),
    (re.compile(r"Blocked"), "AWS has blocked the account: ask its support"),
    (
        re.compile(r"cluster|definition|queue|capacity provider|not found", re.IGNORECASE),
        f"hundredfold doctor --backend aws names it; {AGAIN} creates its resources again",
    ),
)
OTHER_REMEDY = "correct the setting that AWS names, and deploy again"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why tasks were not started, in the words of AWS.

    remedy: the change after which they start; "" if they may start without one.
    """

    reason: str
    remedy: str = ""

    @property
    def is_final(self) -> bool:
        return bool(self.remedy)


def refusal_of(error: BotoCoreError | ClientError) -> Refusal:
    """Return the refusal that an error of AWS is."""
    reason, code = str(error), error_code(error)
    if code not in FINAL or (code not in DENIED and CAPACITY.search(reason)):
        return Refusal(reason)
    return Refusal(reason, _remedy(reason))


def refusal_at_start(reason: str) -> Refusal:
    """Return the refusal of a task that was accepted, but ended before its container began."""
    return Refusal(reason, _remedy(reason) if FINAL_AT_START.search(reason) else "")


def _remedy(reason: str) -> str:
    return next((text for found, text in REMEDIES if found.search(reason)), OTHER_REMEDY)
