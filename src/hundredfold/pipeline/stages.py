"""The order of the steps: validate; for each model prepare, enqueue, work, collect; then publish.

It is written once, as data. The local runner and the state machine on AWS both read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..job import Job, Model

FIRST_STEPS = ("validate",)
MODEL_STEPS = ("prepare", "enqueue", "work", "collect")
LAST_STEPS = ("publish",)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run: of the whole job, or of one model."""

    step: str
    model: Model | None = None

    def __str__(self) -> str:
        return f"{self.step} {self.model.name}" if self.model else self.step


def stages(job: Job) -> Iterator[Stage]:
    """Yield every stage of a job's run, in order.

    Each can be repeated: existing results are kept and not computed again.
    """
    for step in FIRST_STEPS:
        yield Stage(step)
    for model in job.models:
        for step in MODEL_STEPS:
            yield Stage(step, model)
    for step in LAST_STEPS:
        yield Stage(step)
