"""The two product lines: their names, and the functions of the job that price them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tariffs.columns import Rows
from tariffs.demand.prior import Prior
from tariffs.pricing import bundles, voice


@dataclass(frozen=True, slots=True)
class Line:
    """A product line.

    kind          as in the price table
    model, prior  the job's models
    key           of a unit;  factors  of the prior mean;  season  of units with a common season
    truth         the generator's file
    fit, price    stage 1 and stage 2, for all units of UnitArrays at once
    """

    kind: str
    model: str
    prior: str
    key: tuple[str, ...]
    factors: tuple[str, ...]
    season: str
    truth: str
    fit: Callable[[Rows], Prior]
    price: Callable[[Any, Prior], dict[str, Any]]


BUNDLE = Line(
    "bundle",
    "bundles",
    "prior",
    bundles.UNIT,
    bundles.FACTORS,
    "segment",
    "bundles.parquet",
    bundles.fit_prior,
    bundles.price_bundles,
)
VOICE = Line(
    "voice",
    "voice",
    "voice_prior",
    voice.UNIT,
    voice.FACTORS,
    "region",
    "voice.parquet",
    voice.fit_voice_prior,
    voice.price_voices,
)
LINES = (BUNDLE, VOICE)
