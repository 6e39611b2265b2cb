"""Every user error is one message: the value found and wanted, the location and the next action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hundredfold.ports.run_facts import HOME_FORMAT
from support.cli import RunCli

JOB = "my_job.job:job"


def expect_error(
    run_cli: RunCli, code: int, *arguments: str, expect: tuple[str, ...], home: str | None = None
) -> None:
    """Check the exit status of a command, and texts in its one error."""
    result = run_cli(*arguments, home=home)
    assert result.code == code, result.err
    for text in (*expect, "error: "):
        assert text in result.err
    assert "Traceback" not in result.err


def test_a_missing_source_file_is_reported(run_cli: RunCli) -> None:
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        "sales=no.csv",
        expect=(
            "there is no file",
            "no.csv",
            "my_job/",
            "hint: name the location with --source sales=",
        ),
    )


def test_a_glob_without_a_match_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path}/*.parquet",
        expect=("no file matches", "*.parquet", "hint:"),
    )


def test_an_empty_source_folder_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'empty'}",
        expect=("there is no Parquet, CSV or JSON-lines file", "hint:"),
    )


def test_an_unknown_file_type_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "sales.xlsx").write_bytes(b"PK")
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.xlsx'}",
        expect=("kind", "sales.xlsx", ".parquet, .csv"),
    )


def test_a_source_without_rows_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("week,shop,product,price,quantity\n")
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.csv'}",
        expect=("sales is empty", "hint:"),
    )


def test_a_missing_column_is_reported(run_cli: RunCli, project: Path, tmp_path: Path) -> None:
    text = (project / "my_job/data/sales.csv").read_text().replace("price", "prize", 1)
    (tmp_path / "sales.csv").write_text(text)
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.csv'}",
        expect=(
            "it has week, shop, product, prize, quantity",
            "price: wanted double",
            "no such column",
        ),
    )


def test_a_column_of_another_type_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table(
            {"week": [1], "shop": ["a"], "product": ["b"], "price": ["5 euro"], "quantity": [1.0]}
        ),
        tmp_path / "sales.parquet",
    )
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.parquet'}",
        expect=("price: wanted double, found string", "hint:"),
    )


def test_too_many_rejected_rows_are_reported(run_cli: RunCli) -> None:
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        "--max-rejected",
        "sales=1",
        expect=(
            "3 of 15,600 rows break its contract, and the limit is 1",
            "must be > 0",
            "row 100 (-3.10)",
            "must be a number",
            "five",
            "--max-rejected sales=3",
        ),
    )


def test_a_syntax_error_in_sql_is_reported_with_its_line(run_cli: RunCli) -> None:
    expect_error(
        run_cli,
        1,
        "run",
        "variants:mistake",
        expect=("prices", "syntax error", "line 1: SELECT shop product FRM sales", "^"),
    )


def test_an_unknown_column_in_sql_is_reported(run_cli: RunCli) -> None:
    expect_error(run_cli, 1, "run", "variants:unknown_column", expect=("prices", "prise"))


def test_an_unknown_table_in_sql_is_reported(run_cli: RunCli) -> None:
    expect_error(
        run_cli, 1, "run", "variants:unknown_table", expect=("nowhere", "there are: sales")
    )


def test_a_key_that_is_missing_in_the_query_is_reported(run_cli: RunCli) -> None:
    expect_error(
        run_cli,
        1,
        "run",
        "variants:no_key",
        expect=("product: named by unit", "week: named by order_by", "shop, price"),
    )


def test_a_function_that_returns_none_is_reported(run_cli: RunCli) -> None:
    expect_error(
        run_cli,
        1,
        "run",
        "variants:none",
        expect=("all 300 units of", "failed", "hint: hundredfold failures"),
    )
    assert (
        "returned None, as every unit did: does the function lack a return statement?"
        in run_cli("failures").out
    )


def test_a_published_query_may_lack_the_columns_of_the_results(run_cli: RunCli) -> None:
    expect_error(
        run_cli, 1, "run", "variants:number", expect=("300 of 300 units done", "best_price")
    )


def test_a_unit_with_other_columns_than_the_others_fails(run_cli: RunCli) -> None:
    expect_error(run_cli, 1, "run", "variants:columns", expect=("5 of 300 units",))
    assert "S003,apples" in (result := run_cli("failures").out)
    assert "returned other columns than 295 of 300 units: b missing and c too much" in result


def test_a_unit_that_breaks_the_result_contract_fails(run_cli: RunCli) -> None:
    expect_error(run_cli, 1, "run", "variants:contract", expect=("1 of 300 units",))
    result = run_cli("failures").out
    assert "S003,rice" in result
    assert "best_price missing and profit too much" in result


def test_a_module_that_fails_to_import_is_reported_with_its_line(
    run_cli: RunCli, project: Path
) -> None:
    (project / "broken.py").write_text("import nothing_here\n")
    expect_error(
        run_cli,
        2,
        "run",
        "broken:job",
        expect=("No module named 'nothing_here'", "broken.py, line 1"),
    )


def test_a_job_that_does_not_exist_is_reported(run_cli: RunCli) -> None:
    expect_error(run_cli, 2, "run", "no_such:job", expect=("there is no module 'no_such'",))
    expect_error(
        run_cli, 2, "run", "my_job.job:jobs", expect=("has no 'jobs'", "it has my_job.job:job")
    )
    expect_error(
        run_cli,
        2,
        "run",
        "my_job.model",
        expect=("my_job.model holds no job", "declare one: job = Job(...)"),
    )
    expect_error(
        run_cli,
        2,
        "run",
        "variants",
        expect=("variants holds 10 jobs", "it has variants:job, variants:none"),
    )
    expect_error(
        run_cli,
        2,
        "run",
        "my_job.job:",
        expect=(
            "'my_job.job:' does not name a job",
            "wanted module:attribute or path/to/file.py:attribute",
        ),
    )


def test_a_file_without_a_job_is_reported(run_cli: RunCli, project: Path) -> None:
    expect_error(
        run_cli,
        2,
        "run",
        "no_such.py",
        expect=(
            "there is no file",
            "no_such.py",
            "wanted module:attribute or path/to/file.py:attribute",
        ),
    )
    expect_error(
        run_cli,
        2,
        "run",
        "my_job/job.py:jobs",
        expect=("my_job/job.py has no 'jobs'", "it has my_job/job.py:job"),
    )
    (project / "taken").mkdir()
    (project / "taken" / "json.py").write_text("")
    expect_error(
        run_cli,
        2,
        "run",
        "taken/json.py",
        expect=("json.py cannot be imported: the name json belongs to", "rename the file"),
    )


def test_an_unknown_source_is_reported(run_cli: RunCli) -> None:
    expect_error(
        run_cli, 2, "run", JOB, "-s", "sles=x.csv", expect=("no source 'sles'", "it has sales")
    )


def test_a_home_that_is_not_writable_is_reported(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        home=str(tmp_path / "file" / "home"),
        expect=("is a file, wanted a folder", "--home"),
    )


def test_a_home_of_a_newer_format_is_refused(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "format").write_text("99\n")
    expect_error(
        run_cli,
        1,
        "run",
        JOB,
        home=str(tmp_path / "home"),
        expect=(f"has format 99, and this program reads up to {HOME_FORMAT}", "newer hundredfold"),
    )


def test_a_home_without_runs_is_reported(run_cli: RunCli) -> None:
    expect_error(run_cli, 1, "status", expect=("there is no run in", "hundredfold run"))


def test_an_unknown_run_is_reported(run_cli: RunCli) -> None:
    assert run_cli("run", JOB, "--run-id", "first").code == 0
    expect_error(run_cli, 2, "status", "second", expect=("there is no run second", "first"))
    expect_error(run_cli, 1, "run", JOB, "--run-id", "first", expect=("first",))


def test_an_unknown_unit_is_reported_with_similar_keys(run_cli: RunCli) -> None:
    assert run_cli("run", JOB).code == 0
    expect_error(
        run_cli,
        2,
        "replay",
        "prices",
        "S001,brea",
        expect=("no unit 'S001,brea'", "near it: S001,bread"),
    )
    expect_error(
        run_cli, 2, "replay", "price", "S001,bread", expect=("no model 'price'", "it has prices")
    )


@pytest.mark.parametrize(
    ("arguments", "expect"),
    [
        (("--memory", "10MB"), "512 MiB or more"),
        (("--memory", "much"), "wanted a size"),
        (("--workers", "0"), "wanted 1 or more"),
        (("--as-of", "soon"), "2026-06-30"),
        (("--max-failed", "lots"), "wanted a count"),
        (("-s", "sales"), "wanted NAME=VALUE"),
    ],
)
def test_invalid_values_of_options_are_reported(
    run_cli: RunCli, arguments: tuple[str, ...], expect: Any
) -> None:
    expect_error(run_cli, 2, "run", JOB, *arguments, expect=(expect,))


@pytest.mark.parametrize(
    ("arguments", "expect"),
    [
        (
            ("frobnicate",),
            (
                "No such command 'frobnicate'",
                "usage: hundredfold [OPTIONS] COMMAND",
                "hint: hundredfold --help",
            ),
        ),
        (
            ("run",),
            (
                "Missing argument 'JOB'",
                "usage: hundredfold run [OPTIONS] JOB\n",
                "hint: hundredfold run --help",
            ),
        ),
        (
            ("retry", "first", "second"),
            ("unexpected extra argument", "second", "usage: hundredfold retry [OPTIONS] [RUN]\n"),
        ),
        (("status", "--nope"), ("No such option", "--nope", "hint: hundredfold status --help")),
        (
            ("run", JOB, "--source"),
            ("'--source' requires an argument", "hint: hundredfold run --help"),
        ),
        (
            ("run", JOB, "--workers", "many"),
            ("'--workers'", "'many' is not a valid integer", "hint: hundredfold run --help"),
        ),
        (("bench", JOB, "--seconds", "few"), ("'--seconds'", "'few' is not a valid float")),
    ],
)
def test_usage_errors_have_one_form(
    run_cli: RunCli, arguments: tuple[str, ...], expect: Any
) -> None:
    expect_error(run_cli, 2, *arguments, expect=expect)


def test_a_package_name_that_exists_is_refused(run_cli: RunCli, project: Path) -> None:
    expect_error(run_cli, 2, "init", "my_job", expect=("already exists",))
    expect_error(run_cli, 2, "init", "My-Job", expect=("cannot be the name of a package",))
