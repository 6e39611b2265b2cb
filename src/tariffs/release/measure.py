"""The measured effect of a table against its control group, its promises, and drift.

Weeks count from the first that is wholly after the table came into use; a unit's week counts as
before if it sold at the price that the table replaced, and as after if it sold at the table's
price.  Weeks at other prices (campaigns, trials) are left out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tariffs.release.drift import Chart, charts
from tariffs.release.effect import Cells, Effect, effect
from tariffs.release.panel import Panel, category_codes
from tariffs.release.promise import Optimism, promised_share
from tariffs.release.tables import Bools, Floats, bools, floats, is_voice

PRICE_SLACK = 0.005  # relative: billed prices have other decimals than posted ones
WEEKS_BEFORE = 8
LOW_LOAD, HIGH_LOAD = 0.2, 0.5  # of a cell's capacity in that hour, before
GAIN_BANDS = (0.0, 0.7, 0.8, 0.9, 0.95, 1.0 + 1e-9)
WEEK = np.timedelta64(7, "D")


@dataclass(frozen=True, slots=True)
class Kpi:
    """A figure of the repriced units against the control units.

    promised  the change that the table expected, less the optimism of its moves; NaN if it has none
    """

    kind: str
    name: str
    effect: Effect
    promised: float


@dataclass(frozen=True, slots=True)
class Band:
    """The moved bundles whose P(gain) is in a band.

    promised  the change of their margin that the table expected, unit by unit: the optimism is
              known for the whole table only
    """

    lo: float
    hi: float
    units: int
    p_gain: float
    promised: float
    effect: Effect | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of a measurement.

    before, after   the weeks that were compared, by their last day
    moved           the share of the units with another price than before
    unknown, set_aside   rows of sales: of units outside the table; spikes
    placebo         the same comparison within the weeks before, where there is no effect, by kind
    champion        margin a week that the table expects of its own prices, of the rule's prices,
                    and of no change, by kind
    optimism        the share of the units' changes of margin that the promise is without, by kind
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    moved: float
    unknown: int
    set_aside: int
    kpis: tuple[Kpi, ...]
    placebo: tuple[Kpi, ...]
    bands: tuple[Band, ...]
    champion: dict[str, dict[str, float]]
    charts: tuple[Chart, ...]
    optimism: dict[str, float]


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """Facts about the table's units that are not in the table; shape (units,).

    cost      money for a unit sold;  capacity  minutes in a voice unit's week; NaN if unknown
    region    of each unit, if voice has a season of its own for each
    optimism  share of the changes that the release's totals subtract
    """

    cost: Floats
    capacity: Floats
    region: Sequence[str] | None = None
    optimism: Optimism = field(default_factory=dict)


def first_week(since: dt.date) -> np.datetime64:
    """Return the first day on which a week can end that is wholly after that day's midnight."""
    return np.datetime64(since, "D") + WEEK - np.timedelta64(1, "D")


def measure(
    table: pa.Table,
    panel: Panel,
    since: dt.date,
    until: dt.date | None,
    facts: UnitFacts,
) -> Measured:
    """Return the results of a table that was in use from `since` until `until`."""
    after = (panel.weeks >= first_week(since)) & (
        (panel.weeks < np.datetime64(until, "D")) if until else True
    )
    start = np.datetime64(since, "D") - WEEK * WEEKS_BEFORE
    before = (panel.weeks < np.datetime64(since, "D")) & (panel.weeks >= start)
    unit = _Units(table, panel.during(before | after), after[before | after], facts)
    return Measured(
        tuple(str(w) for w in panel.weeks[before]),
        tuple(str(w) for w in panel.weeks[after]),
        float((unit.price != unit.current).mean()) if table.num_rows else 0.0,
        panel.unknown,
        panel.set_aside,
        tuple(unit.kpis()),
        tuple(unit.placebos()),
        tuple(unit.bands()),
        unit.against_champion(),
        charts(table, panel.during(after)) if after.any() else (),
        {kind: share for (kind, name), share in facts.optimism.items() if name == "margin"},
    )


