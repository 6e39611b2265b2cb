"""The two product lines, as far as evidence must tell them apart: names, and nothing that computes."""

from __future__ import annotations

from dataclasses import dataclass

from tariffs import bundles, voice


@dataclass(frozen=True, slots=True)
class Line:
    """kind: as in the price table.  model, prior: the job's models.  key: the unit.  factors: what the prior mean depends on.
    season: whose weeks share a season.  truth: the generator's file."""

    kind: str
    model: str
    prior: str
    key: tuple[str, ...]
    factors: tuple[str, ...]
    season: str
    truth: str


BUNDLE = Line("bundle", "bundles", "prior", bundles.UNIT, bundles.FACTORS, "segment", "bundles.parquet")
VOICE = Line("voice", "voice", "voice_prior", voice.UNIT, voice.FACTORS, "region", "voice.parquet")
LINES = (BUNDLE, VOICE)
