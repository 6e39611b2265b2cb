"""Stacks for tests: synthesized once for all test processes, and deployed into an account in which IAM decides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from emulator import DONE, MISSING, Emulator
from emulator.deploy import deploy
from filelock import FileLock

from hundredfold.aws.home import StackHome
from hundredfold.aws.node import NodeError, find_node

HERE = Path(__file__).parent
ROOM = 60.0  # seconds that a synthesis may take
SHARED: dict[str, Any] = {"concurrency": 4, "timeout": 60, "architecture": "x86_64", "tracing": False}
WANTED: dict[str, dict[str, Any]] = {  # the stacks that tests ask for, by name, and what they are told
    "hundredfold-tariffs": {"job": "tariffs.job:job"},
    "hundredfold-trouble": {"job": "jobs.trouble:job"},
    "by-events": {"job": "jobs.trouble:job", "trigger": "events"},
}


@dataclass(frozen=True)
class Stack:
    """A stack in an account, and the account."""

    name: str
    emulator: Emulator
    outputs: Mapping[str, str]

    def client(self, service: str) -> Any:
        return self.emulator.client(service)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "hundredfold", *words, "--on", "aws", "--stack", self.name]

    @property
    def environment(self) -> dict[str, str]:
        """Of a person's shell: the account, and where the job is."""
        return self.emulator.environment() | {"PYTHONPATH": str(HERE), "COLUMNS": "200"}

    def cli(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`hundredfold WORDS --on aws`, to its end; it has to end with that exit code."""
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.emulator.log()}"
        return done

    @cached_property
    def home(self) -> StackHome:
        """As the verbs see it; good only while this process reaches the account."""
        return StackHome(self.name)


class Account:
    """An account in which IAM decides, and the stacks in it: each is there when it is first asked for."""

    def __init__(self, emulator: Emulator, shared: Path) -> None:
        self.emulator, self.shared = emulator, shared
        self.stacks: dict[str, Stack] = {}

    def stack(self, name: str) -> Stack:
        if name not in self.stacks:
            self.stacks[name] = Stack(name, self.emulator, deploy(self.emulator, assembly(name, self.shared)))
        return self.stacks[name]


def assembly(name: str, shared: Path) -> Path:
    """The synthesized stack, made by whichever test process asks for it first. Its code is the tests' jobs: all else comes from the
    interpreter of the functions."""
    out = shared / f"stack-{name}"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            fresh = out.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(HERE / "jobs", fresh / "code" / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
            _synthesize(name, fresh)
            fresh.rename(out)
    return out / "cdk.out"


def _synthesize(name: str, folder: Path) -> None:
    if find_spec("aws_cdk") is None:
        pytest.skip("the CDK is not installed: pip install 'hundredfold[deploy]'")
    try:
        node = find_node()
    except NodeError as error:
        pytest.skip(str(error))
    told = folder / "stack.json"
    told.write_text(json.dumps({"stack": name, "code": str(folder / "code"), "settings": SHARED | WANTED[name]}))
    environment = node.environment() | {"HUNDREDFOLD_STACK": str(told), "CDK_OUTDIR": str(folder / "cdk.out"), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "hundredfold.aws.stack.app"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ROOM)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    if not DONE.exists():
        pytest.skip(MISSING)
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with Emulator(auth=True, wait_scale=0.05) as emulator:
        yield Account(emulator, shared)


@pytest.fixture
def trouble(account: Account) -> Iterator[Stack]:
    """The stack of the job that does what its rows say; this process reaches it."""
    with account.emulator.reached():
        yield account.stack("hundredfold-trouble")
