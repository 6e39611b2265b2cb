"""Container workers as processes of this machine, which reach a stack's queue and bucket."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.emulator import HANG_S
from support.stacks import Stack

LEASE_S = 5


@dataclass(frozen=True)
class ContainerWorker:
    """A running `hundredfold worker`, and the folder that it may write to."""

    process: subprocess.Popen[str]
    scratch: Path

    def end(self, number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(HANG_S)

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of its log, after its end."""
        self.process.wait(HANG_S)
        text = (self.scratch / "output.txt").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def counts(self) -> dict[str, int]:
        """Return the counts of its last line, after its end."""
        last = self.log()[-1]
        return {name: last[name] for name in ("done", "failed", "dead_lettered", "requeued")}


@contextmanager
def started(
    command: Sequence[str], scratch: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[ContainerWorker]:
    """Start a worker by a command; it is terminated at the end of the block."""
    scratch.mkdir(parents=True)
    with (scratch / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield ContainerWorker(process, scratch)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(HANG_S)


def container(
    stack: Stack, scratch: Path, *options: str, before: Sequence[str] = (), **variables: str
) -> AbstractContextManager[ContainerWorker]:
    """Start a worker with the settings and the credentials of the stack's function `work`.

    before: the command that starts it, such as `env`.
    """
    function = stack.client("lambda").get_function_configuration(
        FunctionName=stack.outputs["WorkFunction"]
    )
    settings = function["Environment"]["Variables"]
    command = [
        *before,
        *stack.program,
        "worker",
        *("--scratch", str(scratch), "--workers", "2", "--memory", "1GB"),
        *("--lease", str(LEASE_S)),
        *options,
    ]
    environment = stack.environment | settings | stack.credentials_of_workers() | variables
    return started(command, scratch, environment)


def printed_settings(stack: Stack) -> str:
    """Return what `hundredfold worker --settings` prints for a stack."""
    command = [*stack.program, "worker", "--stack", stack.name, "--settings"]
    return subprocess.run(
        command, env=stack.environment, capture_output=True, text=True, check=True
    ).stdout
