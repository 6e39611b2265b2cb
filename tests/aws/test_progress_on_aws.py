"""The progress of a model, read from another machine: exactly what the newest outcomes state."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.aws.progress import ProgressReader
from hundredfold.data.checksums import put_sealed
from hundredfold.data.layout import Layout
from hundredfold.data.messages import Message
from hundredfold.data.outcomes import UnitStatus, pack_statuses
from support.emulator import Emulator

UNITS = 12
slices = st.tuples(
    st.integers(0, UNITS - 1), st.integers(0, UNITS - 1), st.sets(st.integers(0, UNITS - 1))
).map(lambda drawn: (min(drawn[:2]), max(drawn[:2]), drawn[2]))


@pytest.fixture(scope="module")
def store(aws_env: Emulator) -> S3Store:
    aws_env.client("s3").create_bucket(Bucket="counted")
    return S3Store("counted")


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rounds=st.lists(st.lists(slices, min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_last_outcome_of_each_unit_counts(
    store: S3Store, rounds: list[list[tuple[int, int, set[int]]]]
) -> None:
    layout = Layout(uuid4().hex)
    reader = ProgressReader(store, layout, "m", UNITS)
    last: dict[int, bool] = {}
    for attempt, done in enumerate(rounds, 1):
        for batch, (first, last_, wrong) in enumerate(done):
            message = Message(layout.run, "m", batch, first, last_, attempt)
            bad = [
                UnitStatus(unit, "failed", "ValueError", f"unit {unit}\nand more")
                for unit in sorted(wrong)
                if first <= unit <= last_
            ]
            accounts = pack_statuses(
                message, np.zeros(message.units), np.ones(message.units, np.int64), bad, []
            )
            put_sealed(store, layout.outcome(message, "status"), accounts)
            last |= {unit: unit in wrong for unit in range(first, last_ + 1)}
        found = reader.read()
        assert (found.model, found.units, found.done, found.failed) == (
            "m",
            UNITS,
            len(last),
            sum(last.values()),
        )
        assert "\n" not in found.last_failure
    assert reader.read() == found
