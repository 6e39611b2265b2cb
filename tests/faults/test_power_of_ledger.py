"""A loss of power, or a kill, while SQLite writes the ledger: every write that had returned exists,
and runs end with the same bytes.

A writing process is killed during a transaction. The possible states after a loss of power are made
from its files: SQLite syncs its journal before it writes to the database, so any of the database's
sectors may be old or new; before that, any part of the journal may be missing.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hundredfold.local.home import Home
from hundredfold.local.sqlite_ledger import SqliteLedger
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import State
from support.in_process_pool import published_bytes
from support.two_model_runs import JOB, begin, drive, resume, write_sales
from support.waits import HANG_S

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no fork")
SECTOR = 512
KILLS = 60
HERE = Path(__file__).parent


def write_on(path: Path, written: int, seconds: float) -> None:
    """Write notes until the system ends this process, and report each that has returned.

    It is ended after so many seconds of its own CPU time: a busy machine strikes no other moments
    than an idle one.
    """
    ledger, n = SqliteLedger(path), 0
    while True:
        n += 1
        counts: Any = {"n": n, "text": str(n) * (n % 5 * 100_000)}
        ledger.note("r", counts=counts)
        os.write(written, f"{n}\n".encode())
        if n == 1:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)


def killed_writer(path: Path, random: Random) -> int:
    """End a process in one of its transactions, and return the number of the last note that had
    returned.
    """
    reading, written = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_on(path, written, 0.002 + random.random() / 20)
        finally:
            os._exit(1)
    os.close(written)
    printed = b""
    while more := os.read(reading, 2**16):
        printed += more
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGPROF
    return int(printed.split(b"\n")[-2])


def note_in(target: Path, database: bytes, journal: bytes | None) -> tuple[int, bytes]:
    """Return the note that a ledger of these files has, and what its file is once SQLite has
    recovered it.
    """
    target.mkdir(exist_ok=True)
    path = target / "ledger.sqlite"
    path.write_bytes(database)
    hot = target / "ledger.sqlite-journal"
    hot.unlink(missing_ok=True)
    if journal is not None:
        hot.write_bytes(journal)
    (record,) = SqliteLedger(
        path
    ).runs()  # which checks the file's structure, and the row's checksum
    counts: dict[str, Any] = {**record.counts}
    n, text = counts["n"], counts["text"]
    assert text == str(n) * (n % 5 * 100_000)
    return n, path.read_bytes()


def mixed(old: bytes, new: bytes, random: Random) -> bytes:
    """Sectors of one file or the other."""
    size = max(len(old), len(new))
    files = old.ljust(size, b"\0"), new.ljust(size, b"\0")
    return b"".join(files[random.randrange(2)][at : at + SECTOR] for at in range(0, size, SECTOR))


def drill(folder: Path, seed: int) -> dict[str, int]:
    random, found = Random(seed), {"killed": 0, "open": 0, "torn": 0, "cut": 0}
    while found["killed"] < KILLS and not (found["torn"] >= 3 and found["cut"] >= 3):
        found["killed"] += 1
        path = folder / f"{found['killed']}" / "ledger.sqlite"
        path.parent.mkdir()
        now = "2026-01-01T00:00:00.000+00:00"
        SqliteLedger(path).create(Record("r", "j", "", State.NEW, "new", now, now))
        last = killed_writer(path, random)
        database, hot = path.read_bytes(), path.with_name("ledger.sqlite-journal")
        journal = hot.read_bytes() if hot.exists() else None
        n, old = note_in(folder / "as_killed", database, journal)
        assert n in (last, last + 1), (n, last)
        if not journal:
            continue
        found["open"] += 1
        if (
            n == last and database != old
        ):  # the journal was synced, and the database was being written
            found["torn"] += 1
            for _ in range(4):
                assert note_in(folder / "torn", mixed(old, database, random), journal)[0] == last
        elif n == last:
            found["cut"] += 1
            for _ in range(4):
                cut = journal[: random.randrange(len(journal))]
                assert note_in(folder / "cut", database, cut)[0] == last
    return found


def run_and_die(folder: Path, commit: int) -> None:
    """Drive a run; at that commit of its ledger, the process is killed in the open transaction (0:
    never, and they are counted).
    """
    commits, connect = [0], sqlite3.connect

    def seen(sql: str) -> None:
        if sql == "COMMIT":
            commits[0] += 1
            if commits[0] == commit:
                os.kill(os.getpid(), signal.SIGKILL)

    def connected(target: Any, **how: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(target, **how)
        if "ledger.sqlite" in str(target):
            db.set_trace_callback(seen)
        return db

    home = Home(folder / "home")
    begin(home, JOB, "r")
    sqlite3.connect = connected  # type: ignore[assignment]
    drive(home, JOB)
    (folder / "commits").write_text(str(commits[0]))


def in_a_process(call: str, folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    code = (
        "import json, sys; from pathlib import Path; import test_power_of_ledger as t;"
        f" print(json.dumps(t.{call}(Path(sys.argv[1]), int(sys.argv[2]))))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command = [sys.executable, "-c", code, str(folder), str(number)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False
    )


def test_a_ledger_that_is_cut_off_in_a_transaction_keeps_every_write(tmp_path: Path) -> None:
    done = in_a_process("drill", tmp_path, 1)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["open"] >= 3, found
    assert found["torn"] + found["cut"] >= 3, found


def test_a_run_killed_in_an_open_transaction_ends_with_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    write_sales(tmp_path / "whole" / "sales.csv")
    assert in_a_process("run_and_die", tmp_path / "whole", 0).returncode == 0
    commits = int((tmp_path / "whole" / "commits").read_text())
    wanted = published_bytes(tmp_path / "whole" / "home")
    assert wanted
    for commit in sorted({1, *Random(2).sample(range(2, commits), 2), commits}):
        folder = tmp_path / f"killed-{commit}"
        folder.mkdir()
        write_sales(folder / "sales.csv")
        assert in_a_process("run_and_die", folder, commit).returncode == -signal.SIGKILL
        resume(folder / "home")
        assert published_bytes(folder / "home") == wanted, commit
