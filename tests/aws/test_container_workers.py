"""`hundredfold worker` beside Lambda on one queue: killed, terminated, without rights to write."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import hundredfold
from hundredfold.errors import HundredfoldError
from support.containers import container, printed_settings, started
from support.emulator import wait_until
from support.stacks import Stack, Tasks, account, published, trouble

__all__ = ["account", "trouble"]
pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "workers-in-containers.md"
NOBODY = 65534
BUDGETS = {"function": 0.00005, "container": 2}  # dollars: some seconds


@contextmanager
def waiting(stack: Stack, tasks: Tasks, batches: int, **how: object) -> Iterator[str]:
    """A run whose messages wait: Lambda takes none until the end of the block."""
    run = f"contained-{uuid4().hex[:6]}"
    with stack.changed_mapping(Enabled=False):
        stack.run(tasks, run, "duckdb", batches=batches, wait=False, **how)
        stack.wait_for_step(run, "work doubled")
        yield run


def wait_for_calls(stack: Stack, tasks: Tasks, count: int) -> None:
    wait_until(
        lambda: len(tasks.calls()) >= count, lambda: f"{tasks.calls()}\n{stack.emulator.log()}"
    )


def test_workers_that_die_lose_no_unit_beside_each_other_and_lambda(
    trouble: Stack, tmp_path: Path
) -> None:
    units = 24
    tasks = Tasks.write(tmp_path, ["held"] * units)
    with (
        container(trouble, tmp_path / "killed", "--grace", "0") as killed,
        container(trouble, tmp_path / "terminated", "--grace", "0") as terminated,
    ):
        with waiting(trouble, tasks, batches=8) as run:
            wait_for_calls(trouble, tasks, 4)  # both of them have two units each
            assert killed.end(signal.SIGKILL) == -signal.SIGKILL
            assert terminated.end(signal.SIGTERM) == 128 + signal.SIGTERM
            tasks.release()
        with container(trouble, tmp_path / "last", "--idle", "5") as last:
            done = trouble.wait_for_end(run)
            assert last.process.wait() == 0
    assert terminated.counts()["requeued"] > 0
    assert terminated.log()[-1]["reason"] == "a signal"
    counts = done.counts["models"]["doubled"]
    assert (counts["units"], counts["ok"], counts["rows_out"]) == (units, units, units)
    assert tasks.calls().keys() == set(range(units))
    assert trouble.depth() == (0, 0)
    assert published(done) == tasks.local_release(run)


def test_a_container_alone_does_a_run_with_the_rights_of_the_function(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine", "raise", "segfault", *["fine"] * 9])
    with waiting(trouble, tasks, batches=4, max_failed=2) as run:
        with container(trouble, tmp_path / "alone", "--idle", "8") as alone:
            done = trouble.wait_for_end(run)
            assert alone.process.wait() == 0
        assert alone.counts() == {"done": 15, "failed": 2, "dead_lettered": 0, "requeued": 0}
    counts = done.counts["models"]["doubled"]
    assert (counts["ok"], counts["failed"], counts["crashed"]) == (10, 1, 1)
    assert tasks.calls().keys() == set(range(12))
    assert trouble.depth() == (0, 0)


def test_a_terminated_worker_keeps_the_units_that_it_finished(
    trouble: Stack, tmp_path: Path
) -> None:
    before, units = 6, 9  # results are sent after two seconds: at least four of the six
    tasks = Tasks.write(tmp_path, [*["500 ms"] * before, "held", "fine", "fine"])
    with waiting(trouble, tasks, batches=1) as run:
        with container(trouble, tmp_path / "first", "--workers", "1", "--grace", "0") as first:
            wait_for_calls(trouble, tasks, before + 1)
            assert first.end(signal.SIGTERM) == 128 + signal.SIGTERM
        counts = first.counts()
        assert counts["done"] >= 4
        assert counts["done"] + counts["requeued"] == units
        with container(trouble, tmp_path / "second", "--workers", "1") as second:
            wait_until(lambda: tasks.calls()[before] == 2, trouble.emulator.log)
            tasks.release()  # within the grace
            assert second.end(signal.SIGTERM) == 128 + signal.SIGTERM
    done = trouble.wait_for_end(run)
    calls = tasks.calls()
    assert [calls[unit] for unit in range(counts["done"])] == [1] * counts["done"]
    assert calls[before] == 2
    assert published(done) == tasks.local_release(run)


def test_a_container_writes_only_to_its_scratch_folder(trouble: Stack, tmp_path: Path) -> None:
    if os.getuid() != 0 or not shutil.which("setpriv") or not can_unshare():
        pytest.skip("only root can give a process a read-only root file system here")
    tasks = Tasks.write(tmp_path, ["fine"] * 6)
    scratch = tmp_path / "scratch"
    # a private root file system, read-only; the scratch folder is a mount of its own
    script = (
        f"mount --bind {scratch} {scratch} && chown {NOBODY} {scratch} && "
        "mount -o remount,bind,ro / && mount -o remount,bind,ro /dev/shm && "
        # this user may read every file, since the interpreter may be in the home of root
        f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --bounding-set "
        "-all,+dac_read_search --inh-caps -all,+dac_read_search --ambient-caps "
        '-all,+dac_read_search "$@"'
    )
    inside = Tasks(tasks.file, scratch / "calls.txt")
    rows = tasks.file.read_text().replace(str(tasks.log), str(inside.log))
    tasks.file.write_text(rows)
    with waiting(trouble, inside, batches=2) as run:
        before = ("unshare", "--mount", "sh", "-c", script, "sh")
        with container(
            trouble, scratch, "--idle", "8", before=before, HOME="/nonexistent"
        ) as worker:
            done = trouble.wait_for_end(run)
            assert worker.process.wait() == 0
        assert worker.counts()["done"] == 6 + 3
    assert {path.stat().st_uid for path in (scratch / "logs").iterdir()} == {NOBODY}
    assert published(done) == tasks.local_release(run)


def can_unshare() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


# ---- the page about containers


def shown(language: str) -> str:
    """Return the code block of that language."""
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.M)
    return str(block)


def pod_of_the_page(trouble: Stack, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a pod, whose image has the entry point."""
    yaml = pytest.importorskip("yaml")
    pod = yaml.safe_load(shown("yaml"))["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["volumeMounts"] == [{"name": "scratch", "mountPath": "/scratch"}]
    assert container["envFrom"] == [{"configMapRef": {"name": "hundredfold-worker"}}]
    settings = dict(line.split("=", 1) for line in printed_settings(trouble).splitlines())
    return [*trouble.program, "worker", *container["args"], "--workers", "2"], settings


def task_of_the_page(trouble: Stack, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a task of the job array."""
    (tmp_path / "worker.env").write_text(printed_settings(trouble))
    (tmp_path / "worker.sh").write_text(shown("bash"))
    slurm = {"ARRAY_JOB_ID": "7", "CPUS_PER_TASK": "2", "MEM_PER_NODE": "1024"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {f"SLURM_{name}": value for name, value in slurm.items()}
    return ["bash", "worker.sh"], variables | {"PATH": path}


@pytest.mark.parametrize("of_the_page", [pod_of_the_page, task_of_the_page])
def test_two_workers_as_the_page_starts_them_do_a_run(
    trouble: Stack, tmp_path: Path, of_the_page: Any
) -> None:
    tasks = Tasks.write(tmp_path, ["held"] * 12)
    command, variables = of_the_page(trouble, tmp_path)
    environment = trouble.environment | trouble.credentials_of_workers() | variables
    with waiting(trouble, tasks, batches=6) as run, ExitStack() as stack:
        pods = [
            stack.enter_context(
                started(
                    command,
                    tmp_path / name,
                    environment
                    | {
                        "HUNDREDFOLD_SCRATCH": str(tmp_path / name),
                        "TMPDIR": str(tmp_path),
                        "SLURM_ARRAY_TASK_ID": name,
                    },
                    tmp_path,
                )
            )
            for name in ("0", "1")
        ]
        wait_for_calls(trouble, tasks, 4)  # both have two
        tasks.release()
        done = trouble.wait_for_end(run)
        assert [pod.end(signal.SIGTERM) for pod in pods] == [128 + signal.SIGTERM] * 2
    assert sum(pod.counts()["done"] for pod in pods) == 12 + 3
    assert min(pod.counts()["done"] for pod in pods) >= 2
    assert published(done) == tasks.local_release(run)


def test_the_dockerfile_of_workers_passes_the_linter() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    file = files("hundredfold") / "aws" / "Dockerfile.worker"
    done = subprocess.run([hadolint, str(file)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


# ---- budgets


@pytest.mark.parametrize("kind", ["function", "container"])
def test_a_budget_that_is_spent_within_a_call_keeps_what_is_done(
    trouble: Stack, tmp_path: Path, kind: str
) -> None:
    units = 40
    tasks = Tasks.write(tmp_path, ["500 ms"] * units)
    run = f"spent-{uuid4().hex[:6]}"
    how = {"batches": 1, "budget": BUDGETS[kind]}
    with ExitStack() as stack:
        if kind == "container":
            stack.enter_context(trouble.changed_mapping(Enabled=False))
            options = ("--hourly-price", "3600", "--workers", "1")  # a dollar a second
            stack.enter_context(container(trouble, tmp_path / "container", *options))
        with pytest.raises(HundredfoldError, match=r"the budget of .* is spent"):
            trouble.run(tasks, run, "duckdb", **how)
    before = tasks.calls()
    counts = hundredfold.open_run(run, home=trouble.home).counts["models"]["doubled"]
    assert 0 < len(before) < units
    done = hundredfold.resume(run, backend="aws", stack=trouble.name, budget=1000)
    after = tasks.calls()
    kept = [unit for unit in before if after[unit] == 1]
    assert len(kept) >= len(before) - 4, (counts, before, after)  # two seconds of results
    assert after.keys() == set(range(units))
    assert published(done) == tasks.local_release(run)


def test_a_worker_without_a_price_returns_the_messages_of_a_budget(
    trouble: Stack, tmp_path: Path
) -> None:
    tasks = Tasks.write(tmp_path, ["fine"] * 2)
    with waiting(trouble, tasks, batches=1, budget=5) as run:
        with container(trouble, tmp_path / "priceless") as worker:
            assert worker.process.wait() == 2
        assert "--hourly-price DOLLARS" in (worker.scratch / "output.txt").read_text()
        assert trouble.depth() == (1, 0)
    assert published(trouble.wait_for_end(run)) == tasks.local_release(run)


# ---- the command


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("HUNDREDFOLD_TABLE", "", "--table"),
        ("HUNDREDFOLD_SCRATCH", "/proc/nowhere", "--scratch /proc/nowhere cannot be written"),
    ],
)
def test_settings_that_are_missing_or_wrong_are_named(
    tmp_path: Path, variable: str, value: str, found: str
) -> None:
    settings = {
        "HUNDREDFOLD_JOB": "jobs.trouble:job",
        "HUNDREDFOLD_BUCKET": "bucket",
        "HUNDREDFOLD_TABLE": "table",
        "HUNDREDFOLD_QUEUE": "http://127.0.0.1:1/q",
        "HUNDREDFOLD_DEAD": "http://127.0.0.1:1/d",
        "HUNDREDFOLD_SCRATCH": str(tmp_path),
    } | {variable: value}
    done = subprocess.run(
        [sys.executable, "-m", "hundredfold", "worker"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert found in done.stderr
