"""The seconds that each stage of a run took, added up over its drivers, as the record holds them.

The driver notes them with the begin of the next stage, which it records anyway. A driver that is
killed leaves its last stage open: its seconds are unknown, and the record says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ports.run_facts import RunCounts, StageTimesFacts


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds by stage. stage, since: the one that is open, and the time of its begin.

    complete: no driver was killed, so that no seconds are missing.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    stage: str = ""
    since: float = 0.0
    complete: bool = True

    @classmethod
    def of(cls, counts: RunCounts) -> StageTimes:
        """Return the times in the counts of a record; none for a run that has not begun."""
        facts = counts.get("times")
        return cls(**facts) if facts else cls()

    def begin(self, stage: str, now: float) -> StageTimes:
        """End the open stage, and begin another."""
        return StageTimes(self.end(now).seconds, stage, now, self.complete)

    def end(self, now: float) -> StageTimes:
        """End the open stage, if there is one. The clock may have been set back."""
        if not self.stage:
            return self
        spent = self.seconds.get(self.stage, 0.0) + max(now - self.since, 0.0)
        return StageTimes({**self.seconds, self.stage: round(spent, 4)}, complete=self.complete)

    def restart(self) -> StageTimes:
        """Return the times for another driver: a stage that is open was never ended."""
        return StageTimes(self.seconds, complete=self.complete and not self.stage)

    @property
    def counts(self) -> RunCounts:
        """The times as a record holds them."""
        facts: StageTimesFacts = {
            "seconds": dict(self.seconds),
            "stage": self.stage,
            "since": self.since,
            "complete": self.complete,
        }
        return {"times": facts}
