"""Fixtures of the tariffs: synthetic data with truth, priced by hand without the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.demo_operator import demo_home, demo_operator
from support.manual_pricing import ManualRun, PricedRun, price_all
from support.price_tables import ReleaseSite, in_s3, on_disk
from tariffs.synthetic.scenarios import Switches
from tariffs.synthetic.write import generate

__all__ = ["demo_home", "demo_operator"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> PricedRun:
    return price_all(
        ManualRun(
            generate(
                "demo", tmp_path_factory.mktemp("demo"), dirt=False, switches=Switches(cap=True)
            )
        )
    )


@pytest.fixture(scope="session")
def medium(tmp_path_factory: pytest.TempPathFactory) -> PricedRun:
    return price_all(ManualRun(generate("medium", tmp_path_factory.mktemp("medium"), dirt=False)))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ManualRun]:
    """A market of one's own: `made(size, switches=...)`, without dirt."""
    return lambda size, **how: ManualRun(
        generate(size, tmp_path_factory.mktemp("made"), dirt=False, **how)
    )


@pytest.fixture(scope="module")
def bucket() -> Iterator[Callable[[], ReleaseSite]]:
    with in_s3() as new:
        yield new


@pytest.fixture(params=["disk", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> ReleaseSite:
    """A site of either kind: both must keep the same promises."""
    if request.param == "disk":
        return on_disk(tmp_path / "home")
    new: Callable[[], ReleaseSite] = request.getfixturevalue("bucket")
    return new()


@pytest.fixture
def disk(tmp_path: Path) -> ReleaseSite:
    return on_disk(tmp_path / "home")
