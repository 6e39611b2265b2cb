"""Splits CSV text into records, so that a damaged line costs that line and nothing else.

Text is UTF-8 bytes here, whatever the file's encoding.  The grammar is RFC 4180: a value that begins with a quote ends at the
next quote that is not doubled, and a delimiter or the end of the line follows it; a quote inside a value that does not begin
with one is text.  A record that does not fit costs its first line, and reading goes on with the line below, so that no
damage spreads.

`scan` looks at blocks of lines as arrays: a block in which every line is whole by itself costs two or three passes of NumPy.
Only lines that are not are read one at a time, by `Grammar.read`.

A quoted value may run over several lines, and so may the value that a missing closing quote leaves open.  What follows is
taken for rows, and the first line for a torn one, where nearly all of the lines below it have as many values as the header
and together at least `TELLING_DELIMITERS` delimiters: no prose does that by chance.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

import numpy as np

BLOCK_BYTES = 2**18  # text that is looked at in one step
MAX_RECORD_BYTES = 2**24  # an open quote is looked for no further, and a line is no longer
MAX_TEXT_BYTES = 10_000  # of a torn line that are kept
MAX_LINES_WEIGHED = 100  # of those below an open quote
FITTING_SHARE = 0.9  # of those lines: they are rows
TELLING_DELIMITERS = 6  # in lines that fit: no text has so many by chance
CR = 13
NONE = np.zeros(0, np.intp)
PARITIES = np.packbits(
    np.bitwise_xor.accumulate(
        np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), axis=1
    ),
    axis=1,
)[:, 0]

WIDTH = "must have the header's columns"
QUOTES = "must have its quotes around whole values"
ENCODING = "must be UTF-8"
NUL = "must hold no NUL byte"
RETURN = "must hold no carriage return outside quotes"
LENGTH = f"must be at most {MAX_RECORD_BYTES // 2**20} MiB long"


class Readable(Protocol):
    """Bytes that are read once, from the front."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Torn:
    """A line that is no record: its number in the file, which rule it breaks, how, and its text."""

    line: int
    rule: str
    problem: str
    text: str


@dataclass(slots=True)
class Scan:
    """What a file's text holds."""

    rows: int = 0
    newline: bytes = b"\n"  # what ends all lines, if `as_is`
    as_is: bool = True  # every record is written as RFC 4180 has it, all lines end in one way: any reader agrees on its rows
    torn: list[Torn] = field(default_factory=list)
    multiline: int = 0  # records over several lines
    doubtful: int = 0  # those of them whose lines could be rows
    first_doubtful: int = 0  # the line where the first of these begins
    longest: int = 0  # bytes of the longest record, if that is more than a block
    quoted_null: bool = False  # whether a null text, or "", occurs in quotes
    non_ascii: bool = False  # whether there is a valid character beyond ASCII


@dataclass(frozen=True, slots=True)
class Parsed:
    """One record. `fields` are the bytes of each value as they are written, quotes included."""

    fields: list[bytes]
    end: int  # where the next line begins
    rule: str = ""  # what it breaks
    problem: str = ""
    is_open: bool = False  # the text ended inside quotes
    is_strict: bool = True  # written as RFC 4180 has it
    has_stray: bool = False  # a quote inside a value that does not begin with one


