"""Each price has a source; a user's file overrides it; a missing one is an error, not a guess."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import hundredfold.runs
from hundredfold.errors import UsageError
from hundredfold.runs.prices import NoPrice, read_prices

TABLE = tomllib.loads((files(hundredfold.runs) / "prices.toml").read_text("utf-8"))


def test_every_price_has_a_source_and_an_honest_status() -> None:
    entries = [(n, e) for prices in TABLE.values() for n, e in prices.items()]
    assert entries
    assert [name for name, entry in entries if not entry["source"]] == []
    assert [
        name
        for name, entry in entries
        if entry["source"].startswith("not confirmed") != entry.get("unconfirmed", False)
    ] == []


def test_a_file_of_the_user_overrides_and_adds_prices(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        "[us-east-1]\nlambda_request = 1\nec2_spot_arm64_vcpu_h = 0.01\n"
        '[mars-1]\nsqs_request = { usd = 2.5, source = "an offer" }\n'
    )
    table, here = read_prices("us-east-1"), read_prices("us-east-1", own)
    assert (table.usd("lambda_request"), here.usd("lambda_request")) == (2e-7, 1.0)
    assert here.usd("ec2_spot_arm64_vcpu_h") == 0.01
    assert here.usd("athena_tb") == table.usd("athena_tb") == 5.0
    assert read_prices("mars-1", own).usd("sqs_request") == 2.5


def test_a_missing_price_is_an_error_that_names_it() -> None:
    with pytest.raises(NoPrice, match="no price sqs_poller_h in eu-central-1"):
        read_prices("eu-central-1").usd("sqs_poller_h")
    with pytest.raises(UsageError, match="no prices of the region mars-1, only of ap-south-1"):
        read_prices("mars-1")


def test_used_prices_that_are_not_confirmed_are_named() -> None:
    prices = read_prices("us-east-1")
    assert prices.unconfirmed == []
    prices.usd("ecs_managed_fee")
    prices.usd("lambda_request")
    assert prices.unconfirmed == ["ecs_managed_fee"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[us-east-1]\nlambda_reqest = 1", "has prices that no plan uses: lambda_reqest"),
        ("[us-east-1]\nlambda_request = -1", "lambda_request is -1, wanted dollars"),
        ("[us-east-1]\nlambda_request = nan", "lambda_request is nan, wanted dollars"),
        ("[us-east-1]\nlambda_request = true", "lambda_request is True, wanted dollars"),
        ("[us-east-1]\nlambda_request = { euro = 1 }", "wanted dollars"),
        ("lambda_request = 1", "has lambda_request outside of a region"),
        ("[us-east-1", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_of_prices_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    if text is not None:
        own.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_prices("us-east-1", own)
