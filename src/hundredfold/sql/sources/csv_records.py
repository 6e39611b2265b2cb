"""Splitting of CSV text into records, so that a malformed line costs only that line.

In this module text is UTF-8 bytes, whatever the file's encoding. The grammar is RFC 4180: a value
that begins with a quote ends at the next quote that is not doubled, and a delimiter or the end of
the line follows; a quote inside a value that does not begin with one is text. A record that does
not fit costs its first line, and reading continues with the next line, so that no damage spreads.

`scan` processes blocks of lines as arrays: a block in which every line is a complete record costs
two or three passes of NumPy. Only other lines are read one at a time, by `Grammar.read`.

A quoted value may extend over several lines, and so may a value whose closing quote is missing. The
lines after the first are taken for rows, and the first for a malformed one, if nearly all of them
have as many values as the header and together at least `MIN_DELIMITERS_OF_ROWS` delimiters: prose
does not do that by chance.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

import numpy as np

BLOCK_BYTES = 2**18  # of text that are processed in one step
MAX_RECORD_BYTES = 2**24  # limit of a line, and of the search for a closing quote
MAX_TEXT_BYTES = 10_000  # of a malformed line that are kept
MAX_COMPARED_LINES = 100  # after an open quote
MIN_FITTING_SHARE = 0.9  # of those lines, from which on they are rows
MIN_DELIMITERS_OF_ROWS = 6  # in fitting lines: no text has this many by chance
CR = 13
NO_INDEXES = np.zeros(0, np.intp)
PARITIES = np.packbits(
    np.bitwise_xor.accumulate(
        np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), axis=1
    ),
    axis=1,
)[:, 0]

WIDTH_RULE = "must have the header's columns"
QUOTES_RULE = "must have its quotes around whole values"
ENCODING_RULE = "must be UTF-8"
NUL_RULE = "must hold no NUL byte"
CARRIAGE_RETURN_RULE = "must hold no carriage return outside quotes"
LENGTH_RULE = f"must be at most {MAX_RECORD_BYTES // 2**20} MiB long"


class Readable(Protocol):
    """Bytes that are read once, from the front."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is no record: its number in the file, the rule that it breaks, and its text."""

    line: int
    rule: str
    problem: str
    text: str


