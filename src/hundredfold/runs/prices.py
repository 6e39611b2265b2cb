"""Prices of AWS: one dated table with a source for each figure, which a user's file overrides.

A price that is missing is an error with the name of the entry, never a guess.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import UsageError

FIELDS = {"usd", "source", "unconfirmed"}


class NoPrice(UsageError):
    """A price that neither the table nor the user's file has."""


@dataclass(frozen=True, slots=True)
class Price:
    """A price in US dollars, its source, and whether a copy of the price list confirms it."""

    usd: float
    source: str
    unconfirmed: bool = False


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of one region; `used` collects the names of the prices that were asked for."""

    region: str
    table: Mapping[str, Price]
    used: set[str] = field(default_factory=set)

    def usd(self, name: str) -> float:
        """Return a price. Raises: NoPrice."""
        found = self.table.get(name)
        if found is None:
            raise NoPrice(
                f"no price {name} in {self.region}",
                hint=f"put it into a file: [{self.region}] and {name} = DOLLARS; --prices FILE",
            )
        self.used.add(name)
        return found.usd

    @property
    def unconfirmed(self) -> list[str]:
        """The used prices that no copy of the price list confirms."""
        return sorted(name for name in self.used if self.table[name].unconfirmed)


def read_prices(region: str, path: str | Path | None = None) -> Prices:
    """Return the prices of a region, overridden by those of a user's file.

    Raises: UsageError for an unknown region, and for a file that cannot be read.
    """
    own = (files(__package__) / "prices.toml").read_text("utf-8")
    tables = _parse(own, "the table of prices")
    known = {name for table in tables.values() for name in table} | {
        f"ec2_spot_{kind}_vcpu_h" for kind in ("arm64", "x86_64")
    }
    if path is not None:
        for name, given in _read_file(Path(path)).items():
            unknown = sorted(set(given) - known)
            if unknown:
                raise UsageError(
                    f"{path} has prices that no plan uses: {', '.join(unknown)}",
                    hint=f"the names are {', '.join(sorted(known))}",
                )
            tables[name] = {**tables.get(name, {}), **given}
    if region not in tables:
        raise UsageError(
            f"no prices of the region {region}, only of {', '.join(sorted(tables))}",
            hint=f"put them into a file below [{region}], and name it with --prices",
        )
    return Prices(region, tables[region])


def _read_file(path: Path) -> dict[str, dict[str, Price]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prices {path} cannot be read: {error}") from error
    return _parse(text, str(path))


def _parse(text: str, where: str) -> dict[str, dict[str, Price]]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from error
    loose = [name for name, table in found.items() if not isinstance(table, dict)]
    if loose:
        raise UsageError(
            f"{where} has {', '.join(loose)} outside of a region",
            hint="begin with a line such as [us-east-1]",
        )
    return {
        region: {name: _price(f"{where}, {region}, {name}", value) for name, value in table.items()}
        for region, table in found.items()
    }


def _price(where: str, value: Any) -> Price:
    fields: Any = value if isinstance(value, dict) else {"usd": value, "source": "the user's file"}
    usd: Any = fields.get("usd")
    number = isinstance(usd, int | float) and not isinstance(usd, bool)
    if not number or set(fields) - FIELDS or not 0 <= usd < math.inf:
        raise UsageError(
            f"{where} is {value!r}, wanted dollars, 0 or more",
            hint="such as sqs_request = 4e-7",
        )
    return Price(
        float(usd), str(fields.get("source", "the user's file")), bool(fields.get("unconfirmed"))
    )
