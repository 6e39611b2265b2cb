"""Framed messages between a driver and a worker, over a socket that the user's code can reach by accident.

A frame is a header (a token that only the two sides know, the payload's length, and the CRC-32 of both) and a pickled
payload.  User code in the worker may close the descriptor, replace it, or write into it: the driver notices, and never
blocks on a worker, since it reads only what has arrived.
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
HEADER = struct.Struct(f"<{TOKEN_BYTES}sQI")  # token, length of the payload, its CRC-32
CHECK = struct.Struct("<I")  # the header's own CRC-32
HEADER_BYTES = HEADER.size + CHECK.size
READ_BYTES = 2**18
DESCRIPTORS_ABOVE = 256  # what os.closerange(3, 256), a habit of daemons, does not reach
LOST_CHANNEL = 117  # exit code of a worker whose descriptor was closed or replaced


class Garbled(Exception):
    """Bytes arrived that are no frame."""


def frame(token: bytes, message: Any) -> tuple[bytes, bytes]:
    """The header and the payload of a message."""
    payload = pickle.dumps(message, protocol=5)
    header = HEADER.pack(token, len(payload), zlib.crc32(payload))
    return header + CHECK.pack(zlib.crc32(header)), payload


def opened(token: bytes, header: bytes | bytearray) -> tuple[int, int]:
    """The length and the CRC-32 of the payload that follows a header; Garbled if it is no header."""
    found, length, checksum = HEADER.unpack_from(header)
    (check,) = CHECK.unpack_from(header, HEADER.size)
    if found != token or check != zlib.crc32(header[: HEADER.size]):
        raise Garbled
    return length, checksum


class DriverChannel:
    """The driver's side: it never blocks."""

    def __init__(self, end: socket.socket, token: bytes) -> None:
        end.setblocking(False)
        self._socket, self._token = end, token
        self._header = bytearray()
        self._payload: memoryview | None = None
        self._filled = self._checksum = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Send a short message to a worker that waits for one; OSError if it is gone."""
        self._socket.sendall(b"".join(frame(self._token, message)))

    def received(self) -> Iterator[Any]:
        """Every message that has arrived whole.

        Raises:
            EOFError: the other side is closed.
            Garbled: what arrived is no message.
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
            self._header += self._some(self._socket.recv(HEADER_BYTES - len(self._header)))
            if len(self._header) < HEADER_BYTES:
                return False
            length, self._checksum = opened(self._token, self._header)
            self._payload, self._filled = memoryview(bytearray(length)), 0
        return True

    def _payload_arrived(self) -> bool:
        assert self._payload is not None
        if self._filled < len(self._payload):
            room = self._payload[self._filled : self._filled + READ_BYTES]
            count = self._socket.recv_into(room)
            if not count:
                raise EOFError
            self._filled += count
        return self._filled == len(self._payload)

    def _message(self) -> Any:
        payload, self._payload, self._header = self._payload, None, bytearray()
        assert payload is not None
        if zlib.crc32(payload) != self._checksum:
            raise Garbled
        return pickle.loads(payload)

    @staticmethod
    def _some(data: bytes) -> bytes:
        if not data:
            raise EOFError
        return data


class WorkerChannel:
    """The worker's side: it waits for messages, and ends its process where its descriptor is no longer its own."""

    def __init__(self, end: socket.socket, token: bytes) -> None:
        end.setblocking(True)
        self._socket, self._token = _moved_up(end), token
        self._identity = self._found()

    def send(self, message: Any) -> None:
        header, payload = frame(self._token, message)
        self._check()
        self._socket.sendall(header)
        self._socket.sendall(payload)

    def receive(self) -> Any:
        """The next message; EOFError if the driver is gone."""
        self._check()
        length, checksum = opened(self._token, self._exactly(HEADER_BYTES))
        payload = self._exactly(length)
        if zlib.crc32(payload) != checksum:
            raise Garbled
        return pickle.loads(payload)

    def abandon(self) -> None:
        """Close it, in a process that was forked from the worker: it must not speak in the worker's name."""
        self._socket.close()

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        room = memoryview(data)
        while room:
            count = self._socket.recv_into(room)
            if not count:
                raise EOFError
            room = room[count:]
        return data

    def _check(self) -> None:
        if self._found() != self._identity:
            _lost()

    def _found(self) -> tuple[int, int] | None:
        if sys.platform == "win32":
            return None
        with suppress(OSError):
            found = os.fstat(self._socket.fileno())
            return found.st_dev, found.st_ino
        return None


def _lost() -> NoReturn:
    """End at once: the descriptor may be a file of the user's now, into which nothing of ours must be written."""
    os._exit(LOST_CHANNEL)


def _moved_up(end: socket.socket) -> socket.socket:
    """The socket under a high descriptor number, out of reach of code that closes low ones."""
    with suppress(ImportError, OSError, ValueError):
        import fcntl
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        lowest = min(DESCRIPTORS_ABOVE, soft - 2) if soft > 0 else DESCRIPTORS_ABOVE
        high = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
        end.close()
        return socket.socket(fileno=high)
    return end
