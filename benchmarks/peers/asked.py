"""What a peer's program is asked, and the few lines that all of them would otherwise repeat."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.workloads import KEYS, WORKLOADS, Workload

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BY = list(KEYS)

Variant = Callable[[Workload, str, str], None]


def answer(variants: Mapping[str, Variant]) -> None:
    """Run the variant that the command line names on its workload: it reads IN and writes OUT."""
    if len(sys.argv) != 5 or sys.argv[1] not in variants:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(variants)}}} WORKLOAD IN OUT")
    variant, name, source, target = sys.argv[1:]
    variants[variant](WORKLOADS[name], source, target)


def columns(workload: Workload) -> list[str] | None:
    """The columns to read: those that the function reads, or all (None) where handing over many is
    the point.
    """
    return None if workload.name == "wide" else [*KEYS, *workload.columns]


def header(workload: Workload) -> list[str]:
    return [*KEYS, *workload.results]


def counts(workload: Workload) -> set[str]:
    """The results that are whole numbers."""
    return {"n", "web"} & set(workload.results)


def of_frame(name: str, key: tuple[Any, ...], rows: Any) -> tuple[Any, ...]:
    """One unit's row from its pandas frame. Takes the workload's name, since a workload cannot be
    pickled.
    """
    return (*key, *WORKLOADS[name].pandas(rows).values())


def of_pair(name: str, unit: tuple[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    return of_frame(name, *unit)
