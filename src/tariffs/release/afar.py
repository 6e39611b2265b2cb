"""Once on AWS: S3 itself refuses to write over an object.

A conditional write (`If-None-Match: *`) lets one writer of a key win, wherever the others are.  A write whose answer was lost is sent again by
boto3 and then refused, by our own object: so what is there is compared with what was to be written.
"""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import ClientError

from hundredfold.aws.place import client
from hundredfold.aws.store import S3Store
from hundredfold.aws.trouble import code, in_plain_words

TAKEN = {"PreconditionFailed", "412"}
RACED = {"ConditionalRequestConflict", "409"}  # another write of the same key was under way: ask again
TRIES = 5


@dataclass(frozen=True, slots=True)
class S3Once:
    """Once in a bucket."""

    store: S3Store

    def put(self, key: str, data: bytes) -> bool:
        place = self.store.where(key)
        bucket, _, full = place.removeprefix("s3://").partition("/")
        with in_plain_words(place, "written"):
            for last in (*[False] * (TRIES - 1), True):
                try:
                    client("s3").put_object(Bucket=bucket, Key=full, Body=data, IfNoneMatch="*")
                except ClientError as error:
                    if code(error) in TAKEN:
                        return bytes(self.store.get(key).to_pybytes()) == data
                    if code(error) not in RACED or last:
                        raise
                else:
                    return True
        raise AssertionError("the last try returns or raises")
