"""A job whose query DuckDB runs, and Athena has no plan for."""

from __future__ import annotations

from typing import Any

from hundredfold import Job, Model, Source


def counted(rows: Any) -> dict[str, int]:
    return {"n": len(rows["k"])}


QUERY = "SELECT a.k FROM tasks a FULL JOIN tasks b ON a.k < b.k"
job = Job("unplannable", sources=[Source("tasks")], models=[Model("n", (), counted, QUERY)])
