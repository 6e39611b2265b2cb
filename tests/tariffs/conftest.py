"""Fixtures of the tariffs: synthetic data with truth, priced by hand without the engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.manual_pricing import ManualRun, PricedRun, price_all
from tariffs.synthetic.scenarios import Switches
from tariffs.synthetic.write import generate


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
