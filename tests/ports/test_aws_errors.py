"""Errors of AWS are translated into our errors, with a hint and without credentials; each process
has its own clients.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config

from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.aws.adapters.errors import translate_errors
from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.aws.adapters.session import client
from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.errors import HomeError
from support.aws_account import Account
from support.emulator import DONE, MISSING, Emulator
from support.faulty_connection import FaultyConnection
from support.ledger_records import RUN
from support.waits import HANG_S

TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE"
CALLS: dict[str, Callable[..., Any]] = {
    "put": lambda _: S3Store("bucket").put("a", b""),
    "get": lambda _: S3Store("bucket").get("a"),
    "list": lambda _: list(S3Store("bucket").list("")),
    "delete": lambda _: S3Store("bucket").delete("a"),
    "send": lambda url: SqsQueue(f"{url}/123456789012/work", f"{url}/123456789012/dead").send(
        ["a"]
    ),
    "receive": lambda url: SqsQueue(
        f"{url}/123456789012/work", f"{url}/123456789012/dead"
    ).receive(),
    "create": lambda _: DynamoLedger("runs").create(RUN),
    "read": lambda _: DynamoLedger("runs").read("x"),
}
RIGHTS = {
    "put": "s3:PutObject",
    "get": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete": "s3:ListBucket|s3:DeleteObject",
    "send": "sqs:SendMessage",
    "receive": "sqs:ReceiveMessage",
    "create": "dynamodb:PutItem",
    "read": "dynamodb:GetItem",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Any]:
    """An account that enforces IAM, and the key of a user without permissions."""
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator(auth=True) as emulator:
        emulator.client("s3").create_bucket(Bucket="bucket")
        for name in ("work", "dead"):
            emulator.client("sqs").create_queue(QueueName=name)
        emulator.client("iam").create_user(UserName="guest")
        yield emulator, emulator.client("iam").create_access_key(UserName="guest")["AccessKey"]


@pytest.fixture
def as_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set environment variables for the following clients; None removes one."""

    def as_(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        _forget()

    yield as_
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    client.cache_clear()
    boto3.DEFAULT_SESSION = None


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_permission_is_named_for_each_call(
    guarded: tuple[Emulator, dict[str, str]], as_: Callable[..., None], call: Any
) -> None:
    emulator, key = guarded
    as_(
        AWS_ENDPOINT_URL=emulator.url,
        AWS_ACCESS_KEY_ID=key["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"],
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    with pytest.raises(
        HomeError, match=f"these credentials lack the permission ({RIGHTS[call]})"
    ) as translated_error:
        CALLS[call](emulator.url)
    assert "aws sts get-caller-identity" in str(translated_error.value.hint)
    assert (
        pickle.loads(pickle.dumps(translated_error.value)).message == translated_error.value.message
    )
    assert key["SecretAccessKey"] not in _all(translated_error.value)


@pytest.mark.parametrize("call", CALLS)
def test_missing_credentials_are_an_error(
    account: Account, as_: Callable[..., None], call: Any
) -> None:
    as_(
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=None,
    )
    with pytest.raises(HomeError, match="found no AWS credentials") as translated_error:
        CALLS[call](account.emulator.url)
    assert "AWS_PROFILE" in str(translated_error.value.hint)


def test_a_missing_profile_is_an_error(account: Account, as_: Callable[..., None]) -> None:
    as_(AWS_PROFILE="missing")
    with pytest.raises(HomeError, match=r"no AWS credentials: .*missing"):
        CALLS["put"]("")


@pytest.mark.parametrize("call", ["send", "create"])
def test_a_missing_region_is_an_error(
    account: Account, as_: Callable[..., None], call: Any
) -> None:
    as_(AWS_REGION=None, AWS_DEFAULT_REGION=None)
    with pytest.raises(HomeError, match="no AWS region is set") as translated_error:
        CALLS[call](account.emulator.url)
    assert "AWS_REGION" in str(translated_error.value.hint)


@pytest.fixture
def translated_error(connection: FaultyConnection) -> Any:
    """Call AWS once against a given reply, and return the translated error."""

    def translated_error(
        code: str, status: int = 400, message: str = "so it is", service: str = "dynamodb"
    ) -> HomeError:
        connection.fail_with("", status, code, message)
        asking = boto3.client(
            service, endpoint_url=connection.url, config=Config(retries={"total_max_attempts": 1})
        )
        with pytest.raises(HomeError) as raised, translate_errors("the table runs", "read"):
            asking.get_item(
                TableName="runs", Key={"id": {"S": "1"}}
            ) if service == "dynamodb" else asking.head_object(Bucket="b", Key="k")
        return raised.value

    return translated_error


@pytest.mark.parametrize("code", ["ExpiredTokenException", "ExpiredToken"])
def test_expired_credentials_are_an_error(
    translated_error: Callable[..., HomeError], code: str
) -> None:
    error = translated_error(code)
    assert (
        error.message == f"the table runs cannot be read: the AWS credentials have expired ({code})"
    )
    assert "aws sso login" in str(error.hint)


@pytest.mark.parametrize(
    "code", ["InvalidSignatureException", "UnrecognizedClientException", "SignatureDoesNotMatch"]
)
def test_the_message_about_a_signature_is_not_repeated(
    translated_error: Callable[..., HomeError], code: str
) -> None:
    error = translated_error(
        code, message=f"The Canonical String should have been 'POST x-amz-security-token:{TOKEN}'"
    )
    assert "AWS rejected these credentials, or the clock of this machine is wrong" in error.message
    assert TOKEN not in _all(error)


def test_throttling_is_an_error(translated_error: Callable[..., HomeError]) -> None:
    error = translated_error("ThrottlingException", message="Rate exceeded")
    assert "AWS throttled the request after many attempts" in error.message
    assert "resume" in str(error.hint)


def test_a_denial_without_message_names_the_permission_of_the_call(
    translated_error: Callable[..., HomeError],
) -> None:
    assert "lack the permission s3:GetObject" in translated_error("", 403, service="s3").message


def test_an_unknown_error_is_reported_with_aws_code_and_message(
    translated_error: Callable[..., HomeError],
) -> None:
    assert (
        translated_error("OddException").message
        == "the table runs cannot be read: OddException: so it is"
    )


def test_an_unreachable_service_is_an_error(account: Account) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        unused = f"http://127.0.0.1:{closed.getsockname()[1]}"
        asking = boto3.client(
            "dynamodb",
            endpoint_url=unused,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=HANG_S),
        )
        with (
            pytest.raises(HomeError, match="AWS does not answer") as translated_error,
            translate_errors("the table runs", "read"),
        ):
            asking.list_tables()
    assert "AWS_ENDPOINT_URL" in str(translated_error.value.hint)


def test_an_invalid_call_is_not_translated(account: Account) -> None:
    from botocore.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError), translate_errors("the table runs", "read"):
        client("dynamodb").get_item(Table="runs")


def _all(error: BaseException) -> str:
    """Return everything that a log would print of an error."""
    return "".join(traceback.format_exception(error))


def test_many_threads_may_create_the_first_client_at_once(account: Account) -> None:
    script = """
from concurrent.futures import ThreadPoolExecutor
from hundredfold.aws.adapters.session import client
with ThreadPoolExecutor(16) as pool:
    services = [("s3", "sqs", "dynamodb")[number % 3] for number in range(48)]
    list(pool.map(lambda service: client(service).meta.region_name, services))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG_S)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_its_own_connections(account: Account) -> None:
    store = S3Store(account.bucket())
    for number in range(8):
        store.put(str(number), str(number).encode() * 1_000)

    def read(_: object = None) -> bool:
        return all(
            bytes(store.get(str(number))) == str(number).encode() * 1_000 for number in range(8)
        )

    mine = client("s3")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))
    child = os.fork()
    if not child:
        os._exit(0 if client("s3") is not mine and read() else 1)
    assert all(read() for _ in range(4))
    assert os.waitpid(child, 0)[1] == 0
    assert client("s3") is mine
