"""The transitions of a release: a total table; only an approval leads from draft to charging."""

from __future__ import annotations

from itertools import product

import pytest

from tariffs.release.states import TABLE, Event, State, after


def test_every_state_answers_every_event() -> None:
    assert set(TABLE) == set(product(State, Event))


@pytest.mark.parametrize(("state", "event"), sorted(TABLE))
def test_an_answer_is_a_state_or_a_sentence(state: State, event: Event) -> None:
    answer = after(state, event)
    assert isinstance(answer, State) or (
        len(answer.split()) > 2 and answer[0].islower() and not answer.endswith(".")
    )


def test_nothing_gets_to_charging_without_an_approval() -> None:
    reached = {State.DRAFT}
    while True:
        more = {
            n
            for s, e in product(reached, Event)
            if e is not Event.APPROVE and isinstance(n := after(s, e), State)
        }
        if more <= reached:
            break
        reached |= more
    # the table alone would restore a withdrawn draft: only the kill switch restores, after approval
    assert {s for s in reached if isinstance(after(s, Event.ACTIVATE), State)} == set()


def test_what_charging_uses_leaves_only_for_another_or_by_the_kill_switch() -> None:
    leaves = {event for event in Event if isinstance(after(State.ACTIVE, event), State)}
    assert leaves == {Event.REPLACE, Event.KILL}


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_left_or_approved_again(state: State) -> None:
    assert any(
        isinstance(answer := after(state, event), State) and answer is not state for event in Event
    )
