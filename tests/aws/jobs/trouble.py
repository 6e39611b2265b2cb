"""A job whose rows say what becomes of their unit: this module runs in the emulated functions, and
in the test's own process.

A unit is one row: its number, how it ends, and a file of this machine. A call writes its unit's
number into that file, so that a test can count calls; and where a file of that name with `.mended`
is there, the function is mended, and every unit ends well.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
from annotated_types import Ge

from hundredfold import Job, Model, Publish, Source

PARTS = 3
LIMIT_S = 40.0  # of a unit; a call may take longer
MENDED = "JOB_IS_MENDED"  # in the environment: what was deployed last has another query
TO_NUMBER = "TRY_CAST" if os.environ.get(MENDED) else "CAST"


@dataclass
class Task:
    k: Annotated[int, Ge(0)]
    how: str
    log: str


@dataclass
class Double:
    k: int
    how: str
    twice: Annotated[int, Ge(0)]
    share: float


def fails() -> None:
    raise ValueError("as it was told to")


def fills_the_memory() -> None:
    kept = []
    while len(kept) < 400:
        kept.append(bytearray(16 * 2**20))


def kills_its_function() -> None:
    """As the system does when a function as a whole takes too much memory: the process that Lambda
    knows is gone.
    """
    for process in psutil.Process().parents():
        if "awslambdaric" in " ".join(process.cmdline()):
            process.kill()
            time.sleep(3600)
    raise AssertionError("this is no function")


def writes_and_reads_where_it_may_not() -> None:
    raise ValueError("; ".join(sorted(reach())))


def outlasts() -> None:
    """Let this unit have begun long before its limit: however busy the machine is, no other unit
    comes near to that.
    """
    from hundredfold.workers.unit_runner import UnitRunner

    for found in gc.get_objects():
        if isinstance(found, UnitRunner):
            found.progress[1] -= int(100 * LIMIT_S * 1e9)
    time.sleep(3600)


WAYS: dict[str, Callable[[], Any]] = {
    "fine": lambda: None,
    "raise": fails,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "outlast": outlasts,
    "sleep": lambda: time.sleep(3600),
    "memory": fills_the_memory,
    "kill the function": kills_its_function,
    "no number": lambda: None,  # for the function; the query wants one
    "reach": writes_and_reads_where_it_may_not,
    "500 ms": lambda: time.sleep(0.5),
}
HELD = "held"  # until there is a file of its log's name with `.released`


def doubled(rows: Any) -> dict[str, int]:
    k, log = int(rows["k"][0]), rows["log"][0]
    note(log, k)
    if rows["how"][0] == HELD:
        while not Path(f"{log}.released").exists():
            time.sleep(0.01)
    elif not Path(f"{log}.mended").exists():
        WAYS[rows["how"][0]]()
    return {"twice": 2 * k}


def note(log: str, k: int) -> None:
    """One write for each line: calls in many processes do not mix."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{k}\n".encode())
    os.close(file)


def summed(rows: Any) -> dict[str, int]:
    return {"total": int(rows["twice"].sum())}


def reach() -> list[str]:
    """What the function's role lets the user's code do in the bucket, as `action key`."""
    import boto3

    s3, bucket, run = boto3.client("s3"), os.environ["HUNDREDFOLD_BUCKET"], "reached"
    tried: dict[str, Callable[[], Any]] = {}
    for key in (
        "releases/other/current.json",
        "sources/secret.txt",
        f"runs/{run}/manifest.json",
        "athena/answer.csv",
        "processing/x/y",
    ):
        tried[f"get {key}"] = lambda key=key: s3.get_object(Bucket=bucket, Key=key)
        tried[f"put {key}"] = lambda key=key: s3.put_object(Bucket=bucket, Key=key, Body=b"mine")
        tried[f"delete {key}"] = lambda key=key: s3.delete_object(Bucket=bucket, Key=key)
    for prefix in ("", "releases/", "sources/", "runs/"):
        tried[f"list {prefix}"] = lambda prefix=prefix: s3.list_objects_v2(
            Bucket=bucket, Prefix=prefix
        )
    outcome = f"runs/{run}/models/doubled/outcomes/x"
    tried[f"put {outcome}"] = lambda: s3.put_object(Bucket=bucket, Key=outcome, Body=b"mine")
    done = []
    for words, action in tried.items():
        with suppress(s3.exceptions.ClientError):
            action()
            done.append(words)
    return done


job = Job(
    "trouble",
    sources=[Source("tasks", Task, unique=("k",))],
    models=[
        Model(
            "doubled",
            unit=("k",),
            query=(
                f"SELECT k, how, log, CASE how WHEN 'no number' THEN {TO_NUMBER}(log AS INTEGER) "
                "END AS number FROM tasks"
            ),
            work=doubled,
            time_limit=LIMIT_S,
        ),
        Model(
            "summed",
            unit=("part",),
            query=f"SELECT k % {PARTS} AS part, twice FROM doubled",
            work=summed,
        ),
    ],
    publish=Publish(
        "doubles",
        f"""SELECT u.k, u.how, d.twice, CAST(d.twice AS DOUBLE) / greatest(s.total, 1) AS share
            FROM tasks AS u JOIN doubled AS d ON d.k = u.k JOIN summed AS s ON s.part = u.k % {PARTS} ORDER BY u.k""",
        contract=Double,
        formats=("csv", "parquet"),
    ),
)
