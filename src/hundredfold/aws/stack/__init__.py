"""The stack, as CDK code.

`hundredfold deploy` runs app.py; a team with its own app uses the construct. The construct is
imported on first access, because importing CDK starts Node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .construct import Hundredfold

__all__ = ["Hundredfold"]


def __getattr__(name: str) -> Any:
    if name != "Hundredfold":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .construct import Hundredfold

    return Hundredfold
