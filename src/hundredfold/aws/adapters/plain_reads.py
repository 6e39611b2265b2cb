"""Reads from S3 that cost about a third of the CPU time of boto3's.

Collecting reads thousands of small objects with a request each, and boto3 takes 1.4 ms of CPU time
for one, of which most is not the request. A read here consists of boto3's signature and a request
of http.client, on connections that stay open. All else is left to boto3: errors, redirects,
retries, and proxies.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from .session import client

MISSING, OK = 404, 200
MAX_REFUSALS = 3  # in a row; after that, only boto3 reads
TIMEOUT_S = 10.0  # without an answer; then boto3 reads


class PlainReader:
    """Reads of one bucket, from any number of threads."""

    def __init__(self, bucket: str) -> None:
        s3 = client("s3")
        self._base = f"{s3.meta.endpoint_url}/{bucket}"
        self._region = s3.meta.region_name
        self._credentials: Any = boto3.Session().get_credentials()
        session: Any = getattr(getattr(s3, "_endpoint", None), "http_session", None)
        verify = getattr(session, "_verify", None)  # certificates of the client
        plain = bool(verify and self._credentials and not get_environ_proxies(self._base))
        self._tls = ssl.create_default_context(cafile=get_cert_path(verify)) if plain else None
        self._refusals = 0 if plain else MAX_REFUSALS
        self._idle: list[HTTPConnection] = []

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes; None where boto3 has to read it."""
        if self._refusals >= MAX_REFUSALS:
            return None
        try:
            status, content = self._get(f"{self._base}/{quote(key, safe='/~')}")
        except (BotoCoreError, HTTPException, OSError):
            self._refusals += 1
            return None
        if status != OK:
            self._refusals += status != MISSING
            return None
        self._refusals = 0
        return content

    def _get(self, address: str) -> tuple[int, bytes]:
        """Return the status and the content of an answer."""
        url = urlsplit(address)
        request = AWSRequest("GET", address, headers={})
        keys = self._credentials.get_frozen_credentials()
        S3SigV4Auth(keys, "s3", self._region).add_auth(request)
        heads = dict(request.headers.items())
        try:
            return self._ask(self._idle.pop(), url.path, heads)
        except (IndexError, HTTPException, OSError):  # none, or the service has closed it
            return self._ask(self._connect(url.hostname or "", url.port), url.path, heads)

    def _ask(
        self, connection: HTTPConnection, path: str, heads: Mapping[str, str]
    ) -> tuple[int, bytes]:
        try:
            connection.request("GET", path, headers=heads)
            answer = connection.getresponse()
            content = answer.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer.status, content

    def close(self) -> None:
        """Close the connections. A later read opens others."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self, host: str, port: int | None) -> HTTPConnection:
        if self._base.startswith("https:"):
            return HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._tls)
        return HTTPConnection(host, port, timeout=TIMEOUT_S)
