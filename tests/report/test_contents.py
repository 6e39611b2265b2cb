"""The contents of a report: every figure of it is that of the run."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from pathlib import Path

import pytest

import hundredfold
from hundredfold.report.write import report_of, write_report
from support.html_page import Node, parse_page
from support.reported_runs import REVERSED, SCRIPT, open_run


def section(page: Node, name: str) -> Node:
    return page.one("section", id=name)


def test_the_head_has_the_verdict_and_the_main_figures(first: Node) -> None:
    head = first.one("header")
    assert head.one("h1").text == "weeklydone"
    assert head.one("p", **{"class": "verdict"}).text == (
        "The run is done: it published 3 rows of prices as release 1, and release 2 is current. "
        "2 units failed and 2 rows were rejected."
    )
    tiles = {tile.one("dt").text: tile.one("dd").text for tile in head.one("dl").all("div")}
    assert tiles["rows accepted"] == "20of 22"
    assert tiles["units ok"] == "3of 5"
    assert tiles["release"] == "1not current"


def test_rows_are_counted_and_the_bad_cell_is_marked(first: Node) -> None:
    rows = section(first, "rows")
    _, sales = rows.table("Rows of each source")
    assert sales[2:] == ["22", "20", "0", "2", "0"]
    assert rows.table("Why rows of sales were rejected")[1][:3] == [
        "price must be > 0",
        "2",
        "-4.0",
    ]
    rejected = rows.table("First rows of sales that were not accepted")
    assert [row[1:3] for row in rejected[1:]] == [
        ["price must be > 0", "A"],
        ["price must be > 0", "<b>B</b>"],
    ]
    assert [mark.text for mark in rows.all("mark")] == ["bad value: -4", "bad value: 0"]


def test_failures_are_grouped_and_have_a_command_to_replay(first: Node) -> None:
    units = section(first, "units")
    _, means = units.table("Units of each model")
    assert means[2:6] == ["5", "3", "2", "0"]
    (group,) = units.all("article", "failure")
    assert group.one("h4").text == "2 units of means failed"
    assert "<img src=x onerror=alert(1)> \\u202e broken for 4 rows" in group.text
    (replay,) = group.all("code", "command")
    assert replay.text.startswith("hundredfold replay means ")
    assert replay.text.endswith(" --run first --pdb")
    assert "in mean" in group.all("pre")[-1].text


def test_the_release_is_compared_with_the_one_before(second: Node) -> None:
    release = section(second, "release")
    _, prices = release.table("Difference of prices")
    assert prices[2:] == ["3", "3", "0", "0", "3"]
    assert [row[0] for row in release.table("Changed columns of prices")[1:]] == ["mean"]
    changed = release.table("First rows of prices that differ")
    assert changed[1] == ["A", "changed", "mean", "3", "3.875"]
    assert release.table("Mean <price>")[1] == ["3", "3.875"]


def test_each_column_of_the_results_has_a_profile(first: Node) -> None:
    profiles = section(first, "columns")
    lines = {row[0]: row for row in profiles.table("Columns of the results of means")[1:]}
    assert lines["mean"][1:10] == ["double", "-", "1", "3", "3", "3", "3", "3", "3"]
    assert lines["shop"][3] == "3"
    assert "<i>A</i>" in lines["note"][-1]
    published = profiles.table("Columns of the published table prices")
    assert [row[0] for row in published[1:]] == ["shop", "mean", "<u>note</u>"]


def test_times_of_steps_workers_and_units_are_those_of_the_run(home: Path, first: Node) -> None:
    run = open_run(home, "first")
    workers = {row["ran_on"] for row in run.units().to_arrow().to_pylist()}
    lanes = section(first, "timeline").all("figure")[0].all("svg", "lane")
    assert len(lanes) == 1 + len(workers)  # the first shows the steps
    assert sum(len(lane.all("rect")) for lane in lanes[1:]) >= len(workers)
    units = {row[0]: row for row in section(first, "timeline").table("Workers")[1:]}
    assert sum(int(row[3]) for row in units.values()) == 5
    assert sum(int(row[4]) for row in units.values()) == 2
    seconds = section(first, "seconds")
    assert seconds.table("Seconds per unit")[1][:2] == ["means", "5"]
    slowest = seconds.table("The 5 slowest units of means")
    taken = sorted(run.units().to_arrow().to_pylist(), key=lambda unit: -unit["seconds"])
    assert slowest[1][0].count(taken[0]["shop"][:1])
    assert seconds.table("Time of each step")[1][0] == "validate"


def test_provenance_names_the_run_its_code_and_its_sources(home: Path, first: Node) -> None:
    told = section(first, "provenance")
    facts = {each.one("dt").text: each.one("dd").text for each in told.one("dl").all("div")}
    assert facts["run"] == "first"
    (entry,) = open_run(home, "first").record.code
    assert told.table("Code")[1][1] == entry["fingerprint"]
    name, _, _, digest = told.table("Sources")[1]
    assert (name, len(digest)) == ("sales", 8)
    steps = [row[2] for row in told.table("History")[1:]]
    assert steps[-1] == "done"
    assert "validate" in steps


def test_the_first_release_of_a_job_has_nothing_to_compare_with(first: Node) -> None:
    assert "It is the first release" in section(first, "release").text


def test_a_held_run_has_a_report_with_its_reason(home: Path) -> None:
    page = parse_page(report_of(open_run(home, "held")))
    assert "The run is held: nothing is published." in page.one("header").text
    assert "2 of 5 units" in page.one("pre", **{"class": "reason"}).text
    assert [node for node in page.all("section") if node.attributes.get("id") == "release"] == []


def test_a_run_that_failed_to_validate_has_a_report(home: Path) -> None:
    page = parse_page(report_of(open_run(home, "failed")))
    assert "The run failed" in page.one("header").text
    assert "price  must be > 0  2 rows" in page.one("pre", **{"class": "reason"}).text
    assert page.all("dl", "tiles") == []


def test_a_damaged_file_costs_one_section(tmp_path: Path, home: Path) -> None:
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    run = open_run(copy, "first")
    path = run.folder / "models" / "means" / "results.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    page = parse_page(report_of(run))
    (problem,) = page.all("p", "problem")
    assert problem.text.startswith("This section could not be made: ")
    assert "results.parquet is damaged" in problem.text
    assert section(page, "rows").table("Rows of each source")[1][2] == "22"


def test_texts_of_users_are_never_markup(home: Path) -> None:
    text = report_of(open_run(home, "first"))
    page = parse_page(text)
    assert len(page.all("script")) == 1
    for name in ("img", "b", "i", "u"):
        assert page.all(name) == []
    assert [n for n in page.nodes() for a in n.attributes if a.startswith("on")] == []
    assert [n for n in page.nodes() if n.attributes.get("style")] == []
    assert SCRIPT not in text
    assert SCRIPT in page.one("body").text
    assert REVERSED not in text
    assert "abc\\u202egnp.exe" in page.one("body").text
    hidden = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert hidden == []


def test_the_page_may_load_nothing_and_run_only_its_own_script(first: Node) -> None:
    policy = first.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert "default-src 'none'" in policy
    for name in ("style", "script"):
        digest = hashlib.sha256(first.one(name).text.encode()).digest()
        assert f"{name}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    addresses = [
        node.attributes[key]
        for node in first.nodes()
        for key in ("src", "href")
        if key in node.attributes
    ]
    assert all(address.startswith("#") for address in addresses)


def test_every_link_of_the_page_has_its_target(first: Node) -> None:
    ids = [node.attributes["id"] for node in first.nodes() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    links = [link.attributes["href"].removeprefix("#") for link in first.all("a")]
    assert len(links) >= 7
    assert set(links) <= set(ids)


def test_every_table_has_a_caption_and_heads_with_a_scope(first: Node) -> None:
    tables = first.all("table")
    assert len(tables) > 10
    for each in tables:
        assert each.one("caption").text
        assert {head.attributes.get("scope") for head in each.all("th")} <= {"row", "col"}


def test_a_report_is_written_beside_the_run_or_to_a_file(home: Path, tmp_path: Path) -> None:
    run = open_run(home, "second")
    assert write_report(run) == run.folder / "report.html"
    other = write_report(run, tmp_path / "own.html")
    assert other.read_text("utf-8").startswith("<!doctype html>")
    with pytest.raises(hundredfold.HundredfoldError, match="cannot be written"):
        write_report(run, tmp_path / "no" / "own.html")
    assert list(tmp_path.iterdir()) == [other]
