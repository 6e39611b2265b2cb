"""What AWS refuses is told in plain words, with what to do, and without showing a credential; and
each process has its own clients.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.config import Config
from test_ledger_door import RUN

from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.aws.adapters.errors import in_plain_words
from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.aws.adapters.session import client
from hundredfold.aws.adapters.sqs_queue import SqsQueue
from hundredfold.errors import HomeError
from support.emulator import DONE, MISSING, Emulator
from support.waits import HANG_S

TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE"
CALLS = {
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
def guarded():
    """An account in which rights are asked for, and the key of a user who has none."""
    if not DONE.exists():
        pytest.skip(MISSING)
    with Emulator(auth=True) as emulator:
        emulator.client("s3").create_bucket(Bucket="bucket")
        for name in ("work", "dead"):
            emulator.client("sqs").create_queue(QueueName=name)
        emulator.client("iam").create_user(UserName="guest")
        yield emulator, emulator.client("iam").create_access_key(UserName="guest")["AccessKey"]


@pytest.fixture
def as_(monkeypatch):
    """Set variables of the environment for the clients to come; None takes one away."""

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
def test_a_right_that_is_missing_is_named(guarded, as_, call):
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
        HomeError, match=f"these credentials have not the right ({RIGHTS[call]})"
    ) as told:
        CALLS[call](emulator.url)
    assert "aws sts get-caller-identity" in told.value.hint
    assert pickle.loads(pickle.dumps(told.value)).message == told.value.message
    assert key["SecretAccessKey"] not in _all(told.value)


@pytest.mark.parametrize("call", CALLS)
def test_credentials_that_are_not_there_are_told(account, as_, call):
    as_(
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=None,
    )
    with pytest.raises(HomeError, match="there are no AWS credentials") as told:
        CALLS[call](account.emulator.url)
    assert "AWS_PROFILE" in told.value.hint


def test_a_profile_that_is_not_there_is_told(account, as_):
    as_(AWS_PROFILE="nobody")
    with pytest.raises(HomeError, match=r"no AWS credentials .*nobody"):
        CALLS["put"]("")


@pytest.mark.parametrize("call", ["send", "create"])
def test_a_region_that_is_not_set_is_told(account, as_, call):
    as_(AWS_REGION=None, AWS_DEFAULT_REGION=None)
    with pytest.raises(HomeError, match="no AWS region is set") as told:
        CALLS[call](account.emulator.url)
    assert "AWS_REGION" in told.value.hint


@pytest.fixture
def told(line):
    """Call AWS once, get an answer, and say it in plain words."""

    def told(
        code: str, status: int = 400, message: str = "so it is", service: str = "dynamodb"
    ) -> HomeError:
        line.say("", status, code, message)
        asking = boto3.client(
            service, endpoint_url=line.url, config=Config(retries={"total_max_attempts": 1})
        )
        with pytest.raises(HomeError) as raised, in_plain_words("the table runs", "read"):
            asking.get_item(
                TableName="runs", Key={"id": {"S": "1"}}
            ) if service == "dynamodb" else asking.head_object(Bucket="b", Key="k")
        return raised.value

    return told


@pytest.mark.parametrize("code", ["ExpiredTokenException", "ExpiredToken"])
def test_credentials_that_have_expired_are_told(told, code):
    error = told(code)
    assert (
        error.message == f"the table runs cannot be read: the AWS credentials have expired ({code})"
    )
    assert "aws sso login" in error.hint


@pytest.mark.parametrize(
    "code", ["InvalidSignatureException", "UnrecognizedClientException", "SignatureDoesNotMatch"]
)
def test_what_aws_says_of_a_signature_is_not_passed_on(told, code):
    error = told(
        code, message=f"The Canonical String should have been 'POST x-amz-security-token:{TOKEN}'"
    )
    assert "AWS does not know these credentials, or this machine's clock is wrong" in error.message
    assert TOKEN not in _all(error)


def test_a_service_that_is_too_busy_is_told(told):
    error = told("ThrottlingException", message="Rate exceeded")
    assert "too busy" in error.message
    assert "resume" in error.hint


def test_a_refusal_without_words_names_the_right_that_belongs_to_the_call(told):
    assert "have not the right s3:GetObject" in told("", 403, service="s3").message


def test_what_nobody_foresaw_is_told_as_aws_tells_it(told):
    assert told("OddException").message == "the table runs cannot be read: OddException: so it is"


def test_a_service_that_cannot_be_reached_is_told(account):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        asking = boto3.client(
            "dynamodb",
            endpoint_url=nobody,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=HANG_S),
        )
        with (
            pytest.raises(HomeError, match="AWS does not answer") as told,
            in_plain_words("the table runs", "read"),
        ):
            asking.list_tables()
    assert "AWS_ENDPOINT_URL" in told.value.hint


def test_a_call_that_aws_does_not_know_is_our_own_mistake(account):
    from botocore.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError), in_plain_words("the table runs", "read"):
        client("dynamodb").get_item(Table="runs")


def _all(error: BaseException) -> str:
    """All that a log would show of it."""
    return "".join(traceback.format_exception(error))


def test_many_threads_may_ask_for_the_first_client_at_once(account):
    script = """
from concurrent.futures import ThreadPoolExecutor
from hundredfold.aws.adapters.session import client
with ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda number: client(("s3", "sqs", "dynamodb")[number % 3]).meta.region_name, range(48)))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG_S)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_its_own_connections(account):
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
