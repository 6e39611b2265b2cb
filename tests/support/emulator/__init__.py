"""An AWS account on one port of this machine, for tests.

`launcher.py` runs MiniStack in an environment of its own (`make .venv-emulator/done`), adds the
features that it lacks, and listens on 127.0.0.1 only. This module starts it, connects to it, and
cleans up: it ends with the process that started it, in whatever way that ends.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import boto3
import psutil
import pytest
from botocore.config import Config

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-emulator" / "bin" / "python"
DONE = PYTHON.parents[1] / "done"
MISSING = f"the emulator of AWS is not installed ({DONE} is not there): make .venv-emulator/done"

ACCOUNT = "123456789012"
REGION = "us-east-1"
HANG_S = 600.0  # guards against a hang, independent of the speed of the machine
STOP = 5.0  # seconds until it is killed if it does not end by itself
# of this environment: a function sees the same as the server
KEPT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "TZ",
)


class EmulatorError(Exception):
    """The emulator did not do what a test needs; the message contains its log."""


class Emulator:
    """An account for the duration of a `with` block. Several can run at the same time.

    `auth`        enforce IAM, as on AWS: actions that a role does not allow are denied
    `wait_scale`  duration of a second of Step Functions' Wait and Retry, in seconds
    """

    def __init__(self, *, auth: bool = False, wait_scale: float = 0.2) -> None:
        self.auth = auth
        self.wait_scale = wait_scale
        self.url = ""
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if not DONE.exists():
            raise EmulatorError(MISSING)
        self.folder = Path(tempfile.mkdtemp(prefix="hundredfold-aws-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stop()
        finally:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def variables(self) -> dict[str, str]:
        """The environment with which boto3 in a program reaches this account, as its root, and no
        other.
        """
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCOUNT,  # a key of 12 digits is the root of that account
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return an environment for a child process: `base` without its own AWS settings, and
        `variables`.
        """
        return {
            name: value for name, value in base.items() if not name.startswith("AWS_")
        } | self.variables

    @contextmanager
    def reached(self) -> Iterator[Self]:
        """Connect boto3 and Hundredfold in this process to this account until the block ends."""
        from hundredfold.aws.adapters import session

        def forget_clients() -> None:
            session.client.cache_clear()  # a cached client keeps the endpoint of its creation
            boto3.DEFAULT_SESSION = None

        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in self.variables.items():
                patch.setenv(name, value)
            forget_clients()
            try:
                yield self
            finally:  # a test that fails in the block must not fail those after it
                forget_clients()
                now = os.environ.get("AWS_ENDPOINT_URL")
        if now != self.url:
            raise EmulatorError(
                f"{now} was reached at the end, and not {self.url}: such accounts may stand one "
                "in the other, but not overlap"
            )

    def client(self, service: str) -> Any:
        """Return a client without access control; it does not retry, so that a test sees the first
        error.
        """
        if service not in self._clients:
            self._clients[service] = self.client_of(service, ACCOUNT, "emulated")
        return self._clients[service]

    def client_of(self, service: str, key: str, secret: str, token: str | None = None) -> Any:
        """Return a client with other credentials, such as those of a role."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32),
        )

    @contextmanager
    def settings(self, **settings: Any) -> Iterator[None]:
        """Let the account misbehave until the end of the `with`; `faults()` lists what it did.

        `notice_duplicates`  fraction of S3's notifications (0.0 to 1.0) that arrive twice
        `notice_losses`      fraction that never arrive
        `notice_delay`       maximum delay of each in seconds, so that they arrive in any order
        `notice_prefix`      the three above apply to keys below this prefix only
        `seed`               the same seed gives the same choices
        `open_writers`       maximum buckets that one CREATE TABLE AS may write
                             (HIVE_TOO_MANY_OPEN_PARTITIONS above)
        `athena_failures`    number of times that each statement fails with a retryable error first
        `athena_seconds`     additional time of each query
        `ended_leases`       1: messages that a call of a function did not complete are redelivered
                             when the call ends, whatever their lease
        `worker_program`     command that is started as a task of ECS, in place of the image
        `worker_environment` variables of such tasks beside those of their definition
        `refused_tasks`      code and message with which ECS and Batch refuse to start any task
        `spot_tasks`         tasks that Spot has capacity for, since the start of the account
        """
        before = dict(self._settings)
        self._set(settings)
        try:
            yield
        finally:
            self._settings = before
            self._set({})

    def set_queue_time(self, now: float | None) -> None:
        """Set the time of SQS to `now` (seconds), so that a test ends leases; None restores its
        clock.

        S3 and the mappings of functions use the world's clock: this is for tests of queues alone.
        """
        self._set({"queue_time": now})

    def faults(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the faults of notifications since the last reset: {"fault": "duplicate" | "loss" |
        "delay", "key": ...}.
        """
        path = self.folder / "faults.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [fault for fault in map(json.loads, lines) if kind in (None, fault["fault"])]

    def reset(self) -> None:
        """Empty the account: no bucket, queue or stack is left, and no function runs."""
        urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/_ministack/reset", method="POST"), timeout=HANG_S
        ).close()
        (self.folder / "faults.jsonl").unlink(missing_ok=True)
        self._settings = {}
        self._set({})

    def log(self, lines: int = 40) -> str:
        """Return the end of the server's log."""
        path = self.folder / "emulator.log"
        return (
            "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            if path.exists()
            else "(no log)"
        )

    @property
    def pid(self) -> int:
        """of the server; its process group has the same number"""
        if self._process is None:
            raise EmulatorError("the emulator is not running: use it inside `with`")
        return self._process.pid

    def _start(self) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._set({})
        with (self.folder / "emulator.log").open("wb") as log:
            self._process = subprocess.Popen(
                [PYTHON, Path(__file__).with_name("launcher.py")],
                env=self._server_environment(port),
                cwd=self.folder,
                # the server ends when this is closed, and so when this process ends
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(
            self._healthy,
            lambda: f"the emulator does not answer at {self.url}:\n{self.log()}",
            every=0.02,
        )

    def _server_environment(self, port: int) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        for name in ("tmp", "s3", "state"):
            (self.folder / name).mkdir()
        return kept | {
            "AWS_ENDPOINT_URL": self.url,  # passed on to the functions
            "AWS_DEFAULT_REGION": REGION,
            "AUTH": "true" if self.auth else "false",
            "BENCH_FOLDER": str(self.folder),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",  # otherwise it would listen on 8883 too
            "LOG_LEVEL": "INFO",
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "S3_DATA_DIR": str(self.folder / "s3"),
            "SFN_WAIT_SCALE": str(self.wait_scale),
            "SFTP_HOST": "127.0.0.1",
            "STATE_DIR": str(self.folder / "state"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def _healthy(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise EmulatorError(
                f"the emulator ended with {self._process.returncode}:\n{self.log()}"
            )
        try:
            with urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=HANG_S) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _stop(self) -> None:
        if self._process is None:
            return
        tree = _tree(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in tree:  # a function's children may still run
            _kill(process)
        wait_until(
            lambda: not any(map(_is_alive, tree)),
            lambda: f"of the emulator there is still {[*filter(_is_alive, tree)]}",
            every=0.01,
        )
        self._process = None

    def _set(self, settings: Mapping[str, Any]) -> None:
        self._settings |= settings
        path = self.folder / "settings.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self._settings))
        fresh.replace(path)


def wait_until(
    done: Callable[[], bool],
    otherwise: Callable[[], str],
    *,
    every: float = 0.05,
    within: float = HANG_S,
) -> None:
    """Poll until it is true; EmulatorError with the text of `otherwise` if it hangs."""
    end = time.monotonic() + within
    while not done():
        if time.monotonic() > end:
            raise EmulatorError(f"{otherwise()}\n(given up after {within:g} s)")
        time.sleep(every)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants (the server adopts orphans of its functions)."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        # psutil checks the start time first: a reused number is left alone
        process.kill()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
