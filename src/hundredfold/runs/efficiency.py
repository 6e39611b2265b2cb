"""The efficiency of a run: the shortest time that its work allows, over the time of its steps.

No schedule ends the work of a model before its cores share it evenly, nor before its longest unit:
work / cores, and what the longest unit takes beyond that (its tail).
"""

from __future__ import annotations

from typing import TypedDict

from ..pipeline.stage_times import StageTimes
from ..ports.interfaces import Record
from ..ports.run_states import State

ENDED = (State.DONE, State.HELD)


class Efficiency(TypedDict):
    """The efficiency of a run, and what it is made of; seconds.

    Units whose results were taken from the pilot of the plan are not part of it.

    share: best / wall. best: of all models, work / cores and the tail of the longest unit. cores:
    the most that a model had. wall: of all steps. stages: of each step.
    """

    share: float
    best: float
    work: float
    longest: float
    cores: int
    wall: float
    stages: dict[str, float]


def efficiency_of(record: Record) -> Efficiency | None:
    """Return the efficiency of a run that has ended.

    None where a driver was killed, so that seconds are missing, and for a record of an earlier
    version of this package.
    """
    times = StageTimes.of(record.counts)
    wall, models = sum(times.seconds.values()), [*record.models.values()]
    known = all("ok" in m and "longest" in m and "cores" in m for m in models)
    if record.state not in ENDED or not (times.complete and wall and models and known):
        return None
    work = [m["seconds"] - m.get("pilot_seconds", 0.0) for m in models]
    pairs = zip(work, models, strict=True)
    best = sum(max(seconds / m["cores"], m["longest"]) for seconds, m in pairs)
    return {
        "share": best / wall,
        "best": best,
        "work": sum(work),
        "longest": max(m["longest"] for m in models),
        "cores": max(m["cores"] for m in models),
        "wall": wall,
        "stages": dict(times.seconds),
    }
