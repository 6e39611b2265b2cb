"""What is said of a unit's price: the columns that bundles and voice have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tariffs.observe import Learnt
from tariffs.optimise.reasons import reasons
from tariffs.optimise.rule import COVERAGE_90, Choice, Demand, Terms, effect
from tariffs.rows import Bools, Columns, Floats, Ints, Labels


@dataclass(frozen=True, slots=True)
class Priced:
    """One unit's price and why.  Money in the catalogue's currency, volumes and deltas per week.

    elasticity, se, credible_lo, credible_hi  at the current price; the interval holds 90 %
    beta, shrink_weight       at the reference price, before any fallback; shrink_weight 1 = all prior
    support_n, set_aside_n    weeks used, and weeks left out as spikes
    volume                    expected per week at the current price
    lowest, highest           the limits that the price was chosen within (equal: the unit is held)
    """

    price: float
    current_price: float
    reference_price: float
    unit_cost: float
    reason_code: str
    constraint_bound: str
    elasticity: float
    se: float
    credible_lo: float
    credible_hi: float
    beta: float
    shrink_weight: float
    support_n: int
    set_aside_n: int
    volume: float
    lowest: float
    highest: float
    z: float
    p_gain: float
    expected_volume_delta: float
    expected_revenue_delta: float
    expected_margin_delta: float


P = TypeVar("P", bound=Priced)


def report(terms: Terms, demand: Demand, learnt: Learnt, choice: Choice, hold: Labels) -> dict[str, np.ndarray]:
    """The columns of `Priced`, each of shape (units,)."""
    effects = effect(choice.price, terms, demand)
    stays = (hold != "") & (choice.price == terms.current)
    return {
        "price": choice.price,
        "current_price": terms.current,
        "reference_price": terms.reference,
        "unit_cost": terms.unit_cost,
        "reason_code": reasons(choice, terms, hold, learnt.fallback),
        "constraint_bound": choice.bound,
        "elasticity": demand.elasticity,
        "se": demand.sd,
        "credible_lo": demand.elasticity - COVERAGE_90 * demand.sd,
        "credible_hi": demand.elasticity + COVERAGE_90 * demand.sd,
        "beta": learnt.fit.beta,
        "shrink_weight": learnt.fit.shrink,
        "support_n": learnt.weeks,
        "set_aside_n": learnt.set_aside,
        "volume": demand.volume,
        "lowest": np.where(stays, terms.current, terms.lowest),
        "highest": np.where(stays, terms.current, terms.highest),
        "z": terms.z,
        "p_gain": effects.p_gain,
        "expected_volume_delta": effects.volume,
        "expected_revenue_delta": effects.revenue,
        "expected_margin_delta": effects.margin,
    }


def only(columns: dict[str, np.ndarray], kind: type[P]) -> P:
    """The single unit of columns that have shape (1,), as a row of `kind`."""
    return kind(**{name: values[0].item() if isinstance(values[0], np.generic) else values[0] for name, values in columns.items()})


def terms_of(rows: Columns, offsets: Ints, step: Floats) -> Terms:
    """The limits of each unit, as they stood in its last week; `step` is money, shape (units,).

    Raises ValueError where the catalogue or the policy left something out: a price made of a gap is worse than none.
    """
    last = offsets[1:] - 1

    def column(name: str) -> Floats:
        return np.asarray(rows[name], dtype=np.float64)[last]

    terms = Terms(
        current=column("posted_price"), reference=column("reference_price"), unit_cost=column("unit_cost"), tick=column("price_tick"),
        floor=column("price_floor"), ceiling=column("price_ceiling"), step=step, z=column("z"),
    )  # fmt: skip
    if faults := terms.faults():
        raise ValueError(f"cannot be priced: wanted {', '.join(faults)}")
    return terms


def control_of(rows: Columns, offsets: Ints) -> Bools:
    return np.asarray(rows["control"][offsets[1:] - 1], dtype=np.bool_)
