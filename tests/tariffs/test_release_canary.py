"""A canary: charging reads one whole table with a release in some locations; one step ends it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest

from hundredfold.errors import HomeError, PublishRefused, StateError, UsageError
from hundredfold.testing import FaultInjector, FaultInjectorAfter, InjectedFault
from support.price_tables import ReleaseSite, bundle, changed, in_memory, table
from tariffs.release import kill_switch, repository
from tariffs.release.actions import canary_locations
from tariffs.release.decide import LAST_APPROVED
from tariffs.release.decision_log import Table
from tariffs.release.kill_switch import RULE, UNCHANGED
from tariffs.release.tables import read_parquet

NEW = changed(changed(table(), "YOUTH/ACCRA/DAY", price=2.2), "YOUTH/TEMA/DAY", price=2.2)


def begun(site: ReleaseSite) -> ReleaseSite:
    """Release 1 is active, release 2 is tried in Accra."""
    site.use()
    site.approve(site.publish(NEW))
    site.start_canary(2, ["ACCRA"])
    return site


def asked(site: ReleaseSite) -> dict[str, float]:
    """What charging asks of each bundle, read as charging reads it."""
    files = site.pointer["files"]
    assert not [
        words
        for key, wanted in files.items()
        if (words := repository._file_damage(key, wanted, site.store))
    ]
    rows = read_parquet(site.store.get(f"{site.pointer['folder']}/price_table.parquet")).to_pylist()
    return {
        r["unit_key"]: r["price"] for r in rows if r["kind"] == "bundle" and r["product"] == "DAY"
    }


def test_charging_uses_new_prices_in_a_canarys_locations_and_old_elsewhere(
    site: ReleaseSite,
) -> None:
    begun(site)
    assert asked(site) == {"YOUTH/ACCRA/DAY": 2.2, "YOUTH/HO/DAY": 2.0, "YOUTH/TEMA/DAY": 2.0}
    assert (site.state(1), site.state(2)) == ("active", "canary")
    assert (site.pointer["version"], site.pointer["canary"], site.pointer["locations"]) == (
        1,
        2,
        ["ACCRA"],
    )
    assert site.decisions.active == Table(1, canary=2, locations=("ACCRA",))


def test_then_it_is_activated_everywhere(site: ReleaseSite) -> None:
    begun(site).activate(2)
    assert asked(site)["YOUTH/TEMA/DAY"] == 2.2
    assert (site.state(1), site.state(2), site.decisions.active) == (
        "withdrawn",
        "active",
        Table(2),
    )


def test_or_taken_back_in_one_step_and_never_gone_back_to(site: ReleaseSite) -> None:
    begun(site).kill(LAST_APPROVED)
    assert asked(site)["YOUTH/ACCRA/DAY"] == 2.0
    assert (site.state(1), site.state(2), site.decisions.active) == (
        "active",
        "withdrawn",
        Table(1),
    )
    assert site.decisions.fallbacks() == []


def test_the_rule_takes_both_away(disk: ReleaseSite) -> None:
    begun(disk).kill(RULE)
    assert (disk.state(1), disk.state(2)) == ("withdrawn", "withdrawn")
    charging = disk.decisions.active
    assert charging is not None
    assert (charging.version, charging.rule, charging.canary) == (1, True, None)
    # the step is measured from the prices in charging
    assert charging.after.startswith("canary-000002-upon-000001-")


def test_frozen_are_the_prices_of_both_tables_where_each_is_asked(disk: ReleaseSite) -> None:
    before = asked(begun(disk))
    shown = kill_switch.preview_kill(UNCHANGED, disk.store)
    assert [(m.raised, m.lowered, m.margin) for m in shown.moves] == [(0, 0, 0.0)] * 2
    done = disk.kill(UNCHANGED)
    assert done.entry.active == shown.table
    assert (
        asked(disk)
        == before
        == {"YOUTH/ACCRA/DAY": 2.2, "YOUTH/HO/DAY": 2.0, "YOUTH/TEMA/DAY": 2.0}
    )
    with pytest.raises(StateError, match=r"the frozen prices of canary-.* is active already"):
        disk.kill(UNCHANGED)
    disk.kill(RULE)
    charging = disk.decisions.active
    assert charging is not None
    # the step is measured from the frozen prices
    assert charging.after.startswith("unchanged-000001-after-canary-")


def test_with_a_damaged_base_table_the_kill_switch_goes_further_back(disk: ReleaseSite) -> None:
    disk.use()
    disk.use(changed(table(), "YOUTH/TEMA/DAY", price=2.1))
    disk.approve(disk.publish(NEW))
    disk.start_canary(3, ["ACCRA"])
    disk.damage(2)
    done = disk.kill(LAST_APPROVED)
    assert disk.decisions.active == Table(1)
    assert [disk.state(v) for v in (1, 2, 3)] == ["active", "withdrawn", "withdrawn"]
    assert done.skipped == (
        "release 2: price_table.parquet is not what was published: its SHA-256 differs",
    )


def test_beside_the_rules_prices_there_can_be_a_canary_too(disk: ReleaseSite) -> None:
    disk.use()
    disk.kill(RULE)
    disk.approve(disk.publish(NEW))
    disk.start_canary(2, ["ACCRA"])
    assert disk.decisions.active == Table(1, rule=True, canary=2, locations=("ACCRA",))
    assert asked(disk)["YOUTH/ACCRA/DAY"] == 2.2
    disk.kill(LAST_APPROVED)
    assert disk.decisions.active == Table(1, rule=True)


def test_it_grows_and_another_one_takes_its_place(disk: ReleaseSite) -> None:
    begun(disk)
    disk.approve(disk.publish(NEW))
    disk.start_canary(3, ["TEMA"])
    assert [disk.state(v) for v in (1, 2, 3)] == ["active", "withdrawn", "canary"]
    disk.start_canary(3, ["ACCRA"])
    assert disk.decisions.active == Table(1, canary=3, locations=("ACCRA",))
    disk.use(table())
    assert [disk.state(v) for v in (1, 2, 3, 4)] == [
        "withdrawn",
        "withdrawn",
        "withdrawn",
        "active",
    ]


@pytest.mark.parametrize(
    ("locations", "words"),
    [
        (["HO"], "cannot be tried in HO: they are control"),
        (["LAGOS"], "cannot be tried in LAGOS: there are none of these names"),
        (["ACCRA", "TEMA"], "these are all locations that are not control"),
        (1.0, "a share is between"),
    ],
)
def test_where_it_cannot_be_tried_is_reported(
    disk: ReleaseSite, locations: Any, words: str
) -> None:
    disk.use()
    disk.approve(disk.publish(NEW))
    with pytest.raises(UsageError, match=words):
        disk.start_canary(2, locations)


def test_a_canary_needs_approval_another_person_and_guards(disk: ReleaseSite) -> None:
    disk.use()
    disk.publish(changed(table(), "YOUTH/ACCRA/DAY", price=3.0))
    with pytest.raises(
        StateError, match="release 2 cannot be tried in some locations: it is a draft"
    ):
        disk.start_canary(2, ["ACCRA"])
    disk.approve(2, overridden=["CHANGE_SIZE", "STEP"], reason="Accra is new")
    with pytest.raises(StateError, match="who cannot activate it too"):
        disk.start_canary(2, ["ACCRA"], by="ama")
    disk.use(NEW)
    with pytest.raises(PublishRefused, match="CHANGE_SIZE"):
        disk.start_canary(2, ["ACCRA"])


def test_without_a_table_for_the_other_places_there_is_none(disk: ReleaseSite) -> None:
    disk.approve(disk.publish())
    with pytest.raises(
        StateError, match="no table is active, so there is none for the other locations"
    ):
        disk.start_canary(1, ["ACCRA"])


def test_while_it_is_tried_it_cannot_be_withdrawn_by_hand(disk: ReleaseSite) -> None:
    with pytest.raises(StateError, match="charging uses it in some locations: use the kill switch"):
        begun(disk).withdraw(2)


def test_a_share_chooses_the_same_locations_for_a_release_and_others_else() -> None:
    rows = table(*[bundle(f"L{n:03d}", control_flag=n % 10 == 0) for n in range(200)]).select(
        ["location", "control_flag"]
    )
    some = canary_locations(3, rows, 0.1)
    assert some == canary_locations(3, pa.Table.from_pylist(rows.to_pylist()[::-1]), 0.1)
    assert len(some) == 18
    assert not {name for name in some if int(name[1:]) % 10 == 0}
    assert some != canary_locations(4, rows, 0.1)
    assert set(some) < set(canary_locations(3, rows, 0.2))  # it grows by adding


def test_the_guards_compare_with_the_table_of_the_other_places(disk: ReleaseSite) -> None:
    begun(disk)
    disk.publish(NEW)
    done = disk.approve(3)
    assert done.entry.compared_with == Table(1)


@pytest.mark.parametrize("kind", [FaultInjector, FaultInjectorAfter])
@pytest.mark.parametrize("what", ["try", "kill", "activate"])
def test_stopped_at_any_call_charging_reads_a_whole_table(what: str, kind: Any) -> None:
    steps: dict[str, Callable[[ReleaseSite], Any]] = {
        "try": lambda p: p.start_canary(2, ["ACCRA"]),
        "kill": lambda p: p.kill(LAST_APPROVED),
        "activate": lambda p: p.activate(2),
    }
    wanted = {"try": 2.2, "kill": 2.0, "activate": 2.2}[what]
    before = in_memory()
    before.use()
    before.approve(before.publish(NEW))
    if what != "try":
        before.start_canary(2, ["ACCRA"])
    for stop in itertools.count(0):
        site = in_memory(before)
        store = site.store
        faulty = kind(store, fail_at=stop)
        site.store, site.once = faulty, faulty
        with suppress(InjectedFault):
            steps[what](site)
        site.store, site.once = store, store
        asked(site)
        with suppress(StateError):
            steps[what](site)
        repository.repair_pointer(site.store)
        assert asked(site)["YOUTH/ACCRA/DAY"] == wanted, f"stopped at call {stop}"
        if faulty.calls < stop:
            assert stop > 5
            return


def test_a_log_that_states_another_canary_is_refused(disk: ReleaseSite) -> None:
    begun(disk)
    key = f"{repository.LOG}/000004.json"
    disk.store.put(key, disk.store.get(key).to_pybytes().replace(b'"canary": 2', b'"canary": 7'))
    with pytest.raises(HomeError, match="its moves make canaries"):
        disk.decisions  # noqa: B018
