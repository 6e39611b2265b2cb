"""The demo's operator, a quarter of it, and a run of its job, made once for all test processes.

Tests read them; a test that changes something copies it first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import hundredfold
from support.shared_folders import filled_once, shared_folder
from tariffs import demo
from tariffs.release.clock import write_demo_clock
from tariffs.synthetic import SIZES
from tariffs.synthetic.scenarios import Switches
from tariffs.synthetic.write import generate

RUN = "one"
WORKERS = 2
PLACES = "places.json"


@pytest.fixture(scope="session")
def demo_operator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The operator's tables, with their dirt: the path of each source."""

    folder = filled_once(
        shared_folder(tmp_path_factory) / "demo-operator",
        lambda folder: write_places(folder, demo.make("demo", folder)),
    )
    return read_places(folder)


@pytest.fixture(scope="session")
def quarter_operator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with a quarter of its locations and cells: 270 bundles, 720 cells and hours."""

    def make(folder: Path) -> None:
        size = replace(SIZES["demo"], locations=5, cells=15)
        made = generate(size, folder, switches=Switches(cap=True))
        write_demo_clock(folder, demo.AS_OF)
        places = {
            name: files[0] if len(files) == 1 else files[0].parent
            for name, files in made.sources.items()
        }
        write_places(folder, places)

    return read_places(filled_once(shared_folder(tmp_path_factory) / "quarter-operator", make))


def write_places(folder: Path, places: Mapping[str, Path]) -> None:
    (folder / PLACES).write_text(json.dumps({name: str(at) for name, at in places.items()}))


def read_places(folder: Path) -> dict[str, Path]:
    places: dict[str, str] = json.loads((folder / PLACES).read_text())
    return {name: Path(place) for name, place in places.items()}


@pytest.fixture(scope="session")
def demo_home(demo_operator: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of one run by two workers, with many units per call; its release is 1."""

    def make(home: Path) -> None:
        hundredfold.run(
            demo.JOB, demo_operator, home=home, workers=WORKERS, as_of=demo.AS_OF, run_id=RUN
        )

    return filled_once(shared_folder(tmp_path_factory) / "demo-home", make)
