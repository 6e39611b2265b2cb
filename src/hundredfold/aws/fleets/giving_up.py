"""The end of a run whose fleets cannot work, apart from the start of their tasks."""

from __future__ import annotations

from ...errors import WorkerError
from .run_fleets import RunFleets, StartedTasks

MAX_RESTARTS = 3  # of all tasks in a row, without a unit that was completed


def refuse_without_tasks(model: str, restarts: int, found: StartedTasks, fleets: RunFleets) -> None:
    """Raise WorkerError if no task works for a run, and none will.

    restarts: how often in a row all tasks were missing, the first start included.
    """
    names = ", ".join(each["name"] for each in fleets.requests)
    if found.is_refused:
        remedies = dict.fromkeys(each.remedy for each in found.refusals)
        raise WorkerError(
            f"{model}: no task of the fleet {names} can start",
            problems=list(dict.fromkeys(each.reason for each in found.refusals)),
            hint=f"{'; '.join(remedies)}; then hundredfold resume {fleets.run}",
        )
    if found.is_idle and restarts > MAX_RESTARTS + 1:
        raise WorkerError(
            f"{model}: all tasks of the fleet {names} were started {MAX_RESTARTS} times more, and "
            "none has completed a unit",
            problems=[each.reason for each in found.refusals] or fleets.reasons(),
            hint=f"see the log group of the tasks; then hundredfold resume {fleets.run}",
        )
