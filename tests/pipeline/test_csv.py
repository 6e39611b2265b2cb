"""CSV: the output of Python's csv module is read back exactly, and a damaged line costs only
itself.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import datetime as dt
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold import Csv, Source
from hundredfold.errors import ContractError, JobError, SourceError
from hundredfold.local.filesystem import FileStore
from hundredfold.sql.duckdb import DuckWarehouse
from hundredfold.sql.sources.csv_files import describe_facts
from hundredfold.sql.sources.csv_records import Grammar, _Scanner, scan
from support.in_process import InProcessRunner

ANY = Csv()
TEXT = "shop,name,sold\nS0,Müller,1\nS1,Jörg,2\n"
ROWS = [("S0", "Müller", 1), ("S1", "Jörg", 2)]


def read(
    runner: InProcessRunner,
    path: Path,
    csv: Csv = ANY,
    contract: type | None = None,
    limit: float = 1.0,
) -> tuple[Any, list[Any], list[Any]]:
    """Return the validation result of a file, its accepted rows, and the reasons of the rejected
    ones.
    """
    run = runner.source(Source("s", contract, csv=csv, max_rejected=limit), path)
    (result,) = run.validate()
    rejects = [row["__reason"] for row in run.rejects("s")] if result.rejected else []
    return result, [tuple(row.values()) for row in run.accepted("s")], rejects


def written(rows: list[list[str]], **how: Any) -> list[bytes]:
    """Return the text of each row as the csv module writes it."""
    lines = []
    for row in rows:
        text = io.StringIO(newline="")
        csv.writer(text, **how).writerow(row)
        lines.append(text.getvalue().encode())
    return lines


# --- what is whole is read as it is
# -----------------------------------------------------------------------------------

HOSTILE = st.text(st.sampled_from("ab,;\t|\"\n\r \\'ä€😀1."), max_size=8)


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Any], list[list[str]]]:
    """Draw a dialect, and rows of one to four texts."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    # the csv module of Python 3.11 leaves a carriage return unquoted where lines end with a line
    # feed, and cannot read it back
    value = HOSTILE if end == "\r\n" else HOSTILE.map(lambda text: text.replace("\r", ""))
    width = draw(st.integers(1, 4))
    how = {
        "delimiter": draw(st.sampled_from(",;\t|")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    return how | {"lineterminator": end}, draw(
        st.lists(st.lists(value, min_size=width, max_size=width), min_size=1, max_size=9)
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=tables(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_the_output_of_the_csv_module_is_read_back_exactly(
    runner: InProcessRunner,
    tmp_path: Path,
    table: tuple[dict[str, Any], list[list[str]]],
    encoding: str,
) -> None:
    how, rows = table
    names = [f"c{number}" for number in range(len(rows[0]))]
    (tmp_path / "a.csv").write_bytes(
        b"".join(written([names, *rows], **how)).decode().encode(encoding)
    )
    contract: Any = dataclass(
        type("Texts", (), {"__annotations__": dict.fromkeys(names, str | None)})
    )
    # a name alone does not reveal it
    declared = Csv(delimiter=how["delimiter"]) if len(names) == 1 else ANY
    result, found, _ = read(runner, tmp_path / "a.csv", declared, contract, limit=0)
    assert [[value or "" for value in row] for row in found] == rows
    assert result.csv[0]["delimiter"] == how["delimiter"]


@pytest.mark.parametrize("block", [1, 50, 2**18])
@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_a_scan_in_blocks_of_any_size_finds_the_same_records(
    block: int, table: tuple[dict[str, Any], list[list[str]]]
) -> None:
    how, rows = table
    lines = written(rows, **how)
    out = io.BytesIO()
    found = scan(
        io.BytesIO(b"".join(lines)),
        Grammar(how["delimiter"].encode(), b'"'),
        len(rows[0]),
        2,
        out=out,
        block=block,
    )
    assert (found.rows, found.malformed) == (len(rows), [])
    assert (
        list(
            csv.reader(io.StringIO(out.getvalue().decode(), newline=""), delimiter=how["delimiter"])
        )
        == rows
    )


def test_line_ends_compression_and_encoding_are_detected_from_bytes(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(TEXT.encode())
    for name, data, declared in (
        ("plain.csv", TEXT.encode(), ANY),
        ("plain.csv.gz", TEXT.encode(), ANY),
        ("gzip.csv", gzip.compress(TEXT.encode()), ANY),
        ("gzip.tsv", gzip.compress(TEXT.encode()[:20]) + gzip.compress(TEXT.encode()[20:]), ANY),
        ("zstd.csv", sink.getvalue().to_pybytes(), ANY),
        ("dos.csv", TEXT.replace("\n", "\r\n").encode(), ANY),
        ("no_last_end.csv", TEXT.replace("\n", "\r\n").encode()[:-2], ANY),
        ("twice_dos.csv", TEXT.replace("\n", "\r\r\n").encode(), ANY),
        ("mixed.csv", TEXT.replace("1\n", "1\r\n").encode(), ANY),
        ("mac.csv", TEXT.replace("\n", "\r").encode(), ANY),
        ("blank.csv", b"\n\r\n" + TEXT.replace("\n", "\n\n").encode() + b"\n", ANY),
        ("bom.csv", TEXT.encode("utf-8-sig"), ANY),
        ("utf16.csv", TEXT.encode("utf-16"), ANY),
        ("utf16le.csv", TEXT.encode("utf-16-le"), Csv(encoding="utf-16-le")),
        ("utf32.csv", TEXT.encode("utf-32"), ANY),
        ("latin.csv", TEXT.encode("latin-1"), Csv(encoding="latin-1")),
        ("latin.csv.gz", gzip.compress(TEXT.encode("latin-1")), Csv(encoding="latin-1")),
        ("semicolon.csv", TEXT.replace(",", ";").encode(), ANY),
        ("tab.txt", TEXT.replace(",", "\t").encode(), ANY),
        ("pipe.csv", TEXT.replace(",", "|").encode(), ANY),
        ("hive.csv", TEXT.replace(",", "\x01").encode(), Csv(delimiter="\x01")),
        ("excel.csv", b"sep=;\r\n" + TEXT.replace(",", ";").encode(), ANY),
        ("trailing.csv", TEXT.replace("\n", ",\n").encode(), ANY),
        ("trailing_rows.csv", TEXT.replace("1\n", "1,\n").encode(), ANY),
        ("padded.csv", 'shop, name, sold\n"S0", "Müller" ,1\n"S1", "Jörg",2\n'.encode(), ANY),
        ("titled.csv", b"May\n\n" + TEXT.encode(), Csv(skip=1)),
        ("no_header.csv", TEXT.encode()[15:], Csv(header=("shop", "name", "sold"))),
        ("renamed.csv", b",,\n" + TEXT.encode()[15:], Csv(header=("shop", "name", "sold"), skip=1)),
        ("single.csv", TEXT.replace("Müller", "'Müller'").encode(), Csv(quote="'")),
    ):
        (tmp_path / name).write_bytes(data)
        result, rows, _ = read(runner, tmp_path / name, declared, limit=0)
        assert rows == ROWS, name
        assert result.accepted == 2


def test_a_delimiter_is_detected_from_rows_if_the_header_has_none(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    for head, rows in (
        ("price (EUR; net),qty", "1.5,3\n2.5,4\n"),
        ("a|b;c|d", "1|2;5|3\nbad\n4|5|6\n1|5|6\n"),
    ):
        (tmp_path / "a.csv").write_text(f"{head}\n{rows}")
        result, _, _ = read(runner, tmp_path / "a.csv")
        assert result.csv[0]["delimiter"] == re.sub("[^,|]", "", head)[0], head
    (tmp_path / "a.csv").write_text("a;b,c\nx\n")
    with pytest.raises(
        SourceError, match="is ambiguous: comma and semicolon fit equally well"
    ) as caught:
        read(runner, tmp_path / "a.csv")
    assert "csv=Csv(delimiter=" in str(caught.value.hint)


def test_files_written_in_different_ways_are_one_source(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "b.csv").write_text('name;shop;sold\n"Grün; Söhne";S2;3\n"torn;S2;4\nx;S3;5\n')
    (tmp_path / "c.csv").write_bytes(gzip.compress(b"shop,name\nS4,y\n"))
    (tmp_path / "d.csv").write_bytes(b"")
    result, rows, rejects = read(runner, tmp_path)
    assert sorted(rows) == sorted(
        [*ROWS, ("S2", "Grün; Söhne", 3), ("S3", "x", 5), ("S4", "y", None)],
        key=lambda row: row[0],
    )
    assert rejects == ["malformed line 3: a quote that is not closed"]
    assert [(facts["delimiter"], facts["compression"], facts["files"]) for facts in result.csv] == [
        (",", None, 1),
        (";", None, 1),
        (",", "gzip", 1),
    ]


def test_a_quote_inside_a_value_is_text(runner: InProcessRunner, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n5" pipe,1\nx "y" z,2\n"q, ""r""",3\n')
    assert read(runner, tmp_path / "a.csv")[1] == [('5" pipe', 1), ('x "y" z', 2), ('q, "r"', 3)]
    (tmp_path / "a.csv").write_text('a,b\n"x,1\n""y"",2\n')
    assert read(runner, tmp_path / "a.csv", Csv(quote=None))[1] == [('"x', 1), ('""y""', 2)]


def test_an_empty_field_is_null_quoted_or_not_and_a_null_text_unquoted(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    @dataclass
    class Row:
        a: str | None
        b: float | None

    (tmp_path / "a.csv").write_text('a,b\n,\n"",""\nNA,1\n"NA","NA"\n')
    for contract in (None, Row):
        last = ("NA", "NA") if contract is None else None
        _, rows, rejects = read(runner, tmp_path / "a.csv", contract=contract)
        assert rows == [
            (None, None),
            (None, None),
            ("NA", "1" if last else 1),
            *([last] if last else []),
        ]
        assert rejects == ([] if last else ["b must be a number"])
        assert read(runner, tmp_path / "a.csv", Csv(null=("", "NA")), contract)[1] == [
            (None, None),
            (None, None),
            (None, 1),
            ("NA", None),
        ]
        assert read(runner, tmp_path / "a.csv", Csv(null="NA"), contract)[1] == [
            ("", None),
            ("", None),
            (None, 1),
            ("NA", None),
        ]


def test_a_decimal_comma_is_read_and_a_point_is_no_number_then(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    @dataclass
    class Row:
        shop: str
        price: float

    (tmp_path / "a.csv").write_text("shop;price\nA,B;1,50\nC;2\nD;-0,25\n")
    wanted = [("A,B", 1.5), ("C", 2.0), ("D", -0.25)]
    for contract in (None, Row):
        assert read(runner, tmp_path / "a.csv", Csv(decimal=","), contract, limit=0)[1] == wanted
    assert read(runner, tmp_path / "a.csv")[1] == [("A,B", "1,50"), ("C", "2"), ("D", "-0,25")]
    (tmp_path / "a.csv").write_text("shop;price\nA;1,5\nB;1.234\nC;1.234,5\nD;1,234,5\n")
    _, rows, rejects = read(runner, tmp_path / "a.csv", Csv(decimal=","), Row)
    assert (rows, rejects) == ([("A", 1.5)], ["price must be a number"] * 3)
    assert [row[1] for row in read(runner, tmp_path / "a.csv", Csv(decimal=","))[1]] == [
        "1,5",
        "1.234",
        "1.234,5",
        "1,234,5",
    ]


def test_a_field_of_megabytes_is_read(runner: InProcessRunner, tmp_path: Path) -> None:
    long = "x" * 3_000_000
    (tmp_path / "a.csv").write_text(f'a,b\n1,"{long}\n"\n2,{long}\n' + "3,y\n" * 5)
    rows = read(runner, tmp_path / "a.csv", limit=0)[1]
    assert [(a, len(b)) for a, b in rows] == [(1, 3_000_001), (2, 3_000_000), *[(3, 1)] * 5]
    (tmp_path / "a.csv").write_text(f"a,b\n1,{'x' * 17_000_000}\n2,y\n")
    _, rows, rejects = read(runner, tmp_path / "a.csv")
    assert (rows, rejects) == ([(2, "y")], ["malformed line 2: longer than 16 MiB"])


# --- what is damaged costs its line
# -----------------------------------------------------------------------------------

TAME = st.text(st.sampled_from("abxy ä1"), min_size=1, max_size=5) | st.sampled_from(
    ['a, "b"', "two\nlines", 'say ""', "1,5"]
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[list[bytes], list[list[str]], bytes, int]:
    """Draw lines and their rows, and a malformed line with its position."""
    width = draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(TAME, min_size=width, max_size=width), max_size=12))
    how = {
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
    }
    values = [b"v%d" % number for number in range(width)]
    torn = draw(
        st.sampled_from([b'"open', b'"a "b" c"', b'"a"b', b"a\0b", b"a\xffb", b"a,b", b"a\rb", b""])
    )
    position = draw(st.integers(0, width - 1))
    values[position : position + 1] = [torn] if torn else []
    return (
        written(rows, **how),
        rows,
        b",".join(values) + str(how["lineterminator"]).encode(),
        draw(st.integers(0, len(rows))),
    )


@settings(max_examples=500, deadline=None)
@given(table=damaged(), block=st.sampled_from([1, 40, 2**18]))
def test_a_torn_line_costs_that_line_wherever_it_is(
    table: tuple[list[bytes], list[list[str]], bytes, int], block: int
) -> None:
    lines, rows, torn, at = table
    width = len(rows[0]) if rows else torn.count(b",") + 2
    if not rows and width == torn.count(b",") + 1:
        return
    text = b"".join([*lines[:at], torn, *lines[at:]])
    out = io.BytesIO()
    found = scan(io.BytesIO(text), Grammar(b",", b'"'), width, 2, out=out, block=block)
    assert list(csv.reader(io.StringIO(out.getvalue().decode(), newline=""))) == rows
    assert [each.line for each in found.malformed] == [2 + b"".join(lines[:at]).count(b"\n")]
    assert not scan(io.BytesIO(text), Grammar(b",", b'"'), width, 2, block=block).as_is


@pytest.fixture(scope="module")
def large() -> list[str]:
    """Return lines of some megabytes, every 50th with a comma in quotes, every 500th over two
    lines.
    """
    juices = {0: "juice, red\n"} | dict.fromkeys(range(50, 500, 50), "juice, red")
    return [f'"A{i % 3}","{juices.get(i % 500, "juice")}",{i}\n' for i in range(200_000)]


@pytest.mark.parametrize(
    "torn",
    [
        'A0,"apple juice,5\n',
        '"A0","the "best" one",7\n',
        'A0,5" pipe,"5\n',
        "A0,juice\n",
        'A0,x"\n',
    ],
)
def test_size_and_threads_do_not_change_the_cost_of_a_malformed_line(
    tmp_path: Path, large: list[str], torn: str
) -> None:
    head, middle = "shop,product,sold\n", len(large) // 2
    for name, at in (("a", middle), ("b", len(large))):
        (tmp_path / f"{name}.csv").write_text(head + "".join([*large[:at], torn, *large[at:]]))
    found = []
    for threads in (1, 4):
        store = FileStore(tmp_path / f"home{threads}")
        with DuckWarehouse(
            store, tmp_path / f"scratch{threads}", memory=2**29, threads=threads
        ) as warehouse:
            source = Source("s", csv=ANY)
            raw = warehouse.attach(source, str(tmp_path / "*.csv"), tmp_path, {}, "staged.parquet")
            assert raw.malformed is not None
            sums = (
                "SELECT count(*) AS n, sum(sold) AS sold, sum(__row) AS row, count(DISTINCT "
                "shop) AS shops, max(length(product)) AS long"
            )
            found.append(
                (
                    warehouse.query(f"{sums} FROM ({raw.select}) AS r").to_pylist(),
                    raw.malformed.column("row").to_pylist(),
                )
            )
    lines = ["".join(large[:at]).count("\n") + 2 for at in (middle, len(large))]
    total = sum(range(len(large))) * 2
    assert found[0] == (
        [{"n": 400_000, "sold": total, "row": total + 400_000, "shops": 3, "long": 11}],
        lines,
    )
    assert found[1] == found[0]


def test_rows_between_an_open_quote_and_a_stray_one_are_kept(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    """An open quote is closed by an inch sign some lines below.

    The lines are rows if there are enough of them; otherwise the quote is reported.
    """
    for between in (0, 5, 500):
        (tmp_path / "a.csv").write_text(
            'a,b,c\n1,"pipe 5,2\n' + "3,x,4\n" * between + '5,pipe 5",6\n7,y,8\n'
        )
        result, rows, rejects = read(runner, tmp_path / "a.csv")
        if between:
            assert rows == [(3, "x", 4)] * between + [(5, 'pipe 5"', 6), (7, "y", 8)]
            assert rejects == [
                "malformed line 2: a quote that is not closed: the lines after it are rows"
            ]
        else:
            assert rows == [(1, "pipe 5,2\n5,pipe 5", 6), (7, "y", 8)]
            assert [message for facts in result.csv for message in describe_facts(facts)] == [
                (
                    "CSV: 1 quoted values extend over lines that could be rows; the first begins "
                    f"in line 2 of {tmp_path / 'a.csv'} (if a quote is missing there: "
                    "csv=Csv(multiline=False))"
                )
            ]
        _, rows, rejects = read(runner, tmp_path / "a.csv", Csv(multiline=False))
        assert rows == [(3, "x", 4)] * between + [(5, 'pipe 5"', 6), (7, "y", 8)]
        assert rejects == ["malformed line 2: a quote that is not closed on its line"]


def test_the_rest_of_a_damaged_value_is_not_a_row(runner: InProcessRunner, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\nx,"two\nli"nes",3\ny,4\n"p\nq",5,6\nz,7\n')
    _, rows, rejects = read(runner, tmp_path / "a.csv")
    assert rows == [("y", 4), ("z", 7)]
    assert rejects == [
        "malformed line 2: text after a closing quote",
        "malformed line 3: quotes inside a value, after a line whose quotes are not closed",
        "malformed line 5: 3 values where 2 are wanted",
    ]


def test_each_kind_of_damage_is_counted_and_shown_by_its_rule(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,x\n1\n2,"y" z\n3,\0\n4,\xff\n5,\xc3\xa4\n6,7,8\n')
    with pytest.raises(ContractError) as caught:
        read(runner, tmp_path / "a.csv", limit=0)
    assert [re.sub("  +", "  ", problem) for problem in caught.value.problems] == [
        "(line)  must have the header's columns  2 rows  first: row 3 (1)",
        '(line)  must have its quotes around whole values  1 row  first: row 4 (2,"y" z)',
        "(line)  must hold no NUL byte  1 row  first: row 5 (3,\N{SYMBOL FOR NULL})",
        "(line)  must be UTF-8  1 row  first: row 6 (4,\N{REPLACEMENT CHARACTER})",
    ]


# --- what cannot be read is refused
# -----------------------------------------------------------------------------------


def others(folder: Path) -> Iterator[tuple[bytes, str]]:
    """Return contents of a file named .csv, and the expected error."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", TEXT)
    yield packed.getvalue(), "it is a ZIP archive"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    yield packed.getvalue(), "it is an Excel workbook"
    pq.write_table(pa.table({"a": [1]}), folder / "a.parquet")
    yield (folder / "a.parquet").read_bytes(), "it is a Parquet file"
    yield bz2.compress(b"a,b\n"), "compressed with bzip2"
    yield b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "old Excel workbook"
    yield b'[{"a": 1}, {"a": 2}]', "it is JSON"
    yield b"<!DOCTYPE html>\n<html>", "a page of HTML or XML"
    yield b"%PDF-1.7\n", "a PDF"
    yield gzip.compress(TEXT.encode() * 1000)[:-20], "as gzip it cannot be unpacked"
    yield (
        TEXT.encode("latin-1"),
        r"not encoded in UTF-8: 2 lines are invalid\n  line 2: byte 0xFC at position 5",
    )
    yield TEXT.encode("utf-16-le"), "every other byte is a NUL"
    yield "größe,b\n1,2\n".encode("latin-1"), "header of .* is not utf-8: byte 0xF6"
    yield b"a,b,a\n1,2,3\n", "does not name its columns\n  a: the same name"
    yield b"Price,price\n1,2\n", "Price, price: the same name"
    yield b",a,b\n0,1,2\n", "value 1 is empty"
    yield b"1,2.5,2025-01-01\n2,3.5,2025-01-02\n", "it looks like a row: 1, 2.5, 2025-01-01"
    yield b"a\x01b\n1\x012\n", "holds a control character"
    yield b'a,"b\n1,2\n', "header of .* cannot be read: a quote that is not closed"
    yield b"\n\n", "s is empty"


def test_a_file_that_is_not_csv_is_refused_with_its_real_type(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    for content, message in others(tmp_path):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(SourceError, match=message) as caught:
            read(runner, tmp_path / "a.csv")
        assert caught.value.hint
        assert str(tmp_path / "a.csv") in str(caught.value)
    (tmp_path / "a.csv").write_bytes(TEXT.encode("utf-8-sig"))
    with pytest.raises(
        SourceError, match="begins with the byte-order mark of utf-8, and Csv has latin-1"
    ):
        read(runner, tmp_path / "a.csv", Csv(encoding="latin-1"))


WRONG_BYTES = {
    "ascii": b"\xfc",
    "cp1252": b"\x81",
    "shift_jis": b"\x81 ",
    "gb18030": b"\xff",
    "utf-16": b"\x00\xd8",
    "utf-16-be": b"\xdc\x00",
    "utf-32-le": b"\xff\xff\xff\x7f",
    "utf-7": b"\xfc",
    "utf-8-sig": b"\xff",
}


@pytest.mark.parametrize("encoding", WRONG_BYTES)
def test_a_line_that_is_not_in_its_declared_encoding_is_rejected_as_that(
    runner: InProcessRunner, tmp_path: Path, encoding: str
) -> None:
    encoder = codecs.getincrementalencoder(encoding)()
    before, after = encoder.encode("a,b\n1,x\n2,"), encoder.encode("\n3,y\n", True)
    (tmp_path / "a.csv").write_bytes(before + WRONG_BYTES[encoding] + after)
    result, found, _ = read(runner, tmp_path / "a.csv", Csv(encoding=encoding), limit=1)
    assert found == [(1, "x"), (3, "y")]
    assert [finding.message for finding in result.findings] == [f"must be {encoding}"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_text_without_the_mark_of_its_declared_encoding_is_refused(
    runner: InProcessRunner, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT.encode(f"{encoding}-le"))
    with pytest.raises(SourceError, match="does not begin with a byte-order mark") as caught:
        read(runner, tmp_path / "a.csv", Csv(encoding=encoding))
    assert f'"{encoding}-be"' in str(caught.value.hint)


@pytest.mark.parametrize("encoding", ["idna", "punycode", "undefined", "base64", "rot13", "", 5])
def test_a_codec_that_cannot_read_files_is_refused(encoding: Any) -> None:
    with pytest.raises(JobError, match="wanted one that Python has"):
        Csv(encoding=encoding)


def test_a_csv_that_cannot_be_meant_is_refused_with_all_that_is_wrong() -> None:
    wrong: Any = "no"
    with pytest.raises(JobError) as caught:
        Csv(delimiter="::", quote="", encoding="nope", decimal=";", skip=-1, multiline=wrong)
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == [
        "delimiter",
        "quote",
        "decimal",
        "encoding",
        "skip",
        "multiline",
    ]
    for declared in (
        {"delimiter": "'", "quote": "'"},
        {"header": ()},
        {"null": (1,)},
        {"header": "a"},
        {"header": ("a", "a")},
    ):
        with pytest.raises(JobError):
            Csv(**declared)
    with pytest.raises(JobError, match=r"source s: csv is ';', wanted Csv"):
        Source("s", csv=";")  # type: ignore[arg-type]


def test_the_names_of_a_file_without_a_header_are_the_contract_s(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    @dataclass
    class Row:
        shop: str
        sold: int

    (tmp_path / "a.csv").write_text("A;1\nB;2\n")
    assert read(runner, tmp_path / "a.csv", Csv(header=False), Row)[1] == [("A", 1), ("B", 2)]
    run = runner.source(Source("s", csv=Csv(header=False)), tmp_path / "a.csv")
    run.validate()
    assert run.accepted("s") == [{"column0": "A", "column1": 1}, {"column0": "B", "column1": 2}]


def test_hundreds_of_columns_are_typed_within_little_memory(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    kinds = {
        "1": 1,
        "1.5": 1.5,
        "true": True,
        "2020-01-31": dt.date(2020, 1, 31),
        "x": "x",
        "": None,
    }
    texts = [list(kinds)[number % len(kinds)] for number in range(420)]
    (tmp_path / "a.csv").write_text(f"{','.join(f'c{n}' for n in range(420))}\n{','.join(texts)}\n")
    run = runner.source(Source("s"), tmp_path / "a.csv")
    run.validate()
    assert [list(row.values()) for row in run.accepted("s")] == [[kinds[text] for text in texts]]


class ValueByValue(_Scanner):
    """A reader of every malformed line, value by value."""

    def _stray(self, block: bytes) -> bool:  # noqa: ARG002
        return False


CELLS = [
    '5" pipe',
    'x"',
    'a "b" c',
    ' "p" ',
    "",
    "plain",
    '"q,1"',
    'é"',
    '"',
    '""',
    "x\0",
    '\t"t"',
    'r\r"',
]
LINES = st.lists(st.sampled_from(CELLS), min_size=3, max_size=3) | st.just(["x"])
STRAY = st.lists(LINES, min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(STRAY, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_quotes_inside_values_are_literal_line_by_line(
    rows: list[list[str]], end: str, trailing: bool
) -> None:
    lines = [",".join([*row, *([""] if trailing else [])]) + end for row in rows]
    text = "".join(lines).encode()
    grammar = Grammar(b",", b'"')
    written = io.BytesIO()
    found = scan(io.BytesIO(text), grammar, 3, 2, trailing=trailing, out=written)
    slow = io.BytesIO()
    one_by_one = ValueByValue(io.BytesIO(text), grammar, 3, 2, trailing=trailing, out=slow).run()
    assert (found, written.getvalue()) == (one_by_one, slow.getvalue())
