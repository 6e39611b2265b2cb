"""Commands of the package, each in a process of its own: with its exit status and its output.

The first call of a command in a session starts Python, as a user does. The later ones are forked
from a process that has imported the libraries, which take most of the time of a short command.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from support.command_server import LENGTH
from support.waits import HANG_S

SERVER = Path(__file__).with_name("command_server.py")
# variables that Python or a library reads when it starts; PYTHONPATH is applied to each command
READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "TZ", "MALLOC_", "OMP_", "OPENBLAS_", "ARROW_")
_begun: set[tuple[str, ...]] = set()


@dataclass(frozen=True)
class CliResult:
    """The exit status of a command, and its output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_command(
    program: str,
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    stdin: str | None = None,
) -> CliResult:
    """Run `python -m PROGRAM ARGUMENTS` in a folder, with exactly this environment."""
    kind = (program, *arguments[:1])
    if kind in _begun and stdin is None and _can_be_forked(environment):
        return _server().run(program, arguments, folder, environment)
    _begun.add(kind)
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=folder,
        env=dict(environment),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG_S,
    )
    return CliResult(done.returncode, done.stdout, done.stderr)


def _can_be_forked(environment: Mapping[str, str]) -> bool:
    return hasattr(os, "fork") and _read_at_start(environment) == _read_at_start(os.environ)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name != "PYTHONPATH"
    }


class _Server:
    """The process that forks commands; it ends with this one."""

    def __init__(self) -> None:
        self.requests, other = socket.socketpair()
        self.lock = threading.Lock()  # so that requests of several threads are sent whole
        with other:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER), str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def close(self) -> None:
        self.requests.close()
        self.process.wait()

    def run(
        self, program: str, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str]
    ) -> CliResult:
        request = {
            "program": program,
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
        }
        text = json.dumps(request).encode()
        pipes = [os.pipe() for _ in range(3)]  # output, errors, exit code
        writing = [end for _, end in pipes]
        try:
            with self.lock:
                socket.send_fds(self.requests, [LENGTH.pack(len(text))], [0, *writing])
                self.requests.sendall(text)
        finally:
            for end in writing:
                os.close(end)
        out, err, code = self._read([end for end, _ in pipes])
        assert code, f"the process that forks commands has ended: {self.process.poll()}"
        return CliResult(int(code), _decode(out), _decode(err))

    def _read(self, ends: list[int]) -> list[bytes]:
        """Return the content of pipes, up to their ends; they are closed."""
        found = dict.fromkeys(ends, b"")
        with selectors.DefaultSelector() as selector:
            for end in ends:
                selector.register(end, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(HANG_S)
                if not ready:
                    self._kill_commands()
                for key, _ in ready:
                    part = os.read(key.fd, 65_536)
                    found[key.fd] += part
                    if not part:
                        selector.unregister(key.fd)
                        os.close(key.fd)
        return list(found.values())

    def _kill_commands(self) -> None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.kill()


@functools.cache
def _server() -> _Server:
    return _Server()


def _decode(text: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(text), encoding="utf-8").read()
