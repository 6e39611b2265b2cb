"""`hundredfold diff`: the text, the JSON, the file and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from support.cli import RunCli


def test_two_runs_are_compared_and_their_changes_shown(run_cli: RunCli, tmp_path: Path) -> None:
    for name, variant in (("one", "my_job.job:job"), ("two", "variants:raises")):
        run_cli("run", variant, "--run-id", name, "--max-failed", "1")
    shown = run_cli("diff", "one", "two", "--limit", "1", "--out", str(tmp_path / "d.parquet"))
    assert shown.code == 0, shown.err
    assert "run two against run one   299 and 300 rows" in shown.out
    assert "0 added, 1 removed, 299 changed" in shown.out
    assert "and 299 more: --limit N shows more" in shown.out
    assert "only in run one: rows" in shown.out
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    assert len(rows) == 300
    assert [r["shop"] for r in rows if r["difference"] == "removed"] == ["S003"]

    facts = json.loads(run_cli("diff", "one", "two", "--json", "--limit", "0").out)
    assert (facts["removed"], facts["changed"], facts["only_a"]) == (1, 299, ["rows"])
    assert run_cli("diff", "one", "two", "--exit-code").code == 1
    same = run_cli("diff", "one", "one", "--exit-code")
    assert (same.code, same.out.splitlines()[-1]) == (0, "no difference")


def test_a_comparison_that_cannot_be_made_is_one_clear_error(
    run_cli: RunCli, tmp_path: Path
) -> None:
    run_cli("run", "my_job.job:job", "--run-id", "only")
    unknown = run_cli("diff", "only", "other")
    assert unknown.code == 2
    assert "there is no run other" in unknown.err
    wrong = run_cli("diff", "only", "only", "--out", str(tmp_path / "d.xlsx"))
    assert wrong.code == 2
    assert "ends with none of .parquet, .csv" in wrong.err
    nowhere = run_cli("diff", "only", "only", "--out", str(tmp_path / "no" / "d.csv"))
    assert nowhere.code == 2
    assert "cannot be written" in nowhere.err
    (tmp_path / "file").touch()
    below = run_cli("diff", "only", "only", "--out", str(tmp_path / "file" / "d.csv"))
    assert below.code == 2
    assert "cannot be written" in below.err
    assert list(tmp_path.rglob("*d.csv*")) == []
