"""A connection to AWS that fails on request: replies are lost, bodies end too early, and AWS
returns errors that no emulator returns.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Self
from urllib.parse import urlsplit

from support.waits import HANG_S

HOP_BY_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Request:
    operation: str  # PutItem, SendMessageBatch; for S3 "GET /bucket/key?query"
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """A fault for the next `times` requests whose operation begins with `operation`, after `after`
    others.
    """

    operation: str
    happens: Callable[[Handler, Request], None]
    times: int = 1
    after: int = 0


@dataclass
class FaultyConnection:
    """A local server that forwards all requests to `target`.

    `seen` holds the operations, in order.
    """

    target: str
    operations: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    held: Event = field(default_factory=Event)  # set when a request is held back
    _lock: Lock = field(default_factory=Lock)

    def __enter__(self) -> Self:
        handler = type("ConnectionHandler", (Handler,), {"faulty": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.operations.append(request)
            for fault in self.faults:
                if request.operation.startswith(fault.operation) and fault.times:
                    if fault.after:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def lose_reply(self, operation: str, *, times: int = 1, after: int = 0) -> None:
        """AWS executes the request, and the reply is lost."""

        def happens(handler: Handler, request: Request) -> None:
            handler.forward(request)
            handler.hang_up()

        self.faults.append(Fault(operation, happens, times, after))

    def hold(self, operation: str, *, after: int = 0) -> None:
        """The request does not reach AWS, and the caller waits."""

        def happens(handler: Handler, request: Request) -> None:
            self.held.set()
            handler.rfile.read(1)  # until the caller is gone

        self.faults.append(Fault(operation, happens, 1, after))

    def truncate(self, operation: str, *, times: int = 1) -> None:
        """The first half of a reply's body arrives."""

        def happens(handler: Handler, request: Request) -> None:
            status, headers, body = handler.forward(request)
            handler.reply(status, headers, body, sent=len(body) // 2)
            handler.hang_up()

        self.faults.append(Fault(operation, happens, times))

    def fail_with(
        self,
        operation: str,
        status: int,
        code: str,
        message: str = "",
        *,
        times: int = 1,
        after: int = 0,
    ) -> None:
        """AWS returns an error."""

        def happens(handler: Handler, request: Request) -> None:
            if "x-amz-target" in request.headers:
                handler.reply(
                    status,
                    {"x-amzn-errortype": code},
                    json.dumps({"__type": code, "message": message}).encode(),
                )
            else:
                body = (
                    "<?xml "
                    f'version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
                )
                handler.reply(status, {}, body.encode())

        self.faults.append(Fault(operation, happens, times, after))

    def reply(self, operation: str, body: bytes, *, times: int = 1) -> None:
        """AWS returns this reply, and does nothing."""
        self.faults.append(Fault(operation, lambda handler, _: handler.reply(200, {}, body), times))

    def before(self, operation: str, do: Callable[[], object]) -> None:
        """Something else happens just before AWS executes the request."""

        def happens(handler: Handler, request: Request) -> None:
            do()
            handler.reply(*handler.forward(request))

        self.faults.append(Fault(operation, happens))

    def count_requests(self, operation: str) -> int:
        """Return the number of requests."""
        return sum(request.operation.startswith(operation) for request in self.operations)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    faulty: FaultyConnection

    def handle_one(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.read_body(headers)
        operation = (
            headers.get("x-amz-target", "").rpartition(".")[2] or f"{self.command} {self.path}"
        )
        request = Request(operation, headers, body)
        fault = self.faulty.fault(request)
        if fault is not None:
            fault.happens(self, request)
            return
        self.reply(*self.forward(request))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.faulty.target).netloc, timeout=HANG_S)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in HOP_BY_HOP_HEADERS | {"expect"}
        }
        try:
            connection.request(self.command, self.path, request.body, headers)
            answer = connection.getresponse()
            kept = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in HOP_BY_HOP_HEADERS | {"date", "server"}
            }
            body = answer.read()
            if self.command == "HEAD":
                kept["Content-Length"] = answer.getheader("Content-Length", "0")
            return answer.status, kept, body
        finally:
            connection.close()

    def reply(
        self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
