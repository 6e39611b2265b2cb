"""Provisioned pollers that a run raises, and the last active run lowers.

Pollers deliver messages sooner than the queue's event source mapping does without them, and are
billed by the hour. So the first call of a run raises them, and its end lowers them: they take
seconds to start, while the run validates. They stay while another run of the stack is active. A
run never fails because of them: without pollers, it is slower.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ..ports.interfaces import Ledger, Record
from ..ports.run_states import State
from .adapters.errors import error_code
from .adapters.session import StackResources, client

ACTIVE = (State.NEW, State.RUNNING)
MAX_SILENCE = dt.timedelta(hours=1)  # of the record of an active run
MAX_CONCURRENCY = 1000  # of a mapping without pollers
# a mapping that is being updated accepts no other update
BUSY = {"ResourceInUseException", "ResourceConflictException", "TooManyRequestsException"}
MAX_TRIES, PAUSE_S = 6, 3.0


@dataclass(frozen=True, slots=True)
class RunPollers:
    """The pollers of a stack during runs: the minimum and the maximum.

    `mapping`: the id of the queue's event source mapping; `workers`: the most that it invokes.
    """

    mapping: str
    minimum: int
    maximum: int
    workers: int
    sleep: Callable[[float], object] = time.sleep

    @classmethod
    def of(cls, resources: StackResources) -> RunPollers | None:
        """Return the pollers that runs of a stack raise; None if they raise none."""
        if not (resources.pollers and resources.mapping):
            return None
        minimum, maximum = map(int, resources.pollers.split(","))
        return cls(resources.mapping, minimum, maximum, resources.concurrency)

    def raise_for_run(self) -> None:
        """Raise the pollers. Raises: ClientError."""
        config = {"MinimumPollers": self.minimum, "MaximumPollers": self.maximum}
        self._update(ScalingConfig={}, ProvisionedPollerConfig=config)

    def lower_after_run(self, ended: Record, ledger: Ledger) -> bool:
        """Lower the pollers unless another run is active; return whether they are lowered.

        Raises: ClientError.
        """
        if has_other_run(ended, ledger):
            return False
        most = min(self.workers, MAX_CONCURRENCY)
        self._update(ScalingConfig={"MaximumConcurrency": most}, ProvisionedPollerConfig={})
        # it began meanwhile, or this one was resumed, and may have raised them before
        if has_other_run(ended, ledger) or ledger.read(ended.id).state in ACTIVE:
            self.raise_for_run()
            return False
        return True

    def _update(self, **change: Any) -> None:
        for number in range(MAX_TRIES):
            try:
                client("lambda").update_event_source_mapping(UUID=self.mapping, **change)
                return
            except ClientError as error:
                if error_code(error) not in BUSY or number + 1 == MAX_TRIES:
                    raise
            self.sleep(PAUSE_S)


def has_other_run(ended: Record, ledger: Ledger) -> bool:
    """Return whether another run of a job is active: one that is silent for an hour is not.

    A list of runs may show their previous state, so that each is read.
    """
    earliest = (dt.datetime.now(dt.UTC) - MAX_SILENCE).isoformat()
    return any(
        run.id != ended.id
        and run.state in ACTIVE
        and run.updated > earliest
        and ledger.read(run.id).state in ACTIVE
        for run in ledger.runs(ended.job)
    )
