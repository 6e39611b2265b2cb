"""Lambda's Runtime API for one function on this machine: AWS's own client polls it for events, and
is measured.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:measured"
HANG_S = 600.0  # seconds before a hang is assumed


@dataclass(frozen=True)
class FunctionResult:
    """The value that the function returned, or `error` with its type and message."""

    value: Any
    error: dict[str, Any] | None
    seconds: float


class Function:
    """A handler under awslambdaric, in a process with only its package and what Lambda provides."""

    def __init__(
        self,
        python: Path,
        package: Path,
        handler: str,
        *,
        memory: int,
        environment: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self._asked: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._answers: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
        self._ready = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        began = time.perf_counter()
        self.environment = environment
        self.log = scratch / "function.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", "awslambdaric", handler],
                cwd=package,
                env={
                    "PATH": os.defpath,
                    "TMPDIR": str(scratch),
                    "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                    "LAMBDA_TASK_ROOT": str(package),
                    "AWS_LAMBDA_FUNCTION_NAME": "measured",
                    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
                    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/measured",
                    "AWS_LAMBDA_LOG_STREAM_NAME": "1",
                    "PYTHONPATH": str(package),
                    **environment,
                },
                preexec_fn=lambda: resource.setrlimit(
                    resource.RLIMIT_DATA, (memory * 2**20, memory * 2**20)
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not self._ready.wait(HANG_S):
            raise AssertionError(f"the function did not come up: {self.log.read_text()}")
        self.init_seconds = time.perf_counter() - began

    def call(self, event: Any) -> FunctionResult:
        """Send one event, and return the result."""
        began = time.perf_counter()
        self._asked.put((str(uuid4()), event))
        kind, body = self._answers.get(timeout=HANG_S)
        return FunctionResult(
            body if kind == "response" else None,
            body if kind == "error" else None,
            time.perf_counter() - began,
        )

    def peak_bytes(self) -> int:
        """Return the peak memory of its own process, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return (
            int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
            * 1024
        )

    def close(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        self._asked.put(None)
        self.process.kill()
        self.process.wait()
        for child in children:
            child.kill()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("FunctionHandler", (Handler,), {"function": self})


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of the runtime client for one function."""

    protocol_version = "HTTP/1.1"
    function: Function

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.function._ready.set()
        asked = self.function._asked.get()
        if asked is None:
            self._send(410, b"")
            return
        request, event = asked
        deadline = int((time.time() + HANG_S) * 1000)
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request,
            "Lambda-Runtime-Deadline-Ms": str(deadline),
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
            "Content-Type": "application/json",
        }
        self._send(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        body = self._body()
        kind = self.path.rsplit("/", 1)[-1]
        if self.path.endswith("/init/error"):
            self.function._ready.set()
        self.function._answers.put((kind, json.loads(body) if body else None))
        self._send(202, b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        lines = [
            f"HTTP/1.1 {status} ok",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
            f"Content-Length: {len(body)}",
        ]
        # in one write: two would wait for each other
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)


@contextmanager
def running(*where: Any, **how: Any) -> Iterator[Function]:
    function = Function(*where, **how)
    try:
        yield function
    finally:
        function.close()
