"""The statements that a step asks Athena to run, and their results.

A query may take minutes, and AWS charges for the function that waits for it. So no call of a step
waits: it raises the statements that have not run yet, the state machine runs them, and the step is
called again. A result is recorded in the run's folder, under a token that identifies the statement,
so that each call continues where the last one stopped.

Statements that do not depend on one another are raised together, and run at the same time. One that
fails in such a group is raised again alone: only the state of a single statement passes on why it
failed, and repeats what Athena calls retryable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ...data.checksums import get_json, put_json
from ...data.layout import Layout
from ...errors import HundredfoldError, QueryError
from .s3_objects import READ_PERMISSION_HINT, REQUEST_THREADS
from .s3_store import S3Store

MAX_STATEMENT_BYTES = 262_144
# a state holds 256 KiB of JSON: this statement, the Cause of the last failure, and the run
MAX_STATEMENT_JSON_BYTES = 200_000
ITEM_BYTES = 600  # of a statement in a group, beside its text: tokens and a location
MAX_TRIES = 4  # of a statement whose failure Athena calls retryable
RETRY_PAUSE_S = 5  # before the second try; three times as long before each further one


class QueryPending(BaseException):
    """A statement that has to run before the step can continue.

    It is not an Exception: only the step's handler may catch it. `alone`: it has failed before, so
    that it is not run together with others.
    """

    def __init__(
        self, sql: str, token: str, output: str, number: int = 1, *, alone: bool = False
    ) -> None:
        super().__init__(sql)
        self.sql, self.token, self.output = sql, token, output
        self.number = number  # of the try
        self.alone = alone


class QueriesPending(BaseException):
    """Several statements that may run at the same time."""

    def __init__(self, statements: Sequence[QueryPending]) -> None:
        super().__init__(len(statements))
        self.statements = statements


class QueryPause(BaseException):
    """A statement failed, and may be repeated after `seconds`: the step is to be called again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class QueryReply:
    """The result of the last pending statement: its query's id, or Athena's error.

    The next execution of the run repeats a failed statement; this one repeats it a few times if
    Athena calls it `retryable`. `failed`: the id of the failed query, if it is known.

    `ids` are the results of statements that ran together, by token; "" for one that failed.
    """

    execution: str
    token: str = ""
    id: str = ""
    error: str = ""
    retryable: bool = False
    failed: str = ""
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether no statement has run since the step began."""
        return not (self.token or self.ids)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, identified by its query and the tables in it.

    `written` returns it in Athena's SQL, which costs more than finding its result; `before` is
    called before it runs.
    """

    identity: str
    written: Callable[[], str]
    before: Callable[[], None] = lambda: None


