"""The export for TM Forum's catalogue API: every row is valid and equals the table's row."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.price_tables import bundle, changed, table, voice
from support.tmf620_schema import SCHEMA, violations
from tariffs.release.states import State
from tariffs.release.tmf620 import PublicationStatus, as_array, as_lines, life_cycle, price, prices

LAUNCHED = PublicationStatus("Launched", "2026-06-29T12:00:00Z")


def test_every_row_keeps_the_schema() -> None:
    made = changed(table(), "C1/07/WEEKDAY", constraint_bound="CAPACITY")
    for standing in (
        LAUNCHED,
        PublicationStatus("In test"),
        PublicationStatus(
            "Launched", "2026-06-29T12:00:00Z", "2026-07-01T09:30:00Z", "https://x.example/v4/"
        ),
    ):
        assert [
            e
            for each in prices(made, standing)
            for e in violations(json.loads(json.dumps(each)), SCHEMA)
        ] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"price": {"unit": "GHS", "value": "2.3"}}, "is no number"),
        ({"price": {"unit": "cedi", "value": 2.3}}, "does not match"),
        ({"lifecycleStatus": "draft"}, "is none of"),
        ({"validFor": {"startDateTime": "2026-06-30"}}, "does not match"),
        ({"id": ""}, "too short"),
        ({"pricetype": "usage"}, "is not known"),
        ({"version": 3}, "is no string"),
        ({"isBundle": 0}, "is no boolean"),
        ({"prodSpecCharValueUse": []}, "too short"),
    ],
)
def test_the_schema_finds_what_is_wrong(change: dict[str, Any], words: str) -> None:
    row = next(prices(table(), LAUNCHED))
    assert violations(row, SCHEMA) == []
    assert words in " ".join(violations({**row, **change}, SCHEMA))


def test_another_validator_states_the_same() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [
        e.message for each in prices(table(), LAUNCHED) for e in validator.iter_errors(each)
    ] == []
    assert list(validator.iter_errors({**next(prices(table(), LAUNCHED)), "version": 3}))


def test_a_bundle_is_bought_once_by_a_segment_in_a_place() -> None:
    (row,) = prices(table(bundle("ACCRA", price=2.3, table_version=7)), LAUNCHED)
    assert row | {"prodSpecCharValueUse": []} == {
        "id": "YOUTH/ACCRA/DAY",
        "name": "DAY@YOUTH/ACCRA",
        "version": "7",
        "lastUpdate": "2026-06-29T12:00:00Z",
        "lifecycleStatus": "Launched",
        "isBundle": False,
        "validFor": {
            "startDateTime": "2026-06-30T00:00:00Z",
            "endDateTime": "2026-07-07T00:00:00Z",
        },
        "priceType": "oneTime",
        "price": {"unit": "GHS", "value": 2.3},
        "prodSpecCharValueUse": [],
        "@type": "ProductOfferingPrice",
    }
    assert characteristics(row) == {"segment": "YOUTH", "location": "ACCRA"}


def test_voice_is_used_by_the_minute_and_states_where_and_when() -> None:
    (row,) = prices(table(voice("C1", 8, constraint_bound="STEP_UP")), LAUNCHED)
    assert characteristics(row) == {
        "location": "TEMA",
        "cell": "C1",
        "hour": 8,
        "dayType": "WEEKDAY",
        "discountClass": 50,
    }
    assert (row["name"], row["priceType"], row["unitOfMeasure"]) == (
        "VOICE@C1 08:00 WEEKDAY",
        "usage",
        {"amount": 1, "units": "min"},
    )
    assert [c["id"] for c in row["constraint"]] == ["STEP_UP"]


def characteristics(row: dict[str, Any]) -> dict[str, Any]:
    return {
        use["name"]: use["productSpecCharacteristicValue"][0]["value"]
        for use in row["prodSpecCharValueUse"]
    }


def test_every_price_has_an_id_of_its_own() -> None:
    ids = [row["id"] for row in prices(table(), LAUNCHED)]
    assert len(set(ids)) == len(ids) == 6


def test_an_address_names_the_price_in_one_part() -> None:
    (row,) = prices(
        table(bundle("ACCRA")),
        PublicationStatus(
            "Launched", base="https://x.example/tmf-api/productCatalogManagement/v4/"
        ),
    )
    assert (
        row["href"] == "https://x.example/tmf-api/productCatalogManagement/v4/"
        "productOfferingPrice/YOUTH%2FACCRA%2FDAY"
    )


@given(st.integers(1, 10**9), st.sampled_from([0.005, 0.05, 0.1, 0.25, 0.5, 1.0]))
def test_money_is_written_without_the_dust_of_binary_fractions(steps: int, tick: float) -> None:
    written = json.dumps(price(bundle("ACCRA", price=steps * tick), LAUNCHED)["price"]["value"])
    assert len(written.partition(".")[2]) <= 3
    assert float(written) == pytest.approx(steps * tick, abs=1e-6)


def test_a_table_that_the_kill_switch_brought_is_valid_from_then_on() -> None:
    (row,) = prices(
        table(bundle("ACCRA")), PublicationStatus("Launched", since="2026-07-09T08:15:00Z")
    )
    assert row["validFor"] == {"startDateTime": "2026-07-09T08:15:00Z"}


@pytest.mark.parametrize(
    ("state", "used", "word"),
    [
        (State.DRAFT, False, "In test"),
        (State.APPROVED, False, "Active"),
        (State.CANARY, True, "Active"),
        (State.ACTIVE, True, "Launched"),
        (State.WITHDRAWN, True, "Retired"),
        (State.WITHDRAWN, False, "Rejected"),
    ],
)
def test_the_approval_state_uses_the_terms_of_the_life_cycle(
    state: State, used: bool, word: str
) -> None:
    assert life_cycle(state, used) == word


def test_the_array_and_the_lines_hold_the_same() -> None:
    array = json.loads("".join(as_array(table(), LAUNCHED)))
    assert array == [json.loads(line) for line in as_lines(table(), LAUNCHED)]
    assert len(array) == 6
    assert json.loads("".join(as_array(table().slice(0, 0), LAUNCHED))) == []


def test_a_time_with_a_zone_is_reported_in_utc() -> None:
    zoned = dt.datetime(2026, 6, 30, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert (
        price({**bundle("ACCRA"), "valid_from": zoned}, LAUNCHED)["validFor"]["startDateTime"]
        == "2026-06-30T00:00:00Z"
    )


def test_names_in_any_script_stay_as_they_are() -> None:
    (line,) = as_lines(pa.Table.from_pylist([bundle("Töme")], schema=table().schema), LAUNCHED)
    assert '"YOUTH/Töme/DAY"' in line
