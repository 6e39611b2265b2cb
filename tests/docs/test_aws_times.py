"""The table of times and costs on AWS is what the script in benchmarks/ computes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.aws_times import PREPARED, table

ROOT = Path(__file__).parents[2]


def test_the_table_of_times_and_costs_is_computed() -> None:
    page = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in page
    # counted by test_many_batches_take_few_statements_and_calls_in_sequence
    assert [(each.statements, each.calls) for each in PREPARED] == [(0, 2), (5, 7)]
