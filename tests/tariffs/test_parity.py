"""One unit at a time and many at once: the same prices, in any batch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tariffs.pricing import bundles, voice


def test_a_bundle_alone_is_priced_as_in_the_batch_to_the_last_bit(demo: Any) -> None:
    for u in range(len(demo.bundles)):
        alone = bundles.price_bundle(demo.bundles.unit(u), demo.prior)
        for name, values in demo.bundle_prices.items():
            assert getattr(alone, name) == values[u], (u, name)


def test_a_voice_hour_alone_is_priced_as_in_the_batch_to_the_last_bit(demo: Any) -> None:
    for u in range(0, len(demo.voice), 3):
        alone = voice.price_voice(demo.voice.unit(u), demo.voice_prior)
        for name, values in demo.voice_prices.items():
            assert getattr(alone, name) == values[u], (u, name)


def test_prices_do_not_depend_on_how_units_are_batched(demo: Any) -> None:
    cuts = [0, 1, 2, 300, 777, len(demo.bundles)]
    parts = [bundles.price_bundles(demo.bundles.part(a, b), demo.prior) for a, b in pairwise(cuts)]
    for name, values in demo.bundle_prices.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), values), name


def test_spoilt_weeks_keep_the_two_forms_equal(demo: Any) -> None:
    slab = demo.bundles.part(0, 40)
    spiked = np.where(
        np.arange(len(slab["week"])) % 37 == 5, 100 * slab["quantity"] + 1000, slab["quantity"]
    )
    columns = dict(slab.columns) | {"quantity": spiked}
    spoilt = type(slab)(columns, slab.key, slab.offsets)
    together = bundles.price_bundles(spoilt, demo.prior)
    assert together["set_aside_n"].sum() > 20
    for u in range(len(spoilt)):
        alone = bundles.price_bundle(spoilt.unit(u), demo.prior)
        assert (alone.price, alone.beta, alone.set_aside_n) == (
            together["price"][u],
            together["beta"][u],
            together["set_aside_n"][u],
        )


def test_a_spoilt_week_does_not_move_an_estimate_far(demo: Any) -> None:
    busiest = int(np.argmax(demo.bundle_prices["volume"]))
    rows = demo.bundles.unit(busiest)
    spoilt = rows | {
        "quantity": np.where(
            np.arange(len(rows["week"])) == 9, 100 * rows["quantity"] + 1000, rows["quantity"]
        )
    }
    clean, soiled = bundles.price_bundle(rows, demo.prior), bundles.price_bundle(spoilt, demo.prior)
    assert abs(soiled.beta - clean.beta) < 2 * clean.se
    assert soiled.set_aside_n == 1


def test_the_same_rows_give_the_same_prior_twice(demo: Any) -> None:
    rows = demo.manual.ask("prior", bundles.UNIT, ("week",)).columns
    again = bundles.fit_prior(rows)
    assert again.tau2 == demo.prior.tau2
    assert np.array_equal(again.gamma, demo.prior.gamma)
    assert np.array_equal(again.effects, demo.prior.effects)
