"""Decisions on releases, locally and in S3: permissions, the active pointer, and concurrency."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hundredfold.errors import HomeError, PublishRefused, StateError, UsageError
from hundredfold.pipeline.releases import current_version, release_folder, rollback
from hundredfold.testing import FaultInjector, FaultInjectorAfter, InjectedFault
from support.price_tables import CATALOGUE, NOW, ReleaseSite, bundle, changed, in_memory, table
from support.waits import HANG_S
from tariffs.release import actions, kill_switch, repository, status
from tariffs.release.decide import LAST_APPROVED
from tariffs.release.decision_log import Attribution, Table
from tariffs.release.kill_switch import RULE
from tariffs.release.repository import JOB
from tariffs.release.tables import read_parquet

DEAR = changed(table(), "YOUTH/ACCRA/DAY", price=2.2)
TOO_DEAR = changed(
    table(), "YOUTH/ACCRA/DAY", price=3.0
)  # beyond the step, and beyond the change that is allowed


def test_a_release_begins_as_a_draft_and_charging_uses_nothing(site: ReleaseSite) -> None:
    site.publish()
    assert site.state(1) == "draft"
    assert status.status_facts(site.decisions, site.store)["active"] is None


def test_approved_by_one_and_activated_by_another_charging_uses_it(site: ReleaseSite) -> None:
    version = site.publish()
    site.approve(version, by="ama")
    assert site.state(version) == "approved"
    assert site.decisions.active is None
    site.activate(version, by="kofi", reason="week 27")
    assert site.state(version) == "active"
    assert site.pointer["folder"] == release_folder(JOB, version)
    assert (site.pointer["version"], site.pointer["rule"], site.pointer["author"]) == (
        version,
        False,
        "kofi",
    )


def test_the_pointer_names_the_files_with_their_sums(site: ReleaseSite) -> None:
    site.use()
    release = repository.stored_release(1, site.store).release
    assert release is not None
    assert site.pointer["files"] == release.files


def test_the_next_one_withdraws_the_one_before_in_the_same_entry(site: ReleaseSite) -> None:
    site.use()
    site.use(DEAR)
    assert (site.state(1), site.state(2)) == ("withdrawn", "active")
    assert [str(event) for _, event in site.decisions.entries[-1].moves] == ["activate", "replace"]
    assert len(site.decisions.entries) == 4


def test_the_log_states_who_when_why_and_from_which_account(site: ReleaseSite) -> None:
    site.approve(site.publish(), by="ama", reason="looked at all of Tamale")
    attribution = site.decisions.entries[0].attribution
    assert (attribution.author, attribution.login, attribution.at, attribution.reason) == (
        "ama",
        "robot@host",
        "2026-06-29T12:00:00Z",
        "looked at all of Tamale",
    )


def test_what_the_job_published_stays_as_it_was(site: ReleaseSite) -> None:
    site.publish()
    site.publish(DEAR)
    before = {
        key: site.store.get(key).to_pybytes()
        for v in (1, 2)
        for key in site.store.list(f"{release_folder(JOB, v)}/")
    }
    now = current_version(JOB, site.store)
    for version in (1, 2):
        site.approve(version)
        site.activate(version)
    site.kill(RULE)
    assert {
        key: site.store.get(key).to_pybytes()
        for v in (1, 2)
        for key in site.store.list(f"{release_folder(JOB, v)}/")
    } == before
    assert current_version(JOB, site.store) == now == 2
    rollback(JOB, site.store)  # the job's own pointer is another one
    assert site.decisions.active == Table(2, rule=True)


@pytest.mark.parametrize(
    ("before", "verb", "words"),
    [
        ("", "activate", "release 1 cannot be activated: it is a draft: approve it first"),
        ("approve", "approve", "release 1 cannot be approved: it is approved already"),
        ("use", "approve", "release 1 cannot be approved: it is active already"),
        ("use", "withdraw", "release 1 cannot be withdrawn: charging uses it"),
        (
            "withdraw",
            "activate",
            "release 1 cannot be activated: it is withdrawn: approve it again first",
        ),
    ],
)
def test_what_cannot_happen_is_refused_with_the_reason(
    disk: ReleaseSite, before: str, verb: str, words: str
) -> None:
    if before == "use":
        disk.use()
    else:
        disk.publish()
        if before:
            getattr(disk, before)(1)
    entries = len(disk.decisions.entries)
    with pytest.raises(StateError, match=words) as refused:
        getattr(disk, verb)(1)
    assert refused.value.hint
    assert len(disk.decisions.entries) == entries


@pytest.mark.parametrize("verb", ["approve", "activate", "withdraw"])
def test_a_release_that_is_not_there_is_reported_with_those_that_are(
    disk: ReleaseSite, verb: str
) -> None:
    disk.publish()
    with pytest.raises(
        (UsageError, StateError), match=r"no release 7|release 7 cannot be activated"
    ):
        getattr(disk, verb)(7)


# two people


def test_who_approved_it_cannot_activate_it(site: ReleaseSite) -> None:
    site.approve(site.publish(), by="Ama")
    with pytest.raises(
        StateError, match=r"was approved by Ama .*, who cannot activate it too"
    ) as refused:
        site.activate(1, by=" ama")
    assert "--same-person --reason" in (refused.value.hint or "")
    assert site.state(1) == "approved"


def test_who_approved_it_can_activate_it_with_a_reason(disk: ReleaseSite) -> None:
    disk.approve(disk.publish(), by="ama")
    with pytest.raises(UsageError, match="needs a reason"):
        disk.activate(1, by="ama", same_person=True)
    disk.activate(1, by="ama", same_person=True, reason="alone on Sunday")
    assert disk.decisions.entries[-1].attribution.reason == "alone on Sunday"


def test_an_approval_of_long_ago_does_not_count_after_a_new_one(disk: ReleaseSite) -> None:
    disk.approve(disk.publish(), by="ama")
    disk.withdraw(1)
    disk.approve(1, by="kofi")
    disk.activate(1, by="ama")
    assert disk.state(1) == "active"


# the guards on the way


def test_a_guard_that_fails_holds_the_approval_back(site: ReleaseSite) -> None:
    site.use()
    site.publish(TOO_DEAR)
    with pytest.raises(
        PublishRefused, match="release 2 is not approved: 2 of 25 guards fail"
    ) as refused:
        site.approve(2)
    assert [p.split(":")[0] for p in refused.value.problems] == ["CHANGE_SIZE", "STEP"]
    assert "tariffs approve 2 --override CHANGE_SIZE --override STEP --reason WHY" in (
        refused.value.hint or ""
    )
    assert site.state(2) == "draft"


def test_it_can_be_set_aside_with_a_reason_and_the_log_reports_it(disk: ReleaseSite) -> None:
    disk.use()
    disk.publish(TOO_DEAR)
    those = ["CHANGE_SIZE", "STEP"]
    with pytest.raises(UsageError, match="cannot be set aside without a reason"):
        disk.approve(2, overridden=those)
    with pytest.raises(PublishRefused, match="1 of 25 guards fail"):
        disk.approve(2, overridden=["STEP"], reason="Accra is new")
    disk.approve(2, overridden=those, reason="Accra is new")
    entry = disk.decisions.entries[-1]
    assert (entry.overridden, entry.attribution.reason, entry.compared_with) == (
        ("CHANGE_SIZE", "STEP"),
        "Accra is new",
        Table(1),
    )
    assert [f.code for f in entry.findings if not f.passed] == those


def test_a_guard_that_there_is_not_is_reported_with_those_that_there_are(disk: ReleaseSite) -> None:
    disk.publish()
    with pytest.raises(UsageError, match="there is no guard STEPS; there is VALUES, "):
        disk.approve(1, overridden=["STEPS"])


def test_what_the_approval_overrode_need_not_be_overridden_again(disk: ReleaseSite) -> None:
    disk.use()
    disk.publish(TOO_DEAR)
    disk.approve(2, overridden=["CHANGE_SIZE", "STEP"], reason="Accra is new")
    disk.activate(2)
    assert disk.decisions.entries[-1].overridden == ("CHANGE_SIZE", "STEP")


def test_but_a_comparison_with_another_table_is_looked_at_again(disk: ReleaseSite) -> None:
    disk.use()
    disk.publish(TOO_DEAR)
    disk.approve(2, overridden=["CHANGE_SIZE", "STEP"], reason="Accra is new")
    disk.use(DEAR)  # another one is active in the meantime
    with pytest.raises(
        PublishRefused, match="release 2 is not activated: 1 of 25 guards fail"
    ) as refused:
        disk.activate(2)
    assert refused.value.problems[0].startswith("CHANGE_SIZE")


def test_time_that_passes_after_the_approval_is_looked_at(disk: ReleaseSite) -> None:
    disk.approve(disk.publish())
    with pytest.raises(PublishRefused) as refused:
        disk.activate(1, now=NOW + dt.timedelta(days=30))
    assert [p.split(":")[0] for p in refused.value.problems] == ["STALE", "VALIDITY"]


def test_a_release_that_is_not_the_approved_one_any_more_is_not_activated(
    disk: ReleaseSite,
) -> None:
    disk.approve(disk.publish())
    disk.store.delete(release_folder(JOB, 1))
    assert disk.publish(DEAR) == 1  # the version is made again
    with pytest.raises(
        StateError,
        match="release 1 is not the one that ama approved on 2026-06-29T12:00:00Z",
    ):
        disk.activate(1)


def test_a_damaged_release_is_not_approved(site: ReleaseSite) -> None:
    site.publish()
    site.damage(1, "csv")
    with pytest.raises(
        StateError,
        match=r"release 1 is not what was published\n  price_table\.csv is not what was published:"
        " its SHA-256 differs",
    ):
        site.approve(1)


def test_what_is_no_price_table_is_reported(disk: ReleaseSite) -> None:
    disk.publish(table().drop_columns(["champion_price", "currency"]))
    with pytest.raises(
        StateError, match="release 1 is no price table: it lacks currency, champion_price"
    ):
        disk.approve(1)


def test_without_the_catalogue_the_guards_that_need_it_cannot_pass(disk: ReleaseSite) -> None:
    disk.publish(catalogue=None)
    with pytest.raises(PublishRefused) as refused:
        disk.approve(1)
    assert [p.split(":")[0] for p in refused.value.problems] == [
        "BOUNDS",
        "PRICE_POINTS",
        "ELASTICITY",
        "LADDER",
    ]


def test_limits_that_were_set_count_from_then_on_for_everybody(site: ReleaseSite) -> None:
    site.use()
    site.publish(TOO_DEAR)
    actions.set_limits(
        site.attribution(reason="Accra opens"),
        {"bundle_change": 0.6, "bundle_step": 0.6},
        site.store,
        site.once,
    )
    site.approve(2)
    assert site.decisions.entries[-2].limits == {"bundle_change": 0.6, "bundle_step": 0.6}


@pytest.mark.parametrize(
    ("limits", "reason", "words"),
    [
        ({"steps": 1.0}, "x", "there is no limit steps"),
        ({"data_age": -1.0}, "x", "0 or more"),
        ({"data_age": 1.0}, "", "needs a reason"),
    ],
)
def test_a_limit_that_is_none_is_reported(
    disk: ReleaseSite, limits: Any, reason: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        actions.set_limits(disk.attribution(reason=reason), limits, disk.store, disk.once)


# the kill switch


def test_the_kill_switch_goes_back_to_the_table_before(site: ReleaseSite) -> None:
    site.use()
    site.use(DEAR)
    done = site.kill(LAST_APPROVED)
    assert (site.state(1), site.state(2)) == ("active", "withdrawn")
    assert site.pointer["folder"] == release_folder(JOB, 1)
    assert [str(event) for _, event in done.entry.moves] == ["kill", "restore"]


def test_or_to_the_prices_of_the_rule(site: ReleaseSite) -> None:
    site.use(DEAR)
    site.kill(RULE)
    assert site.state(1) == "withdrawn"
    assert (site.pointer["version"], site.pointer["rule"], site.pointer["folder"]) == (
        1,
        True,
        "releases/tariffs/rule/000001",
    )
    rows = read_parquet(site.store.get(f"{site.pointer['folder']}/price_table.parquet"))
    assert rows.filter(pc.equal(rows["unit_key"], "YOUTH/ACCRA/DAY"))["price"].to_pylist() == [2.0]
    assert set(site.pointer["files"]) == {
        f"{site.pointer['folder']}/price_table.{f}" for f in ("csv", "parquet")
    }


@pytest.mark.parametrize("to", [LAST_APPROVED, RULE])
@pytest.mark.parametrize("broken", ["release.json", "price_table.parquet", "everything"])
def test_it_works_when_the_newest_and_the_active_release_are_broken(
    site: ReleaseSite, to: str, broken: str
) -> None:
    site.use()
    site.use(DEAR)
    site.publish()
    for version in (2, 3):
        for key in list(site.store.list(f"{release_folder(JOB, version)}/")):
            if broken == "everything":
                site.store.delete(key)
            elif key.endswith(broken):
                site.store.put(key, b"{half")
    site.kill(to)
    assert site.decisions.active == (Table(1) if to == LAST_APPROVED else Table(2, rule=True))


def test_it_passes_over_a_table_that_is_damaged_and_reports_it(site: ReleaseSite) -> None:
    site.use()
    site.use(DEAR)
    site.use()
    site.damage(2)
    done = site.kill(LAST_APPROVED)
    assert site.decisions.active == Table(1)
    assert done.skipped == (
        "release 2: price_table.parquet is not what was published: its SHA-256 differs",
    )


def test_killed_again_and_again_it_goes_further_back_and_never_in_a_circle(
    disk: ReleaseSite,
) -> None:
    for made in (table(), DEAR, table()):
        disk.use(made)
    went = []
    with suppress(StateError):
        while True:
            disk.kill(LAST_APPROVED)
            went.append(disk.decisions.active)
    assert went == [Table(2), Table(1)]
    disk.kill(RULE)
    assert disk.decisions.active == Table(1, rule=True)


def test_with_nothing_to_go_back_to_it_states_what_can_be_done(disk: ReleaseSite) -> None:
    disk.use()
    with pytest.raises(
        StateError, match="there is no approved release to return to from release 1"
    ) as refused:
        disk.kill(LAST_APPROVED)
    assert refused.value.hint == "tariffs kill --to rule"
    disk.kill(RULE)
    with pytest.raises(StateError, match="the rule table of release 1 is active already"):
        disk.kill(RULE)


def test_there_is_nothing_to_kill_before_the_first_table(disk: ReleaseSite) -> None:
    disk.approve(disk.publish())
    with pytest.raises(StateError, match="no table is active, so there is nothing to kill"):
        disk.kill(RULE)


def test_from_the_rule_a_new_release_is_activated_as_usual(disk: ReleaseSite) -> None:
    disk.use()
    disk.kill(RULE)
    disk.use(DEAR)
    assert disk.decisions.active == Table(2)
    assert disk.decisions.entries[-1].compared_with == Table(1, rule=True)
    assert (disk.state(1), disk.state(2)) == ("withdrawn", "active")


@pytest.mark.parametrize(
    ("name", "left"),
    [("price_table.csv", b""), ("rule.json", b'{"version": 1, "fil'), ("rule.json", b"{}")],
)
def test_a_rule_table_that_was_damaged_is_made_again(
    disk: ReleaseSite, name: str, left: bytes
) -> None:
    disk.use()
    disk.store.put(f"releases/tariffs/rule/000001/{name}", left)
    disk.kill(RULE)
    assert disk.pointer["files"]
    assert (
        disk.store.get("releases/tariffs/rule/000001/price_table.csv")
        .to_pybytes()
        .startswith(b"unit_key,")
    )


def test_without_rule_table_and_release_it_states_where_else_to_go(disk: ReleaseSite) -> None:
    disk.use()
    disk.use(DEAR)
    disk.store.delete("releases/tariffs/rule/000002")
    disk.store.delete(release_folder(JOB, 2))
    with pytest.raises(
        StateError, match="the rule table of release 2 does not exist, and cannot be made"
    ) as refused:
        disk.kill(RULE)
    assert refused.value.hint == "tariffs kill --to last-approved"
    disk.kill(LAST_APPROVED)
    assert disk.decisions.active == Table(1)


# the log and the pointer


def test_a_log_that_was_changed_is_refused(site: ReleaseSite) -> None:
    site.use()
    key = f"{repository.LOG}/000001.json"
    site.store.put(key, site.store.get(key).to_pybytes().replace(b'"ama"', b'"esi"'))
    with pytest.raises(
        HomeError,
        match="the decision log cannot be trusted: entry 1 was changed after entry 2 was written",
    ):
        site.decisions  # noqa: B018
    with pytest.raises(HomeError, match="cannot be trusted"):
        site.kill(RULE)


@pytest.mark.parametrize("folder", [repository.OLD_LOG, repository.LOG])
def test_a_log_of_an_earlier_format_is_refused(site: ReleaseSite, folder: str) -> None:
    old = json.dumps({"number": 1, "verb": "approve", "said": {"by": "ama"}, "charging": None})
    site.store.put(f"{folder}/000001.json", old.encode())
    with pytest.raises(HomeError, match="the decision log has another format than 2") as refused:
        site.approve(site.publish())
    assert f"{folder}/000001.json" in refused.value.message
    assert "a log in a new home" in str(refused.value.hint)


def test_entries_that_were_cut_off_its_end_are_missed(site: ReleaseSite) -> None:
    site.use()
    site.store.delete(f"{repository.LOG}/000002.json")
    with pytest.raises(
        HomeError,
        match=r"ends with entry 1, and releases/tariffs/active\.json was made from entry 2:"
        " entries are missing",
    ):
        site.withdraw(1)


def test_no_one_writes_over_an_entry(site: ReleaseSite) -> None:
    site.publish()
    one, other = (site.decisions.entry("withdraw", site.attribution(by)) for by in ("ama", "kofi"))
    assert repository.append(one, site.once)
    assert not repository.append(other, site.once)
    assert not repository.append(one, site.once)
    assert site.decisions.entries[0].attribution.author == "ama"


def test_a_decision_is_made_anew_upon_what_somebody_else_decided_meanwhile(
    site: ReleaseSite,
) -> None:
    site.publish()

    class Overtaken:
        """Somebody else approves the release just before our entry is written."""

        def __init__(self) -> None:
            self.calls = 0

        def put_if_absent(self, key: str, data: bytes) -> bool:
            self.calls += 1
            if self.calls == 1:
                site.approve(1, by="kofi")
            return site.once.put_if_absent(key, data)

    with pytest.raises(StateError, match="release 1 cannot be approved: it is approved already"):
        actions.approve(1, site.attribution("ama"), site.store, Overtaken(), site.sources, NOW)
    assert [e.attribution.author for e in site.decisions.entries] == ["kofi"]


@pytest.mark.parametrize("first", [1, 2])
def test_concurrent_activations_leave_one_active_and_the_pointer_on_it(
    site: ReleaseSite, first: int
) -> None:
    site.publish()
    site.publish(DEAR)
    for version in (1, 2):
        site.approve(version)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(site.activate, (first, 3 - first)))
    active = [v for v in (1, 2) if site.state(v) == "active"]
    assert len(active) == 1
    charging = site.decisions.active
    assert charging is not None
    assert site.pointer["version"] == active[0] == charging.version
    assert site.pointer["entry"] == site.decisions.since().number  # type: ignore[union-attr]


def test_many_at_once_lose_no_entry(site: ReleaseSite) -> None:
    for _ in range(4):
        site.publish()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: site.withdraw(n % 4 + 1, reason=f"reason {n}"), range(12)))
    entries = site.decisions.entries
    assert [e.number for e in entries] == list(range(1, 13))
    assert {e.attribution.reason for e in entries} == {f"reason {n}" for n in range(12)}


def test_processes_at_once_lose_no_entry_on_this_machine(disk: ReleaseSite, tmp_path: Path) -> None:
    disk.publish()
    program = (
        "import sys; from pathlib import Path; from support.price_tables import on_disk\n"
        "site = on_disk(Path(sys.argv[1]))\n"
        "for n in range(8): site.withdraw(1, reason=f'{sys.argv[2]} {n}')\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "home"), name],
            env=environment,
        )
        for name in ("a", "b", "c")
    ]
    assert [process.wait(timeout=HANG_S) for process in running] == [0, 0, 0]
    assert sorted(e.attribution.reason for e in disk.decisions.entries) == sorted(
        f"{name} {n}" for name in "abc" for n in range(8)
    )


STEPS: dict[str, Callable[[ReleaseSite], Any]] = {
    "approve": lambda site: site.approve(3),
    "activate": lambda site: (site.approve(3), site.activate(3)),
    "withdraw": lambda site: site.withdraw(3),
    "kill to the last approved": lambda site: site.kill(LAST_APPROVED),
    "kill to the rule": lambda site: site.kill(RULE),
}


@pytest.mark.parametrize("kind", [FaultInjector, FaultInjectorAfter])
@pytest.mark.parametrize("what", STEPS)
def test_stopped_at_any_call_and_begun_again_it_comes_to_the_same(what: str, kind: Any) -> None:
    before = in_memory()
    before.use()
    before.use(DEAR)
    before.publish()
    wanted = None
    for stop in itertools.count(0):
        site = in_memory(before)
        store = site.store
        faulty = kind(store, fail_at=stop)
        site.store, site.once = faulty, faulty
        with suppress(InjectedFault):
            STEPS[what](site)
        site.store, site.once = store, store
        whole(site)
        if site.decisions.active == Table(2):
            with suppress(StateError):  # "it is approved already": it was
                STEPS[what](site)
        if what == "activate" and site.state(3) == "approved":
            site.activate(3)
        repository.repair_pointer(site.store)
        whole(site)
        answer = (
            {v: site.state(v) for v in (1, 2, 3)},
            site.decisions.active,
            site.pointer["folder"],
        )
        wanted = wanted or answer
        assert answer == wanted, f"stopped at call {stop}"
        if faulty.calls < stop:
            assert stop > 10
            return


def whole(site: ReleaseSite) -> None:
    """What charging is told is always a table that is all there."""
    for key, sum_ in site.pointer["files"].items():
        assert not repository._file_damage(key, sum_, site.store)
    assert (
        read_parquet(site.store.get(f"{site.pointer['folder']}/price_table.parquet")).num_rows == 6
    )


def test_a_clock_that_runs_backwards_changes_only_the_times_reported(disk: ReleaseSite) -> None:
    disk.use()
    early = Attribution("esi", "robot@host", "1999-01-01T00:00:00Z", "kill switch", "1f")
    disk.use(DEAR)
    kill_switch.kill(LAST_APPROVED, early, disk.store, disk.once)
    assert (disk.decisions.active, disk.pointer["version"], disk.pointer["since"]) == (
        Table(1),
        1,
        early.at,
    )


def test_a_concurrent_kill_and_activation_leave_the_logs_last_state(
    site: ReleaseSite,
) -> None:
    site.use()
    site.use(DEAR)
    site.approve(site.publish())
    with ThreadPoolExecutor(3) as pool:
        done = [
            pool.submit(site.activate, 3),
            pool.submit(site.kill, RULE),
            pool.submit(site.kill, LAST_APPROVED),
        ]
    assert not [
        e for d in done if (e := d.exception()) is not None and not isinstance(e, StateError)
    ]
    assert site.pointer["version"] == site.decisions.active.version  # type: ignore[union-attr]
    assert site.pointer["entry"] == site.decisions.since().number  # type: ignore[union-attr]
    assert sum(site.state(v) == "active" for v in (1, 2, 3)) == (0 if site.pointer["rule"] else 1)


def test_a_pointer_that_lags_behind_is_put_right_by_the_next_action(site: ReleaseSite) -> None:
    site.use()
    old = site.store.get(repository.POINTER).to_pybytes()
    site.use(DEAR)
    site.store.put(
        repository.POINTER, old
    )  # a command was killed between its entry and the pointer
    assert repository.repair_pointer(site.store)
    assert site.pointer["version"] == 2
    assert not repository.repair_pointer(site.store)


def test_a_pointer_that_is_half_there_is_made_again(site: ReleaseSite) -> None:
    site.use()
    site.store.put(repository.POINTER, b'{"entry"')
    assert repository.repair_pointer(site.store)
    assert site.pointer["version"] == 1


# what is reported


def test_the_facts_list_every_release_with_its_last_decision(disk: ReleaseSite) -> None:
    disk.use()
    disk.use(DEAR)
    disk.publish()
    disk.damage(3)
    disk.store.put(f"{release_folder(JOB, 4)}/release.json", b"{half")
    facts = status.status_facts(disk.decisions, disk.store)
    assert facts["active"] == {
        "version": 2,
        "rule": False,
        "canary": None,
        "locations": [],
        "unchanged": False,
        "step": 0,
        "after": "",
        "since": "2026-06-29T12:00:00Z",
        "author": "kofi",
        "entry": 4,
    }
    assert [(r["version"], r["state"], r["event"], r["author"]) for r in facts["releases"]] == [
        (4, "draft", None, None),
        (3, "draft", None, None),
        (2, "active", "activate", "kofi"),
        (1, "withdrawn", "replace", "kofi"),
    ]
    assert facts["releases"][0]["damage"][0].startswith("release.json cannot be read")
    assert json.loads(json.dumps(facts)) == facts


def test_a_release_that_the_log_knows_and_no_one_finds_is_reported(disk: ReleaseSite) -> None:
    disk.use()
    disk.use(DEAR)
    disk.store.delete(release_folder(JOB, 1))
    (one,) = [
        r for r in status.status_facts(disk.decisions, disk.store)["releases"] if r["version"] == 1
    ]
    assert (one["state"], one["damage"]) == ("withdrawn", ["its folder is gone"])


def test_the_catalogue_is_found_where_the_run_read_it(disk: ReleaseSite, tmp_path: Path) -> None:
    from types import SimpleNamespace

    import pyarrow.csv as pacsv

    disk.publish(catalogue=None)
    pacsv.write_csv(CATALOGUE, tmp_path / "products.csv")
    options = {"folder": str(tmp_path), "sources": {"product_catalog": "products.csv"}}
    disk.ledger = SimpleNamespace(read=lambda _: SimpleNamespace(options=options))
    assert disk.approve(1).entry.overridden == ()


def test_a_catalogue_as_text_from_the_run_is_read_as_numbers(disk: ReleaseSite) -> None:
    text = pa.table(
        [CATALOGUE[name].cast(pa.string()) for name in CATALOGUE.column_names],
        names=CATALOGUE.column_names,
    )
    disk.publish(catalogue=text)
    assert disk.approve(1).entry.overridden == ()


def test_a_catalogue_that_lacks_columns_is_reported(disk: ReleaseSite) -> None:
    disk.publish(catalogue=CATALOGUE.drop_columns(["price_tick", "price_floor"]))
    with pytest.raises(UsageError, match="lacks price_tick, price_floor"):
        disk.approve(1)


def test_bundles_that_are_new_are_welcome(disk: ReleaseSite) -> None:
    disk.use()
    disk.use(table(*table().to_pylist(), bundle("KUMASI")))
    assert disk.decisions.active == Table(2)
