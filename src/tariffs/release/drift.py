"""Drift: does demand differ from the table's expectation?  A weekly CUSUM chart for each segment.

In week t and segment g, over the repriced units and over the control units, let R be
sold / expected.  The season and everything else that affects both cancels in log R_repriced -
log R_control; divided by its standard error it is a score z, near N(0, 1) while the expectation
holds.  Page's (1954) two sums S+ = max(0, S+ + z - K) and S- = max(0, S- - z - K) grow when it does
not; beyond CUSUM_ALARM they raise an alarm.  With K = 0.5 and an alarm at 5, a chart in control
gives a false alarm once in about 465 weeks, and one whose mean is off by one standard error an
alarm after ten (Montgomery, Introduction to Statistical Quality Control, ch. 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tariffs.release.panel import Panel, category_codes
from tariffs.release.tables import Bools, Floats, bools, floats, is_voice

CUSUM_ALLOWANCE, CUSUM_ALARM = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Chart:
    """One segment's chart.

    score        z of each week
    up, down     the two sums of each week
    ratio        sold / expected - 1 over all weeks, against the control units
    """

    name: str
    weeks: tuple[str, ...]
    score: tuple[float, ...]
    up: tuple[float, ...]
    down: tuple[float, ...]
    ratio: float

    @property
    def peak(self) -> float:
        return max((*self.up, *self.down), default=0.0)

    @property
    def alarm(self) -> bool:
        return self.peak > CUSUM_ALARM


def charts(table: pa.Table, since: Panel) -> tuple[Chart, ...]:
    """Return a chart for each segment of the bundles and each day type of voice.

    A segment without control units is compared with all control units of its kind; without any, or
    without expectations, it has no chart.
    """
    voice, control = is_voice(table), bools(table, "control_flag")
    expected = floats(table, "expected_volume") + np.nan_to_num(
        floats(table, "expected_volume_delta")
    )
    known = np.isfinite(expected) & (expected > 0)
    found = []
    for kind, column in ((~voice, "segment"), (voice, "day_type")):
        names, group = category_codes(table, column)
        for number, name in enumerate(names):
            here = kind & known & (group == number)
            held = here & control if (here & control).any() else kind & known & control
            if (here & ~control).any() and held.any():
                found.append(
                    _chart(
                        name if column == "segment" else f"voice {name}",
                        since,
                        expected,
                        here & ~control,
                        held,
                    )
                )
    return tuple(chart for chart in found if chart.weeks)


def cusum(score: Floats) -> tuple[Floats, Floats]:
    """Return Page's two sums; shape (weeks,) each."""
    up, down = np.zeros(len(score)), np.zeros(len(score))
    above = below = 0.0
    for week, z in enumerate(score):
        above, below = (
            max(0.0, above + float(z) - CUSUM_ALLOWANCE),
            max(0.0, below - float(z) - CUSUM_ALLOWANCE),
        )
        up[week], down[week] = above, below
    return up, down


def _chart(name: str, since: Panel, expected: Floats, repriced: Bools, held: Bools) -> Chart:
    sold, wanted = _sums(since, expected, repriced)
    sold_held, wanted_held = _sums(since, expected, held)
    counts = (sold > 0) & (sold_held > 0)
    noise = _dispersion(since, expected, (repriced, held)) * (
        1.0 / wanted[counts] + 1.0 / wanted_held[counts]
    )
    gap = np.log(sold[counts] / wanted[counts]) - np.log(sold_held[counts] / wanted_held[counts])
    score = gap / np.sqrt(noise)
    up, down = cusum(score)
    weight = 1.0 / noise if len(noise) else noise
    ratio = float(np.expm1((gap * weight).sum() / weight.sum())) if len(gap) else 0.0
    return Chart(
        name,
        tuple(str(w) for w in since.weeks[counts]),
        _plain(score),
        _plain(up),
        _plain(down),
        ratio,
    )


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _sums(since: Panel, expected: Floats, which: Bools) -> tuple[Floats, Floats]:
    """Return units sold and expected in each week, over the units with a row; shape (weeks,)."""
    sold = since.quantity[which]
    there = np.isfinite(sold)
    return np.where(there, sold, 0.0).sum(axis=0), np.where(
        there, expected[which][:, None], 0.0
    ).sum(axis=0)


def _dispersion(since: Panel, expected: Floats, groups: tuple[Bools, Bools]) -> float:
    """Return Pearson's statistic over its degrees of freedom, around weekly means; at least 1."""
    total, cells = 0.0, 0
    for which in groups:
        sold, wanted = _sums(since, expected, which)
        mu = expected[which][:, None] * np.divide(
            sold, wanted, out=np.zeros_like(sold), where=wanted > 0
        )
        y = since.quantity[which]
        there = np.isfinite(y) & (mu > 0)
        total += float(((y[there] - mu[there]) ** 2 / mu[there]).sum())
        cells += int(there.sum()) - len(since.weeks)
    return max(total / cells, 1.0) if cells > 0 else 1.0
