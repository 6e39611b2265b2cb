"""The demo's operator and a run of its job, made once for all test processes.

Tests read them; a test that changes something copies it first.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hundredfold
from support.shared_folders import filled_once, shared_folder
from tariffs import demo

RUN = "one"
WORKERS = 2
PLACES = "places.json"


@pytest.fixture(scope="session")
def demo_operator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The operator's tables, with their dirt: the path of each source."""

    def make(folder: Path) -> None:
        places = demo.make("demo", folder)
        (folder / PLACES).write_text(json.dumps({name: str(at) for name, at in places.items()}))

    folder = filled_once(shared_folder(tmp_path_factory) / "demo-operator", make)
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