class _Units:
    """The table's columns beside the panel, and the mask of its cells that count."""

    def __init__(self, table: pa.Table, panel: Panel, after: Bools, facts: UnitFacts) -> None:
        self.table, self.panel, self.after = table, panel, after
        self.price, self.current = floats(table, "price"), floats(table, "current_price")
        self.cost, self.capacity, self.optimism = facts.cost, facts.capacity, facts.optimism
        self.voice, self.control = is_voice(table), bools(table, "control_flag")
        self.location = category_codes(table, "location")[1]
        segment = category_codes(table, "segment")[1]
        area = (
            np.unique(np.asarray(facts.region, dtype=str), return_inverse=True)[1]
            if facts.region is not None
            else np.zeros_like(segment)
        )
        self.group = np.where(self.voice, area, segment)
        asked = np.where(after[None, :], self.price[:, None], self.current[:, None])
        self.counts = np.abs(panel.paid - asked) <= PRICE_SLACK * asked
        self.sold = panel.quantity
        self.earned = panel.quantity * panel.paid

    def margin(self) -> Floats:
        return self.sold * (self.panel.paid - self.cost[:, None])

    def seen(self, y: Floats, where: Bools, treated: Bools | None = None) -> Effect | None:
        """Return the effect of the repriced units among `where` (units,) on y."""
        given = self.after[None, :] & ~self.control[:, None] if treated is None else treated
        exposure = np.where(self.counts, self.panel.subscribers, 0.0)
        return effect(
            Cells(
                y[where],
                exposure[where],
                np.broadcast_to(given, y.shape)[where],
                self.group[where],
                self.location[where],
            )
        )

    def kpis(self) -> Iterator[Kpi]:
        for kind, where in self._kinds():
            figures = (
                ("revenue", self.earned),
                ("margin", self.margin()),
                ("bundles" if kind == "bundles" else "minutes", self.sold),
            )
            for name, y in figures:
                if (found := self.seen(y, where)) is not None:
                    yield Kpi(kind, name, found, self._promised(kind, name, where))
        load = self._load_before()
        for name, hours in (
            (f"minutes, hours below {LOW_LOAD:.0%} load", load < LOW_LOAD),
            (f"minutes, hours from {HIGH_LOAD:.0%} load", load >= HIGH_LOAD),
        ):
            if (found := self.seen(self.sold, self.voice & hours)) is not None:
                promised = self._promised("voice", "minutes", self.voice & hours)
                yield Kpi("voice", name, found, promised)

    def placebos(self) -> Iterator[Kpi]:
        """Yield comparisons of the two halves of the weeks before: the table cannot affect them."""
        weeks = np.flatnonzero(~self.after)
        late = np.isin(np.arange(len(self.after)), weeks[len(weeks) // 2 :])
        fake = np.broadcast_to(late[None, :] & ~self.control[:, None], self.sold.shape)
        early = np.where(self.after[None, :], np.nan, self.earned)
        for kind, where in self._kinds():
            if (found := self.seen(early, where, fake)) is not None:
                yield Kpi(kind, "revenue", found, 0.0)

    def bands(self) -> Iterator[Band]:
        """Yield the bundles that moved, by P(gain): the promised and the realised change."""
        gain, promised = floats(self.table, "p_gain"), floats(self.table, "expected_margin_delta")
        base = floats(self.table, "expected_volume") * (self.current - self.cost)
        moved = (
            ~self.voice
            & ~self.control
            & (self.price != self.current)
            & np.isfinite(base)
            & np.isfinite(promised)
        )
        for lo, hi in pairwise(GAIN_BANDS):
            inside = moved & (gain >= lo) & (gain < hi)
            if inside.any():
                found = self.seen(self.margin(), inside | (self.control & ~self.voice))
                yield Band(
                    lo,
                    min(hi, 1.0),
                    int(inside.sum()),
                    float(gain[inside].mean()),
                    _share(promised[inside], base[inside]),
                    found,
                )

    def against_champion(self) -> dict[str, dict[str, float]]:
        """Return the weekly margin of the repriced units at three price lists, by kind.

        It is computed with the table's own elasticities, since the rule's prices are not in use.
        Sales never exceed a cell's capacity; the demand of today is sales plus blocked minutes.
        """
        sold, beta, rule = (
            floats(self.table, name) for name in ("expected_volume", "elasticity", "champion_price")
        )
        volume, most = (
            sold + np.nan_to_num(_blocked(self.table)),
            np.where(np.isfinite(self.capacity), self.capacity, np.inf),
        )
        champion = {}
        for kind, where in self._kinds():
            here = (
                where
                & ~self.control
                & np.isfinite(volume)
                & np.isfinite(beta)
                & np.isfinite(self.cost)
            )
            asked = {"table": self.price, "rule": rule, "no change": self.current}
            if here.any():
                champion[kind] = {
                    n: float(
                        (
                            np.minimum(volume * np.exp(beta * (p / self.current - 1.0)), most)
                            * (p - self.cost)
                        )[here].sum()
                    )
                    for n, p in asked.items()
                }
        return champion

    def _kinds(self) -> list[tuple[str, Bools]]:
        return [
            (name, where)
            for name, where in (("bundles", ~self.voice), ("voice", self.voice))
            if where.any()
        ]

    def _load_before(self) -> Floats:
        """Return minutes over capacity in the weeks before; NaN for bundles or without any.

        Shape (units,).
        """
        early = np.where(self.after[None, :], np.nan, self.sold)
        weeks = np.isfinite(early).sum(axis=1)
        mean = np.divide(
            np.nansum(early, axis=1), weeks, out=np.full(len(weeks), np.nan), where=weeks > 0
        )
        return np.asarray(mean / self.capacity)

    def _promised(self, kind: str, name: str, where: Bools) -> float:
        """Return the change that the table expected of its repriced units, without optimism."""
        figure = name if name in ("revenue", "margin") else "volume"
        each = {"revenue": self.current, "margin": self.current - self.cost}.get(name, 1.0)
        optimism = self.optimism.get((kind, figure), 0.0)
        return promised_share(self.table, figure, where & ~self.control, each, optimism)


def _blocked(table: pa.Table) -> Floats:
    """Return the minutes a week that are blocked at today's prices; NaN if not in the table."""
    known = "expected_blocked_minutes" in table.column_names
    return floats(table, "expected_blocked_minutes") if known else np.full(table.num_rows, np.nan)


def _share(change: Floats, base: Floats) -> float:
    total = float(base.sum())
    return float(change.sum()) / total if total else float("nan")


def to_json(measured: Measured) -> dict[str, Any]:
    """Return the results for JSON: NaN is null."""
    from dataclasses import asdict

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(v) for v in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {**clean(asdict(measured)), "alarms": [c.name for c in measured.charts if c.alarm]}
