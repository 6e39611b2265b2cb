"""Standard streams whose failure does not stop a run: a full disk, a closed pipe or descriptor.

A command must not fail because its messages are piped into `head`, or because the disk that holds
its log is full. Output that cannot be written is dropped, and the error is kept: `result_error`
returns it, so that the command can report that its result was not printed. A closed pipe (EPIPE) is
no error: its reader needs no more.
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
    """A descriptor that drops failed writes and keeps the error instead of raising it."""

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
    """The process's stdout and stderr after `protect`; None if a stream has no descriptor."""

    stdout: SurvivingFile | None = None
    stderr: SurvivingFile | None = None

    def result_error(self) -> OSError | None:
        """Return the error of writing to stdout, once; None without error or for a closed pipe."""
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        if self.stdout is None or self.stdout.error is None:
            return None
        error, self.stdout.error = self.stdout.error, BrokenPipeError(errno.EPIPE, "reported")
        return None if error.errno == errno.EPIPE else error


streams = StandardStreams()


def protect() -> None:
    """Make this process's standard streams survive errors; called once, when a command starts."""
    _fill_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        raw = _raw_file(stream)
        if raw is not None:
            setattr(streams, name, raw)
            setattr(sys, name, _text_stream(raw, stream))


def _fill_closed_descriptors() -> None:
    """Open the null device for closed descriptors 0 to 2.

    Otherwise the next file to be opened would become stdout and receive its output.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one
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
    """Return the stream's descriptor; None if it has none, as in a test that captures it."""
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return None
    return SurvivingFile(descriptor, "w", closefd=False)


def _text_stream(raw: SurvivingFile, like: TextIO | None) -> TextIO:
    """Return a text stream over the descriptor.

    Characters that the encoding lacks are escaped: the name of a unit must not stop a command.
    """
    encoding = getattr(like, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        "backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
