"""What many tests share: a bench on which a run is driven step by step, without child processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    yield bench
    bench.close()
