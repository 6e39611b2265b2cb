"""The command `tariffs` as a real process: from a newly published table to charging, and back."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click import Option

import hundredfold
from hundredfold.pipeline.releases import release_folder
from hundredfold.ports.run_facts import HOME_FORMAT
from support.commands import CliResult, run_command
from support.demo_operator import RUN
from support.price_tables import ReleaseSite, changed, in_s3, table
from support.sales_after_release import bundles_after, voice_after
from support.shared_folders import filled_once, shared_folder
from support.tmf620_schema import SCHEMA, violations
from support.waits import HANG_S
from tariffs import demo
from tariffs.cli import app
from tariffs.contracts import CHARGING_COLUMNS
from tariffs.release import repository
from tariffs.release.clock import LOGIN_UID_UNSET, local_account, principal
from tariffs.release.delta import Delta, apply_delta
from tariffs.release.tables import read_parquet
from tariffs.synthetic import AS_OF, SIZES
from tariffs.synthetic.bundles import UNIT_COST, bundle_block
from tariffs.synthetic.sizes import BUNDLES

MONDAY = AS_OF.isoformat()
ALONE = ("--same-person", "--reason", "a test has one account")
PAGE = Path(__file__).parents[2] / "docs" / "tariffs-release.md"


Cli = Callable[..., CliResult]


def cli_of(home: Path, folder: Path) -> Cli:
    """Run `tariffs` with these words in a folder."""

    def run(*words: str, **settings: str) -> CliResult:
        environment = {
            **os.environ,
            "HUNDREDFOLD_HOME": str(home),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            **settings,
        }
        return run_command("tariffs.cli", *words, folder=folder, environment=environment)

    return run


@pytest.fixture(scope="session")
def published(
    demo_operator: dict[str, Path], demo_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a home with two releases of the job: the demo's, and one with a lower z."""

    def make(folder: Path) -> None:
        home = shutil.copytree(demo_home, folder / "home")
        bolder = folder / "policy.csv"
        bolder.write_text(demo_operator["policy"].read_text().replace("0.84", "0.5"))
        sources = {**demo_operator, "policy": bolder}
        hundredfold.run(demo.JOB, sources, home=home, as_of=demo.AS_OF, workers=1)

    return filled_once(shared_folder(tmp_path_factory) / "published", make) / "home"


