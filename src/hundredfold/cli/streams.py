"""Standard output and standard error that a run outlives: a full disk, a closed pipe, a closed descriptor.

A command's work must not fail because somebody piped its messages into `head`, or because the disk that holds its log is
full. So what cannot be written is dropped, and remembered: whoever asks for `result_error` can then report that the
result was not printed. A reader that went away (EPIPE) is no error: it had enough.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO


class SurvivingFile(io.FileIO):
    """A descriptor whose failed writes are dropped and remembered instead of raised."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self.error is not None:
            return size
        try:
            while (written := super().write(data)) is None:  # another process made it non-blocking
                select.select([], [self], [])
        except OSError as error:
            self.error = error
            return size
        return written


@dataclass
class StandardStreams:
    """The process's stdout and stderr, after `protect`. None where Python has none of its own to protect."""

    stdout: SurvivingFile | None = None
    stderr: SurvivingFile | None = None

    def result_error(self) -> OSError | None:
        """Return why the result could not be written to stdout, once; None if it was, or if its reader went away."""
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        if self.stdout is None or self.stdout.error is None:
            return None
        error, self.stdout.error = self.stdout.error, BrokenPipeError(errno.EPIPE, "reported")
        return None if error.errno == errno.EPIPE else error


streams = StandardStreams()


def protect() -> None:
    """Make this process's standard streams survive errors; the start of a command calls it once."""
    _fill_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        raw = _raw_file(stream)
        if raw is not None:
            setattr(streams, name, raw)
            setattr(sys, name, _text_stream(raw, stream))


def _fill_closed_descriptors() -> None:
    """Open the null device where 0, 1 or 2 is closed: else the next file opened would become stdout, and be written to."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(null, True)  # child processes must find it open as well
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.FileIO(descriptor, "w", closefd=False), "utf-8", write_through=True
                ),
            )


def _raw_file(stream: Any) -> SurvivingFile | None:
    """The stream's descriptor; None where it has none, as under a test that captures it."""
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return None
    return SurvivingFile(descriptor, "w", closefd=False)


def _text_stream(raw: SurvivingFile, like: TextIO | None) -> TextIO:
    """Text over the descriptor. A character that the encoding lacks is escaped: no unit's name may end a command."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        "backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
