"""What AWS says, in plain words: the right that is missing, the bucket that is not there, the
credentials that have run out.

No sentence here shows a credential. What AWS says about a signature may quote a session token: it
is not passed on, and the error that it came in is not chained to ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from ...errors import HomeError

DENIED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "KmsAccessDenied", "403"}
GONE = {
    "NoSuchBucket",
    "ResourceNotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
REFUSED = {
    "AuthFailure",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
BUSY = {
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "OverLimit",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "500",
    "503",
}
ACCOUNT_HINT = (
    "sign in (aws sso login, or aws configure), name the profile with AWS_PROFILE, and see who "
    "you are: aws sts get-caller-identity"
)
UNSIGNED = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
    ProfileNotFound,
)
RIGHTS = {  # where an operation and the right to it have different names
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "SendMessageBatch": "sqs:SendMessage",
    "ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
}


@contextmanager
def in_plain_words(place: str, done: str) -> Iterator[None]:
    """Say as a HomeError why `place` cannot be `done` ("read", "written"): what AWS, or the way to
    it, reports in this block.

    What is wrong with our own call, as a parameter of another kind than AWS takes, is let through
    as it is.
    """
    try:
        yield
    except ClientError as error:
        raise _of_aws(error, place, done) from (None if code(error) in EXPIRED | REFUSED else error)
    except (
        Boto3Error
    ) as error:  # boto3 tells of a failed upload in a text, and forgets what kind of error it was
        cause = error.__context__
        if not isinstance(cause, ClientError):
            raise HomeError(f"{place} cannot be {done}: {error}") from error
        raise _of_aws(cause, place, done) from (None if code(cause) in EXPIRED | REFUSED else cause)
    except UNSIGNED as error:
        raise HomeError(
            f"{place} cannot be {done}: there are no AWS credentials to do it with: {error}",
            hint=ACCOUNT_HINT,
        ) from None
    except NoRegionError:
        raise HomeError(
            f"{place} cannot be {done}: no AWS region is set",
            hint="export AWS_REGION=eu-west-1   (where it was deployed)",
        ) from None
    except (HTTPClientError, ConnectionError) as error:
        raise HomeError(
            f"{place} cannot be {done}: AWS does not answer: {error}",
            hint=(
                "look at the network, at AWS_REGION, and at AWS_ENDPOINT_URL if it is set; then "
                "hundredfold resume"
            ),
        ) from error
    except ParamValidationError:
        raise
    except BotoCoreError as error:
        raise HomeError(f"{place} cannot be {done}: {error}") from error


def code(error: BotoCoreError | ClientError) -> str:
    """AWS's name for an error: NoSuchKey, AccessDenied, ..."""
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def _of_aws(error: ClientError, place: str, done: str) -> HomeError:
    name, said = code(error), str(error.response.get("Error", {}).get("Message", "")).strip()
    cannot = f"{place} cannot be {done}"
    if name in DENIED:
        return HomeError(
            f"{cannot}: these credentials have not the right "
            f"{_right(error.operation_name, said)}: {said or name}",
            hint=(
                "let the user or role have it (who that is: aws sts get-caller-identity); "
                "hundredfold doctor --backend aws checks all of them"
            ),
        )
    if name in GONE:
        return HomeError(
            f"{cannot}: it is not there, in the account and region of these credentials: "
            f"{said or name}",
            hint=(
                "deploy the stack first (hundredfold deploy), or name another with AWS_PROFILE "
                "and AWS_REGION"
            ),
        )
    if name in EXPIRED:
        return HomeError(f"{cannot}: the AWS credentials have expired ({name})", hint=ACCOUNT_HINT)
    if name in REFUSED:
        return HomeError(
            f"{cannot}: AWS does not know these credentials, or this machine's clock is wrong "
            f"({name})",
            hint=ACCOUNT_HINT,
        )
    if name in BUSY:
        return HomeError(
            f"{cannot}: AWS is too busy, after many attempts ({name}): {said}",
            hint="wait a minute; then hundredfold resume",
        )
    return HomeError(f"{cannot}: {name}: {said}")


def _right(operation: str, said: str) -> str:
    """The right that is missing, as AWS names it in its answer, or as it follows from the
    operation.
    """
    named = re.search(r"not authorized to perform: ([\w-]+:\w+)", said)
    return named[1] if named else RIGHTS.get(operation, operation)
