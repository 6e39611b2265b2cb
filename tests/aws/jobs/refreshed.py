"""A job with six sources, which are refreshed together."""

from __future__ import annotations

from typing import Any

from hundredfold import Job, Model, Publish, Source

NAMES = ("a", "b", "c", "d", "e", "f")


def added(rows: Any) -> dict[str, float]:
    return {"total": float(sum(rows[name][0] for name in NAMES))}


job = Job(
    "refreshed",
    sources=[Source(name) for name in NAMES],
    models=[
        Model(
            "added",
            unit=("k",),
            query="SELECT a.k, "
            + ", ".join(f"{name}.x AS {name}" for name in NAMES)
            + " FROM a "
            + " ".join(f"JOIN {name} ON {name}.k = a.k" for name in NAMES[1:]),
            work=added,
        )
    ],
    publish=Publish("totals", "SELECT k, total FROM added ORDER BY k", formats=("csv",)),
)
