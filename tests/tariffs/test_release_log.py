"""The log: entries follow from earlier ones, later changes are detected, and it has the state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tariffs.release.decision_log import (
    LOG_FORMAT,
    Attribution,
    BrokenLog,
    DecisionLog,
    EventRefused,
    Finding,
    LogEntry,
    OtherFormat,
    Table,
    decode,
    encode,
)
from tariffs.release.states import Event, State

ATTRIBUTION = Attribution("ama", "robot@host", "2026-06-29T12:00:00Z", "because é", "1f")
A, R, X, W, K, B = (
    Event.APPROVE,
    Event.REPLACE,
    Event.ACTIVATE,
    Event.WITHDRAW,
    Event.KILL,
    Event.RESTORE,
)


def grown(*steps: tuple[list[tuple[int, Event]], Table | None]) -> DecisionLog:
    """Return a log of these moves, with the active table after each."""
    book = DecisionLog()
    for moves, charging in steps:
        book = book.then(
            encode(book.entry("verb", ATTRIBUTION, moves=tuple(moves), active=charging))
        )
    return book


def texts(steps: list[tuple[list[tuple[int, Event]], Table | None]]) -> list[bytes]:
    book, made = DecisionLog(), []
    for moves, charging in steps:
        made.append(encode(book.entry("verb", ATTRIBUTION, moves=tuple(moves), active=charging)))
        book = book.then(made[-1])
    return made


STORY: list[Any] = [
    ([(1, A)], None),
    ([(1, X)], Table(1)),
    ([(2, A)], Table(1)),
    ([(2, X), (1, R)], Table(2)),
]


def test_an_entry_is_read_as_it_was_written() -> None:
    entry = LogEntry(
        3,
        "approve",
        ATTRIBUTION,
        ((2, A),),
        Table(1),
        "ab",
        Table(1, rule=True),
        (Finding("STEP", False, "1", "0", ("u: +3%",), 1),),
        ("STEP",),
        {"data_age": 21.0},
        "cd",
    )
    assert decode(encode(entry)) == entry


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"number": 1}', b"\xff"])
def test_bytes_that_are_no_entry_are_reported(data: bytes) -> None:
    with pytest.raises(BrokenLog, match="cannot be read"):
        decode(data)


def test_a_change_of_any_byte_that_matters_is_seen_by_the_entry_after_it() -> None:
    first, second, *_ = texts(STORY)
    with pytest.raises(BrokenLog, match="entry 1 was changed after entry 2 was written"):
        DecisionLog().then(first.replace(b"because", b"Because")).then(second)


def test_an_entry_that_is_missing_is_seen() -> None:
    first, _, third, _ = texts(STORY)
    with pytest.raises(BrokenLog, match="entry 2 is missing: the next one there is entry 3"):
        DecisionLog().then(first).then(third)


@pytest.mark.parametrize(
    ("moves", "charging", "words"),
    [
        ([(1, X)], Table(1), "release 1 cannot be activated: it is a draft"),
        (
            [(1, A)],
            Table(1),
            "names release 1 as the active table, and its moves make active: \\[\\]",
        ),
    ],
)
def test_an_entry_that_cannot_have_happened_is_refused(
    moves: Any, charging: Any, words: str
) -> None:
    with pytest.raises(BrokenLog, match=words):
        grown((moves, charging))


def test_a_release_that_the_log_does_not_know_is_a_draft() -> None:
    assert DecisionLog().state(7) is State.DRAFT
    assert DecisionLog().active is None
    assert DecisionLog().since() is None


def test_the_states_follow_from_the_entries() -> None:
    book = grown(*STORY)
    assert (book.state(1), book.state(2), book.active) == (
        State.WITHDRAWN,
        State.ACTIVE,
        Table(2),
    )
    assert [e.number for e in book.entries_of(1)] == [1, 2, 4]
    assert book.approval(2).number == 3  # type: ignore[union-attr]
    assert book.since().number == 4  # type: ignore[union-attr]
    assert (book.was_used(1), book.was_used(3)) == (True, False)


def test_since_is_the_entry_that_changed_the_active_table_not_the_last_one() -> None:
    book = grown(*STORY, ([(3, A)], Table(2)), ([(3, W)], Table(2)))
    assert book.since().number == 4  # type: ignore[union-attr]


def test_the_kill_switch_goes_back_to_the_table_that_was_used_last() -> None:
    book = grown(*STORY, ([(3, A)], Table(2)), ([(4, A)], Table(2)), ([(4, X), (2, R)], Table(4)))
    assert book.fallbacks() == [
        2,
        1,
        3,
    ]  # 3 is approved, and charging has never used it: it comes last


def test_it_never_goes_back_to_what_was_killed_or_withdrawn_by_hand() -> None:
    killed = grown(*STORY, ([(2, K), (1, B)], Table(1)))
    assert killed.fallbacks() == []
    by_hand = grown(*STORY, ([(1, W)], Table(2)))
    assert by_hand.fallbacks() == []


def test_what_was_approved_again_may_come_back() -> None:
    assert grown(*STORY, ([(2, K), (1, B)], Table(1)), ([(2, A)], Table(1))).fallbacks() == [2]


def test_a_draft_that_was_withdrawn_is_nothing_to_go_back_to() -> None:
    assert grown(*STORY, ([(3, W)], Table(2))).fallbacks() == [1]


def test_a_canary_that_the_moves_do_not_make_is_refused() -> None:
    book = grown(*STORY)
    entry = book.entry(
        "canary", ATTRIBUTION, moves=((3, A),), active=Table(2, canary=3, locations=("ACCRA",))
    )
    with pytest.raises(
        BrokenLog,
        match=r"names release 2, with release 3 in 1 location as the active table,"
        r" and its moves make canaries: \[\]",
    ):
        book.then(encode(entry))


@pytest.mark.parametrize("format", [1, LOG_FORMAT + 1])
def test_an_entry_of_another_format_is_refused(format: int) -> None:
    entry = json.loads(encode(DecisionLog().entry("approve", ATTRIBUTION, moves=((1, A),))))
    if format == 1:  # its entries do not name their format
        del entry["format"]
        entry["said"] = entry.pop("attribution")
    else:
        entry["format"] = format
    with pytest.raises(OtherFormat, match=f"entry 1 has format {format}"):
        decode(json.dumps(entry).encode())


def test_the_last_limit_that_was_set_holds() -> None:
    book = DecisionLog()
    for limits in ({"data_age": 21.0, "units_lost": 3.0}, {"data_age": 7.0}):
        book = book.then(encode(book.entry("limits", ATTRIBUTION, limits=limits)))
    assert book.limits == {"data_age": 7.0, "units_lost": 3.0}


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(Event)), max_size=25))
def test_whatever_people_try_one_release_at_most_is_active(tries: list[tuple[int, Event]]) -> None:
    book = DecisionLog()
    for version, event in tries:
        moves = [(version, event)]
        if event in (X, B) and book.active:
            moves.append((book.active.version, R if event is X else K))
        try:
            states = book.moved(moves)
        except EventRefused:
            continue
        active = [v for v, s in states.items() if s is State.ACTIVE]
        tried = [v for v, s in states.items() if s is State.CANARY]
        assert len(active) <= 1
        canary: dict[str, Any] = {"canary": tried[0], "locations": ("ACCRA",)} if tried else {}
        entry = encode(
            book.entry(
                "try",
                ATTRIBUTION,
                moves=tuple(moves),
                active=Table(active[0], **canary) if active else None,
            )
        )
        if len(tried) > 1 or (tried and not active):
            with pytest.raises(BrokenLog, match="its moves make canaries"):
                book.then(entry)
            continue
        book = book.then(entry)
    assert all(
        book.state(v) is not State.DRAFT and v != (book.active and book.active.version)
        for v in book.fallbacks()
    )
    assert [e.number for e in book.entries] == list(range(1, len(book.entries) + 1))
    assert json.loads(encode(book.entry("next", ATTRIBUTION)))["previous"] == book.last
