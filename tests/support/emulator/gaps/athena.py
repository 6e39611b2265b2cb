"""Athena's queries: how they are started, polled, stopped and read.

A query runs in a thread of its own, with the permissions of the principal that started it; its
output goes to S3 on the server's loop, where S3's notifications start.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from ministack.core.responses import error_response_json, json_response, new_uuid
from ministack.services import athena, s3

from . import need, setting, values
from .hive import QueryError, hive_type, split_uri
from .rights import DeniedError, check_s3
from .statements import Context, Outcome, Statement, parse

log = logging.getLogger("bench.athena")
need(
    athena,
    "_executions",
    "_workgroups",
    "_start_query_execution",
    "_get_query_execution",
    "_get_query_results",
    "_stop_query_execution",
    "_list_query_executions",
)
need(athena, "_execution_out", "_batch_get_query_execution")
need(s3, "_put_object", "_buckets")

LONGEST = 262_144  # bytes of a statement
LISTED = 50  # ids of a page
PAGE = 1000  # rows of a page of results
DONE = ("SUCCEEDED", "FAILED", "CANCELLED")
Answer = tuple[int, dict[str, str], bytes]


FAILED_FIRST: dict[str, int] = {}  # failures of each statement that the test wanted


class ExhaustedError(Exception):
    """Athena lacks resources for the query now."""


class InvalidRequestError(Exception):
    """The call itself is rejected: no query is started."""

    def __init__(self, message: str, code: str = "INVALID_INPUT") -> None:
        super().__init__(message)
        self.code = code


def fill() -> None:
    """Replace MiniStack's own handlers with these."""
    athena._start_query_execution = _or_invalid(start)
    athena._get_query_execution = _or_invalid(get)
    athena._get_query_results = _or_invalid(results)
    athena._stop_query_execution = _or_invalid(stop)
    athena._list_query_executions = listed


def start(asked: Mapping[str, Any]) -> Answer:
    """StartQueryExecution: the same token returns the same query; an invalid statement is rejected
    at once.
    """
    sql, token = asked.get("QueryString", ""), asked.get("ClientRequestToken")
    request = {name: value for name, value in asked.items() if name != "ClientRequestToken"}
    if token is not None and not 32 <= len(token) <= 128:
        raise InvalidRequestError(
            f"ClientRequestToken has {len(token)} characters, and may have 32 to 128"
        )
    for earlier in athena._executions.values():
        if token and earlier["_token"] == token:
            if earlier["_request"] != request:
                raise InvalidRequestError("Idempotent parameters do not match")
            return json_response({"QueryExecutionId": earlier["QueryExecutionId"]})
    if not 0 < len(sql.encode()) <= LONGEST:
        raise InvalidRequestError(
            f"1 validation error detected: the query has {len(sql.encode())} bytes, and may have "
            f"1 to {LONGEST}"
        )
    workgroup = asked.get("WorkGroup", "primary")
    if workgroup not in athena._workgroups:
        raise InvalidRequestError(f"WorkGroup {workgroup} is not found.")
    settings = athena._workgroups[workgroup].get("Configuration", {})
    output = _output(asked, settings)
    try:
        statement = parse(sql)
    except QueryError as error:
        if not str(error).startswith("SYNTAX_ERROR"):
            statement = Refused(error)
        else:
            raise InvalidRequestError(
                str(error).removeprefix("SYNTAX_ERROR: "), "MALFORMED_QUERY"
            ) from error
    execution = _execution(sql, workgroup, asked, output, statement, token, request)
    athena._executions[execution["QueryExecutionId"]] = execution
    run = Run(execution, statement, settings, asyncio.get_running_loop())
    execution["_run"] = run
    threading.Thread(
        target=contextvars.copy_context().run, args=(run.go,), daemon=True, name="athena"
    ).start()
    return json_response({"QueryExecutionId": execution["QueryExecutionId"]})


def get(asked: Mapping[str, Any]) -> Answer:
    return json_response({"QueryExecution": athena._execution_out(_found(asked))})


def stop(asked: Mapping[str, Any]) -> Answer:
    _found(asked)["_run"].stop()
    return json_response({})


