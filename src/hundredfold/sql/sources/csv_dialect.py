"""The dialect of a CSV file, detected once for each file from its first bytes and its `Csv`, never
from the content of its rows.

compression  by the first bytes, whatever the name: gzip, zstd, none
encoding     `Csv.encoding`, else the byte-order mark, else UTF-8
line ends    a line feed, optionally after carriage returns; a carriage return alone if the file has
             no line feed
delimiter    `Csv.delimiter`, else a first line `sep=;`, else the one of , ; tab | that splits the
             header; if several do, the one by which most of the first lines have as many values as
             the header
quote        `Csv.quote`, by default the double quote of RFC 4180
header       the first line, unless `Csv.header` differs

A file that cannot be read by these rules is rejected: the error names its format, and a remedy.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ...errors import SourceError
from ...job import Csv
from .csv_records import Grammar, Readable

# of the decoded text, from which the dialect is detected; a header is not longer
HEAD_BYTES = 2**20
MAX_COMPARED_LINES = 200  # if several delimiters split the header
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
EXTRA = "__extra"  # the column after a last delimiter, which is empty
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
OTHER_FORMATS = (
    (rb"PK\x03\x04.{0,4000}?(xl/|\[Content_Types\])", "an Excel workbook", "save the sheet as CSV"),
    (rb"PK\x03\x04", "a ZIP archive", "unpack it"),
    (rb"PAR1[\x00-\x1f]", "a Parquet file", "give it a name that ends with .parquet"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook or another Office file", "save the sheet as CSV"),
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2", "unpack it, or compress it with gzip or zstd"),
    (rb"\xfd7zXZ\x00", "compressed with xz", "unpack it, or compress it with gzip or zstd"),
    (rb"\x04\x22\x4d\x18", "compressed with LZ4", "unpack it, or compress it with gzip or zstd"),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a", "an archive", "unpack it"),
    (rb".{257}ustar", "a tar archive", "unpack it"),
    (rb"%PDF-", "a PDF", "wanted the table as CSV"),
    (rb"SQLite format 3\x00", "an SQLite database", "write the table as CSV or Parquet"),
    (rb"ORC[\x00-\x1f]", "an ORC file", "write it as Parquet"),
    (rb"Obj\x01", "an Avro file", "write it as Parquet"),
    (rb"ARROW1\x00", "an Arrow file", "write it as Parquet"),
    (rb"\x89HDF", "an HDF5 file", "write the table as Parquet"),
    (rb"\x80[\x02-\x05][\x00-\xff]", "a pickle", "write the table as Parquet"),
    (rb'\s*+(\[\s*+[\[{"]|\{\s*+["}])', "JSON", "give it a name that ends with .jsonl or .json"),
    (
        rb"(?i)\s*+<(!doctype html|html|\?xml)",
        "a page of HTML or XML",
        "look at the file that was downloaded",
    ),
)
# a number or a date, but no name
DATA_VALUE = re.compile(r"[+-]?\d[\d.,:/ T+-]*(?:[eE][+-]?\d+)?Z?|true|false|null|nan", re.I)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The detected dialect of one file."""

    names: tuple[str, ...]  # of its columns; empty if the file has no line
    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"
    decimal: str = "."
    null: tuple[str, ...] = ("",)
    header: bool = True
    compression: str = ""
    newline: str = "\n"
    multiline: bool | None = None
    trailing: bool = False  # each line ends with a delimiter
    start: int = 0  # bytes of the decoded text before the first row
    first_line: int = 2  # the number of the line at which the first row begins
    # only a line of names precedes the rows, or nothing: any reader finds them
    is_plain: bool = True

    @property
    def is_utf8(self) -> bool:
        return _is_utf8(self.encoding)

    @property
    def grammar(self) -> Grammar:
        quote = self.quote.encode() if self.quote else None
        return Grammar(self.delimiter.encode(), quote, self.newline.encode(), self.multiline)

    @property
    def facts(self) -> dict[str, Any]:
        """Return the facts that are recorded with the run."""
        return {
            "delimiter": self.delimiter,
            "quote": self.quote,
            "encoding": self.encoding,
            "decimal": self.decimal,
            "null": list(self.null),
            "header": self.header,
            "compression": self.compression or None,
        }

    @contextmanager
    def open(self, path: str) -> Iterator[Readable]:
        """Open the text of the rows, decoded to UTF-8, from the first row on."""
        with open_text(path, self.compression, self.encoding) as text:
            left = self.start
            while left and (skipped := text.read(min(left, HEAD_BYTES))):
                left -= len(skipped)
            yield text


