"""Framed messages between a driver and a worker, over a socket that the user's code can reach by
accident.

A frame is a header (a token that only the two sides know, the payload's length, and the CRC-32 of
both) and a pickled payload. User code in the worker may close the descriptor, replace it, or write
into it. The driver notices that, and never blocks on a worker, since it reads only the bytes that
have arrived.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

TOKEN_BYTES = 8
HEADER = struct.Struct(f"<{TOKEN_BYTES}sQI")  # token, length and CRC-32 of the payload
CHECK = struct.Struct("<I")  # CRC-32 of the header
HEADER_BYTES = HEADER.size + CHECK.size
READ_BYTES = 2**18
MIN_DESCRIPTOR = 256  # out of reach of os.closerange(3, 256), which daemons often call
LOST_CHANNEL_EXIT_CODE = 117  # exit code of a worker whose descriptor was closed or replaced


class InvalidFrame(Exception):
    """The bytes that arrived are no frame."""


def make_frame(token: bytes, message: Any) -> tuple[bytes, bytes]:
    """Return the header and the payload of a message."""
    payload = pickle.dumps(message, protocol=5)
    header = HEADER.pack(token, len(payload), zlib.crc32(payload))
    return header + CHECK.pack(zlib.crc32(header)), payload


def parse_header(token: bytes, header: bytes | bytearray) -> tuple[int, int]:
    """Return the length and the CRC-32 of the payload that follows a header.

    Raises:
        InvalidFrame: it is no header.
    """
    found, length, checksum = HEADER.unpack_from(header)
    (check,) = CHECK.unpack_from(header, HEADER.size)
    if found != token or check != zlib.crc32(header[: HEADER.size]):
        raise InvalidFrame
    return length, checksum


class DriverChannel:
    """The driver's side, which never blocks."""

    def __init__(self, end: socket.socket, token: bytes) -> None:
        end.setblocking(False)
        self._socket, self._token = end, token
        self._header = bytearray()
        self._payload: memoryview | None = None
        self._filled = self._checksum = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Send a short message to a worker that waits for one; OSError if the worker is gone."""
        self._socket.sendall(b"".join(make_frame(self._token, message)))

    def messages(self) -> Iterator[Any]:
        """Yield every message that has arrived completely.

        Raises:
            EOFError: the other side is closed.
            InvalidFrame: the bytes that arrived are no message.
        """
        while True:
            try:
                whole = self._payload_arrived() if self._header_arrived() else False
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # reset by the other side, with unread data
                raise EOFError from error
            if whole:
                yield self._message()

    def close(self) -> None:
        self._socket.close()

    def _header_arrived(self) -> bool:
        if self._payload is None:
            self._header += self._not_empty(self._socket.recv(HEADER_BYTES - len(self._header)))
            if len(self._header) < HEADER_BYTES:
                return False
            length, self._checksum = parse_header(self._token, self._header)
            self._payload, self._filled = memoryview(bytearray(length)), 0
        return True

    def _payload_arrived(self) -> bool:
        assert self._payload is not None
        if self._filled < len(self._payload):
            rest = self._payload[self._filled : self._filled + READ_BYTES]
            count = self._socket.recv_into(rest)
            if not count:
                raise EOFError
            self._filled += count
        return self._filled == len(self._payload)

    def _message(self) -> Any:
        payload, self._payload, self._header = self._payload, None, bytearray()
        assert payload is not None
        if zlib.crc32(payload) != self._checksum:
            raise InvalidFrame
        return pickle.loads(payload)

    @staticmethod
    def _not_empty(data: bytes) -> bytes:
        if not data:
            raise EOFError
        return data


class WorkerChannel:
    """The worker's side: waits for messages, and exits if the descriptor is no longer its own."""

    def __init__(self, end: socket.socket, token: bytes) -> None:
        end.setblocking(True)
        self._socket, self._token = _with_high_descriptor(end), token
        self._identity = self._descriptor_identity()

    def send(self, message: Any) -> None:
        header, payload = make_frame(self._token, message)
        self._check()
        self._socket.sendall(header)
        self._socket.sendall(payload)

    def receive(self) -> Any:
        """Return the next message; EOFError if the driver is gone."""
        self._check()
        length, checksum = parse_header(self._token, self._receive_exactly(HEADER_BYTES))
        payload = self._receive_exactly(length)
        if zlib.crc32(payload) != checksum:
            raise InvalidFrame
        return pickle.loads(payload)

    def close(self) -> None:
        """Close the channel in a process forked from the worker: it must not send as the worker."""
        self._socket.close()

    def _receive_exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            count = self._socket.recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data

    def _check(self) -> None:
        if self._descriptor_identity() != self._identity:
            _exit_without_channel()

    def _descriptor_identity(self) -> tuple[int, int] | None:
        if sys.platform == "win32":
            return None
        with suppress(OSError):
            found = os.fstat(self._socket.fileno())
            return found.st_dev, found.st_ino
        return None


def _exit_without_channel() -> NoReturn:
    """Exit at once: the descriptor may be a user's file now, which nothing must be written to."""
    os._exit(LOST_CHANNEL_EXIT_CODE)


def _with_high_descriptor(end: socket.socket) -> socket.socket:
    """Return the socket with a high descriptor, out of reach of code that closes low ones."""
    with suppress(ImportError, OSError, ValueError):
        import fcntl
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        lowest = min(MIN_DESCRIPTOR, soft - 2) if soft > 0 else MIN_DESCRIPTOR
        high = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
        end.close()
        return socket.socket(fileno=high)
    return end
