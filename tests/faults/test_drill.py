"""A short form of the drill: eight kills over all stages.

The long one, in tests/: python -m support.kill_drill --kills 50
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.waits import HANG_S

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(os.name == "nt", reason="there are no signals to kill with")
def test_a_run_killed_at_any_stage_ends_with_the_same_bytes_and_no_process() -> None:
    command = [sys.executable, "-m", "support.kill_drill", "--kills", "8", "--seed", "11"]
    with subprocess.Popen(
        command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as drill:
        try:
            output, _ = drill.communicate(timeout=HANG_S)
        finally:
            drill.terminate()
    assert drill.returncode == 0, output
    assert "0 faults; 8 files compared" in output
