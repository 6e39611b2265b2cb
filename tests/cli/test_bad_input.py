"""Every mistake gets one error that says what was found, what was wanted, where, and what to do; and exit 1 or 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hundredfold.local.home import FORMAT

Say = Callable[..., "object"]
JOB = "my_job.job:job"


def mistaken(say, code: int, *words: str, expect: tuple[str, ...], home: str | None = None) -> None:
    said = say(*words, home=home)
    assert said.code == code, said.err
    for text in (*expect, "error: "):
        assert text in said.err
    assert "Traceback" not in said.err


def test_a_file_that_is_not_there(say):
    mistaken(
        say,
        1,
        "run",
        JOB,
        "-s",
        "sales=no.csv",
        expect=(
            "there is no file",
            "no.csv",
            "my_job/",
            "hint: name the place with --source sales=",
        ),
    )


def test_a_folder_without_a_match(say, tmp_path):
    mistaken(
        say,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path}/*.parquet",
        expect=("no file matches", "*.parquet", "hint:"),
    )


def test_an_empty_folder(say, tmp_path):
    (tmp_path / "empty").mkdir()
    mistaken(
        say,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'empty'}",
        expect=("there is no Parquet, CSV or JSON-lines file", "hint:"),
    )


def test_a_file_of_an_unknown_kind(say, tmp_path):
    (tmp_path / "sales.xlsx").write_bytes(b"PK")
    mistaken(
        say,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.xlsx'}",
        expect=("kind", "sales.xlsx", ".parquet, .csv"),
    )


def test_a_source_without_a_row(say, tmp_path):
    (tmp_path / "sales.csv").write_text("week,shop,product,price,quantity\n")
    mistaken(
        say,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.csv'}",
        expect=("sales is empty", "hint:"),
    )


def test_a_column_that_is_missing(say, project, tmp_path):
    text = (project / "my_job/data/sales.csv").read_text().replace("price", "prize", 1)
    (tmp_path / "sales.csv").write_text(text)
    mistaken(
        say,
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


def test_a_column_of_another_type(say, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table(
            {"week": [1], "shop": ["a"], "product": ["b"], "price": ["5 euro"], "quantity": [1.0]}
        ),
        tmp_path / "sales.parquet",
    )
    mistaken(
        say,
        1,
        "run",
        JOB,
        "-s",
        f"sales={tmp_path / 'sales.parquet'}",
        expect=("price: wanted double, found string", "hint:"),
    )


def test_more_rejected_rows_than_the_limit(say):
    mistaken(
        say,
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


def test_sql_with_a_mistake(say):
    mistaken(
        say,
        1,
        "run",
        "variants:mistake",
        expect=("prices", "syntax error", "line 1: SELECT shop product FRM sales", "^"),
    )


def test_sql_with_an_unknown_column(say):
    mistaken(say, 1, "run", "variants:unknown_column", expect=("prices", "prise"))


def test_a_table_that_is_no_source(say):
    mistaken(say, 1, "run", "variants:unknown_table", expect=("nowhere", "there are: sales"))


def test_a_key_that_is_not_in_the_query(say):
    mistaken(
        say,
        1,
        "run",
        "variants:no_key",
        expect=("product: named by unit", "week: named by order_by", "shop, price"),
    )


def test_a_function_that_returns_no_row(say):
    mistaken(
        say,
        1,
        "run",
        "variants:none",
        expect=("all 300 units of", "failed", "hint: hundredfold failures"),
    )
    assert (
        "returned None, as every unit did: does the function lack a return statement?"
        in say("failures").out
    )


def test_a_number_is_a_result_that_the_published_query_may_not_know(say):
    mistaken(say, 1, "run", "variants:number", expect=("300 of 300 units done", "best_price"))


def test_a_unit_with_other_columns_than_the_rest(say):
    mistaken(say, 1, "run", "variants:columns", expect=("5 of 300 units",))
    assert "S003,apples" in (said := say("failures").out)
    assert "returned other columns than 295 of 300 units: b missing and c too much" in said


def test_a_unit_that_breaks_the_results_contract(say):
    mistaken(say, 1, "run", "variants:contract", expect=("1 of 300 units",))
    said = say("failures").out
    assert "S003,rice" in said
    assert "best_price missing and profit too much" in said


def test_a_module_that_fails_to_import(say, project):
    (project / "broken.py").write_text("import nothing_here\n")
    mistaken(
        say, 2, "run", "broken:job", expect=("No module named 'nothing_here'", "broken.py, line 1")
    )


def test_a_job_that_is_not_there(say):
    mistaken(say, 2, "run", "no_such:job", expect=("there is no module 'no_such'",))
    mistaken(say, 2, "run", "my_job.job:jobs", expect=("has no 'jobs'", "it has my_job.job:job"))
    mistaken(
        say,
        2,
        "run",
        "my_job.model",
        expect=("my_job.model holds no job", "declare one: job = Job(...)"),
    )
    mistaken(
        say,
        2,
        "run",
        "variants",
        expect=("variants holds 10 jobs", "it has variants:job, variants:none"),
    )
    mistaken(
        say,
        2,
        "run",
        "my_job.job:",
        expect=(
            "'my_job.job:' names no job",
            "wanted module:attribute or path/to/file.py:attribute",
        ),
    )


def test_a_file_that_is_no_job(say, project):
    mistaken(
        say,
        2,
        "run",
        "no_such.py",
        expect=(
            "there is no file",
            "no_such.py",
            "wanted module:attribute or path/to/file.py:attribute",
        ),
    )
    mistaken(
        say,
        2,
        "run",
        "my_job/job.py:jobs",
        expect=("my_job/job.py has no 'jobs'", "it has my_job/job.py:job"),
    )
    (project / "taken").mkdir()
    (project / "taken" / "json.py").write_text("")
    mistaken(
        say,
        2,
        "run",
        "taken/json.py",
        expect=("json.py cannot be imported: the name json belongs to", "rename the file"),
    )


def test_a_source_that_the_job_does_not_have(say):
    mistaken(say, 2, "run", JOB, "-s", "sles=x.csv", expect=("no source 'sles'", "it has sales"))


def test_a_home_that_cannot_be_written(say, tmp_path):
    (tmp_path / "file").write_text("")
    mistaken(
        say,
        1,
        "run",
        JOB,
        home=str(tmp_path / "file" / "home"),
        expect=("is a file, wanted a folder", "--home"),
    )


def test_a_home_of_a_newer_format(say, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "format").write_text("99\n")
    mistaken(
        say,
        1,
        "run",
        JOB,
        home=str(tmp_path / "home"),
        expect=(f"is of format 99, and this program reads up to {FORMAT}", "newer hundredfold"),
    )


def test_a_home_without_a_run(say):
    mistaken(say, 1, "status", expect=("there is no run in", "hundredfold run"))


def test_a_run_that_does_not_exist(say):
    assert say("run", JOB, "--run-id", "first").code == 0
    mistaken(say, 2, "status", "second", expect=("there is no run second", "first"))
    mistaken(say, 1, "run", JOB, "--run-id", "first", expect=("first",))


def test_a_unit_that_does_not_exist(say):
    assert say("run", JOB).code == 0
    mistaken(
        say,
        2,
        "replay",
        "prices",
        "S001,brea",
        expect=("no unit 'S001,brea'", "near it: S001,bread"),
    )
    mistaken(say, 2, "replay", "price", "S001,bread", expect=("no model 'price'", "it has prices"))


@pytest.mark.parametrize(
    ("words", "expect"),
    [
        (("--memory", "10MB"), "512 MiB or more"),
        (("--memory", "much"), "wanted a size"),
        (("--workers", "0"), "wanted 1 or more"),
        (("--as-of", "soon"), "2026-06-30"),
        (("--max-failed", "lots"), "wanted a count"),
        (("-s", "sales"), "wanted NAME=VALUE"),
    ],
)
def test_options_that_make_no_sense(say, words, expect):
    mistaken(say, 2, "run", JOB, *words, expect=(expect,))


@pytest.mark.parametrize(
    ("words", "expect"),
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
def test_words_that_the_command_line_does_not_have(say, words, expect):
    mistaken(say, 2, *words, expect=expect)


def test_a_package_name_that_is_taken(say, project: Path):
    mistaken(say, 2, "init", "my_job", expect=("already exists",))
    mistaken(say, 2, "init", "My-Job", expect=("cannot be the name of a package",))
