"""A job whose rows determine the outcome of their unit.

The module runs in the emulated functions, and in the test's own process. A unit is one row: its
number, its ending, and a local file. A call writes the unit's number into that file, so that a test
can count calls. If a file of the same name with `.mended` exists, the function is fixed, and every
unit succeeds.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
from annotated_types import Ge

from hundredfold import Job, Model, Publish, Source

PARTS = 3
LIMIT_S = 600.0  # of a unit: above any time that a test holds one on a busy machine
MENDED = "JOB_IS_MENDED"  # environment variable: the code deployed last has another query
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
    raise ValueError("as its row requests")


def fills_the_memory() -> None:
    kept: list[bytearray] = []
    while len(kept) < 400:
        kept.append(bytearray(16 * 2**20))


def kills_its_function() -> None:
    """Act like the system when a function exceeds its memory: kill the process of Lambda."""
    for process in psutil.Process().parents():
        if "awslambdaric" in " ".join(process.cmdline()):
            process.kill()
            time.sleep(3600)
    raise AssertionError("this is no function")


def writes_and_reads_where_it_may_not() -> None:
    raise ValueError("; ".join(sorted(reach())))


def outlasts() -> None:
    """Let this unit start long before its limit, so that on a busy machine no other unit reaches
    it.
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
    "no number": lambda: None,  # for the function; the query needs a column
    "reach": writes_and_reads_where_it_may_not,
    "500 ms": lambda: time.sleep(0.5),
    "held in a task": lambda: None,
}
HELD = "held"  # until a file of its log's name with `.released` exists
HELD_IN_A_TASK = "held in a task"  # the same; in a function, whose call has an end, it is fine


def doubled(rows: Any) -> dict[str, int]:
    k, log = int(rows["k"][0]), rows["log"][0]
    note(log, k)
    if rows["how"][0] == HELD or (rows["how"][0] == HELD_IN_A_TASK and not is_in_a_function()):
        while not Path(f"{log}.released").exists():
            time.sleep(0.01)
    elif not Path(f"{log}.mended").exists():
        WAYS[rows["how"][0]]()
    return {"twice": 2 * k}


def is_in_a_function() -> bool:
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def note(log: str, k: int) -> None:
    """One write for each line, so that calls of several processes do not mix."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{k}\n".encode())
    os.close(file)


def summed(rows: Any) -> dict[str, int]:
    return {"total": int(rows["twice"].sum())}


def reach() -> list[str]:
    """Return the bucket access of the user's code under the function's role, as `action key`."""
    import boto3

    s3, bucket, run = boto3.client("s3"), os.environ["HUNDREDFOLD_BUCKET"], "reached"
    attempts: dict[str, Callable[[], Any]] = {}
    for key in (
        "releases/other/current.json",
        "sources/secret.txt",
        f"runs/{run}/manifest.json",
        "athena/answer.csv",
        "processing/x/y",
    ):
        attempts[f"get {key}"] = partial(s3.get_object, Bucket=bucket, Key=key)
        attempts[f"put {key}"] = partial(s3.put_object, Bucket=bucket, Key=key, Body=b"mine")
        attempts[f"delete {key}"] = partial(s3.delete_object, Bucket=bucket, Key=key)
    for prefix in ("", "releases/", "sources/", "runs/"):
        attempts[f"list {prefix}"] = partial(s3.list_objects_v2, Bucket=bucket, Prefix=prefix)
    outcome = f"runs/{run}/models/doubled/outcomes/x"
    attempts[f"put {outcome}"] = lambda: s3.put_object(Bucket=bucket, Key=outcome, Body=b"mine")
    done = []
    for name, action in attempts.items():
        with suppress(s3.exceptions.ClientError):
            action()
            done.append(name)
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
            FROM tasks AS u JOIN doubled AS d ON d.k = u.k
                JOIN summed AS s ON s.part = u.k % {PARTS}
            ORDER BY u.k""",
        contract=Double,
        formats=("csv", "parquet"),
    ),
)
