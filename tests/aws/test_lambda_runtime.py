"""The package as Lambda would run it: AWS's runtime client, a Python without other packages, the
function's memory.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hundredfold.aws.archive import fingerprint_of
from hundredfold.aws.deploy.package import package
from support.emulator import Emulator
from support.emulator.deploy import deploy
from support.lambda_runtime_api import Function, running
from support.synthesis import cdk_app

LAMBDA = Path(__file__).parents[2] / ".venv-lambda" / "bin" / "python"
ARCHITECTURE = "x86_64"
MODULES = {"step": "step_handler"}
MEMORY = {"step": 3008, "work": 1769, "dead_letter": 512}  # MB, as in the stack

log = logging.getLogger(__name__)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not LAMBDA.exists(), reason="no Python 3.12 to 3.14 is here: make .venv-lambda/tried"
    ),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the job that `init` creates, and its packages in `build`."""
    folder = tmp_path_factory.mktemp("shop")
    run_module(folder, "hundredfold", "init", "shop")
    options = ("--architecture", ARCHITECTURE, "--python", version_of(LAMBDA))
    run_module(folder, "hundredfold", "package", "shop.job:job", *options)
    return folder


def version_of(python: Path) -> str:
    arguments = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(
        [python, "-c", arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def unzipped(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The package of each function on its disk."""
    return unzip(shop / "build", tmp_path_factory)


@pytest.fixture(scope="module")
def tariffs_unzipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same for the application that is shipped: the largest package of the project."""
    folder = tmp_path_factory.mktemp("tariffs")
    package("tariffs.job:job", folder, architecture=ARCHITECTURE, python=version_of(LAMBDA))
    return unzip(folder, tmp_path_factory)


def unzip(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("step", "work")}
    for name, found in (("step", "package"), ("work", "worker")):
        with zipfile.ZipFile(folder / f"{found}.zip") as archive:
            archive.extractall(folders[name])
    return folders | {"dead_letter": folders["work"]}


@pytest.fixture
def function(
    unzipped: dict[str, Path], emulator: Emulator, tmp_path: Path, name_of: Callable[[str], str]
) -> Iterator[Callable[..., Function]]:
    """`function("work")`: that handler, started and waiting; its stack is a queue with a
    dead-letter queue, a bucket, and a table.
    """
    queues = {
        kind: emulator.client("sqs").create_queue(QueueName=name_of(kind))["QueueUrl"]
        for kind in ("work", "dead")
    }
    bucket, table = name_of("bucket"), name_of("runs")
    emulator.client("s3").create_bucket(Bucket=bucket)
    emulator.client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    environment = emulator.variables | {
        "HUNDREDFOLD_JOB": "shop.job:job",
        "HUNDREDFOLD_BUCKET": bucket,
        "HUNDREDFOLD_TABLE": table,
        "HUNDREDFOLD_QUEUE": queues["work"],
        "HUNDREDFOLD_DEAD": queues["dead"],
        "HUNDREDFOLD_DATABASE": "none",
        "HUNDREDFOLD_WORKGROUP": "none",
        "HUNDREDFOLD_CONCURRENCY": "2",
        "HUNDREDFOLD_TRIGGER": "messages",
    }
    opened = []

    def make(kind: str, folder: Path | None = None, job: str = "shop.job:job") -> Function:
        manager = running(
            LAMBDA,
            folder or unzipped[kind],
            f"hundredfold.aws.functions.{MODULES.get(kind, 'handlers')}.{kind}",
            memory=MEMORY[kind],
            environment=environment | {"HUNDREDFOLD_JOB": job},
            scratch=tmp_path,
        )
        found = manager.__enter__()
        opened.append(manager)
        return found

    yield make
    for manager in opened:
        manager.__exit__(None, None, None)


@pytest.mark.parametrize("kind", MEMORY)
def test_each_function_starts_with_only_its_package_within_its_memory(
    kind: str, function: Callable[..., Function]
) -> None:
    check_start(kind, function(kind))


@pytest.mark.parametrize("kind", MEMORY)
def test_each_function_of_tariffs_starts_within_its_memory(
    kind: str, function: Callable[..., Function], tariffs_unzipped: dict[str, Path]
) -> None:
    check_start(kind, function(kind, tariffs_unzipped[kind], "tariffs.job:job"))


def check_start(kind: str, found: Function) -> None:
    log.info(
        "%s: init %.2f s, %.0f MB of %d",
        kind,
        found.init_seconds,
        found.peak_bytes() / 2**20,
        MEMORY[kind],
    )
    assert found.peak_bytes() < MEMORY[kind] * 2**20 / 2
    records = [
        {
            "messageId": "1",
            "body": json.dumps({"Event": "s3:TestEvent"}),
            "attributes": {"ApproximateReceiveCount": "1"},
        }
    ]
    event = {
        "run": "none",
        "input": {"run": "none"},
        "execution": "e",
        "step": "validate",
        "model": "",
        "token": "",
        "query_result": {},
    }
    answer = found.call(event if kind == "step" else {"Records": records})
    if kind == "step":  # it reached the ledger, and there is no such run
        assert answer.error is not None
        assert answer.error["errorType"] == "NoSuchRun", answer.error
    else:
        assert answer.error is None, (answer.error, found.log.read_text())
        assert answer.value == {"batchItemFailures": []}


def test_the_packages_agree_and_workers_have_no_query_engine(
    shop: Path, unzipped: dict[str, Path]
) -> None:
    steps, workers = (shop / "build" / f"{name}.zip" for name in ("package", "worker"))
    assert fingerprint_of(workers) == fingerprint_of(steps) != ""
    installed = {
        kind: {info.name.partition("-")[0] for info in unzipped[kind].glob("*.dist-info")}
        for kind in ("step", "work")
    }
    assert installed["step"] - installed["work"] == {"duckdb", "sqlglot"}
    assert not {"duckdb", "sqlglot"} & {path.name for path in unzipped["work"].iterdir()}


def test_a_foreign_message_is_dead_lettered_with_its_reason(
    function: Callable[..., Function], emulator: Emulator
) -> None:
    found = function("work")
    records = [
        {"messageId": "1", "body": "rubbish", "attributes": {"ApproximateReceiveCount": "1"}}
    ]
    answer = found.call({"Records": records})
    assert answer.error is None, (answer.error, found.log.read_text())
    messages = emulator.client("sqs").receive_message(
        QueueUrl=found.environment["HUNDREDFOLD_DEAD"], MessageAttributeNames=["All"]
    )["Messages"]
    assert [message["Body"] for message in messages] == ["rubbish"]
    assert messages[0]["MessageAttributes"]["reason"]["StringValue"] == "it is not JSON"


def run_module(folder: Path, *arguments: str, env: Mapping[str, str] = os.environ) -> None:
    """Run `python -m WORDS` in a folder; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def synthesize(shop: Path, out: Path) -> Path:
    """Return the assembly folder of the stack with the job's packages."""
    settings = {
        "job": "shop.job:job",
        "concurrency": 2,
        "architecture": ARCHITECTURE,
        "timeout": 60,
    }
    stack = {
        "stack": "hundredfold-shop",
        "code": str(shop / "build" / "package.zip"),
        "worker_code": str(shop / "build" / "worker.zip"),
        "settings": settings,
    }
    with cdk_app() as app, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(shop)  # the app imports the job
        app.make_app(stack, outdir=str(out)).synth()
    return out


def test_a_run_with_only_the_package_has_the_bytes_of_a_local_run(
    shop: Path, tmp_path: Path
) -> None:
    """From `init` by `package` and the CDK to a release, under IAM, in a Python with Lambda's
    packages only.
    """
    assembly = synthesize(shop, tmp_path / "cdk.out")
    run = ["hundredfold", "run", "shop.job:job", "--run-id", "one", "--as-of", "2026-11-22"]
    with Emulator(auth=True) as emulator:
        outputs = deploy(emulator, assembly, python=LAMBDA)
        run_module(shop, *run, "--backend", "aws", env=emulator.environment())
        run_module(shop, *run)
        release = shop / ".hundredfold" / "releases" / "shop" / "000001"
        for path in release.glob("price_list.*"):
            key = f"releases/shop/000001/{path.name}"
            found = emulator.client("s3").get_object(Bucket=outputs["Bucket"], Key=key)
            assert found["Body"].read() == path.read_bytes(), path.name
