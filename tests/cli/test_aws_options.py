"""Commands for AWS without an account: errors that are reported before any request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hundredfold
from hundredfold.cli.main import app
from hundredfold.errors import UsageError, add_options
from support.cli import RunCli
from support.waits import HANG_S


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove regions and credentials from the environment."""
    for name in (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("arguments", "found", "hint"),
    [
        (
            ["run", "my_job.job:job", "--backend", "aws", "--workers", "2"],
            "--workers is for --backend local",
            "hundredfold deploy --help",
        ),
        (
            ["resume", "one", "--backend", "aws", "--workers", "2", "--memory", "2GB"],
            "--workers and --memory are for --backend local",
            "hundredfold deploy --help",
        ),
        (
            ["retry", "one", "--backend", "aws", "--memory", "2GB"],
            "--memory is for --backend local",
            "hundredfold deploy --help",
        ),
        (
            ["run", "my_job.job:job", "--batches", "9"],
            "--batches, --warehouse, --fleet and --detach are for --backend aws",
            "--workers sets the parallelism",
        ),
        (
            ["run", "my_job.job:job", "--detach"],
            "--batches, --warehouse, --fleet and --detach are for --backend aws",
            "a run ends with its process",
        ),
        (
            ["resume", "one", "--fleet", "fargate"],
            "--fleet is for --backend aws",
            "--workers sets the parallelism",
        ),
        (
            ["retry", "one", "--fleet", "lambda"],
            "--fleet is for --backend aws",
            "--workers sets the parallelism",
        ),
        (
            ["retry", "one", "--prices", "prices.toml"],
            "--prices is for --backend aws",
            "costs no dollars",
        ),
        (
            ["retry", "one", "--backend", "aws", "--accept-new-code"],
            "the stacks cannot be listed",
            "AWS_REGION",
        ),
        (["status", "--watch"], "--watch is for --backend aws", "watched where it was started"),
        (["status", "--backend", "aws"], "the stacks cannot be listed", "AWS_REGION"),
        (["run", "my_job.job:job", "--backend", "aws"], "'hundredfold-my-job'", "AWS_REGION"),
        (["destroy"], "no stack is named", "--stack NAME"),
        (["destroy", "my_job.job:job"], "nothing was removed", "--yes"),
        (
            ["deploy", "my_job.job:job", "--synth", "out", "--timeout", "5"],
            "the settings of the stack are invalid",
            "--help",
        ),
        (
            ["deploy", "my_job.job:job", "--synth", "out", "--pollers", "many"],
            "--pollers is 'many', wanted two numbers",
            "2,100",
        ),
        (
            [
                "deploy",
                "my_job.job:job",
                "--synth",
                "out",
                "--pollers",
                "2,9",
                "--concurrency",
                "5",
            ],
            "the settings of the stack are invalid",
            "--help",
        ),
        (
            ["package", "my_job.job:job", "--python", "3.9"],
            "does not support Python 3.9",
            "3.14",
        ),
        (["run", "my_job.job:job", "--backend", "mars"], "'mars' is not one of", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_a_backend_lacks_are_reported(
    run_cli: RunCli, arguments: list[str], found: str, hint: str
) -> None:
    result = run_cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert found in result.err
    assert hint in result.err
    assert "Traceback" not in result.err


def test_commands_in_a_hint_get_the_options_of_the_target() -> None:
    hint = (
        "hundredfold failures one   then: hundredfold retry one --accept-new-code   "
        "or: hundredfold publish one --max-failed 3"
    )
    wanted = (
        "hundredfold failures one @   then: hundredfold retry one --accept-new-code @   "
        "or: hundredfold publish one --max-failed 3 @"
    )
    assert add_options(hint, ["--backend", "aws", "--stack", "s"]) == wanted.replace(
        "@", "--backend aws --stack s"
    )
    assert "retry one --accept-new-code --home there" in add_options(hint, ["--home", "there"])
    given = "hundredfold status one --backend aws --stack s"
    assert add_options(given, ["--backend", "aws", "--stack", "s"]) == given


@pytest.mark.parametrize("options", [["--home", "x"], ["--backend", "aws"]])
def test_every_command_that_has_the_option_gets_it_in_hints(options: list[str]) -> None:
    for name, command in app.commands.items():
        text = f"start: hundredfold {name} x   or another"
        changed = add_options(text, options)
        accepts = any(options[0] in parameter.opts for parameter in command.params)
        own_stack = name == "doctor"  # its hints name the stack themselves
        wanted = f" x {' '.join(options)}   or" if accepts and not own_stack else " x   or"
        assert wanted in changed, name
        assert add_options(changed, options) == changed


def test_prose_that_names_a_command_is_left_as_it_is() -> None:
    for hint in ("run it with `hundredfold run`, or alone", "a hundredfold running job", ""):
        assert add_options(hint, ["--home", "x"]) == hint


def test_hints_of_an_application_get_the_home_in_its_own_commands(tmp_path: Path) -> None:
    home = tmp_path / "a home"
    pq.write_table(pa.table({"k": [1]}), tmp_path / "rows.parquet")
    (tmp_path / "job.py").write_text(
        "from hundredfold import Job, Model, Source\n"
        "def one(rows):\n    return {'n': 1}\n"
        "job = Job('tariffs', [Source('sales', path='rows.parquet')], [Model('m', ('k',), one)])\n"
    )
    for program, *arguments in (
        ["hundredfold", "run", "job.py:job", "--workers", "1"],
        ["tariffs.cli", "kill", "--to", "rule", "--reason", "x"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments, "--home", str(home)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"hint: tariffs status --home '{home}'" in done.stderr


def test_sql_that_athena_lacks_is_refused_before_a_request(run_cli: RunCli, project: Path) -> None:
    (project / "elsewhere.py").write_text(
        "from dataclasses import replace\nfrom my_job.job import job\n"
        "QUERY = 'SELECT shop, product, week, price, quantity,\\n'\n"
        "QUERY += '  strip_accents(shop) AS plain\\nFROM sales'\n"
        "other = replace(job, models=(replace(job.models[0], query=QUERY),))\n"
    )
    result = run_cli("run", "elsewhere:other", "--backend", "aws")
    assert result.code == 1
    assert (
        "cannot run on AWS\n  line 2: the function strip_accents, which Athena does not have"
        in result.err
    )


def test_a_missing_extra_is_reported_with_its_installation() -> None:
    """The same command if boto3 cannot be imported."""
    program = (
        "import sys; sys.modules['boto3'] = None; from hundredfold.cli.main import main; "
        "sys.argv = ['hundredfold', 'status', '--backend', 'aws']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 2
    assert "boto3 is not installed" in done.stderr
    assert "pip install 'hundredfold[aws]'" in done.stderr


def test_a_lack_of_memory_on_lambda_names_the_option_of_deploy() -> None:
    arguments = [
        sys.executable,
        "-c",
        "from hundredfold.workers.memory import MEMORY_HINT; print(MEMORY_HINT)",
    ]
    result = subprocess.run(
        arguments,
        env={**os.environ, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "deploy with --memory 3537" in result.stdout
    assert "--workers" not in result.stdout


def test_synth_only_writes_the_assembly(run_cli: RunCli, project: Path) -> None:
    result = run_cli("deploy", "my_job.job:job", "--synth", "out", "--architecture", "x86_64")
    assert result.code == 0, result.err
    template = json.loads(
        (project / "out" / "cdk.out" / "hundredfold-my-job.template.json").read_text()
    )
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    assert {
        "AWS::StepFunctions::StateMachine",
        "AWS::SQS::Queue",
        "AWS::Lambda::Function",
        "AWS::Athena::WorkGroup",
    } <= kinds
    assert "MB of 250" in result.out


@pytest.mark.parametrize("call", [hundredfold.resume, hundredfold.retry, hundredfold.publish])
def test_a_local_run_is_not_continued_without_waiting(
    call: Callable[..., object], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="wait=False is for the backend aws"):
        call("one", home=tmp_path, wait=False)