@dataclass(slots=True)
class Scan:
    """The result of scanning a file's text."""

    rows: int = 0
    newline: bytes = b"\n"  # the line end of all lines, if `as_is`
    # every record is written as in RFC 4180, and all lines have the same end: any reader finds the
    # same rows
    as_is: bool = True
    malformed: list[MalformedLine] = field(default_factory=list)
    multiline: int = 0  # records over several lines
    suspicious: int = 0  # those of them whose lines could be rows
    first_suspicious: int = 0  # the line at which the first of these begins
    longest: int = 0  # bytes of the longest record, if it is longer than a block
    quoted_null: bool = False  # a null text, or "", occurs in quotes
    non_ascii: bool = False  # a valid character beyond ASCII occurs


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `fields` are the bytes of each value as written, including quotes."""

    fields: list[bytes]
    end: int  # the position of the next line
    rule: str = ""  # that it breaks
    problem: str = ""
    is_open: bool = False  # the text ended inside quotes
    is_strict: bool = True  # written as in RFC 4180
    has_stray: bool = False  # a quote inside a value that does not begin with one


class Grammar:
    """The grammar of a line.

    newline: the end of a line: b"\n", also after b"\r", or b"\r" alone.
    """

    def __init__(
        self,
        delimiter: bytes,
        quote: bytes | None,
        newline: bytes = b"\n",
        multiline: bool | None = None,
    ) -> None:
        self.delimiter, self.quote, self.newline, self.multiline = (
            delimiter,
            quote,
            newline,
            multiline,
        )
        d, n = re.escape(delimiter), re.escape(newline)
        blank = {b"\t": b"[ ]", b" ": rb"[\t]"}.get(delimiter, rb"[ \t]")
        self._count_plain_lines = re.compile(b"[^%b%b]*+" % (d, n))
        self._line_end = re.compile(rb"\r*+\n" if newline == b"\n" else n)
        stop = rb"(?=%b|%b|\Z)" % (d, rb"\r*+\n" if newline == b"\n" else n)
        self._padding = re.compile(blank + b"*+" + stop)
        if quote is not None:
            q = re.escape(quote)
            self._padded = re.compile(
                b"%b++(%b(?:[^%b%b]|%b%b)*+%b)%b*+%b" % (blank, q, q, n, q, q, q, blank, stop)
            )

    def read(self, text: bytes, start: int = 0) -> Record:
        """Return the record that begins at `start`; text without a final line end is taken as
        complete.
        """
        fields: list[bytes] = []
        strict, stray, returns = True, False, False
        at = start
        while True:
            value, end, problem = self._value(text, at)
            if value is None:
                return Record(
                    fields,
                    end,
                    QUOTES_RULE if problem else "",
                    problem,
                    is_open=not problem,
                    is_strict=False,
                )
            fields.append(value)
            if self.quote is not None and value.startswith(self.quote):
                padding = self._padding.match(text, end)
                after = padding.end() if padding else end
                strict = strict and after == end and text.startswith(self.quote, at)
                end = after
            else:
                stray = stray or (self.quote is not None and self.quote in value)
                returns = returns or (self.newline == b"\n" and b"\r" in value)
            if not text.startswith(self.delimiter, end):
                break
            at = end + 1
        found = self._line_end.match(text, end)
        stop = found.end() if found else end
        if returns:
            return Record(
                fields,
                stop,
                CARRIAGE_RETURN_RULE,
                "a carriage return outside quotes",
                is_strict=False,
            )
        return Record(
            fields, stop, is_strict=strict and not stray and stop - end <= 2, has_stray=stray
        )

    def line_end(self, text: bytes, start: int) -> int:
        """Return the position of the line after the one at `start`."""
        return text.find(self.newline, start) + 1 or len(text)

    def to_rfc4180(self, fields: list[bytes]) -> bytes:
        """Return a record as in RFC 4180."""
        return self.delimiter.join(map(self._quoted_if_needed, fields)) + b"\n"

    def _quoted_if_needed(self, value: bytes) -> bytes:
        if self.quote is None or value.startswith(self.quote) or self.quote not in value:
            return value
        return self.quote + value.replace(self.quote, self.quote * 2) + self.quote

    def _value(self, text: bytes, at: int) -> tuple[bytes | None, int, str]:
        """Return the value at a position, its end, and the problem.

        The value is None if it is malformed; the problem is empty if only its closing quote is
        missing.
        """
        if self.quote is not None:
            if text.startswith(self.quote, at):
                return self._quoted(text, at)
            padded = self._padded.match(text, at) if text[at : at + 1] in (b" ", b"\t") else None
            if padded:
                return padded[1], padded.end(1), ""
        found = self._count_plain_lines.match(text, at)
        end = found.end() if found else at
        if self.newline == b"\n" and text[end : end + 1] in (b"\n", b""):
            while end > at and text[end - 1] == CR:
                end -= 1
        return text[at:end], end, ""

    def _quoted(self, text: bytes, at: int) -> tuple[bytes | None, int, str]:
        quote = self.quote or b""
        stop = self.line_end(text, at) if self.multiline is False else len(text)
        end = at + 1
        while True:
            end = text.find(quote, end, stop)
            if end < 0:
                return (
                    None,
                    stop,
                    "a quote that is not closed on its line" if self.multiline is False else "",
                )
            if not text.startswith(quote, end + 1):
                break
            end += 2
        if not self._padding.match(text, end + 1):
            return None, end, "text after a closing quote"
        return text[at : end + 1], end + 1, ""


def scan(
    text: Readable, grammar: Grammar, columns: int, first_line: int, **options: object
) -> Scan:
    """Read all records of a text; see `_Scanner` for the options."""
    return _Scanner(text, grammar, columns, first_line, **options).run()  # type: ignore[arg-type]


class _Scanner:
    """Reads records of `columns` values. The first line's number in the file is `first_line`.

    out: receives every valid record, as in RFC 4180; without it the scan ends at the first record
    that is written in another way. trailing: each line may end with a delimiter. nulls: texts that
    are null. tick: called for each block of `block` bytes.
    """

    def __init__(
        self,
        text: Readable,
        grammar: Grammar,
        columns: int,
        first_line: int,
        *,
        trailing: bool = False,
        nulls: tuple[str, ...] = ("",),
        out: BinaryIO | None = None,
        tick: Callable[[], None] = lambda: None,
        block: int = BLOCK_BYTES,
    ) -> None:
        self.text, self.grammar, self.columns, self.trailing = text, grammar, columns, trailing
        self.width = columns + trailing
        self.out, self.tick, self.block = out, tick, block
        edges = [
            grammar.delimiter[0],
            grammar.newline[0],
            *([grammar.quote[0]] if grammar.quote else []),
        ]
        # by byte: whether a quoted value may begin after it, or end before it
        self._before, self._after = (np.zeros(256, bool), np.zeros(256, bool))
        # the byte before a block is the last one of the array: a line end
        self._before[edges] = self._after[[*edges, CR]] = True
        self.empty_is_null = "" in nulls
        self.nulls = (
            [grammar.quote + null.encode() + grammar.quote for null in {*nulls, ""}]
            if grammar.quote
            else []
        )
        self.data, self.position, self.ended = b"", 0, False
        self.line = first_line
        self.untrusted = 0  # lines up to this one may be the rest of a malformed value
        self.endings: set[bytes] = set()
        self.found = Scan()

    def run(self) -> Scan:
        while self.found.as_is or self.out is not None:
            stop = self._next_block()
            if stop <= self.position:
                break
            self.tick()
            self._take_lines(stop)
        return self.found

    # ---- blocks of text

    def _next_block(self) -> int:
        """Return the end of the next block of whole lines; its beginning at the end of the text."""
        newline = self.grammar.newline
        self.data, self.position = self.data[self.position :], 0
        while True:
            stop = self.data.rfind(newline, 0, self.block) + 1 or self.data.find(newline) + 1
            if stop > MAX_RECORD_BYTES or (not stop and len(self.data) > MAX_RECORD_BYTES):
                self._skip_line(stop)
            elif stop or not self._read_more():
                return stop or len(self.data)

    def _read_more(self) -> bool:
        """Read on; return whether there was more."""
        if self.ended:
            return False
        # double the size, so that a distant position is reached in few steps
        more = self.text.read(max(self.block, len(self.data)))
        self.ended = not more
        self.data += more
        newline = self.grammar.newline
        if self.ended and self.data and not self.data.endswith(newline):
            pairs = newline == b"\n" and (self.endings == {b"\r\n"} or b"\r\n" in self.data)
            self.data += b"\r\n" if pairs else newline
        return not self.ended

    def _skip_line(self, stop: int) -> None:
        """Skip a line that is too long to be held; `stop` is its end, if known."""
        self._add_malformed(self.data, LENGTH_RULE, f"longer than {MAX_RECORD_BYTES // 2**20} MiB")
        while not stop and not self.ended:
            self.data = b""
            self._read_more()
            stop = self.data.find(self.grammar.newline) + 1
        self.data = self.data[stop:]
        self.line += 1

    # ---- lines that are complete records

    def _take_lines(self, stop: int) -> None:
        """Take the lines up to `stop`: the valid ones as one piece, the others one at a time."""
        block = self.data[:stop]
        self.found.longest = max(self.found.longest, stop if stop > self.block else 0)
        count, starts, bad = self._find_bad_lines(block)
        first, done = self.line, 0  # lines of this block that are done
        for number in bad:
            if number < done:
                continue  # it was the rest of a record
            self._keep(block[self.position : starts[number]], number - done)
            self.position, self.line = int(starts[number]), first + number
            if not self._take_stray_quotes(block):
                self._take_irregular()
            if not self.found.as_is and self.out is None:
                return
            done = self.line - first
        if self.position < stop:
            self._keep(block[self.position :] if self.position else block, count - done)
            self.position, self.line = stop, first + count

    def _keep(self, lines: bytes, count: int) -> None:
        """Keep lines that are one record each, without a line end inside a value."""
        if not count:
            return
        self.found.rows += count
        carriage = self.grammar.newline == b"\n" and b"\r" in lines
        if self.out is not None:
            self.out.write(
                lines.replace(b"\r\n", b"\n")
                if carriage
                else lines.replace(self.grammar.newline, b"\n")
            )
            return
        returns = lines.count(b"\r\n") if carriage else 0
        self._note_endings(
            *([b"\r\n"] if returns else []), *([self.grammar.newline] if returns < count else [])
        )

    def _note_endings(self, *endings: bytes) -> None:
        """Record line ends: readers differ if they vary, or are a carriage return alone."""
        self.endings.update(endings)
        self.found.newline = endings[-1] if endings else self.found.newline
        if len(self.endings) > 1 or self.endings == {b"\r"}:
            self.found.as_is = False

    def _find_bad_lines(self, block: bytes) -> tuple[int, np.ndarray, list[int]]:
        """Return the number of lines, their positions, and the numbers of those that may be no
        record.
        """
        a = np.frombuffer(block, np.uint8)
        is_quote = (
            a == self.grammar.quote[0]
            if self.grammar.quote and self.grammar.quote in block
            else None
        )
        if is_quote is not None and not self.found.quoted_null:
            doubled = bool((is_quote[1:] & is_quote[:-1]).any())
            self.found.quoted_null = any(
                (doubled or len(null) > 2) and null in block for null in self.nulls
            )
        is_end = a == self.grammar.newline[0]
        is_delimiter = a == self.grammar.delimiter[0]
        if (count := self._count_plain_lines(block, a, is_quote, is_end, is_delimiter)) is not None:
            return count, NO_INDEXES, []
        ends = np.flatnonzero(is_end)
        starts = np.concatenate(([0], ends[:-1] + 1))
        bad = np.zeros(len(ends), bool)
        quotes = np.flatnonzero(is_quote) if is_quote is not None else NO_INDEXES
        line, first = np.searchsorted(ends, quotes), np.searchsorted(quotes, starts)
        opens = (np.arange(len(quotes)) - first[line]) % 2 == 0
        bad[np.bincount(line, minlength=len(ends)) % 2 > 0] = True
        bad[line[opens][~self._before[a[quotes[opens] - 1]]]] = True
        bad[line[~opens][~self._after[a[quotes[~opens] + 1]]]] = True
        delimiters = np.flatnonzero(is_delimiter)
        line = np.searchsorted(ends, delimiters)
        line = line[(np.searchsorted(quotes, delimiters) - first[line]) % 2 == 0]
        bad[np.bincount(line, minlength=len(ends)) != self.width - 1] = True
        if self.trailing:
            bad[~self._end_with_delimiter(a, ends)] = True
        bad[self._lengths(a, starts, ends) == 0] = True
        if self.grammar.newline == b"\n":
            returns = np.flatnonzero(a == CR)
            line = np.searchsorted(ends, returns)
            bad[line[returns != ends[line] - 1]] = True
        bad[np.searchsorted(ends, np.flatnonzero(a == 0))] = True
        bad[self._undecodable_lines(block, ends)] = True
        return len(ends), starts, np.flatnonzero(bad).tolist()

    def _count_plain_lines(
        self,
        block: bytes,
        a: np.ndarray,
        is_quote: np.ndarray | None,
        is_end: np.ndarray,
        is_delimiter: np.ndarray,
    ) -> int | None:
        """Return the number of lines if all are records, without examining each; else None."""
        marks = _marks_outside_quotes(a, is_quote, is_end, is_delimiter)
        if marks is None:
            return None
        positions = np.flatnonzero(marks)
        ends = positions[self.width - 1 :: self.width]
        if (
            not len(ends)
            or len(positions) != len(ends) * self.width
            or not is_end[ends].all()
            or np.count_nonzero(is_end) != len(ends)
        ):
            return None
        if self.trailing and not self._end_with_delimiter(a, ends).all():
            return None
        if (
            self.width == 1
            and not self._lengths(a, np.concatenate(([0], ends[:-1] + 1)), ends).all()
        ):
            return None
        if (
            b"\r" in block
            and self.grammar.newline == b"\n"
            and np.count_nonzero(a == CR) != np.count_nonzero(a[ends - 1] == CR)
        ):
            return None
        return len(ends) if b"\0" not in block and self._is_decodable(block) else None

    def _lengths(self, a: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the length of each line without its end."""
        lengths = ends - starts
        if self.grammar.newline == b"\n":
            lengths = lengths - ((lengths > 0) & (a[ends - 1] == CR))
        return np.asarray(lengths)

    def _end_with_delimiter(self, a: np.ndarray, ends: np.ndarray) -> np.ndarray:
        last = (
            np.where(a[ends - 1] == CR, ends - 2, ends - 1)
            if self.grammar.newline == b"\n"
            else ends - 1
        )
        return np.asarray(a[last] == self.grammar.delimiter[0])

    def _is_decodable(self, block: bytes) -> bool:
        if block.isascii():
            return True
        if not _is_utf8(block):
            return False
        self.found.non_ascii = True
        return True

    def _undecodable_lines(self, block: bytes, ends: np.ndarray) -> list[int]:
        """Return the numbers of lines that are not valid UTF-8."""
        bad: list[int] = []
        start = 0
        while not block.isascii():
            try:
                self.found.non_ascii |= not block[start:].decode().isascii()
                break
            except UnicodeDecodeError as error:
                self.found.non_ascii |= not block[start : start + error.start].isascii()
                bad.append(int(np.searchsorted(ends, start + error.start)))
                start = int(ends[bad[-1]]) + 1
        return bad

    # ---- other lines

    def _take_stray_quotes(self, block: bytes) -> bool:
        """Take the line at this position if its only irregularity is a quote inside an unquoted
        value.

        Return whether that was so. `_take_irregular` has the same result for such lines, which can
        be most of a file, but takes many times longer.
        """
        quote, newline = self.grammar.quote, self.grammar.newline
        end = block.index(newline, self.position) + 1
        line = block[self.position : end - 1]
        if newline == b"\n":
            line = line.removesuffix(b"\r")
        values = line.split(self.grammar.delimiter)
        if (
            len(values) != self.width
            or quote is None
            or quote not in line
            or b"\r" in line
            or b"\0" in line
            or self.line <= self.untrusted
        ):
            return False
        if (
            (self.trailing and values[-1])
            or any(value.lstrip(b" \t").startswith(quote) for value in values)
            or not _is_utf8(line)
        ):
            return False
        self.found.rows += 1
        if self.out is not None:
            self.out.write(self.grammar.to_rfc4180(values))
        else:
            self.found.as_is = False
        self.position, self.line = end, self.line + 1
        return True

    def _take_irregular(self) -> None:
        """Take the record at this position, whatever it is."""
        first = self.grammar.line_end(self.data, self.position)
        if not self.data[self.position : first].strip(b"\r\n"):
            self._take_blank(first)
            return
        record = self._read_record(self.position)
        if record.is_open or record.end - self.position > MAX_RECORD_BYTES:
            self._reject(first, QUOTES_RULE, "a quote that is not closed")
            return
        if record.rule == QUOTES_RULE:
            self._reject_damaged(record.end, record.rule, record.problem)
            return
        fields = self._without_trailing(record.fields)
        several = record.end > first
        whole = self.data[self.position : record.end]
        if several and record.has_stray:
            self._reject_damaged(record.end - 1, QUOTES_RULE, "a quote that is not closed")
        elif (
            several
            and self.grammar.multiline is None
            and (self._are_rows(record.end) or self._swallows_rows(record, fields))
        ):
            self._reject(
                first, QUOTES_RULE, "a quote that is not closed: the lines after it are rows"
            )
        elif record.rule:
            self._reject(record.end, record.rule, record.problem)
        elif b"\0" in whole:
            self._reject(record.end, NUL_RULE, "a NUL byte")
        elif not _is_utf8(whole):
            self._reject(record.end, ENCODING_RULE, _encoding_problem(whole))
        elif len(fields) != self.columns:
            self._reject(
                record.end, WIDTH_RULE, f"{len(fields):,} values where {self.columns:,} are wanted"
            )
        elif record.has_stray and self.line <= self.untrusted:
            self._reject(
                first,
                QUOTES_RULE,
                "quotes inside a value, after a line whose quotes are not closed",
            )
        else:
            self._take(record, fields, whole)

    def _read_record(self, at: int) -> Record:
        """Return the record at a position, read as far as it may extend."""
        newline = self.grammar.newline
        while True:
            record = self.grammar.read(self.data, at)
            whole = (
                self.data.find(newline, record.end) >= 0
                if record.rule == QUOTES_RULE
                else self.data.endswith(newline, 0, record.end)
            )
            if (
                (whole and not record.is_open)
                or len(self.data) - at > MAX_RECORD_BYTES
                or not self._read_more()
            ):
                return record

    def _swallows_rows(self, record: Record, fields: list[bytes]) -> bool:
        """Return whether a record over several lines is a malformed line and the beginning of rows.

        That is so if it, or the one after it, is no row, and all records from its second line on
        are.
        """
        if len(fields) != self.columns:
            return self._all_rows_until(record.end)
        if record.end >= len(self.data) and not self._read_more():
            return False
        behind = self._read_record(record.end)
        return not self._is_row(behind) and self._all_rows_until(
            record.end + 1 if behind.is_open else behind.end
        )

    def _all_rows_until(self, end: int) -> bool:
        """Return whether all records from the next line to beyond `end`, and one more, are rows."""
        at = self.grammar.line_end(self.data, self.position)
        beyond = False
        for _ in range(MAX_COMPARED_LINES):
            if beyond or (at >= len(self.data) and not self._read_more()):
                break
            beyond = at >= end
            record = self._read_record(at)
            if not self._is_row(record) and self.data[at : record.end].strip(b"\r\n"):
                return False
            at = record.end
        return True

    def _is_row(self, record: Record) -> bool:
        """Return whether a record is a row as in RFC 4180."""
        return (
            record.is_strict
            and not record.rule
            and not record.is_open
            and len(self._without_trailing(record.fields)) == self.columns
        )

    def _without_trailing(self, fields: list[bytes]) -> list[bytes]:
        """Return the values of a record without an empty one after a last delimiter."""
        return fields[:-1] if len(fields) == self.columns + 1 and not fields[-1] else fields

    def _take(self, record: Record, fields: list[bytes], whole: bytes) -> None:
        self.found.rows += 1
        self.found.longest = max(self.found.longest, len(whole) if len(whole) > self.block else 0)
        if whole.find(self.grammar.newline) + 1 < len(whole):
            self.found.multiline += 1
            self.found.quoted_null = self.found.quoted_null or any(
                null in whole for null in self.nulls
            )
            self._note_suspicious(record.end)
        if self.out is not None:
            self.out.write(self.grammar.to_rfc4180(fields + [b""] * self.trailing))
        elif not record.is_strict or len(fields) != len(record.fields) - self.trailing:
            self.found.as_is = False
        else:
            self._note_endings(b"\r\n" if whole.endswith(b"\r\n") else self.grammar.newline)
        self._advance(record.end)

    def _note_suspicious(self, end: int) -> None:
        """Record a value over several lines that could all be rows, though too few to be taken for
        rows.
        """
        fit, weighed = self._rows_below(end)
        if self.columns > 1 and fit == weighed:
            self.found.suspicious += 1
            self.found.first_suspicious = self.found.first_suspicious or self.line

    def _take_blank(self, end: int) -> None:
        """Take an empty line: no record, or an empty value if there is one column."""
        self.found.as_is = False
        if self.columns == 1:
            self.found.rows += 1
            if self.out is not None:
                self.out.write(
                    b"\n"
                    if self.empty_is_null or not self.grammar.quote
                    else self.grammar.quote * 2 + b"\n"
                )
        self._advance(end)

    def _reject_damaged(self, end: int, rule: str, problem: str) -> None:
        """Reject the first line of a record whose quotes are malformed at `end`.

        The lines up to there may be rows, which a missing quote swallowed, or the rest of its
        value. If few of them look like rows, quotes inside their values count as malformed, too.
        """
        first = self.grammar.line_end(self.data, self.position)
        last = self.grammar.line_end(self.data, end)
        if last > first:
            fit, weighed = self._rows_below(last)
            if fit < MIN_FITTING_SHARE * weighed or fit * (self.columns - 1) < 2:
                self.untrusted = max(
                    self.untrusted, self.line + self.data.count(self.grammar.newline, first, last)
                )
        self._reject(first, rule, problem)

    def _are_rows(self, end: int) -> bool:
        """Return whether the lines between this one and `end` are certainly rows, not text like
        rows.
        """
        fit, weighed = self._rows_below(end)
        return (
            fit >= MIN_FITTING_SHARE * weighed
            and fit * (self.columns - 1) >= MIN_DELIMITERS_OF_ROWS
        )

    def _rows_below(self, end: int) -> tuple[int, int]:
        """Return how many of the lines between this one and `end` are rows, and how many were
        examined.
        """
        start = self.grammar.line_end(self.data, self.position)
        fit = weighed = 0
        while start < end and weighed < MAX_COMPARED_LINES:
            stop = self.grammar.line_end(self.data, start)
            line = self.data[start:stop]
            if line.count(self.grammar.delimiter) >= self.columns - 1:
                alone = self.grammar.read(line)
                fit += (
                    not alone.rule
                    and not alone.is_open
                    and len(self._without_trailing(alone.fields)) == self.columns
                )
            weighed += 1
            start = stop
        return fit, weighed

    def _reject(self, end: int, rule: str, problem: str) -> None:
        self._add_malformed(self.data[self.position : end], rule, problem)
        self._advance(end)

    def _add_malformed(self, text: bytes, rule: str, problem: str) -> None:
        kept = (
            text[:MAX_TEXT_BYTES]
            .rstrip(b"\r\n")
            .decode(errors="replace")
            .replace("\0", "\N{SYMBOL FOR NULL}")
        )
        self.found.malformed.append(MalformedLine(self.line, rule, problem, kept))
        self.found.as_is = False

    def _advance(self, end: int) -> None:
        self.line += self.data.count(self.grammar.newline, self.position, end)
        self.position = end


