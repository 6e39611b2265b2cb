"""One command, measured from its start to its exit, with every process that it starts.

Wall time is of the monotonic clock. Memory is the peak of the sum of the proportional set sizes of
the whole tree, sampled each tenth of a second: a page that several processes share counts once, and
a peak shorter than that is missed. CPU is of the whole tree. The use of the machine by others is
measured beside it, so that a disturbed run can be recognised.

Nothing is left: processes that outlive the command are ended, and its home, its temporary folder
and its working folder are one folder, which goes away.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).parent.parent
CORES = psutil.cpu_count() or 1
QUIET = 0.15  # the share of the machine that others may use in a quiet run
LIMIT = int(
    0.7 * psutil.virtual_memory().total
)  # bytes; a run that takes more is stopped, before the system stops another's
BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Killed|Exit)\b.*", re.MULTILINE)


@dataclass(frozen=True)
class Measured:
    """Times in seconds, `others` in cores, memory in bytes. `code` is None when the cap stopped it;
    `left` processes outlived it; `over` when memory stopped it.
    """

    wall: float
    cpu: float
    others: float
    peak: int
    processes: int
    left: int
    code: int | None
    over: bool
    log: str

    @property
    def quiet(self) -> bool:
        return self.others < QUIET * CORES

    @property
    def why(self) -> str:
        """The last line of the log that names an error, or else its last line."""
        lines = (
            ERROR_LINE.findall(self.log)
            or self.log.strip().splitlines()
            or [f"exit code {self.code}"]
        )
        return lines[-1].strip()[:200]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all that a run writes.  Its name is short: sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="hf-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def measure(command: Sequence[str], folder: Path, cap: float, pinned: bool = True) -> Measured:
    """Run `words` in `folder`, for `cap` seconds at most."""
    adopt_orphans()
    log = folder / "log.txt"
    before, ours, others = reaped(), own(), machine()
    with log.open("wb") as output, Watch() as watch:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environment(command, folder, pinned),
            start_new_session=True,
        )
        try:
            code = process.wait(cap)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            wall = time.monotonic() - began
            watch.end()
            left = end_all(gently=process.returncode is not None)
    cpu = max(reaped() - before, watch.cpu)  # what nobody waits for is only seen in samples
    elsewhere = max(0.0, machine() - others - cpu - (own() - ours)) / max(
        time.monotonic() - began, 0.01
    )
    return Measured(
        wall,
        cpu,
        elsewhere,
        watch.peak,
        watch.processes,
        left,
        code,
        watch.peak > LIMIT,
        log.read_text(errors="replace"),
    )


def environment(command: Sequence[str], folder: Path, pinned: bool) -> Mapping[str, str]:
    """The environment of a run: that of its interpreter, as if activated, and
    `folder` as its home.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in BLAS and not name.startswith("HUNDREDFOLD")
    }
    environment |= {
        "PATH": f"{Path(command[0]).parent}{os.pathsep}{environment.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "USERNAME": "bench",
        "DO_NOT_TRACK": "1",
    }
    return environment | (dict.fromkeys(BLAS, "1") if pinned else {})


class Watch:
    """Samples this process's descendants, a tenth of a second apart, until the block or `end` ends
    it.
    """

    def __init__(self, every: float = 0.1) -> None:
        self.every, self.peak, self.processes = every, 0, 0
        self._seen: dict[tuple[int, float], float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu(self) -> float:
        return sum(self._seen.values())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(self.every):
            family = me.children(recursive=True)
            self.processes = max(self.processes, len(family))
            self.peak = max(self.peak, sum(map(self._sample, family)))
            if self.peak > LIMIT:
                _each(family, "kill")

    def _sample(self, process: psutil.Process) -> int:
        try:
            times = process.cpu_times()
            self._seen[process.pid, process.create_time()] = times.user + times.system
            full = process.memory_full_info()
        except psutil.Error:
            return 0
        return int(
            getattr(full, "pss", full.uss)
        )  # where the system has no PSS, what is not shared


def adopt_orphans() -> None:
    """Have processes whose parent ends become our children, so that none escapes."""
    if sys.platform == "linux":
        subreaper = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
        ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0)


def end_all(gently: bool) -> int:
    """End and reap every descendant; how many there were."""
    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
    ]
    if gently:
        _, left = psutil.wait_procs(left, timeout=1)  # most are about to end by themselves
        _each(left, "terminate")
        psutil.wait_procs(left, timeout=3)
    for _ in range(20):  # each ends at once, but may have been starting another
        if not (family := psutil.Process().children(recursive=True)):
            break
        _each(family, "kill")
        psutil.wait_procs(family, timeout=1)
        _reap()
    return len(left)


def _each(processes: Sequence[psutil.Process], verb: str) -> None:
    for process in processes:
        try:
            getattr(process, verb)()
        except psutil.NoSuchProcess:
            continue


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def reaped() -> float:
    """CPU seconds of all descendants that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def own() -> float:
    return time.process_time()


def machine() -> float:
    """CPU seconds that the whole machine has been busy."""
    times = psutil.cpu_times()
    return (
        sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0)
        if sys.platform == "linux"
        else times.user + times.system
    )
