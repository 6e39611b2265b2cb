"""Kill a driver, its workers or both at random moments of every stage, go on, and compare the bytes
with an undisturbed run.

    cd tests && python -m support.kill_drill --kills 50 --seed 7

A line for each kill: the stage it was aimed at, where it struck, who was killed, how long the
processes that lost their driver lived on, and how it went on. The last line is the sum; the exit
code is 0 if every run ended with the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import psutil
from annotated_types import Gt

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import HomeError
from hundredfold.local.filesystem import LOCK_NAME
from hundredfold.local.sqlite_ledger import SqliteLedger
from hundredfold.pipeline.stages import stages
from hundredfold.ports.object_keys import TEMP_PREFIX

TESTS = Path(__file__).parents[1]
SHOPS, PRODUCTS, WEEKS = 40, 15, 4  # 600 units of four rows
RUN = "drill"
MARK = "HUNDREDFOLD_DRILL"  # an environment variable that all processes of one driver inherit
PATIENCE = 600.0  # seconds that guard against a hang, however slow the machine is
WHO = ("driver", "driver", "worker", "driver and worker", "server")


@dataclass
class Sale:
    shop: int
    product: str
    week: int
    price: Annotated[float, Gt(0)]
    units: int


def level(rows: Any) -> Any:
    """How much is sold of a product over all shops; slow enough to be met at work."""
    time.sleep(0.02)
    return {
        "mean": float(rows["units"].mean()),
        "sum": float((rows["units"] * rows["price"]).sum()),
    }


def price(rows: Any, level: Any) -> Any:
    time.sleep(0.003)
    share = float((rows["units"] * rows["price"]).sum()) / level["sum"]
    return {
        "price": float(rows["price"].mean()) * (1 + share),
        "sold": int(rows["units"].sum()),
        "over": level["mean"],
    }


JOB = Job(
    "drill",
    sources=[Source("sales", Sale, unique=("shop", "product", "week"))],
    models=[
        Model("level", unit=("product",), order_by=("week",), work=level),
        Model(
            "price",
            unit=("shop", "product"),
            order_by=("week",),
            query="SELECT * FROM sales",
            work=price,
        ),
    ],
    publish=Publish(
        "prices",
        "SELECT p.*, r.table_version FROM price AS p CROSS JOIN run AS r ORDER BY shop, product",
        formats=("csv", "parquet"),
    ),
)

AIMS = ["", "new", *map(str, stages(JOB)), "done"]


def write_sales(path: Path) -> None:
    keys = (
        (shop, product, week)
        for shop in range(SHOPS)
        for product in range(PRODUCTS)
        for week in range(WEEKS)
    )
    rows = [
        f"{s},p{p},{w},{1 + (s * p + w) % 97 / 7:.3f},{(s + 3 * w) % 11 + 1}" for s, p, w in keys
    ]
    path.write_text("\n".join(["shop,product,week,price,units", *rows, ""]))


def drive(home: Path) -> None:
    """What the driver's process does: go on with the run, or begin it."""
    try:
        hundredfold.resume(RUN, home=home, job=JOB)
    except HomeError:  # killed before there was a home, or a run in it
        place = str(home.parent / "sales.csv")
        hundredfold.run(
            JOB,
            {"sales": place},
            home=home,
            run_id=RUN,
            workers=2,
            memory="1GB",
            as_of="2026-01-01",
        )


