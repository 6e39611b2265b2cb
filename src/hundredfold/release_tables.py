"""Tables of other systems that hold the rows of the current release: Publish(to=...)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import JobError

TABLE_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,255}")
MAX_KEY_COLUMNS = 2  # of DynamoDB: the partition key and the sort key


@dataclass(frozen=True)
class DynamoDB:
    """A DynamoDB table with one item for each row of the current release.

    It must exist, in the account and region of the credentials, or of the stack.

    `table`  its name
    `key`    the column that is its partition key, or the columns that are its partition key and its
             sort key, in that order
    """

    table: str
    key: str | Sequence[str]

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or not TABLE_NAME.fullmatch(self.table):
            raise JobError(
                f"the DynamoDB table is {self.table!r}, wanted its name: 3 to 255 letters, digits, "
                "_, . and -"
            )
        key = (self.key,) if isinstance(self.key, str) else self.key
        if not isinstance(key, Iterable) or not all(isinstance(name, str) and name for name in key):
            raise JobError(
                f"the key of the DynamoDB table {self.table} is {self.key!r}, wanted {_KEY}"
            )
        names = tuple(key)
        if not 1 <= len(names) <= MAX_KEY_COLUMNS or len(set(names)) < len(names):
            raise JobError(
                f"the key of the DynamoDB table {self.table} is {names}, wanted {_KEY}",
                hint="to use more columns, join them in the query: a || '#' || b AS pk",
            )
        object.__setattr__(self, "key", names)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The table as `release.json` names it."""
        return {"dynamodb": self.table, "key": list(self.key)}


_KEY = "the name of one column, or of two: the partition key, then the sort key"
