"""The demo: which job, as of when, and how its data is made. Found by the command line through an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tariffs import synthetic
from tariffs.release.clock import write_demo_clock

JOB = "tariffs.job:job"
AS_OF = synthetic.AS_OF.isoformat()
SIZES = tuple(synthetic.SIZES)
NEXT = (
    ("tariffs evidence truth", "holds its elasticities against the true ones"),
    ("tariffs evidence calibration", "holds its promises of gain against what came of them"),
    ("tariffs evidence dial", "shows what other settings of the risk dial would do"),
    (
        "tariffs check 1",
        "holds its price table against the guards, by the demo's clock: the way to charging begins",
    ),
    ("tariffs status", "shows where every release stands"),
)


def make(size: str, folder: Path) -> Mapping[str, Path]:
    """Make an operator's tables of that size, with their usual dirt and full cells, in a folder; the file or folder of each source."""
    made = synthetic.generate(size, folder, switches=synthetic.Switches(cap=True))
    write_demo_clock(Path(folder), AS_OF)
    return {
        name: files[0] if len(files) == 1 else files[0].parent
        for name, files in made.sources.items()
    }
