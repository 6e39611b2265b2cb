"""The whole job of the tariffs: the time and the peak memory of each of its stages; and its price
table, to the byte, for any workers.

    # a million bundle units, 26 million rows
    python -m benchmarks.tariffs_table --size large
    # 1, 2 and 8 workers, both forms
    python -m benchmarks.tariffs_table --size demo --bytes

Memory is the peak, in each stage, of the summed proportional set sizes of this process (the driver
and the warehouse) and all its workers, sampled five times a second. Nothing is left: data and runs
lie in a temporary folder, which goes away.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

import hundredfold
from benchmarks.measure import scratch
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.pipeline.stages import Stage
from tariffs import demo
from tariffs.job import job, per_unit

EVERY = 0.2
FORMS = {"batched": job, "one by one": per_unit}


class Stages(NullCallbacks):
    """A callbacks that keeps the seconds and the peak memory of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self._now, self._since = "", time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def stage_started(self, stage: Stage) -> None:
        self._turn(str(stage))

    def __enter__(self) -> Stages:
        self._turn("begin")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._turn("")
        self._end.set()
        self._thread.join()

    def _turn(self, name: str) -> None:
        now = time.monotonic()
        if self._now:
            self.seconds[self._now] = self.seconds.get(self._now, 0.0) + now - self._since
        self._now, self._since = name, now

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._end.wait(EVERY):
            stage, total = self._now, sum(map(_pss, [me, *me.children(recursive=True)]))
            self.peak[stage] = max(self.peak.get(stage, 0), total)


def _pss(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.Error:
        return 0  # it has just ended


def stages(size: str, workers: int | None, memory: str | None) -> None:
    """One run, a line for each stage."""
    with scratch() as folder:
        began = time.monotonic()
        sources = demo.make(size, folder / "data")
        print(f"{size}: made in {time.monotonic() - began:.1f} s", flush=True)
        with Stages() as seen:
            run = hundredfold.run(
                job,
                sources,
                home=folder / "home",
                as_of=demo.AS_OF,
                workers=workers,
                memory=memory,
                callbacks=seen,
            )
        _tell(run.counts, seen)


def _tell(counts: Mapping[str, Any], seen: Stages) -> None:
    print("| stage | seconds | peak MiB |\n|---|---|---|")
    for name, seconds in seen.seconds.items():
        if seconds >= 0.05 or name in seen.peak:
            print(f"| {name} | {seconds:.1f} | {seen.peak.get(name, 0) / 2**20:,.0f} |")
    total = sum(seen.seconds.values())
    print(f"| **all** | **{total:.1f}** | **{max(seen.peak.values(), default=0) / 2**20:,.0f}** |")
    units = {name: counts["models"][name] for name in ("bundles", "voice")}
    rows = sum(source["rows"] for source in counts["sources"].values())
    priced = ", ".join(f"{c['ok']:,} of {c['units']:,} {name}" for name, c in units.items())
    busy = psutil.getloadavg()
    print(
        f"\n{rows:,} rows in; {priced} priced; {counts['release']['rows']['price_table']:,} prices "
        f"published; load of the machine {busy[0]:.1f}"
    )


def bytes_of(size: str, workers: list[int]) -> bool:
    """The hash of the price table for each number of workers and each form; whether all are one."""
    hashes = set()
    with scratch() as folder:
        sources = demo.make(size, folder / "data")
        for form, declared in FORMS.items():
            for count in workers:
                home = folder / f"{form}-{count}".replace(" ", "-")
                run = hundredfold.run(
                    declared, sources, home=home, as_of=demo.AS_OF, workers=count, run_id="one"
                )
                found = {
                    kind: _hash(run.published("price_table", kind)) for kind in ("csv", "parquet")
                }
                hashes.add(tuple(found.values()))
                print(
                    f"{form:<10}  {count} workers  csv {found['csv'][:16]}  parquet "
                    f"{found['parquet'][:16]}",
                    flush=True,
                )
    print("all the same" if len(hashes) == 1 else f"{len(hashes)} different tables")
    return len(hashes) == 1


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tariffs_table", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--size", default="medium", choices=demo.SIZES)
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help="worker processes (one for each core); several with --bytes (1 2 8)",
    )
    parser.add_argument(
        "--memory", help="for all processes together, such as 6GB (70 %% of the machine's)"
    )
    parser.add_argument("--bytes", action="store_true", help="compare the table's bytes instead")
    given = parser.parse_args()
    if given.bytes:
        sys.exit(not bytes_of(given.size, given.workers or [1, 2, 8]))
    stages(given.size, given.workers[0] if given.workers else None, given.memory)


if __name__ == "__main__":
    main()