class Grammar:
    """How the values of a line are told apart. `newline` is what ends a line: b"\\n", also behind b"\\r", or b"\\r" alone."""

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
        self._plain = re.compile(b"[^%b%b]*+" % (d, n))
        self._line_end = re.compile(rb"\r*+\n" if newline == b"\n" else n)
        stop = rb"(?=%b|%b|\Z)" % (d, rb"\r*+\n" if newline == b"\n" else n)
        self._padding = re.compile(blank + b"*+" + stop)
        if quote is not None:
            q = re.escape(quote)
            self._padded = re.compile(
                b"%b++(%b(?:[^%b%b]|%b%b)*+%b)%b*+%b" % (blank, q, q, n, q, q, q, blank, stop)
            )

    def read(self, text: bytes, start: int = 0) -> Parsed:
        """The record that begins at `start`; a text that does not end with a line's end is taken to be all there is."""
        fields: list[bytes] = []
        strict, stray, returns = True, False, False
        at = start
        while True:
            value, end, problem = self._value(text, at)
            if value is None:
                return Parsed(
                    fields,
                    end,
                    QUOTES if problem else "",
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
            return Parsed(fields, stop, RETURN, "a carriage return outside quotes", is_strict=False)
        return Parsed(
            fields, stop, is_strict=strict and not stray and stop - end <= 2, has_stray=stray
        )

    def line_end(self, text: bytes, start: int) -> int:
        """Where the line below the one at `start` begins."""
        return text.find(self.newline, start) + 1 or len(text)

    def written(self, fields: list[bytes]) -> bytes:
        """A record as RFC 4180 has it."""
        return self.delimiter.join(map(self._written, fields)) + b"\n"

    def _written(self, value: bytes) -> bytes:
        if self.quote is None or value.startswith(self.quote) or self.quote not in value:
            return value
        return self.quote + value.replace(self.quote, self.quote * 2) + self.quote

    def _value(self, text: bytes, at: int) -> tuple[bytes | None, int, str]:
        """The value at a place, and where it ends; None, and what is wrong (nothing if its quotes are open)."""
        if self.quote is not None:
            if text.startswith(self.quote, at):
                return self._quoted(text, at)
            padded = self._padded.match(text, at) if text[at : at + 1] in (b" ", b"\t") else None
            if padded:
                return padded[1], padded.end(1), ""
        found = self._plain.match(text, at)
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
            return None, end, "text behind a closing quote"
        return text[at : end + 1], end + 1, ""


def scan(
    text: Readable, grammar: Grammar, columns: int, first_line: int, **options: object
) -> Scan:
    """Read all records of a text; see `_Scanner` for the options."""
    return _Scanner(text, grammar, columns, first_line, **options).run()  # type: ignore[arg-type]


class _Scanner:
    """Reads records of `columns` values. The first line's number in the file is `first_line`.

    `out` is given every good record, as RFC 4180 has it; without it the scan ends at the first one that is written in another
    way.  With `trailing` each line may end with a delimiter.  `nulls` are texts; `tick` is called for each block, of `block` bytes.
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
        self._before, self._behind = (
            np.zeros(256, bool),
            np.zeros(256, bool),
        )  # by byte: whether a value may begin, or end, beside it
        self._before[edges] = self._behind[[*edges, CR]] = (
            True  # a block begins behind its last byte, so to speak: a line's end
        )
        self.empty_is_null = "" in nulls
        self.nulls = (
            [grammar.quote + null.encode() + grammar.quote for null in {*nulls, ""}]
            if grammar.quote
            else []
        )
        self.data, self.at, self.ended = b"", 0, False
        self.line = first_line
        self.untrusted = 0  # lines up to this one may be the rest of a damaged value
        self.endings: set[bytes] = set()
        self.found = Scan()

    def run(self) -> Scan:
        while self.found.as_is or self.out is not None:
            stop = self._block()
            if stop <= self.at:
                break
            self.tick()
            self._lines(stop)
        return self.found

    # ---- the text

    def _block(self) -> int:
        """Where the next block of whole lines ends; where it begins, at the end of the text."""
        newline = self.grammar.newline
        self.data, self.at = self.data[self.at :], 0
        while True:
            stop = self.data.rfind(newline, 0, self.block) + 1 or self.data.find(newline) + 1
            if stop > MAX_RECORD_BYTES or (not stop and len(self.data) > MAX_RECORD_BYTES):
                self._skip_line(stop)
            elif stop or not self._more():
                return stop or len(self.data)

    def _more(self) -> bool:
        """Read on; whether there was more."""
        if self.ended:
            return False
        more = self.text.read(
            max(self.block, len(self.data))
        )  # doubling: what is looked for far below is found in few steps
        self.ended = not more
        self.data += more
        newline = self.grammar.newline
        if self.ended and self.data and not self.data.endswith(newline):
            pairs = newline == b"\n" and (self.endings == {b"\r\n"} or b"\r\n" in self.data)
            self.data += b"\r\n" if pairs else newline
        return not self.ended

    def _skip_line(self, stop: int) -> None:
        """Leave out a line that is too long to be held; `stop` is where it ends, if that is known."""
        self._tear(self.data, LENGTH, f"longer than {MAX_RECORD_BYTES // 2**20} MiB")
        while not stop and not self.ended:
            self.data = b""
            self._more()
            stop = self.data.find(self.grammar.newline) + 1
        self.data = self.data[stop:]
        self.line += 1

    # ---- lines that are whole by themselves

    def _lines(self, stop: int) -> None:
        """Take the lines up to `stop`: the good ones in one piece, the others one at a time."""
        block = self.data[:stop]
        self.found.longest = max(self.found.longest, stop if stop > self.block else 0)
        count, starts, bad = self._marked(block)
        first, done = self.line, 0  # lines of this block that are done
        for number in bad:
            if number < done:
                continue  # it was the rest of a record
            self._keep(block[self.at : starts[number]], number - done)
            self.at, self.line = int(starts[number]), first + number
            if not self._stray(block):
                self._odd()
            if not self.found.as_is and self.out is None:
                return
            done = self.line - first
        if self.at < stop:
            self._keep(block[self.at :] if self.at else block, count - done)
            self.at, self.line = stop, first + count

    def _keep(self, lines: bytes, count: int) -> None:
        """Lines that are one record each, none of them with a line's end inside."""
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
        self._ended_with(
            *([b"\r\n"] if returns else []), *([self.grammar.newline] if returns < count else [])
        )

    def _ended_with(self, *endings: bytes) -> None:
        """Note how lines end: readers differ where that changes, and where it is a carriage return alone."""
        self.endings.update(endings)
        self.found.newline = endings[-1] if endings else self.found.newline
        if len(self.endings) > 1 or self.endings == {b"\r"}:
            self.found.as_is = False

    def _marked(self, block: bytes) -> tuple[int, np.ndarray, list[int]]:
        """How many lines there are, where each begins, and the numbers of those that are not surely a record by themselves."""
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
        if (count := self._plain(block, a, is_quote, is_end, is_delimiter)) is not None:
            return count, NONE, []
        ends = np.flatnonzero(is_end)
        starts = np.concatenate(([0], ends[:-1] + 1))
        bad = np.zeros(len(ends), bool)
        quotes = np.flatnonzero(is_quote) if is_quote is not None else NONE
        line, first = np.searchsorted(ends, quotes), np.searchsorted(quotes, starts)
        opens = (np.arange(len(quotes)) - first[line]) % 2 == 0
        bad[np.bincount(line, minlength=len(ends)) % 2 > 0] = True
        bad[line[opens][~self._before[a[quotes[opens] - 1]]]] = True
        bad[line[~opens][~self._behind[a[quotes[~opens] + 1]]]] = True
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
        bad[self._undecoded(block, ends)] = True
        return len(ends), starts, np.flatnonzero(bad).tolist()

    def _plain(
        self,
        block: bytes,
        a: np.ndarray,
        is_quote: np.ndarray | None,
        is_end: np.ndarray,
        is_delimiter: np.ndarray,
    ) -> int | None:
        """How many lines there are, if each is a record by itself: seen without a look at single lines. Else None."""
        marks = is_delimiter | is_end
        if is_quote is not None:
            quotes, ends_, returns = (
                np.packbits(is_quote),
                np.packbits(is_end),
                np.packbits(a == CR),
            )
            inside = _inside(quotes)
            edges = np.packbits(marks) | quotes
            opens, closes = quotes & inside, quotes & ~inside
            if (
                (opens & ~_from_before(edges)).any()
                or (closes & ~_from_behind(edges | returns)).any()
                or (ends_ & inside).any()
            ):
                return None
            marks = (marks & ~np.unpackbits(inside, count=len(a)).view(bool)) | is_end
        places = np.flatnonzero(marks)
        ends = places[self.width - 1 :: self.width]
        if (
            not len(ends)
            or len(places) != len(ends) * self.width
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
        return len(ends) if b"\0" not in block and self._decoded(block) else None

    def _lengths(self, a: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """How long each line is without what ends it."""
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

    def _decoded(self, block: bytes) -> bool:
        if block.isascii():
            return True
        if not _is_utf8(block):
            return False
        self.found.non_ascii = True
        return True

    def _undecoded(self, block: bytes, ends: np.ndarray) -> list[int]:
        """The lines that are no UTF-8."""
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

    # ---- lines that are not

    def _stray(self, block: bytes) -> bool:
        """Take the line at this place if all that is odd about it are quotes inside values that do not begin with one; whether it is so.

        It is what `_odd` makes of such a line, which can be most of a file, in a fraction of the time.
        """
        quote, newline = self.grammar.quote, self.grammar.newline
        end = block.index(newline, self.at) + 1
        line = block[self.at : end - 1]
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
            self.out.write(self.grammar.written(values))
        else:
            self.found.as_is = False
        self.at, self.line = end, self.line + 1
        return True

    def _odd(self) -> None:
        """Take the record at this place, whatever it is."""
        first = self.grammar.line_end(self.data, self.at)
        if not self.data[self.at : first].strip(b"\r\n"):
            self._blank(first)
            return
        record = self._record(self.at)
        if record.is_open or record.end - self.at > MAX_RECORD_BYTES:
            self._reject(first, QUOTES, "a quote that is not closed")
            return
        if record.rule == QUOTES:
            self._damaged(record.end, record.rule, record.problem)
            return
        fields = self._fitting(record.fields)
        several = record.end > first
        whole = self.data[self.at : record.end]
        if several and record.has_stray:
            self._damaged(record.end - 1, QUOTES, "a quote that is not closed")
        elif (
            several
            and self.grammar.multiline is None
            and (self._are_rows(record.end) or self._swallows(record, fields))
        ):
            self._reject(first, QUOTES, "a quote that is not closed: the lines below it are rows")
        elif record.rule:
            self._reject(record.end, record.rule, record.problem)
        elif b"\0" in whole:
            self._reject(record.end, NUL, "a NUL byte")
        elif not _is_utf8(whole):
            self._reject(record.end, ENCODING, _undecodable(whole))
        elif len(fields) != self.columns:
            self._reject(
                record.end, WIDTH, f"{len(fields):,} values where {self.columns:,} are wanted"
            )
        elif record.has_stray and self.line <= self.untrusted:
            self._reject(
                first, QUOTES, "quotes inside a value, below a line whose quotes are not closed"
            )
        else:
            self._take(record, fields, whole)

    def _record(self, at: int) -> Parsed:
        """The record at a place, read as far as it may go."""
        newline = self.grammar.newline
        while True:
            record = self.grammar.read(self.data, at)
            whole = (
                self.data.find(newline, record.end) >= 0
                if record.rule == QUOTES
                else self.data.endswith(newline, 0, record.end)
            )
            if (
                (whole and not record.is_open)
                or len(self.data) - at > MAX_RECORD_BYTES
                or not self._more()
            ):
                return record

    def _swallows(self, record: Parsed, fields: list[bytes]) -> bool:
        """Whether a record over several lines is a torn line and the beginning of rows: it, or what is behind it, is none, and from the
        line below its first one all is well."""
        if len(fields) != self.columns:
            return self._reads_on(record.end)
        if record.end >= len(self.data) and not self._more():
            return False
        behind = self._record(record.end)
        return not self._is_row(behind) and self._reads_on(
            record.end + 1 if behind.is_open else behind.end
        )

    def _reads_on(self, end: int) -> bool:
        """Whether there are nothing but rows from the line below this one to beyond `end`, and one more."""
        at = self.grammar.line_end(self.data, self.at)
        beyond = False
        for _ in range(MAX_LINES_WEIGHED):
            if beyond or (at >= len(self.data) and not self._more()):
                break
            beyond = at >= end
            record = self._record(at)
            if not self._is_row(record) and self.data[at : record.end].strip(b"\r\n"):
                return False
            at = record.end
        return True

    def _is_row(self, record: Parsed) -> bool:
        """Whether a record is one as RFC 4180 has it."""
        return (
            record.is_strict
            and not record.rule
            and not record.is_open
            and len(self._fitting(record.fields)) == self.columns
        )

    def _fitting(self, fields: list[bytes]) -> list[bytes]:
        """The values of a record without an empty one behind a last delimiter."""
        return fields[:-1] if len(fields) == self.columns + 1 and not fields[-1] else fields

    def _take(self, record: Parsed, fields: list[bytes], whole: bytes) -> None:
        self.found.rows += 1
        self.found.longest = max(self.found.longest, len(whole) if len(whole) > self.block else 0)
        if whole.find(self.grammar.newline) + 1 < len(whole):
            self.found.multiline += 1
            self.found.quoted_null = self.found.quoted_null or any(
                null in whole for null in self.nulls
            )
            self._doubt(record.end)
        if self.out is not None:
            self.out.write(self.grammar.written(fields + [b""] * self.trailing))
        elif not record.is_strict or len(fields) != len(record.fields) - self.trailing:
            self.found.as_is = False
        else:
            self._ended_with(b"\r\n" if whole.endswith(b"\r\n") else self.grammar.newline)
        self._pass(record.end)

    def _doubt(self, end: int) -> None:
        """Note a value over several lines all of which could be rows, though they are too few to be taken for such."""
        fit, weighed = self._rows_below(end)
        if self.columns > 1 and fit == weighed:
            self.found.doubtful += 1
            self.found.first_doubtful = self.found.first_doubtful or self.line

    def _blank(self, end: int) -> None:
        """An empty line: no record, or an empty value where there is one column."""
        self.found.as_is = False
        if self.columns == 1:
            self.found.rows += 1
            if self.out is not None:
                self.out.write(
                    b"\n"
                    if self.empty_is_null or not self.grammar.quote
                    else self.grammar.quote * 2 + b"\n"
                )
        self._pass(end)

    def _damaged(self, end: int, rule: str, problem: str) -> None:
        """Reject the first line of a record whose quotes go wrong at `end`. The lines down to there may be rows, which a missing quote
        swallowed, or the rest of its value: where few speak for rows, quotes inside their values count as damage, too."""
        first = self.grammar.line_end(self.data, self.at)
        last = self.grammar.line_end(self.data, end)
        if last > first:
            fit, weighed = self._rows_below(last)
            if fit < FITTING_SHARE * weighed or fit * (self.columns - 1) < 2:
                self.untrusted = max(
                    self.untrusted, self.line + self.data.count(self.grammar.newline, first, last)
                )
        self._reject(first, rule, problem)

    def _are_rows(self, end: int) -> bool:
        """Whether the lines between this one and `end` are surely rows, and no text that happens to look like some."""
        fit, weighed = self._rows_below(end)
        return fit >= FITTING_SHARE * weighed and fit * (self.columns - 1) >= TELLING_DELIMITERS

    def _rows_below(self, end: int) -> tuple[int, int]:
        """How many of the lines between this one and `end` are rows by themselves, and how many were looked at."""
        start = self.grammar.line_end(self.data, self.at)
        fit = weighed = 0
        while start < end and weighed < MAX_LINES_WEIGHED:
            stop = self.grammar.line_end(self.data, start)
            line = self.data[start:stop]
            if line.count(self.grammar.delimiter) >= self.columns - 1:
                alone = self.grammar.read(line)
                fit += (
                    not alone.rule
                    and not alone.is_open
                    and len(self._fitting(alone.fields)) == self.columns
                )
            weighed += 1
            start = stop
        return fit, weighed

    def _reject(self, end: int, rule: str, problem: str) -> None:
        self._tear(self.data[self.at : end], rule, problem)
        self._pass(end)

    def _tear(self, text: bytes, rule: str, problem: str) -> None:
        kept = (
            text[:MAX_TEXT_BYTES]
            .rstrip(b"\r\n")
            .decode(errors="replace")
            .replace("\0", "\N{SYMBOL FOR NULL}")
        )
        self.found.torn.append(Torn(self.line, rule, problem, kept))
        self.found.as_is = False

    def _pass(self, end: int) -> None:
        self.line += self.data.count(self.grammar.newline, self.at, end)
        self.at = end


def _inside(quotes: np.ndarray) -> np.ndarray:
    """For each bit of `quotes`, packed: whether an odd number of bits is set up to it, itself included."""
    inside = PARITIES[quotes]
    odd = np.bitwise_xor.accumulate(inside & 1)  # bytes up to each one
    inside[1:] ^= odd[:-1] * np.uint8(255)
    return np.asarray(inside)


def _from_before(bits: np.ndarray) -> np.ndarray:
    """Each packed bit in the place behind its own; before the first one is the end of a line."""
    moved = bits >> 1
    moved[1:] |= bits[:-1] << 7
    moved[0] |= 128
    return np.asarray(moved)


def _from_behind(bits: np.ndarray) -> np.ndarray:
    """Each packed bit in the place before its own."""
    moved = bits << 1
    moved[:-1] |= bits[1:] >> 7
    return np.asarray(moved)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(text: bytes) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"byte 0x{text[error.start]:02X} at place {error.start + 1} is no UTF-8"
    return ""
