"""A second emulated AWS account, written by others than the first one: moto's server.

It has S3, SQS and DynamoDB for the tests of the ports. `support/emulator` has the services that
functions and state machines need as well.
"""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from support.emulator import ACCOUNT, HANG_S, KEPT, PYTHON, REGION, Emulator, wait_until

LAUNCHER = Path(__file__).with_name("moto_launcher.py")


class MotoServer(Emulator):
    """An account for the duration of a `with` block, in a process of its own."""

    def _start(self) -> None:
        self.url = ""
        self._set({})
        with (self.folder / "emulator.log").open("wb") as log:
            self._process = subprocess.Popen(
                [PYTHON, LAUNCHER, str(self.folder)],
                env={name: os.environ[name] for name in KEPT if name in os.environ}
                | {"MOTO_ACCOUNT_ID": ACCOUNT, "AWS_DEFAULT_REGION": REGION},
                cwd=self.folder,
                stdin=subprocess.PIPE,  # the server ends when this is closed
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(
            self._healthy, lambda: f"moto's server does not answer:\n{self.log()}", every=0.02
        )

    def _healthy(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"moto's server ended with {self._process.returncode}: {self.log()}")
        port = self.folder / "port"
        if not port.exists():
            return False
        self.url = f"http://127.0.0.1:{port.read_text()}"
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=HANG_S) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