def _marks_outside_quotes(
    a: np.ndarray, is_quote: np.ndarray | None, is_end: np.ndarray, is_delimiter: np.ndarray
) -> np.ndarray | None:
    """Return where values end; None if a quote is inside a value, or a line ends in quotes."""
    marks = np.asarray(is_delimiter | is_end)
    if is_quote is None:
        return marks
    quotes, ends = np.packbits(is_quote), np.packbits(is_end)
    inside = _inside_quotes(quotes)
    edges = np.packbits(marks) | quotes
    opens, closes = quotes & inside, quotes & ~inside
    if (
        (opens & ~_shift_forward(edges)).any()
        or (closes & ~_shift_back(edges | np.packbits(a == CR))).any()
        or (ends & inside).any()
    ):
        return None
    return np.asarray((marks & ~np.unpackbits(inside, count=len(a)).view(bool)) | is_end)


def _inside_quotes(quotes: np.ndarray) -> np.ndarray:
    """Return for each packed bit whether an odd number of bits is set up to and including it."""
    inside = PARITIES[quotes]
    odd = np.bitwise_xor.accumulate(inside & 1)  # up to each byte
    inside[1:] ^= odd[:-1] * np.uint8(255)
    return np.asarray(inside)


def _shift_forward(bits: np.ndarray) -> np.ndarray:
    """Return each packed bit moved to the next position; a line end precedes the first one."""
    moved = bits >> 1
    moved[1:] |= bits[:-1] << 7
    moved[0] |= 128
    return np.asarray(moved)


def _shift_back(bits: np.ndarray) -> np.ndarray:
    """Return each packed bit moved to the previous position."""
    moved = bits << 1
    moved[:-1] |= bits[1:] >> 7
    return np.asarray(moved)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encoding_problem(text: bytes) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"byte 0x{text[error.start]:02X} at position {error.start + 1} is no UTF-8"
    return ""
