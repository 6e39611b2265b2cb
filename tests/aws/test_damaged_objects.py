"""Objects that Athena wrote are read with S3's checksum of them, even if the storage returns other
bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hundredfold.aws.adapters.s3_store import S3Store
from hundredfold.aws.adapters.session import client
from hundredfold.errors import DamagedFile

WRITTEN = b"the rows of a batch"
DAMAGED = b"the rows of a patch"
TAG = f'"{hashlib.md5(WRITTEN, usedforsecurity=False).hexdigest()}"'


@contextmanager
def storage(content: bytes, **headers: str) -> Iterator[S3Store]:
    """An S3 that answers every GET with these bytes, under the entity tag of the object that was
    written.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in {
                "ETag": TAG,
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        client.cache_clear()
        try:
            yield S3Store("bucket")
        finally:
            client.cache_clear()
            server.shutdown()
            server.server_close()


def test_bytes_that_do_not_match_the_entity_tag_are_damage() -> None:
    with (
        storage(DAMAGED, **{"x-amz-server-side-encryption": "AES256"}) as store,
        pytest.raises(
            DamagedFile,
            match=r"s3://bucket/batch\.parquet is damaged: it does not have the checksum",
        ),
    ):
        store.get_marked("batch.parquet", f"{len(WRITTEN)} {TAG}")


def test_the_written_bytes_are_read_with_any_encryption() -> None:
    for encryption in ("AES256", "aws:kms"):
        with storage(WRITTEN, **{"x-amz-server-side-encryption": encryption}) as store:
            assert (
                store.get_marked("batch.parquet", f"{len(WRITTEN)} {TAG}").to_pybytes() == WRITTEN
            )


def test_a_tag_that_is_not_a_checksum_is_not_compared() -> None:
    several = f'"{"0" * 32}-2"'
    kms = storage(DAMAGED, **{"x-amz-server-side-encryption": "aws:kms"})
    parts = storage(DAMAGED, **{"x-amz-server-side-encryption": "AES256", "ETag": several})
    for stored, tag in ((kms, TAG), (parts, several)):
        with stored as store:
            assert (
                store.get_marked("batch.parquet", f"{len(DAMAGED)} {tag}").to_pybytes() == DAMAGED
            )
