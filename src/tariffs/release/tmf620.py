"""A price table as TM Forum's ProductOfferingPrice (Open API TMF620 v4.1, with v5's `@type`).

| ProductOfferingPrice | price table |
|---|---|
| id | unit_key: one price for each unit, the same from release to release |
| name | product_offering_id; voice: with the hour and the type of day |
| version | table_version |
| lifecycleStatus | the release's approval state, in TM Forum's terms |
| validFor | valid_from, valid_to; for a table from the kill switch, since its use |
| priceType | bundles: oneTime; voice: usage, for one minute (unitOfMeasure) |
| price | currency and price, a decimal number without binary errors |
| prodSpecCharValueUse | segment, location; voice: cell, hour, day type, discount class |
| constraint | constraint_bound: the limit that held the price |
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from tariffs.contracts import CHARGING_COLUMNS
from tariffs.release.states import State
from tariffs.release.tables import MONEY_DIGITS

KIND = "ProductOfferingPrice"
MEDIA = "productOfferingPrice"  # the resource's name in a URL
LIFE_CYCLE = {
    State.DRAFT: "In test",
    State.APPROVED: "Active",
    State.CANARY: "Active",
    State.ACTIVE: "Launched",
    State.WITHDRAWN: "Retired",
}
REJECTED = "Rejected"  # withdrawn, and charging never used it

BUNDLE = {"segment": "segment", "location": "location"}  # characteristic -> column
VOICE = {
    "location": "location",
    "cell": "cell",
    "hour": "hour",
    "dayType": "day_type",
    "discountClass": "discount_class",
}
COLUMNS = (*CHARGING_COLUMNS, "constraint_bound")


@dataclass(frozen=True, slots=True)
class PublicationStatus:
    """Facts that all prices of a table share.

    status   lifecycleStatus
    changed  time of the release's last change of state, ISO 8601; None for a draft
    since    for a table from the kill switch: the start of its use, in place of the rows' times
    base     the catalogue's URL, for `href`; None: no href
    """

    status: str
    changed: str | None = None
    since: str | None = None
    base: str | None = None


def life_cycle(state: State, was_used: bool) -> str:
    """Return TM Forum's term for an approval state.  (Its list is not binding in the schema.)"""
    return REJECTED if state is State.WITHDRAWN and not was_used else LIFE_CYCLE[state]


def prices(table: pa.Table, standing: PublicationStatus) -> Iterator[dict[str, Any]]:
    """Yield every row as a ProductOfferingPrice, in the table's order."""
    for batch in table.select(list(COLUMNS)).to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield price(row, standing)


def price(row: Mapping[str, Any], standing: PublicationStatus) -> dict[str, Any]:
    """Return one row as a ProductOfferingPrice."""
    voice = row["kind"] == "voice"
    facts = {
        "id": row["unit_key"],
        "href": standing.base
        and f"{standing.base.rstrip('/')}/{MEDIA}/{quote(row['unit_key'], safe='')}",
        "name": f"{row['product_offering_id']} {row['hour']:02d}:00 {row['day_type']}"
        if voice
        else row["product_offering_id"],
        "version": str(row["table_version"]),
        "lastUpdate": standing.changed,
        "lifecycleStatus": standing.status,
        "isBundle": False,  # no price is made of others
        "validFor": _period(row, standing),
        "priceType": "usage" if voice else "oneTime",
        "price": {"unit": row["currency"], "value": _decimal(row["price"])},
        "unitOfMeasure": {"amount": 1, "units": "min"} if voice else None,
        "prodSpecCharValueUse": [
            _characteristic(name, row[column])
            for name, column in (VOICE if voice else BUNDLE).items()
        ],
        "constraint": [_constraint(row["constraint_bound"])] if row["constraint_bound"] else None,
        "@type": KIND,
    }
    return {name: value for name, value in facts.items() if value is not None}


def as_lines(table: pa.Table, standing: PublicationStatus) -> Iterator[str]:
    """Yield JSON lines: one price a line."""
    for each in prices(table, standing):
        yield json.dumps(each, ensure_ascii=False) + "\n"


def as_array(table: pa.Table, standing: PublicationStatus) -> Iterator[str]:
    """Yield one JSON array, as the API's response to a GET of all prices; a price a line."""
    yield "["
    for number, each in enumerate(prices(table, standing)):
        yield ("\n" if number == 0 else ",\n") + json.dumps(each, ensure_ascii=False)
    yield "\n]\n"


def _decimal(money: float) -> int | float:
    """Return the shortest number of this price: 2.3, not 2.3000000000000003; 4, not 4.0."""
    value = round(money, MONEY_DIGITS)
    return int(value) if value == int(value) else value


def _period(row: Mapping[str, Any], standing: PublicationStatus) -> dict[str, str]:
    if standing.since is not None:
        return {"startDateTime": _instant(dt.datetime.fromisoformat(standing.since))}
    return {"startDateTime": _instant(row["valid_from"]), "endDateTime": _instant(row["valid_to"])}


def _instant(moment: dt.datetime) -> str:
    """Return RFC 3339; a time without zone is UTC."""
    return f"{moment.astimezone(dt.UTC) if moment.tzinfo else moment:%Y-%m-%dT%H:%M:%S}Z"


def _characteristic(name: str, value: Any) -> dict[str, Any]:
    kind = "integer" if isinstance(value, int) else "string"
    chosen = {
        "value": value,
        "valueType": kind,
        "@type": f"{kind.capitalize()}CharacteristicValueSpecification",
    }
    return {
        "name": name,
        "valueType": kind,
        "productSpecCharacteristicValue": [chosen],
        "@type": "ProductSpecificationCharacteristicValueUse",
    }


def _constraint(bound: str) -> dict[str, str]:
    return {
        "id": bound,
        "name": bound.replace("_", " ").lower(),
        "@type": "ConstraintRef",
        "@referredType": "PricingLimit",
    }