@pytest.fixture(scope="session")
def charged(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home of which release 1 is active."""

    def make(folder: Path) -> None:
        cli = cli_of(Path(shutil.copytree(published, folder / "home")), folder)
        assert cli("approve", "1", "--author", "ama").code == 0
        assert cli("activate", "1", "--author", "kofi", *ALONE).code == 0

    return filled_once(shared_folder(tmp_path_factory) / "charged", make) / "home"


@pytest.fixture
def home(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "home"))


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Cli:
    return cli_of(home, tmp_path)


@pytest.fixture
def in_use(charged: Path, home: Path, cli: Cli) -> Cli:
    """Release 1 is active."""
    shutil.rmtree(home)
    shutil.copytree(charged, home)
    return cli


def test_a_week_of_a_pricing_team(cli: Cli, home: Path) -> None:
    assert [(r["version"], r["state"]) for r in cli("status", "--json").json["releases"]] == [
        (2, "draft"),
        (1, "draft"),
    ]
    checked = cli("check", "1")
    assert (checked.code, checked.out.count(" ok ")) == (0, 25), checked
    assert "tariffs approve 1" in checked.out

    approved = cli("approve", "1", "--author", "ama")
    assert (approved.code, approved.out.splitlines()[0]) == (0, "release 1 is approved")
    refused = cli("activate", "1", "--author", "ama")
    assert (refused.code, refused.out) == (1, "")
    assert "error: release 1 was approved by ama (account uid " in refused.err
    assert cli("activate", "1", "--author", "kofi").code == 1, (
        "another name from the same account is no other person"
    )
    active = cli("activate", "1", "--author", "kofi", "--same-person", "--reason", "week 27")
    assert active.code == 0
    assert "charging uses release 1" in active.out
    pointer = json.loads((home / "releases/tariffs/active.json").read_text())
    assert (home / pointer["folder"] / "price_table.parquet").exists()

    status = cli("status")
    assert "*        1  active" in status.out
    assert "Charging uses release 1 (*)" in status.out

    killed = cli("kill", "--to", "rule", "--author", "esi", "--reason", "complaints in Tamale")
    assert killed.code == 0
    assert (
        "\nrelease 1 is killed, and so withdrawn\n"
        "charging uses the rule table of release 1 (step 1 on the way to it)\n" in killed.out
    )
    log = cli("log", "1").out
    assert [word for word in ("approve", "activate", "kill") if f"UTC  {word}  by" in log] == [
        "approve",
        "activate",
        "kill",
    ]
    assert "esi" in log
    assert "complaints in Tamale" in log


def test_a_canary_is_tried_in_a_share_of_the_places_and_killed_in_one_step(
    in_use: Cli, home: Path
) -> None:
    reason = ("--override", "STEP", "--reason", "full cells")
    assert in_use("approve", "2", "--author", "ama", *reason).code == 0
    tried = in_use("activate", "2", "--author", "kofi", "--canary", "10%", *ALONE)
    assert tried.code == 0, tried.err
    assert tried.out.splitlines()[0] == "release 2 is tried in some locations"
    assert "charging uses release 1, with release 2 in 2 locations" in tried.out
    assert "2  canary" in in_use("status").out
    locations = in_use("status", "--json").json["active"]["locations"]
    pointer = json.loads((home / "releases/tariffs/active.json").read_text())
    rows = read_parquet((home / pointer["folder"] / "price_table.parquet").read_bytes()).to_pylist()
    assert {r["location"] for r in rows if r["table_version"] == 2} == set(locations)
    assert len(rows) == 3960
    killed = in_use("kill", "--to", "last-approved")
    assert "\nrelease 2 is killed, and so withdrawn\ncharging uses release 1\n" in killed.out


def test_what_a_table_did_is_measured_on_newer_sales(
    in_use: Cli, demo_operator: dict[str, Path], demo_home: Path, tmp_path: Path
) -> None:
    sales, usage = later(demo_operator["voice_usage"].parent, demo_home)
    nothing = pa.nulls(1, sales.schema.field("price").type)
    none = sales.slice(0, 1).set_column(sales.schema.get_field_index("price"), "price", nothing)
    pq.write_table(pa.concat_tables([sales, none]), tmp_path / "sales.parquet")
    pq.write_table(usage, tmp_path / "usage.parquet")
    words = (
        "measure",
        "--since",
        "2026-06-29",
        "--sales",
        "sales.parquet",
        "--usage",
        "usage.parquet",
    )
    result = in_use(*words)
    assert (result.code, result.err) == (0, "")
    assert "Release 1, in use from 2026-06-29; sales of sales.parquet, usage.parquet" in result.out
    assert (
        "8 weeks (2026-05-10 to 2026-06-28) before against 4 weeks (2026-07-05 to 2026-07-26) after"
        in result.out
    )
    assert "1 of 20 locations are control" in result.out
    no_sale = (
        1 + pc.sum(pc.greater_equal(usage["discount"], 1.0)).as_py()
    )  # in a file as it came, some discounts are percents
    assert (
        f"{no_sale} rows of sales are invalid: no date, quantity, price or subscriber" in result.out
    )
    facts = in_use(*words, "--json").json
    assert facts["unsound"] == no_sale > 1
    margin = next(k for k in facts["kpis"] if (k["kind"], k["name"]) == ("voice", "margin"))
    assert margin["effect"]["lo"] < margin["promised"] < margin["effect"]["hi"]
    assert {c["name"] for c in facts["charts"]} >= {"YOUTH", "voice WEEKDAY"}
    assert in_use("measure").code == 1  # the newest run has no sales of after the release
    assert in_use("measure", "2").code == 2  # it was never in use


def later(data: Path, home: Path) -> tuple[pa.Table, pa.Table]:
    """The demo's sales with four weeks at the prices of release 1 behind them."""
    rows = read_parquet(
        (home / release_folder("tariffs", 1) / "price_table.parquet").read_bytes()
    ).to_pylist()
    sales, usage = (
        read_parquet((home / f"runs/{RUN}/sources/bundle_sales.parquet").read_bytes()),
        read_parquet((data / "voice_usage.parquet").read_bytes()),
    )
    price = {
        (r["segment"], r["location"], r["product"]): r["price"]
        for r in rows
        if r["kind"] == "bundle"
    }
    discount = {
        (r["cell"], r["hour"], r["day_type"]): r["discount_class"] / 100
        for r in rows
        if r["kind"] == "voice"
    }
    control = {r["location"] for r in rows if r["control_flag"]}
    cost = {b.product: float(c) for b, c in zip(BUNDLES, UNIT_COST, strict=True)}
    truth = {
        name: read_parquet((data / f"truth/{name}.parquet").read_bytes())
        for name in ("bundles", "voice")
    }
    whole = bundle_block(7, SIZES["demo"], 0).sales
    sold = bundles_after(truth["bundles"], last_week(whole), price, control, cost).sales
    cells = read_parquet((data / "cell_load.parquet").read_bytes())
    called = voice_after(truth["voice"], last_week(usage), discount, cells)
    return (
        pa.concat_tables([sales, sold.select(sales.column_names).cast(sales.schema)]),
        pa.concat_tables([usage, called.select(usage.column_names).cast(usage.schema)]),
    )


def last_week(sales: pa.Table) -> pa.Table:
    return sales.filter(
        pc.equal(sales["week"].cast(pa.date32()), AS_OF.date() - dt.timedelta(days=1))
    )


def test_a_guard_that_fails_is_exit_status_1_and_the_way_on_is_reported(
    cli: Cli, home: Path
) -> None:
    now = ("--as-of", f"{dt.datetime.now(dt.UTC):%Y-%m-%d}")
    today = cli("check", "1", *now)
    assert today.code == 1
    assert "STALE         FAILS" in today.out
    refused = cli("approve", "1", "--author", "ama", *now)
    assert (refused.code, refused.out) == (1, "")
    assert (
        f"hint: tariffs check 1 --home {home}   or, to override them: tariffs approve 1"
        f" --override STALE --override VALIDITY --reason WHY --home {home}" in refused.err
    )
    done = cli(
        "approve",
        "1",
        "--author",
        "ama",
        "--override",
        "stale,validity",
        "--reason",
        "a rehearsal",
        *now,
    )
    assert (done.code, done.out.splitlines()[1]) == (0, "set aside: STALE, VALIDITY")


def test_check_answers_a_script(cli: Cli) -> None:
    facts = cli("check", "2", "--json").json
    assert facts["passed"] is all(f["passed"] for f in facts["findings"])
    assert {f["code"] for f in facts["findings"]} >= {"STEP", "BOUNDS", "CONTROL", "STALE"}


def test_the_delta_on_disk_makes_the_active_table_into_the_new_one(in_use: Cli, home: Path) -> None:
    result = in_use("delta", "2", "--json")
    assert result.code == 0, result.err
    files = {Path(name).suffix: Path(name) for name in result.json["files"]}
    rows = read_parquet(files[".parquet"].read_bytes())
    assert rows.num_rows == result.json["changed"] > 100
    assert [
        line["unit_key"] for line in csv.DictReader(io.StringIO(files[".csv"].read_text()))
    ] == rows["unit_key"].to_pylist()
    old, new = (
        read_parquet((home / release_folder("tariffs", v) / "price_table.parquet").read_bytes())
        for v in (1, 2)
    )
    facts = {
        "valid_from": new["valid_from"][0].as_py(),
        "valid_to": new["valid_to"][0].as_py(),
        "table_version": 2,
    }
    assert result.json["facts"]["table_version"] == 2
    assert apply_delta(old, Delta(rows, facts)).equals(new.select(list(CHARGING_COLUMNS)))


def test_the_delta_can_go_to_a_folder_and_is_the_same_there(in_use: Cli, tmp_path: Path) -> None:
    beside = [Path(name).read_bytes() for name in in_use("delta", "2", "--json").json["files"]]
    there = in_use("delta", "2", "--out", "given", "--json").json["files"]
    assert [Path(tmp_path / name).read_bytes() for name in there] == beside
    words = in_use("delta", "2").out
    assert words.startswith("From release 1 to release 2: 0 added, ")
    assert "more, in" in words


def test_every_price_is_exported_with_the_state_that_it_has(in_use: Cli, home: Path) -> None:
    result = in_use("export", "active")
    assert (result.code, result.err) == (0, "3,960 prices\n")
    prices = result.json
    table = read_parquet((home / release_folder("tariffs", 1) / "price_table.parquet").read_bytes())
    assert [p["id"] for p in prices] == table["unit_key"].to_pylist()
    assert [p["price"]["value"] for p in prices] == table["price"].to_pylist()
    assert {p["lifecycleStatus"] for p in prices} == {"Launched"}
    assert '"value": 0.045}' in result.out
    lines = in_use(
        "export", "2", "--format", "tmf620-lines", "--base", "https://x.example/v4"
    ).out.splitlines()
    assert json.loads(lines[0])["lifecycleStatus"] == "In test"
    assert json.loads(lines[0])["href"].startswith(
        "https://x.example/v4/productOfferingPrice/BUSINESS%2F"
    )


def test_all_rows_keep_the_schema(in_use: Cli) -> None:
    wrong = [e for p in in_use("export", "active").json for e in violations(p, SCHEMA)]
    assert wrong == []


def test_a_draft_is_exported_as_published_and_the_active_table_with_state(
    in_use: Cli, home: Path, tmp_path: Path
) -> None:
    assert (
        in_use("export", "2", "--format", "csv").out
        == (home / release_folder("tariffs", 2) / "price_table.csv").read_text()
    )
    in_use("export", "1", "--format", "csv", "--out", "active.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "active.csv").read_text())))
    assert {row["status"] for row in rows} == {"active"}
    assert in_use("export", "1", "--format", "parquet", "--out", "active.parquet").code == 0
    assert set(read_parquet((tmp_path / "active.parquet").read_bytes())["status"].to_pylist()) == {
        "active"
    }


def test_the_kill_switch_works_when_the_newest_release_is_broken(in_use: Cli, home: Path) -> None:
    assert (
        in_use(
            "approve", "2", "--author", "ama", "--override", "STEP", "--reason", "full cells"
        ).code
        == 0
    )
    assert in_use("activate", "2", "--author", "kofi", *ALONE).code == 0
    (home / release_folder("tariffs", 2) / "release.json").write_text("{half")
    done = in_use("kill", "--to", "last-approved")
    assert (done.code, "charging uses release 1" in done.out) == (0, True)
    status = in_use("status")
    assert "release 2: release.json cannot be read" in status.out
    restored = in_use("export", "active", "--format", "tmf620-lines").out.splitlines()[0]
    assert set(json.loads(restored)["validFor"]) == {"startDateTime"}


def test_limits_are_shown_and_changed_with_a_reason(cli: Cli) -> None:
    assert cli("limits", "--set", "data_age=4000").code == 2
    assert (
        cli("limits", "--set", "data_age=4000", "--reason", "history", "--author", "ama").code == 0
    )
    assert cli("limits", "--json").json["data_age"] == 4000
    assert "STALE         ok" in cli("check", "1", "--as-of", "2028-01-01").out


def test_the_name_that_is_left_out_is_that_of_the_account_and_no_variable(cli: Cli) -> None:
    cli("withdraw", "1", "--reason", "a rehearsal", LOGNAME="nana", USER="nana", SUDO_UID="")
    [entry] = cli("log", "--json").json
    assert (entry["attribution"]["author"], entry["attribution"]["account"]) == local_account()[
        ::-1
    ]


def test_another_time_than_now_needs_a_reason_and_stands_in_the_log(cli: Cli) -> None:
    refused = cli("approve", "1", "--as-of", MONDAY)
    assert (refused.code, refused.out) == (2, "")
    assert "checking as of another time than now needs a reason" in refused.err
    assert cli("approve", "1", "--as-of", MONDAY, "--reason", "the week of the data").code == 0
    assert "as of 2026-06-29 06:00 UTC, by --as-of" in cli("log").out
    assert "as of 2026-06-29 06:00 UTC, the clock of the demo's data" in cli("check", "2").out


def test_another_user_of_the_machine_is_another_person(
    cli: Cli, home: Path, tmp_path: Path
) -> None:
    if os.getuid() or Path("/proc/self/loginuid").read_text().strip() != str(LOGIN_UID_UNSET):
        pytest.skip("only root, in a session without login, can be two users")
    assert cli("approve", "1", "--author", "ama").code == 0
    as_nobody = (
        "import os, sys; os.setreuid(65534, 0); from tariffs.cli import main;"
        " sys.argv = ['tariffs', 'activate', '1', '--author', 'kofi']; main()"
    )
    environment = {**os.environ, "HUNDREDFOLD_HOME": str(home), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", as_nobody],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["release 1 is active"]), (
        done.stderr
    )


def test_a_session_name_of_an_assumed_role_is_no_proof_of_a_person() -> None:
    role = "arn:aws:sts::123456789012:assumed-role"
    assert (
        principal(f"{role}/Pricing/ama") == principal(f"{role}/Pricing/kofi") == f"{role}/Pricing"
    )
    assert principal(f"{role}/AWSReservedSSO_Pricing_ab/ama@x.example") != principal(
        f"{role}/AWSReservedSSO_Pricing_ab/kofi@x.example"
    )
    assert principal("arn:aws:iam::123456789012:user/ama") == "arn:aws:iam::123456789012:user/ama"


def test_the_kill_switch_is_tried_first_and_goes_to_the_rule_in_steps(
    in_use: Cli, home: Path
) -> None:
    log = sorted((home / "releases/tariffs/decisions").iterdir())
    tried = in_use("kill", "--to", "rule", "--dry-run")
    assert (tried.code, sorted((home / "releases/tariffs/decisions").iterdir())) == (0, log)
    assert "control units that move: 0" in tried.out
    for step in range(1, 20):
        before = pointed(home)
        done = in_use("kill", "--to", "rule", "--reason", "complaints")
        assert done.code == 0, done.err
        after = pointed(home)
        assert sum(after[key]["price"] != row["price"] for key, row in before.items()) <= 0.8 * len(
            before
        )
        for key, row in after.items():
            was = before[key]["price"]
            assert (
                abs(row["price"] - was) <= (0.02 if row["kind"] == "voice" else 0.15 * was) + 1e-9
            )
            assert row["price"] == was or not row["control_flag"]
        if f"step {step} on the way" not in done.out:
            break
    assert 2 <= step < 19
    again = in_use("kill", "--to", "rule")
    assert (again.code, "is active already" in again.err) == (1, True)
    before = pointed(home)
    frozen = in_use("kill", "--to", "unchanged")
    assert frozen.code == 0, frozen.err
    assert [(key, row["price"], row["discount_class"]) for key, row in pointed(home).items()] == [
        (key, row["price"], row["discount_class"]) for key, row in before.items()
    ]
    assert "Charging uses the frozen prices of rule-000001 (*)" in in_use("status").out


def test_what_is_printed_fits_a_narrow_terminal(in_use: Cli, home: Path) -> None:
    commands = [
        ("check", "1"),
        ("status",),
        ("kill", "--to", "rule", "--dry-run"),
        ("limits",),
        ("delta", "2", "--against", "1"),
    ]
    for words in commands:
        for columns in ("80", "120"):
            result = in_use(*words, COLUMNS=columns)
            lines = [
                line
                for line in result.out.splitlines()
                if str(home) not in line and "releases/tariffs/" not in line
            ]  # a path is not broken
            assert [line for line in lines if len(line) > int(columns)] == [], (words, columns)
            assert [line for line in lines if line != line.rstrip()] == [], words
    checked = in_use("check", "1", COLUMNS="80").out
    assert re.search(
        r"^bundle  revenue  +[+-][\d,]+  +[+-][\d,]+  +[+-][\d,]+$", checked, re.MULTILINE
    )
    assert re.search(
        r"^        volume  +[+-][\d,]+  +[+-][\d,]+  +[+-][\d,]+$", checked, re.MULTILINE
    )


@pytest.mark.parametrize("columns", ["80", "120", None])
def test_a_digest_fits_the_terminal_and_stays_whole_in_a_pipe(
    home: Path, tmp_path: Path, columns: str | None
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {
        "NO_COLOR": "1"
    }
    words = [sys.executable, "-m", "hundredfold", "status", RUN, "--home", str(home)]
    out = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=environment | ({"COLUMNS": columns} if columns else {}),
    ).stdout
    lines = out[: out.index("\nRelease 1")].splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    totals = lines[
        next(n for n, line in enumerate(lines) if line.startswith("Changes a week with their 90"))
        + 1 :
    ]
    totals = totals[
        : next(n for n, line in enumerate(totals) if line.startswith("Expected revenue"))
    ]
    [digest] = [
        rows
        for title, rows in facts_of(home)["summaries"].items()
        if title.startswith("Changes a week with their 90")
    ]
    assert len(
        [word for line in totals for word in line.split() if re.fullmatch(r"-?[\d,.]+", word)]
    ) == sum(len(r) - 1 for r in digest)
    if columns is None:
        assert len(totals) == 1 + len(digest) + 1  # names, kinds, an empty line
    else:
        assert [
            line
            for line in lines[1:]
            if len(line) > int(columns) and not line.startswith("Changes")
        ] == []


def facts_of(home: Path) -> dict[str, Any]:
    """What release 1 says of itself."""
    return dict(json.loads((home / release_folder("tariffs", 1) / "release.json").read_text()))


def pointed(home: Path) -> dict[str, Any]:
    """The rows that charging reads, by unit."""
    folder = json.loads((home / "releases/tariffs/active.json").read_text())["folder"]
    return {
        row["unit_key"]: row
        for row in read_parquet((home / folder / "price_table.parquet").read_bytes()).to_pylist()
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("check", "9"), 2, "error: there is no release 9 of the price table; there is 1, 2"),
        (("approve", "one"), 2, "'one' is not a valid integer"),
        (("approve",), 2, "Missing argument 'VERSION'"),
        (("kill",), 2, "Missing option '--to'"),
        (("kill", "--to", "rule"), 1, "error: no table is active, so there is nothing to kill"),
        (("delta", "2"), 2, "error: no table is active"),
        (("delta", "2", "--against", "2"), 2, "error: release 2 is compared with itself"),
        (("delta", "newest"), 2, "'newest' is no table, wanted a version such as 3, or 'active'"),
        (("export", "1", "--format", "parquet"), 2, "Parquet cannot be written to a terminal"),
        (("limits", "--set", "data_age"), 2, "--set is 'data_age', wanted NAME=VALUE"),
        (("check", "1", "--as-of", "monday"), 2, "--as-of is 'monday'"),
        (
            ("check", "1", "--catalogue", "nowhere.csv"),
            2,
            "the catalogue nowhere.csv cannot be read",
        ),
        (("approve", "1", "--override", "LUCK"), 2, "there is no guard LUCK"),
        (("status", "--home", "nowhere"), 1, "there is no run in"),
        (("log", "9"), 2, "there is no release 9"),
        (("dance",), 2, "No such command 'dance'"),
    ],
)
def test_what_cannot_be_done_is_reported_with_a_hint_and_nothing_on_stdout(
    cli: Cli, words: tuple[str, ...], code: int, message: str
) -> None:
    result = cli(*words)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert "hint: " in result.err or "--as-of" in words


