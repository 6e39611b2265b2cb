"""The state of a run between two polls of its workers, kept in the record of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..fleets.run_fleets import StartedTasks

MIN_POLL_S, MAX_POLL_S = 1, 60  # seconds between two polls of the progress of the workers
# ... and longer in proportion to the time since the workers began: an execution has at most 25,000
# events, of which a poll takes nine
MAX_POLL_FRACTION = 0.01


@dataclass(frozen=True, slots=True)
class PollState:
    """One poll of the progress of the workers: its time, its result, and the pause until the next.

    `idle` counts consecutive polls without progress and without a message in the queue, over
    `idle_s` seconds; `resends` counts how often the missing messages have been sent again since the
    last progress. `started`: when the run last started workers itself, and `workers`: how many;
    `lacking`: how many more there were messages for, while other runs had workers; `limit`: how
    many the stack allowed. `tasks`: of fleets, that the run started; `checked`: when it last looked
    whether some are missing; `restarts`: how often in a row all were, without progress.
    """

    at: float
    done: int = 0
    pause: int = 0
    idle: int = 0
    resends: int = 0
    idle_s: float = 0.0
    began: float = 0.0
    started: float = 0.0
    workers: int = 0
    lacking: int = 0
    limit: int = 0
    tasks: int = 0
    checked: float = 0.0
    restarts: int = 0

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None, now: float) -> PollState:
        return cls(**{"began": now, **stored}) if stored else cls(now, began=now)

    def next(self, done: int, now: float, *, left: int, busy: bool) -> PollState:
        """Return the next poll: after half of the estimated time left, or twice the previous pause.

        The estimate uses the latest rate; the pause doubles while there is no progress.
        """
        gained, elapsed = done - self.done, now - self.at
        poll = replace(self, at=now, done=done, idle=0, idle_s=0.0)
        if gained > 0 and elapsed > 0:
            pause = self._clamp_pause(left * elapsed / gained / 2, now)
            return replace(poll, pause=pause, resends=0, restarts=0)
        poll = replace(poll, pause=self._clamp_pause(2 * self.pause, now))
        if busy:
            return poll
        return replace(poll, idle=self.idle + 1, idle_s=self.idle_s + max(elapsed, 0))

    def after_start(self, found: StartedTasks, now: float) -> PollState:
        """Return the state after the tasks that were missing have been started, or refused."""
        restarts = self.restarts + found.is_idle
        return replace(self, checked=now, tasks=self.tasks + found.started, restarts=restarts)

    def _clamp_pause(self, seconds: float, now: float) -> int:
        longest = max(MAX_POLL_S, math.ceil(MAX_POLL_FRACTION * (now - self.began)))
        return max(MIN_POLL_S, min(longest, math.ceil(seconds)))
