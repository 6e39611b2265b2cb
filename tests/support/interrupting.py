"""A store that lets something happen between two calls of its user."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Interrupting:
    """A store that calls `action` before its nth call, once. `calls` counts them.

    `only`: the methods that count; all of them if there are none.
    """

    store: Any
    at: int
    action: Callable[[], object]
    only: Collection[str] = ()
    calls: int = field(default=0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if not callable(found) or (self.only and name not in self.only):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.action()
            return found(*args, **kwargs)

        return call
