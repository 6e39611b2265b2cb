"""Which units a pilot executes, and the fit of their seconds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hundredfold.data.manifest import Manifest
from hundredfold.planning.fits import fit_costs, sum_error
from hundredfold.planning.samples import (
    FIRST_UNITS,
    MIN_KNOWN_S,
    TRIALS,
    Sample,
    first_sample,
    next_batches,
    next_sample,
    stretches_of,
)
from hundredfold.sql.queries import make_batches


def manifest_of(rows: np.ndarray, parts: int = 8) -> Manifest:
    batches = make_batches(rows, parts=parts, most_rows=int(rows.sum()))
    return Manifest("m", ("k",), (), len(rows), int(rows.sum()), (), tuple(batches))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=300), st.floats(0.01, 3.0))
def test_stretches_are_all_units_once_and_each_is_in_one_batch(
    sizes: list[int], target_s: float
) -> None:
    rows = np.array(sizes)
    manifest = manifest_of(rows)
    expected = 1e-3 * rows
    found = stretches_of(manifest.batches, expected, target_s)
    units = sorted(unit for first, last in found for unit in range(first, last + 1))
    assert units == list(range(len(rows)))
    for first, last in found:
        assert manifest.batch_of(first) == manifest.batch_of(last)
        # a long unit may end a stretch, but nothing is added after the target
        assert expected[first:last].sum() <= target_s * (1 + 1e-6)


def test_the_first_round_has_single_units_and_two_short_stretches() -> None:
    rows = np.full(10_000, 10)
    sample = first_sample(rows, manifest_of(rows), False)
    assert sample.ranges is not None
    assert not sample.whole
    assert not sample.last
    lengths = [last - first + 1 for first, last in sample.ranges]
    assert lengths == [1] * FIRST_UNITS + [8, 8]
    units = [unit for first, last in sample.ranges for unit in range(first, last + 1)]
    assert len(set(units)) == len(units)
    assert first_sample(rows[:20], manifest_of(rows[:20]), False) == Sample()


def test_cheap_units_are_tried_in_stretches_before_all_are_executed() -> None:
    rows = np.full(100_000, 10)
    manifest = manifest_of(rows)
    # single units took 15 times longer than those of a batch
    trial = next_sample(manifest, np.full(len(rows), 1e-4), 1e-4, 2.5, 2)
    assert trial is not None
    assert trial.ranges is not None
    assert not trial.last
    assert len(trial.ranges) == TRIALS
    units = sum(last - first + 1 for first, last in trial.ranges)
    assert 1_000 < units < 10_000
    assert next_sample(manifest, np.full(len(rows), 6e-6), MIN_KNOWN_S, 2.5, 2) == Sample()


def test_costly_units_are_executed_in_stretches_until_the_time_is_over() -> None:
    rows = np.full(1_000, 10)
    sample = next_sample(manifest_of(rows), np.full(1_000, 0.02), 0.3, 2.5, 2)
    assert sample is not None
    assert sample.ranges is not None
    assert sample.whole
    lengths = [last - first + 1 for first, last in sample.ranges]
    assert sum(lengths) == 1_000
    assert np.median(lengths) == pytest.approx(0.2 / 0.02, abs=1)
    assert next_sample(manifest_of(rows), np.full(1_000, 0.02), 0.3, 0.1, 2) is None


def test_of_a_batched_model_whole_batches_are_executed() -> None:
    rows = np.full(800, 10)
    manifest = manifest_of(rows)
    some = next_batches(manifest, np.full(800, 0.01), 2.0, 2)
    assert some is not None
    assert some.ranges is not None
    batches = {(batch.first, batch.last) for batch in manifest.batches}
    assert set(some.ranges) < batches
    assert not some.whole
    assert next_batches(manifest, np.full(800, 1e-5), 2.0, 2) == Sample()
    assert next_batches(manifest, np.full(800, 1.0), 2.0, 2) is None


def sampled(seconds: np.ndarray, chunk: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which units are done, in chunks of consecutive ones, and which begin a chunk."""
    chance = np.random.default_rng(3)
    count = len(seconds) // chunk
    chosen = np.sort(chance.permutation(count)[: max(int(share * count), 2)])
    done = np.zeros(len(seconds), bool)
    begins = np.zeros(len(seconds), bool)
    for number in chosen:
        done[number * chunk : (number + 1) * chunk] = True
        begins[number * chunk] = True
    return done, begins


def test_what_the_first_unit_of_a_chunk_takes_more_is_no_cost_of_units() -> None:
    rows = np.full(5_000, 10)
    seconds = np.full(5_000, 6e-6)
    done, begins = sampled(seconds, 20, 0.1)
    seconds = seconds + 1e-4 * begins
    fit = fit_costs(rows, done, seconds[done], 2, begins[done])
    assert fit.expected.sum() == pytest.approx(5_000 * 6e-6, rel=0.01)
    assert fit.chunk_s == pytest.approx(1e-4, rel=0.01)
    # without the marks, the cost of a chunk would be that of its units
    naive = fit_costs(rows, done, seconds[done], 2, np.ones(int(done.sum()), bool))
    assert naive.expected.sum() > 1.5 * fit.expected.sum()


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
def test_costs_that_are_not_linear_in_the_rows_are_summed_within_a_tenth(power: float) -> None:
    chance = np.random.default_rng(1)
    rows = np.maximum(20 * chance.lognormal(0, 1.0, 4_000), 1).astype(int)
    seconds = 1e-4 * rows**power
    done, begins = sampled(seconds, 10, 0.25)
    fit = fit_costs(rows, done, seconds[done], 2, begins[done])
    assert fit.expected.sum() == pytest.approx(seconds.sum(), rel=0.1)


def test_the_error_holds_the_differences_between_places_of_the_table() -> None:
    # units that are neighbours are alike: more of the same place show nothing new
    chance = np.random.default_rng(1)
    ratios, narrow = [], []
    for _ in range(200):
        rows, chunk = np.full(4_000, 10), 20
        seconds = np.repeat(chance.lognormal(0, 0.5, 200), chunk) * 1e-3
        chosen = chance.permutation(200)[:40]
        done = np.isin(np.arange(4_000) // chunk, chosen)
        begins = done & (np.arange(4_000) % chunk == 0)
        fit = fit_costs(rows, done, seconds[done], 2, begins[done])
        ratio = fit.expected.sum() / seconds.sum() - 1
        ratios.append(ratio / fit.error)
        narrow.append(ratio / sum_error(fit.spread, int(done.sum())))
    # of a normal error, 80 % are within 1.28
    assert np.mean(np.abs(ratios) < 1.28) > 0.72
    assert np.mean(np.abs(narrow) < 1.28) < 0.5
