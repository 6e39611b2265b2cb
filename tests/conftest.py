"""What many tests share: a bench on which a run is driven step by step, without child processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from bench import Bench

# a counterexample is shown as it was found: making it small can take longer than all other tests together
settings.register_profile("house", deadline=None, print_blob=True, phases=[Phase.explicit, Phase.reuse, Phase.generate])
settings.load_profile("house")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    yield bench
    bench.close()