@dataclass
class Statements:
    """The statements of one call of a step. `attempt`: of the run."""

    store: S3Store
    layout: Layout
    attempt: int
    reply: QueryReply

    def __post_init__(self) -> None:
        if self.reply.ids:
            with ThreadPoolExecutor(REQUEST_THREADS) as pool:
                for _ in pool.map(
                    lambda item: self._record_of_group(*item), self.reply.ids.items()
                ):
                    pass  # reraises the error of a thread

    def execute(self, statement: Statement) -> str:
        """Return the id of the query that ran a statement.

        Raises:
            QueryPending: no query has run it yet.
            QueryError: it failed, with Athena's error.
        """
        token = self._token(statement)
        key, identity = self._key(token), statement.identity
        reported = self.reply.token == token and bool(self.reply.id or self.reply.error)
        if reported:
            self._record_reply(key, identity)
        tries, alone = 0, False
        with suppress(KeyError):
            found = get_json(self.store, key)
            if found["id"]:
                return str(found["id"])
            if found["execution"] == self.reply.execution:
                alone = True
                tries = len(found.get("tries", [""]))
                if not found.get("retryable") or tries >= MAX_TRIES:
                    raise _query_error(found["error"], identity)
                if reported:
                    raise QueryPause(RETRY_PAUSE_S * 3 ** (tries - 1))
        statement.before()
        raise self._pending(statement, token, tries + 1, alone)

    def execute_together(self, statements: Iterable[Statement]) -> None:
        """Run the statements that have no result yet, at the same time.

        The failure of one is raised by `execute`.

        Raises: QueryPending or QueriesPending.
        """
        different = {each.identity: each for each in statements}.values()
        with ThreadPoolExecutor(REQUEST_THREADS) as pool:  # a few requests for each
            known = pool.map(self._has_result, map(self._token, different))
            missing = [each for each, has in zip(different, known, strict=True) if not has]
            for _ in pool.map(lambda each: each.before(), missing):
                pass  # reraises the error of a thread
        pending = []
        for each in missing:
            with suppress(QueryError):  # as for a failure: `execute` raises it
                pending.append(self._pending(each, self._token(each)))
        raise_pending(pending)

    def _pending(
        self, statement: Statement, token: str, number: int = 1, alone: bool = False
    ) -> QueryPending:
        sql = statement.written()
        _refuse_too_long(sql, statement.identity)
        output = self.store.where(f"athena/{self.layout.run}") + "/"
        return QueryPending(sql, token, output, number, alone=alone)

    def _has_result(self, token: str) -> bool:
        """Return whether a statement has run, or has failed in this execution."""
        if token == self.reply.token:
            return True
        with suppress(KeyError):
            found = get_json(self.store, self._key(token))
            return bool(found["id"]) or found["execution"] == self.reply.execution
        return False

    def _token(self, statement: Statement) -> str:
        text = f"{self.layout.run} {self.attempt}\n{statement.identity}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _key(self, token: str) -> str:
        return f"{self.layout.root}/queries/{token}.json"

    def _record_of_group(self, token: str, id: str) -> None:
        """Record the result of a statement that ran with others; a failed one is repeated."""
        known: dict[str, Any] = {"retryable": not id, "tries": []}
        put_json(self.store, self._key(token), self._entry(token, id) | known)

    def _record_reply(self, key: str, identity: str) -> None:
        """Record the result of the last statement, and the queries of this execution that failed
        before.
        """
        reply, tries = self.reply, list[str]()
        if reply.error:
            with suppress(KeyError):
                found = get_json(self.store, key)
                if found["execution"] == reply.execution:
                    tries = found.get("tries", [])
            if reply.failed not in tries:  # a call of a step may be repeated
                tries = [*tries, reply.failed]
        known = {"error": reply.error, "retryable": reply.retryable, "failed": reply.failed}
        entry = self._entry(reply.token, reply.id) | known
        put_json(self.store, key, {**entry, "tries": tries, "statement": identity})

    def _entry(self, token: str, id: str) -> dict[str, Any]:
        return {"execution": self.reply.execution, "token": token, "id": id, "error": ""}


def raise_pending(pending: Sequence[QueryPending]) -> None:
    """Raise the first of the statements, as many as fit into a state; nothing if there are none.

    Raises: QueryPending or QueriesPending.
    """
    for each in pending:
        if each.alone:
            raise each
    together: list[QueryPending] = []
    size = 0
    for each in pending:
        size += len(json.dumps(each.sql)) + ITEM_BYTES
        if together and size > MAX_STATEMENT_JSON_BYTES:
            break
        together.append(each)
    if len(together) == 1:
        raise together[0]
    if together:
        raise QueriesPending(together)


class PendingBlocks:
    """Blocks whose pending statements are raised together, at the end.

    After a block with a pending statement, the errors of later blocks are left to a later call: the
    error of a run is that of the first block that has one.
    """

    def __init__(self) -> None:
        self.pending: list[QueryPending] = []

    def __call__(self) -> AbstractContextManager[None]:
        return self._block()

    @contextmanager
    def _block(self) -> Iterator[None]:
        try:
            yield
        except QueryPending as pending:
            self.pending.append(pending)
        except QueriesPending as several:
            self.pending += several.statements
        except HundredfoldError:
            if not self.pending:
                raise

    def raise_pending(self) -> None:
        raise_pending(self.pending)


def _query_error(error: str, identity: str) -> QueryError:
    denied = "PERMISSION_DENIED" in error or "Access Denied" in error
    statement = " ".join(identity.split())[:300]
    return QueryError(error, hint=READ_PERMISSION_HINT if denied else f"in: {statement}")


def _refuse_too_long(sql: str, identity: str) -> None:
    """Raise QueryError for a statement that Athena or a state of Step Functions cannot hold.

    Step Functions does not let a state machine catch this error.
    """
    size, encoded = len(sql.encode()), len(json.dumps(sql))
    if size <= MAX_STATEMENT_BYTES and encoded <= MAX_STATEMENT_JSON_BYTES:
        return
    raise QueryError(
        f"a statement has {size:,} bytes, and {encoded:,} as JSON; Athena accepts "
        f"{MAX_STATEMENT_BYTES:,}, and a state of Step Functions {MAX_STATEMENT_JSON_BYTES:,}",
        hint="select fewer columns in a query, or split it into several models; it begins with: "
        f"{' '.join(identity.split())[:200]}",
    )