@dataclass
class Driver:
    """A driver in a process of its own, and all that it starts."""

    home: Path
    process: subprocess.Popen[bytes] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.token = f"{os.getpid()}-{random.getrandbits(48):x}"
        environment = {**os.environ, MARK: self.token, "PYTHONWARNINGS": "error"}
        with (self.home.parent / "output.txt").open("ab") as output:
            command = [sys.executable, "-m", "support.kill_drill", "--drive", str(self.home)]
            self.process = subprocess.Popen(
                command, cwd=TESTS, env=environment, stdout=output, stderr=output
            )

    def family(self) -> list[psutil.Process]:
        """Every process that the driver started and that is alive, the driver itself left out."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if (
                    alive
                    and process.pid != self.process.pid
                    and process.environ().get(MARK) == self.token
                ):
                    found.append(process)
        return found

    def server(self) -> psutil.Process | None:
        """The process that forks the workers: the driver's child that has
        children, or is about to.
        """
        for process in self.family():
            with suppress(psutil.Error):
                if process.ppid() == self.process.pid and "forkserver" in " ".join(
                    process.cmdline()
                ):
                    return process
        return None

    def workers(self) -> list[psutil.Process]:
        server = self.server()
        with suppress(psutil.Error):
            return server.children() if server else []
        return []

    def kill(self, who: str, chance: random.Random) -> bool:
        """Whether there was somebody to kill."""
        struck = False
        if "worker" in who and (workers := self.workers()):
            with suppress(psutil.Error):
                chance.choice(workers).kill()
                struck = True
        if who == "server" and (server := self.server()):
            with suppress(psutil.Error):
                server.kill()
                struck = True
        if "driver" in who and self.process.poll() is None:
            self.process.kill()
            struck = True
        return struck

    def outlived_by(self, seconds: float = PATIENCE) -> float | None:
        """The driver is gone: how long its processes lived on; None if some are still there after
        `seconds`.
        """
        began = time.monotonic()
        while self.family():
            if time.monotonic() - began > seconds:
                return None
            time.sleep(0.005)
        return time.monotonic() - began

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for process in self.family():
            with suppress(psutil.Error):
                process.kill()


def step_of(home: Path) -> str:
    """Where the ledger says that the run is; "" before there is one."""
    path = home / "ledger.sqlite"
    if not path.exists():
        return ""
    try:
        return SqliteLedger(path).read(RUN).step
    except hundredfold.HundredfoldError:
        return ""


def watch(driver: Driver) -> Iterator[str]:
    """The run's step, again and again, until the driver has ended."""
    end = time.monotonic() + PATIENCE
    while driver.process.poll() is None:
        yield step_of(driver.home)
        if time.monotonic() > end:
            raise TimeoutError(f"the driver did not end within {PATIENCE:g} s")
        time.sleep(0.001)


def answer(home: Path) -> dict[str, bytes]:
    """All that a run leaves for others to read, by its place in the home. What is timed is left
    out.
    """
    found = [*home.glob(f"runs/{RUN}/models/*/results.parquet"), *home.glob("releases/**/*")]
    return {
        str(path.relative_to(home)): path.read_bytes() for path in sorted(found) if path.is_file()
    }


def undisturbed(folder: Path) -> tuple[dict[str, bytes], dict[str, float]]:
    """The answer of a run that nobody kills, and how long each of its steps took."""
    write_sales(folder / "sales.csv")
    began: dict[str, float] = {}
    with closing(Driver(folder / "home")) as driver:
        for step in watch(driver):
            began.setdefault(step, time.monotonic())
        if driver.process.returncode:
            raise RuntimeError((folder / "output.txt").read_text())
    moments = [*began.values(), time.monotonic()]
    return answer(folder / "home"), dict(
        zip(began, (b - a for a, b in pairwise(moments)), strict=True)
    )