def test_help_is_understood_without_anything_heavy() -> None:
    modules = subprocess.run(
        [sys.executable, "-c", "import tariffs.cli, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"pyarrow", "duckdb", "numpy", "rich", "boto3"} & set(modules) == set()


def test_every_command_and_every_option_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for name, command in app.commands.items():
        assert f"tariffs {name}" in text, name
        own = {o for p in command.params if isinstance(p, Option) for o in p.opts} - {
            "--home",
            "--backend",
            "--stack",
            "--json",
            "--as-of",
        }
        assert [option for option in sorted(own) if option not in text] == []


# on AWS

STACK = {
    "Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}},
    "Outputs": {
        "Bucket": {"Value": {"Ref": "Bucket"}},
        **{
            name: {"Value": name.lower()}
            for name in (
                "Job",
                "Table",
                "QueueUrl",
                "DeadUrl",
                "Database",
                "Workgroup",
                "Trigger",
                "MachineArn",
            )
        },
        "Concurrency": {"Value": "2"},
        "Format": {"Value": str(HOME_FORMAT)},
    },
}


@pytest.fixture(scope="module")
def stack() -> Iterator[str]:
    """Yield a stack with a bucket and the names of its other resources; releases need no more."""
    with in_s3():
        from hundredfold.aws.adapters.session import client

        name = "hundredfold-tariffs"
        client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(STACK))
        yield name


def test_the_same_on_aws(stack: str, tmp_path: Path) -> None:
    from hundredfold.aws.home import StackHome

    store = StackHome(stack).store
    site = ReleaseSite(store, store)
    site.publish()
    site.publish(changed(table(), "YOUTH/ACCRA/DAY", price=2.2))
    cli, there, then = (
        cli_of(tmp_path / "none", tmp_path),
        ("--backend", "aws"),
        ("--as-of", MONDAY),
    )
    for version in ("1", "2"):
        approved = cli(
            "approve", version, "--author", "ama", *then, "--reason", "the week of the data", *there
        )
        assert (approved.code, approved.err) == (0, "")
        done = cli("activate", version, "--author", "kofi", *ALONE, *then, *there, "--stack", stack)
        assert (done.code, done.err) == (0, "")
    assert f"s3://{store.bucket}/{release_folder('tariffs', 2)}" in done.out
    assert cli("delta", "2", "--against", "1", "--json", *there).json["changed"] == 1
    killed = cli("kill", "--to", "last-approved", *there)
    assert (killed.code, "charging uses release 1" in killed.out) == (0, True)
    status = cli("status", *there)
    assert "Charging uses release 1" in status.out
    assert "tariffs log 1 --backend aws" in status.out
    assert json.loads(store.get(repository.POINTER).to_pybytes())["version"] == 1