def listed(asked: Mapping[str, Any]) -> Answer:
    """ListQueryExecutions: pages of ids, the newest first."""
    workgroup, most = asked.get("WorkGroup", "primary"), int(asked.get("MaxResults") or LISTED)
    ids = [name for name, ex in athena._executions.items() if ex["WorkGroup"] == workgroup][::-1]
    first = int(asked.get("NextToken") or 0)
    answer: dict[str, Any] = {"QueryExecutionIds": ids[first : first + most]}
    if first + most < len(ids):
        answer["NextToken"] = str(first + most)
    return json_response(answer)


def results(asked: Mapping[str, Any]) -> Answer:
    """GetQueryResults: pages of texts; the first one begins with the names."""
    execution = _found(asked)
    state = execution["Status"]["State"]
    if state in ("FAILED", "CANCELLED"):
        raise InvalidRequestError(f"Query did not finish successfully. Final query state: {state}")
    if state != "SUCCEEDED":
        raise InvalidRequestError(f"Query has not yet finished. Current state: {state}")
    rows: pa.Table = execution["_rows"]
    first, most = int(asked.get("NextToken") or 0), int(asked.get("MaxResults") or PAGE)
    if not 1 <= most <= PAGE:
        raise InvalidRequestError(f"MaxResults is {most}, and may be 1 to {PAGE}")
    named = bool(rows.num_columns) and first == 0 and execution["StatementType"] == "DML"
    taken = most - named
    lines = list(zip(*map(values.texts, rows.slice(first, taken).columns), strict=True))
    table = [*([rows.column_names] if named else []), *lines]
    answer: dict[str, Any] = {
        "UpdateCount": 0,
        "ResultSet": {
            "Rows": [
                {"Data": [{} if text is None else {"VarCharValue": text} for text in line]}
                for line in table
            ],
            "ResultSetMetadata": {"ColumnInfo": [_column_info(field) for field in rows.schema]},
        },
    }
    if first + taken < len(rows):
        answer["NextToken"] = str(first + taken)
    return json_response(answer)


class Refused:
    """A statement that parses but cannot be executed: the query fails, not the call."""

    kind = "DML"
    result = "{}.csv"

    def __init__(self, error: QueryError) -> None:
        self.error = error

    def run(self, _: Context) -> Outcome:
        raise self.error


