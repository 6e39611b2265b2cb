"""Sizes of the synthetic data, and the products of the synthetic operator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Format = Literal["csv", "parquet"]


@dataclass(frozen=True, slots=True)
class Size:
    """A size: 54 bundle units per location, 48 voice units per cell; the format of the sales."""

    locations: int
    cells: int
    weeks: int
    sales_format: Format


MAX_WEEKS = 500  # beyond, row ids of two blocks would collide


def size_of(
    name: str, locations: int | None = None, cells: int | None = None, weeks: int | None = None
) -> Size:
    """Return a size by its name, with other counts if given; ValueError if it is not possible."""
    usual = SIZES[name]
    size = replace(
        usual,
        locations=usual.locations if locations is None else locations,
        cells=usual.cells if cells is None else cells,
        weeks=usual.weeks if weeks is None else weeks,
    )
    wrong = [
        f"{field}={getattr(size, field)}"
        for field in ("locations", "cells", "weeks")
        if getattr(size, field) < 1
    ]
    if wrong or size.weeks > MAX_WEEKS:
        raise ValueError(
            f"found {', '.join(wrong) or f'weeks={size.weeks}'};"
            f" wanted at least 1 of each, and at most {MAX_WEEKS} weeks"
        )
    return size


SIZES = {
    "demo": Size(locations=20, cells=60, weeks=26, sales_format="csv"),
    "medium": Size(locations=200, cells=300, weeks=26, sales_format="parquet"),
    "large": Size(locations=18_520, cells=3_000, weeks=26, sales_format="parquet"),
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A data bundle; money in GHS.  `elasticity` is the mean of its units' true elasticities."""

    product: str
    ladder: str
    rung: int
    volume_mb: float
    validity_days: int
    list_price: float
    price_tick: float
    elasticity: float


COST_PER_MB = 0.0004
FLOOR_SHARE, CEILING_SHARE = 0.6, 1.6

BUNDLES = (
    Bundle("DAY_50", "DAY", 1, 50, 1, 1.00, 0.05, -2.3),
    Bundle("DAY_150", "DAY", 2, 150, 1, 2.00, 0.10, -2.0),
    Bundle("DAY_400", "DAY", 3, 400, 1, 4.00, 0.10, -1.8),
    Bundle("WEEK_300", "WEEK", 1, 300, 7, 4.50, 0.10, -1.7),
    Bundle("WEEK_1000", "WEEK", 2, 1_000, 7, 9.00, 0.25, -1.5),
    Bundle("WEEK_3000", "WEEK", 3, 3_000, 7, 20.00, 0.50, -1.4),
    Bundle("MONTH_1000", "MONTH", 1, 1_000, 30, 12.00, 0.25, -1.3),
    Bundle("MONTH_4000", "MONTH", 2, 4_000, 30, 30.00, 0.50, -1.1),
    Bundle("MONTH_12000", "MONTH", 3, 12_000, 30, 65.00, 1.00, -1.0),
)
SEGMENTS = {
    "BUSINESS": 0.35,
    "FAMILY": 0.10,
    "HEAVY": -0.10,
    "LIGHT": 0.0,
    "SENIOR": 0.15,
    "YOUTH": -0.45,
}
TIERS = {"METRO": 0.15, "TOWN": 0.0, "RURAL": -0.20}
REGIONS = ("ASHANTI", "GREATER_ACCRA", "NORTHERN", "WESTERN")

VOICE_PRODUCT = "VOICE_ONNET"
VOICE_TARIFF = 0.10  # GHS per minute
VOICE_COST = 0.004
CELL_CLASSES = {"URBAN": 1.3, "SUBURBAN": 1.6, "VILLAGE": 2.0, "HIGHWAY": 0.6}
DAY_PARTS = {"NIGHT": -0.2, "MORNING": 0.0, "AFTERNOON": 0.2, "EVENING": 0.4}
FORMER_NAMES = {
    "DAY_150": "DAILY_150"
}  # renamed products; dirt uses the former name in earlier weeks
PLACE_NAMES = (
    "Abétifi",
    "Accra",
    "Bolgatanga",
    "Cape Coast",
    "Dano",
    "Ho",
    "Kété-Krachi",
    "Kumasi",
    "N'Zérékoré",
    "Sékondi",
    "Tamalé",
    "Wa",
)