def detect_dialect(source: str, path: str, csv: Csv, columns: Sequence[str] = ()) -> Dialect:
    """Return the dialect of a file; SourceError if it cannot be read as CSV.

    columns: those of the contract, for a file without names.
    """
    with Path(path).open("rb") as file:
        raw = file.read(4096)
    compression = next((name for magic, name in COMPRESSIONS.items() if raw.startswith(magic)), "")
    first = raw if not compression else _read_head(source, path, compression, "utf-8", 4096)
    _reject_other_formats(source, path, first)
    encoding = _detect_encoding(source, path, first, csv.encoding)
    head = _read_head(source, path, compression, encoding, HEAD_BYTES)
    return _Detection(source, path, csv, columns, encoding, compression, head).detect()


@contextmanager
def open_text(path: str, compression: str, encoding: str) -> Iterator[Readable]:
    """Open a file's bytes, decompressed, as UTF-8."""
    with (
        pa.input_stream(path, compression=compression)
        if compression
        else Path(path).open("rb") as file
    ):
        yield file if _is_utf8(encoding) else Transcoded(file, encoding)


class Transcoded:
    """A text in another encoding, as UTF-8.

    Bytes that are invalid in that encoding become a byte that is invalid in UTF-8, so that their
    line is rejected.
    """

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder(encoding)(KEEP_INVALID)
        self.rest = b""

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (more := self.file.read(HEAD_BYTES)):
            self.rest += self.decoder.decode(more).encode("utf-8", KEEP_INVALID)
        if len(self.rest) < size:
            self.rest += self.decoder.decode(b"", True).encode("utf-8", KEEP_INVALID)
        read, self.rest = self.rest[:size], self.rest[size:]
        return read


def _keep_invalid(error: UnicodeError) -> tuple[str | bytes, int]:
    """Decode what is invalid to a lone surrogate, and encode that to a byte that is not UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return b"\xff", error.end
    raise error  # such as a text of UTF-16 without a byte-order mark


KEEP_INVALID = "hundredfold-keep-invalid"
codecs.register_error(KEEP_INVALID, _keep_invalid)


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


def _read_head(source: str, path: str, compression: str, encoding: str, size: int) -> bytes:
    """Return the beginning of a file's text."""
    head = b""
    try:
        with open_text(path, compression, encoding) as text:
            while len(head) < size and (more := text.read(size - len(head))):
                head += more
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise read_error(source, path, compression, error) from error
    return head


def read_error(source: str, path: str, compression: str, error: Exception) -> SourceError:
    """Return the error for a file whose bytes cannot be read."""
    if compression:
        return SourceError(
            f"{source}: {path} is damaged: as {compression} it cannot be unpacked: {error}",
            hint="copy the whole file again",
        )
    return SourceError(
        f"{source}: {path} cannot be read: {error}",
        hint=f"name another path with --source {source}=PATH",
    )


def _detect_encoding(source: str, path: str, first: bytes, wanted: str | None) -> str:
    """Return a file's encoding; SourceError if its first bytes contradict the given one."""
    mark = next((name for magic, name in BYTE_ORDER_MARKS if first.startswith(magic)), None)
    if wanted is None:
        nuls = [first[start:200:2].count(0) / max(len(first[start:200:2]), 1) for start in (0, 1)]
        if mark is None and max(nuls) > 0.8 and min(nuls) < 0.2:
            order = "utf-16-be" if nuls[0] > nuls[1] else "utf-16-le"
            raise SourceError(
                f"{source}: {path} is not UTF-8: every other byte is a NUL, as in UTF-16, and"
                " there is no byte-order mark",
                hint=f'name its encoding: Source("{source}", ..., csv=Csv(encoding="{order}"))',
            )
        return mark or "utf-8"
    if mark is not None and not codecs.lookup(wanted).name.startswith(mark):
        raise SourceError(
            f"{source}: {path} begins with the byte-order mark of {mark}, and Csv has {wanted}",
            hint="leave out encoding=",
        )
    name = codecs.lookup(wanted).name
    if mark is None and name in ("utf-16", "utf-32"):
        raise SourceError(
            f"{source}: {path} does not begin with a byte-order mark, and Csv has {wanted}",
            hint=f'name the order of bytes: csv=Csv(encoding="{name}-le") or "{name}-be"; or leave '
            "out encoding=, if it is UTF-8",
        )
    return wanted


