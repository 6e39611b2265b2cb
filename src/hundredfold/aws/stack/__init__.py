"""The stack, as CDK code.  `hundredfold deploy` runs app.py; a team with its own app takes the construct."""

from __future__ import annotations

from .construct import Hundredfold

__all__ = ["Hundredfold"]
