"""The simulator reproduces the closed-form ramps, and keeps the laws of queues and containers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hundredfold.planning import fleets
from hundredfold.planning.fleets import Fleet
from hundredfold.planning.simulator import Played, Work, play

# seconds of N messages of d seconds, by the ramp: c(t) = min(cap, base + rate * t)
RAMPS = {
    "60 a minute": Fleet(1_000, base=5, per_s=1.0),
    "mapping": Fleet(1_000, base=fleets.MAPPING_BASE, per_s=fleets.MAPPING_PER_S),
    "pollers": Fleet(1_000, base=2 * fleets.CALLS_PER_POLLER, per_s=fleets.POLLERS_PER_S),
    "at once": Fleet(1_000),
    "pollers, 3,000": Fleet(3_000, base=20, per_s=fleets.POLLERS_PER_S),
}
CLOSED_FORM = {
    (3_000, 10): (247, 114, 64, 30, 64),
    (3_000, 60): (626, 310, 239, 180, 179),
    (3_000, 300): (1_545, 1_099, 959, 900, 479),
    (20_000, 60): (1_727, 1_330, 1_260, 1_201, 519),
}


def even_work(count: int, seconds: float, units: int = 1) -> Work:
    """Return batches of the same seconds, whose units take the same."""
    each = np.full(count, float(seconds))
    return Work(each, each / units, np.full(count, units))


def executed(fleet: Fleet, work: Work, seed: int = 1) -> Played:
    return play(fleet, work, np.random.default_rng(seed))


@pytest.mark.parametrize(("count", "seconds"), CLOSED_FORM)
def test_the_closed_form_of_each_ramp_is_reproduced(count: int, seconds: int) -> None:
    work = even_work(count, seconds)
    walls = [executed(fleet, work).wall for fleet in RAMPS.values()]
    assert walls == pytest.approx(CLOSED_FORM[count, seconds], rel=0.02)


@given(
    seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=40),
    slots=st.integers(1, 50),
    cores=st.integers(1, 6),
    units=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_no_fleet_is_faster_than_its_cores(
    seconds: list[float], slots: int, cores: int, units: int
) -> None:
    each = np.array(seconds)
    work = Work(each, each / units, np.full(len(each), units))
    for fleet in (Fleet(slots, cores), Fleet(slots, cores, steals=True)):
        played = executed(fleet, work)
        least = max(each.sum() / (slots * cores), (each / units).max())
        assert played.wall >= least * 0.999
        assert played.wall <= each.sum() * 1.001
        assert played.calls == len(each)


def test_the_same_seed_gives_the_same_execution() -> None:
    fleet = fleets.events(100, 1_000, 5, 300)
    work = replace(even_work(300, 10, 20), spread=0.5, error=0.1)
    assert executed(fleet, work, 7) == executed(fleet, work, 7)
    assert executed(fleet, work, 7).wall != executed(fleet, work, 8).wall


def test_with_one_seed_the_number_of_slots_changes_no_work() -> None:
    work = replace(even_work(300, 10, 20), spread=0.5, error=0.3)
    busy = [executed(fleets.fargate(n, spot=False), work, 5).busy for n in (10, 40, 300)]
    assert busy == pytest.approx([busy[0]] * 3)


def test_calls_above_the_quota_are_throttled_and_return_later() -> None:
    throttled = executed(fleets.mapping(100, 10, 1, 60), even_work(200, 30))
    free = executed(fleets.mapping(10, 10, 1, 60), even_work(200, 30))
    assert throttled.throttled > 0
    assert free.throttled == 0
    assert throttled.receives == throttled.calls + throttled.throttled + throttled.dead_letters
    assert throttled.calls + throttled.dead_letters == 200


def test_a_message_received_too_often_is_dead_lettered() -> None:
    fleet = replace(fleets.mapping(100, 1, 1, 60), max_receives=1)
    played = executed(fleet, even_work(200, 30))
    assert played.dead_letters > 0
    assert played.calls + played.dead_letters == 200


def test_a_batch_above_the_timeout_goes_on_in_another_message() -> None:
    played = executed(fleets.mapping(10, 10, 1, 100), even_work(1, 250, 50))
    assert played.calls == 3
    assert played.dead_letters == 0
    assert played.busy > 250


def test_an_interrupted_task_returns_its_message() -> None:
    fleet = replace(fleets.fargate(50, spot=True), interruptions_per_h=60.0)
    calm, played = (
        executed(each, even_work(500, 30)) for each in (fleets.fargate(50, spot=False), fleet)
    )
    assert calm.interrupted == 0
    assert played.interrupted > 0
    assert played.calls == 500 + played.interrupted
    assert played.wall > calm.wall


def test_late_events_delay_the_end_and_not_the_work() -> None:
    work = even_work(300, 1)
    prompt = executed(fleets.mapping(300, 1_000, 1, 60), work)
    late = executed(fleets.events(300, 1_000, 1, 60), work)
    assert late.wall > prompt.wall
    assert late.calls == prompt.calls == 300


def test_a_container_is_billed_for_its_minimum() -> None:
    played = play(fleets.fargate(10, spot=False), even_work(10, 1), np.random.default_rng(1), 600.0)
    assert played.alive == pytest.approx(10 * 600.0)


def test_idle_local_workers_share_the_last_batches() -> None:
    uneven = Work(np.array([60.0, 10.0]), np.array([1.0, 1.0]), np.array([60, 10]))
    assert executed(fleets.local(2, 0.0), uneven).wall == pytest.approx(35.0)
    assert executed(Fleet(2), uneven).wall == pytest.approx(60.0)


def test_managed_instances_double_in_five_minutes() -> None:
    launches = fleets.managed_lambda(48).launches()
    assert launches[:12].max() == 0
    assert launches[23] == pytest.approx(300)
    assert launches[47] == pytest.approx(600)