def identify_format(first: bytes) -> str:
    """Return the format of a file that is neither CSV nor Parquet, by its first bytes; "" if
    unknown.
    """
    packed = next(
        (
            f"compressed with {name}"
            for magic, name in COMPRESSIONS.items()
            if first.startswith(magic)
        ),
        "",
    )
    return packed or next(
        (name for pattern, name, _ in OTHER_FORMATS if re.match(pattern, first, re.S)), ""
    )


def _reject_other_formats(source: str, path: str, first: bytes) -> None:
    """Raise SourceError for a file in another format, whatever its name."""
    for pattern, name, hint in OTHER_FORMATS:
        if re.match(pattern, first, re.S):
            raise SourceError(f"{source}: {path} is no CSV: it is {name}", hint=hint)


class _Detection:
    """The steps of the detection; `head` is the beginning of the decoded text."""

    def __init__(
        self,
        source: str,
        path: str,
        csv: Csv,
        columns: Sequence[str],
        encoding: str,
        compression: str,
        head: bytes,
    ) -> None:
        self.source, self.path, self.csv, self.columns = source, path, csv, columns
        self.encoding, self.compression, self.head = encoding, compression, head
        self.newline = b"\r" if b"\r" in head and b"\n" not in head else b"\n"
        self.position, self.line = 0, 1

    def detect(self) -> Dialect:
        marked = self.head.startswith(codecs.BOM_UTF8)
        self.position = len(codecs.BOM_UTF8) if marked else 0
        for _ in range(self.csv.skip):
            self._next_line()
        delimiter = self._separator_line()
        while self.position < len(self.head) and not self._this_line().strip(b"\r\n"):
            self._next_line()
        plain = self.line == 1 and _is_utf8(self.encoding) and self.newline == b"\n"
        given = None if self.csv.header is True else self._given_names(delimiter)
        delimiter = (
            delimiter or self.csv.delimiter or self._delimiter(len(given) if given else None)
        )
        grammar = self._grammar(delimiter)
        names, trailing, begin = given or (), False, self.position
        if self.position >= len(self.head):
            names = ()
        elif given is not None:
            plain = plain and not marked
        else:
            plain = plain and grammar.read(self.head, self.position).is_strict
            names, trailing, begin = self._read_header(grammar)
            plain = plain and self.line == 2
        return Dialect(
            names,
            delimiter,
            self.csv.quote,
            self.encoding,
            self.csv.decimal,
            tuple(self.csv.null),
            given is None,
            self.compression,
            self.newline.decode(),
            self.csv.multiline,
            trailing,
            begin,
            self.line,
            plain,
        )

    def _grammar(self, delimiter: str) -> Grammar:
        return Grammar(
            delimiter.encode(),
            self.csv.quote.encode() if self.csv.quote else None,
            self.newline,
            self.csv.multiline,
        )

    def _this_line(self) -> bytes:
        end = self.head.find(self.newline, self.position) + 1
        return self.head[self.position : end or None]

    def _next_line(self) -> None:
        self.position += len(self._this_line())
        self.line += 1

    def _separator_line(self) -> str:
        """Return the delimiter in a first line such as `sep=;`, which Excel writes and which is no
        row.
        """
        found = re.fullmatch(rb'"?sep=(.)"?\r*\n?', self._this_line(), re.S)
        if not found or self.csv.delimiter:
            return ""
        self._next_line()
        return found[1].decode("latin-1")

    def _delimiter(self, width: int | None) -> str:
        """Return the delimiter that splits the header, or the first line into `width` values."""
        widths = {
            sign: len(self._grammar(sign).read(self.head, self.position).fields)
            for sign in DELIMITERS
        }
        fitting = [
            sign for sign, found in widths.items() if (found == width if width else found > 1)
        ]
        if width and not fitting:
            fitting = list(DELIMITERS)
        if not fitting:
            return "\t" if re.search(r"\.tsv(\.|$)", self.path, re.I) else ","
        if len(fitting) == 1:
            return fitting[0]
        counts = {
            sign: (self._count_lines_with(sign, width or widths[sign]), width or widths[sign])
            for sign in fitting
        }
        best = max(counts.values())
        chosen = [sign for sign, count in counts.items() if count == best]
        if len(chosen) > 1 and not width:
            raise SourceError(
                f"{self.source}: the delimiter of {self.path} is ambiguous:"
                f" {' and '.join(DELIMITERS[s] for s in chosen)} fit equally well",
                problems=[f"line {self.line}: {_preview(self._this_line())}"],
                hint=f'name it: Source("{self.source}", ..., csv=Csv(delimiter={chosen[0]!r}))',
            )
        return chosen[0]

    def _count_lines_with(self, sign: str, width: int) -> int:
        """Return how many of the first lines have that many values."""
        grammar, at, count = self._grammar(sign), self.position, 0
        for _ in range(MAX_COMPARED_LINES):
            end = self.head.find(self.newline, at) + 1
            if not end:
                break
            parsed = grammar.read(self.head[at:end])
            count += not parsed.rule and not parsed.is_open and len(parsed.fields) == width
            at = end
        return count

    def _given_names(self, delimiter: str) -> tuple[str, ...]:
        """Return the column names of a file without a header."""
        if not isinstance(self.csv.header, bool):
            return tuple(self.csv.header)
        width = 0
        sign = delimiter or self.csv.delimiter
        if self.columns and (
            sign is None
            or len(self._grammar(sign).read(self.head, self.position).fields) == len(self.columns)
        ):
            return tuple(self.columns)
        width = len(
            self._grammar(sign or self._delimiter(None)).read(self.head, self.position).fields
        )
        return tuple(f"column{number}" for number in range(width))

    def _read_header(self, grammar: Grammar) -> tuple[tuple[str, ...], bool, int]:
        """Return the names in the header, whether a delimiter follows the last, and the header's
        end.
        """
        record = grammar.read(self.head, self.position)
        cut = record.end >= len(self.head) >= HEAD_BYTES
        if record.is_open or record.rule or cut:
            problem = (
                f"longer than {HEAD_BYTES:,} bytes"
                if cut
                else record.problem or "a quote that is not closed"
            )
            raise SourceError(
                f"{self.source}: the header of {self.path} cannot be read: {problem}",
                problems=[f"line {self.line}: {_preview(self._this_line())}"],
                hint=self._hint("correct the line"),
            )
        try:
            names = [self._name(value, grammar.quote) for value in record.fields]
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self.source}: the header of {self.path} is not {self.encoding}"
                + (f": byte 0x{error.object[error.start]:02X}" * _is_utf8(self.encoding)),
                problems=[f"line {self.line}: {_preview(self._this_line())}"],
                hint=encoding_hint(self.source),
            ) from error
        trailing = len(names) > 1 and not names[-1]
        names = names[:-1] if trailing else names
        self._check_names(names)
        begin = record.end
        self.line += max(self.head.count(self.newline, self.position, begin), 1)
        return tuple(names), trailing, begin

    def _name(self, value: bytes, quote: bytes | None) -> str:
        if quote and value.startswith(quote):
            return value[1:-1].replace(quote * 2, quote).decode()
        return value.decode().strip()

    def _check_names(self, names: Sequence[str]) -> None:
        """Raise SourceError for names that columns cannot have, all in one error."""
        lowercase = [name.lower() for name in names]
        duplicates = sorted({name for name in names if lowercase.count(name.lower()) > 1})
        problems = [f"value {i + 1} is empty" for i, name in enumerate(names) if not name]
        problems += (
            [f"{', '.join(duplicates)}: the same name in SQL, which ignores case"]
            if any(duplicates)
            else []
        )
        problems += [
            f"{name!r} holds a control character"
            for name in names
            if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", name)
        ]
        if not problems and all(DATA_VALUE.fullmatch(name) for name in names):
            problems = [f"it looks like a row: {', '.join(names[:6])}"]
        if problems:
            pandas = " (pandas: to_csv(..., index=False))" if not names[0] else ""
            raise SourceError(
                f"{self.source}: the header of {self.path} does not name its columns",
                problems=problems,
                hint=self._hint(f"give each column a name of its own{pandas}"),
            )

    def _hint(self, remedy: str) -> str:
        names = 'header=("a", "b", ...)'
        return (
            f"{remedy}; or pass the names: csv=Csv({names}) for a file without a header,"
            f" csv=Csv({names}, skip=1) instead of this one"
        )


def encoding_hint(source: str) -> str:
    return f'name its encoding, such as Source("{source}", ..., csv=Csv(encoding="latin-1"))'


def _preview(line: bytes) -> str:
    return line[:80].rstrip(b"\r\n").decode(errors="replace")
