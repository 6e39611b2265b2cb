"""The demo `tariffs`: its job, its moment and its data. The engine finds it by an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tariffs import synthetic
from tariffs.release.clock import write_demo_clock

JOB = "tariffs.job:job"
AS_OF = synthetic.AS_OF.isoformat()
SIZES = tuple(synthetic.SIZES)
NEXT = (
    ("tariffs evidence truth", "compares its elasticities with the true ones"),
    ("tariffs evidence calibration", "compares its probabilities of gain with the true gains"),
    ("tariffs evidence dial", "shows the effect of other settings of the risk dial"),
    (
        "tariffs check 1",
        "checks its price table with every guard, at the demo's time: the first step to charging",
    ),
    ("tariffs status", "shows the state of every release"),
)


def make(size: str, folder: Path) -> Mapping[str, Path]:
    """Write an operator's tables, with dirt and full cells; return each source's path."""
    made = synthetic.generate(size, folder, switches=synthetic.Switches(cap=True))
    write_demo_clock(Path(folder), AS_OF)
    return {
        name: files[0] if len(files) == 1 else files[0].parent
        for name, files in made.sources.items()
    }