@dataclass
class Drill:
    """Kills, one after the other, and what they showed."""

    folder: Path
    chance: random.Random
    wanted: dict[str, bytes]
    seconds: dict[str, float]
    struck: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    aimed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    longest: float = 0.0

    def run(self, kills: int) -> None:
        """So many kills, each aimed at the next stage, one to three of them on one run."""
        number = 0
        while self.killed.total() < kills:
            number += 1
            folder = self.folder / f"{number:03d}"
            folder.mkdir()
            write_sales(folder / "sales.csv")
            for _ in range(min(self.chance.choice((1, 1, 2, 3)), kills - self.killed.total())):
                at = AIMS.index(step_of(folder / "home"))
                if AIMS[at] != "done":
                    self.one(
                        folder, min(AIMS[at:], key=lambda aim: (self.aimed[aim], AIMS.index(aim)))
                    )
            self.finish(folder)

    def one(self, folder: Path, aim: str) -> None:
        """One kill on the run of this folder."""
        self.aimed[aim] += 1
        who = (
            self.chance.choice(WHO)
            if aim.startswith(("work", "prepare", "enqueue", "collect"))
            else "driver"
        )
        with closing(Driver(folder / "home")) as driver:
            delay = self.chance.random() * self.seconds.get(aim, 0.3)
            for step in watch(driver):
                if AIMS.index(step) >= AIMS.index(aim):
                    time.sleep(delay)
                    break
            where = step_of(driver.home) or "before the run"
            if not driver.kill(who, self.chance):
                return  # it had ended
            ended = self._end_of(driver, who)
        self.killed[who] += 1
        self.struck[where] += 1
        report(
            f"{self.killed.total():3}  aimed at {aim or 'the start':14} struck {where:14} killed "
            f"{who:20} {ended}"
        )

    def _end_of(self, driver: Driver, who: str) -> str:
        """What became of the driver's processes; of itself too, where only a worker was killed."""
        if "driver" not in who:
            try:
                code = driver.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.faults.append(f"a driver hung after its {who} was killed")
                return "hung"
            return (
                "went on by itself"
                if code == 0
                else f"stopped with exit code {code}, to be resumed"
            )
        driver.process.wait()
        after = driver.outlived_by()
        if after is None:
            self.faults.append("processes outlived their driver")
            return "left orphans"
        self.longest = max(self.longest, after)
        return f"no process left after {after * 1000:.0f} ms"

    def finish(self, folder: Path) -> None:
        """Go on until the run is done, and look at what it left."""
        home = folder / "home"
        if step_of(home) != "done":
            with closing(Driver(home)) as driver:
                if driver.process.wait(PATIENCE):
                    self.faults.append(
                        f"{folder.name} was not resumed: "
                        f"{(folder / 'output.txt').read_text()[-1500:]}"
                    )
                    return
        found = answer(home)
        if found != self.wanted:
            differ = sorted(
                key
                for key in found.keys() | self.wanted.keys()
                if found.get(key) != self.wanted.get(key)
            )
            self.faults.append(f"{folder.name} ended with other bytes in {', '.join(differ)}")
        left = [
            str(path.relative_to(home))
            for path in [*home.rglob(f"{TEMP_PREFIX}*"), *home.glob("scratch/*")]
            if path != home / LOCK_NAME
        ]
        if left:
            self.faults.append(f"{folder.name} left behind {', '.join(left)}")


def report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def drill(folder: Path, kills: int, seed: int) -> Drill:
    """An undisturbed run, and then so many kills."""
    calm = folder / "undisturbed"
    calm.mkdir()
    done = Drill(folder, random.Random(seed), *undisturbed(calm))
    done.run(kills)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        from support import (
            kill_drill as again,  # by its own name, so that workers import what they are to do
        )

        again.drive(options.drive)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = drill(Path(folder), options.kills, options.seed)
    for fault in done.faults:
        report(fault)
    counts = ", ".join(f"{stage} {count}" for stage, count in sorted(done.struck.items()))
    killed = ", ".join(f"{who} {count}" for who, count in sorted(done.killed.items()))
    report(
        f"{done.killed.total()} kills in {time.monotonic() - began:.0f} s ({killed}); struck at: "
        f"{counts}"
    )
    report(
        f"{len(done.faults)} faults; {len(done.wanted)} files compared; the slowest process "
        f"outlived its driver by {done.longest:.2f} s"
    )
    return 1 if done.faults else 0


if __name__ == "__main__":
    sys.exit(main())