class Run:
    """One active query."""

    def __init__(
        self,
        execution: dict[str, Any],
        statement: Statement,
        settings: Mapping[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.execution, self.statement, self.settings, self.loop = (
            execution,
            statement,
            settings,
            loop,
        )
        self.status, self.statistics = execution["Status"], execution["Statistics"]
        self.over = threading.Event()
        self.connection: duckdb.DuckDBPyConnection | None = None
        self.lock = threading.Lock()  # of the state: a stop and an end may coincide

    def go(self) -> None:
        began = time.monotonic()
        self.status["State"] = "RUNNING"
        try:
            if self.over.wait(float(setting("athena_seconds", 0))):
                return
            self._fail_first()
            outcome = self.statement.run(self._context())
            self.statistics["DataScannedInBytes"] = outcome.scanned
            limit = self.settings.get("BytesScannedCutoffPerQuery")
            if limit and outcome.scanned > int(limit):
                self._end("CANCELLED", "Bytes scanned limit was exceeded")
                return
            self._save(outcome)
            self._end("SUCCEEDED")
        except ExhaustedError as error:
            self._fail(str(error), retryable=True)
        except QueryError as error:
            self._fail(str(error))
        except DeniedError as error:
            self._fail(f"PERMISSION_DENIED: {error}")
        except Exception as error:  # noqa: BLE001
            log.error("the bench failed on %s\n%s", self.execution["Query"], traceback.format_exc())
            self._fail(f"GENERIC_INTERNAL_ERROR: the emulator failed: {error!r}")
        finally:
            spent = int((time.monotonic() - began) * 1000)
            self.statistics.update(
                EngineExecutionTimeInMillis=spent, TotalExecutionTimeInMillis=spent
            )

    def _fail_first(self) -> None:
        """Fail as often as the test wants each statement to fail, with a retryable error."""
        wanted, sql = int(setting("athena_failures", 0)), self.execution["Query"]
        done = FAILED_FIRST.get(sql, 0)
        if done < wanted:
            FAILED_FIRST[sql] = done + 1
            raise ExhaustedError("Query exhausted resources at this scale factor")

    def stop(self) -> None:
        """StopQueryExecution: ends at once, and is no error after the end."""
        self._end("CANCELLED", "Query was cancelled by user")
        if self.connection is not None:
            with contextlib.suppress(duckdb.Error):
                self.connection.interrupt()

    def _context(self) -> Context:
        return Context(
            database=self.execution["QueryExecutionContext"]["Database"],
            query=self.execution["QueryExecutionId"],
            put=self._put,
            call=self._call,
            enforced=bool(self.settings.get("EnforceWorkGroupConfiguration")),
            running=self._running,
            stopped=self.over.is_set,
        )

    def _running(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        if self.over.is_set():
            raise QueryError("USER_CANCELED", "Query was canceled")

    def _save(self, outcome: Outcome) -> None:
        """Write the result's object, and Athena's other objects next to it."""
        location = self.execution["ResultConfiguration"]["OutputLocation"]
        self.execution["_rows"] = outcome.rows
        self._keep(
            f"{location}.metadata",
            json.dumps([_column_info(field) for field in outcome.rows.schema]).encode(),
        )
        if location.endswith(".csv") and outcome.rows.num_columns:
            lines = zip(*map(values.texts, outcome.rows.columns), strict=True)
            self._keep(location, values.csv(outcome.rows.column_names, lines))
        elif location.endswith(".txt"):
            self._keep(location, b"")
        if outcome.written or self.statement.result.startswith("tables/"):
            manifest = f"{location.removesuffix('.csv')}-manifest.csv"
            self._keep(manifest, "".join(f"{uri}\n" for uri in outcome.written).encode())
            self.statistics["DataManifestLocation"] = manifest

    def _keep(self, uri: str, data: bytes) -> None:
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        check_s3("s3:PutObject", bucket, key)
        self._put([(bucket, key, data)])

    def _put(self, files: Sequence[tuple[str, str, bytes]]) -> None:
        def put() -> None:
            for bucket, key, data in files:
                headers = {"content-type": "binary/octet-stream", "content-length": str(len(data))}
                status, _, body = s3._put_object(bucket, key, data, headers)[:3]
                if status >= 300:
                    raise QueryError("HIVE_WRITER_CLOSE_ERROR", f"s3://{bucket}/{key}: {body!r}")

        self._call(put)

    def _call(self, action: Callable[[], Any]) -> Any:
        """Run an action on the server's loop, as this account, and wait for it."""
        done: asyncio.Future[Any] | Any = asyncio.run_coroutine_threadsafe(_do(action), self.loop)
        return done.result()

    def _fail(self, message: str, *, retryable: bool = False) -> None:
        name = message.partition(":")[0]
        error = {
            "ErrorCategory": 1 if retryable else 2,
            "ErrorType": 100 if retryable else 1001,
            "Retryable": retryable,
            "ErrorMessage": message,
        }
        log.info("query %s failed: %s", self.execution["QueryExecutionId"], name)
        self._end("FAILED", message, error)

    def _end(self, state: str, message: str = "", error: Mapping[str, Any] | None = None) -> None:
        with self.lock:
            if self.over.is_set():
                return
            self.over.set()
            if message:
                self.status["StateChangeReason"] = message
            if error:
                self.status["AthenaError"] = error
            self.status["CompletionDateTime"] = time.time()
            self.status["State"] = state


async def _do(action: Callable[[], Any]) -> Any:
    return action()


def _or_invalid(
    answer: Callable[[Mapping[str, Any]], Answer],
) -> Callable[[Mapping[str, Any]], Answer]:
    """Return a rejected call as AWS answers it."""

    def answered(asked: Mapping[str, Any]) -> Answer:
        try:
            return answer(asked)
        except InvalidRequestError as error:
            return error_response_json(
                "InvalidRequestException", str(error), 400, extra={"AthenaErrorCode": error.code}
            )

    return answered


def _found(asked: Mapping[str, Any]) -> dict[str, Any]:
    execution = athena._executions.get(asked.get("QueryExecutionId"))
    if execution is None:
        raise InvalidRequestError(f"QueryExecution {asked.get('QueryExecutionId')} was not found")
    return execution


def _output(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the location of the result: the workgroup's if it is enforced, then the caller's, then
    the workgroup's.
    """
    own = (settings.get("ResultConfiguration") or {}).get("OutputLocation")
    requested = (asked.get("ResultConfiguration") or {}).get("OutputLocation")
    output = own if settings.get("EnforceWorkGroupConfiguration") and own else requested or own
    if not output:
        raise InvalidRequestError(
            "No output location provided. An output location is required either through the "
            "Workgroup result configuration setting or as an API input."
        )
    try:
        bucket, prefix = split_uri(output)
    except QueryError as error:
        raise InvalidRequestError(f"outputLocation is not a valid S3 path: {output}") from error
    if bucket not in s3._buckets:
        raise InvalidRequestError(
            f"Unable to verify/create output bucket {bucket}", "INVALID_BUCKET_NAME"
        )
    return f"s3://{bucket}/{prefix}"


def _execution(
    sql: str,
    workgroup: str,
    asked: Mapping[str, Any],
    output: str,
    statement: Statement,
    token: str | None,
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a query as GetQueryExecution shows it; fields that begin with _ are left out."""
    identity = new_uuid()
    context = asked.get("QueryExecutionContext") or {}
    return {
        "QueryExecutionId": identity,
        "Query": sql,
        "StatementType": statement.kind,
        "ResultConfiguration": {"OutputLocation": output + statement.result.format(identity)},
        "ResultReuseConfiguration": {"ResultReuseByAgeConfiguration": {"Enabled": False}},
        "QueryExecutionContext": {
            "Database": context.get("Database", "default"),
            "Catalog": context.get("Catalog", "awsdatacatalog"),
        },
        "Status": {"State": "QUEUED", "SubmissionDateTime": dt.datetime.now(dt.UTC).timestamp()},
        "Statistics": {
            "DataScannedInBytes": 0,
            "QueryQueueTimeInMillis": 0,
            "ServiceProcessingTimeInMillis": 0,
        },
        "WorkGroup": workgroup,
        "EngineVersion": {
            "SelectedEngineVersion": "AUTO",
            "EffectiveEngineVersion": "Athena engine version 3",
        },
        "_token": token,
        "_request": request,
        "_rows": pa.table({}),
        "_run": None,
    }


def _column_info(field: pa.Field) -> dict[str, Any]:
    """Return a column of a result, with Athena's names of types."""
    kind, precision, scale = _result_type(field.type)
    return {
        "CatalogName": "hive",
        "SchemaName": "",
        "TableName": "",
        "Name": field.name,
        "Label": field.name,
        "Type": kind,
        "Precision": precision,
        "Scale": scale,
        "Nullable": "UNKNOWN",
        "CaseSensitive": kind == "varchar",
    }


def _result_type(kind: pa.DataType) -> tuple[str, int, int]:
    """Return name, precision and scale."""
    if pa.types.is_decimal(kind):
        return "decimal", kind.precision, kind.scale
    if pa.types.is_timestamp(kind):
        return ("timestamp with time zone" if kind.tz else "timestamp"), 3, 0
    plain = {
        "boolean": ("boolean", 0, 0),
        "tinyint": ("tinyint", 3, 0),
        "smallint": ("smallint", 5, 0),
        "int": ("integer", 10, 0),
        "bigint": ("bigint", 19, 0),
        "float": ("float", 17, 0),
        "double": ("double", 17, 0),
        "string": ("varchar", 2147483647, 0),
        "binary": ("varbinary", 1073741824, 0),
        "date": ("date", 0, 0),
    }
    name = hive_type(kind)
    return plain.get(name) or (
        {"array": "array", "map": "map", "struct": "row"}[name.split("<")[0]],
        0,
        0,
    )
