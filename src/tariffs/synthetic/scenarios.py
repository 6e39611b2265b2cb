"""Switches: deviations of the synthetic market from an experiment; by default all are off.

Each switch draws from random streams of its own, so that it changes nothing else; without switches
no byte differs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from tariffs.synthetic.calendar import Stream, rng_for

SHOCK = 0.10  # standard deviation of a week's shock in log demand, if there are shocks
WAITING = 1.5  # b of w(t, p) = p / (t + 1)^b; surveys found 0.6 (downloads) to 2.0 (video)
REACH = 3  # hours before and after from which minutes can be drawn
LIMITS = {"endog": (0.0, 2.0), "ar": (0.0, 0.99), "cross": (0.0, 1.0), "shift": (0.0, 0.7)}


@dataclass(frozen=True, slots=True)
class Switches:
    """The deviations of the market.

    endog  posted prices foresee the shock of log demand: they rise by `endog` times it, as a share
           of the reference price.  Logged exploration stays exogenous and identifies elasticities
    ar     the shocks are serial: AR(1) with this coefficient, and the same variance
    cross  chi: a product of a ladder sells e^(chi x) times as much if its neighbour's relative
           price is x above reference
    cap    voice: cells are smaller than their busiest weeks; demand beyond capacity is not served,
           and counted as blocked calls.  Without it every cell can carry its busiest week.  In both
           cases no row carries more than the capacity
    shift  voice: an hour with a discount deeper by p draws the share shift p / (t + 1)^b of the
           minutes t hours away
    """

    endog: float = 0.0
    ar: float = 0.0
    cross: float = 0.0
    cap: bool = False
    shift: float = 0.0

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)}"
            for name, (least, most) in LIMITS.items()
            if not least <= getattr(self, name) <= most
        ]
        if wrong:
            ranges = ", ".join(
                f"{name} {least:g} to {most:g}" for name, (least, most) in LIMITS.items()
            )
            raise ValueError(f"switches out of range: {', '.join(wrong)}; wanted {ranges}")

    def facts(self) -> dict[str, float | bool]:
        """Return the switches for the file of the truth."""
        return asdict(self) | {
            "shock_sd": SHOCK if self.shaken else 0.0,
            "waiting_b": WAITING,
            "reach_hours": REACH,
        }

    @property
    def shaken(self) -> bool:
        """Whether weeks have shocks."""
        return self.endog > 0 or self.ar > 0


OFF = Switches()


def shocks(
    switches: Switches, seed: int, stream: Stream, block: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Return shocks of log demand: stationary AR(1) along the last axis (weeks), sd SHOCK."""
    eta = SHOCK * rng_for(seed, stream, block).standard_normal(shape)
    for week in range(1, shape[-1]):
        eta[..., week] = (
            switches.ar * eta[..., week - 1] + np.sqrt(1 - switches.ar**2) * eta[..., week]
        )
    return np.asarray(eta)


def waiting() -> dict[int, float]:
    """Return w(t, 1) for each distance to another hour: {-3: ..., 3: ...} without 0."""
    return {step: (abs(step) + 1.0) ** -WAITING for step in range(-REACH, REACH + 1) if step}
