"""The check of the longest timeout that the region allows for a function.

Lambda has no call that returns it. A change of a function that does not exist changes nothing, and
is refused for the timeout or for the function.
"""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import ClientError

from ..adapters.errors import error_code
from ..adapters.session import client
from .finding import Finding, Level
from .snapshot import StackSnapshot

COMMON_S, LONG_S = 900, 1800  # the longest timeout in every region, and in some
NO_FUNCTION = "hundredfold-no-such-function"
INVALID = {"InvalidParameterValueException", "ValidationException"}


def timeouts(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The longest timeout of a function. Some regions allow more than others."""
    if int(snapshot.functions["WorkFunction"]["Timeout"]) != COMMON_S or not is_allowed(LONG_S):
        return
    yield Finding(
        Level.NOTE,
        f"the timeout of a worker is {COMMON_S} s, and this region allows {LONG_S:,} s",
        "a unit that takes longer than a worker has is recorded as crashed",
        f"{snapshot.redeploy} --timeout {LONG_S}",
    )


def is_allowed(timeout: int) -> bool:
    """Return whether the region allows a timeout in seconds."""
    try:
        client("lambda").update_function_configuration(FunctionName=NO_FUNCTION, Timeout=timeout)
    except ClientError as error:
        if error_code(error) in INVALID:
            return False
        if error_code(error) != "ResourceNotFoundException":
            raise
    return True
