"""Sources with very many columns are validated like others."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from hundredfold import Source
from support.in_process import InProcessRunner

COLUMNS = 400


def test_one_bad_value_of_many_columns_is_found(tmp_path: Path) -> None:
    names = [f"c{number:03d}" for number in range(COLUMNS)]
    contract = make_dataclass("Wide", [(name, Annotated[float, Ge(0)]) for name in names])
    values = (["1.5"] * COLUMNS, [*["2.5"] * (COLUMNS - 1), "-1"], ["3"] * COLUMNS)
    lines = [names, *values]
    (tmp_path / "wide.csv").write_text("".join(f"{','.join(line)}\n" for line in lines))
    source = Source(
        "wide",
        contract,
        unique=("c000",),
        clean={name: f"trim({name})" for name in names},
        max_rejected=1,
    )
    runner = InProcessRunner(tmp_path / "runs")
    (result,) = runner.source(source, tmp_path / "wide.csv").validate()
    runner.close()
    assert (result.rows, result.accepted, result.rejected) == (3, 2, 1)
    (finding,) = result.findings
    assert (finding.column, finding.row, finding.value) == (names[-1], 2, "-1")
