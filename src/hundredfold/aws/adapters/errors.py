"""AWS errors as errors of this package: a missing permission, a missing bucket, expired
credentials.

No message contains a credential. AWS's message about a signature may quote a session token, so it
is left out of ours, and ours is not chained to the error that carried it.
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
NOT_FOUND = {
    "NoSuchBucket",
    "ResourceNotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
}
EXPIRED_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "TokenRefreshRequired",
}
BAD_CREDENTIALS = {
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
THROTTLED = {
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
NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
    ProfileNotFound,
)
PERMISSIONS = {  # operations whose permission has another name
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
def translate_errors(location: str, participle: str) -> Iterator[None]:
    """Raise a HomeError for each error of AWS, or of the connection to it, in this block.

    `location` names the resource in the message, and `done` is a participle ("read", "written"). An
    error in our own call, such as a parameter of the wrong type, passes unchanged.
    """
    try:
        yield
    except ClientError as error:
        raise _from_client_error(error, location, participle) from (
            None if error_code(error) in EXPIRED_CREDENTIALS | BAD_CREDENTIALS else error
        )
    except Boto3Error as error:
        # boto3 reports a failed upload as text, and loses the type of the error
        cause = error.__context__
        if not isinstance(cause, ClientError):
            raise HomeError(f"{location} cannot be {participle}: {error}") from error
        raise _from_client_error(cause, location, participle) from (
            None if error_code(cause) in EXPIRED_CREDENTIALS | BAD_CREDENTIALS else cause
        )
    except NO_CREDENTIALS as error:
        raise HomeError(
            f"{location} cannot be {participle}: found no AWS credentials: {error}",
            hint=ACCOUNT_HINT,
        ) from None
    except NoRegionError:
        raise HomeError(
            f"{location} cannot be {participle}: no AWS region is set",
            hint="set the region of the stack: export AWS_REGION=eu-west-1",
        ) from None
    except (HTTPClientError, ConnectionError) as error:
        raise HomeError(
            f"{location} cannot be {participle}: AWS does not answer: {error}",
            hint=(
                "check the network, AWS_REGION, and AWS_ENDPOINT_URL if it is set; then "
                "hundredfold resume"
            ),
        ) from error
    except ParamValidationError:
        raise
    except BotoCoreError as error:
        raise HomeError(f"{location} cannot be {participle}: {error}") from error


def error_code(error: BotoCoreError | ClientError) -> str:
    """Return AWS's code for an error: NoSuchKey, AccessDenied, ..."""
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def _from_client_error(error: ClientError, location: str, participle: str) -> HomeError:
    name, message = (
        error_code(error),
        str(error.response.get("Error", {}).get("Message", "")).strip(),
    )
    cannot = f"{location} cannot be {participle}"
    if name in DENIED:
        return HomeError(
            f"{cannot}: these credentials lack the permission "
            f"{_missing_permission(error.operation_name, message)}: {message or name}",
            hint=(
                "grant it to the user or role (aws sts get-caller-identity prints which); "
                "hundredfold doctor --backend aws checks all permissions"
            ),
        )
    if name in NOT_FOUND:
        return HomeError(
            f"{cannot}: not found in the account and region of these credentials: "
            f"{message or name}",
            hint=(
                "deploy the stack first (hundredfold deploy), or select another account and "
                "region with AWS_PROFILE and AWS_REGION"
            ),
        )
    if name in EXPIRED_CREDENTIALS:
        return HomeError(f"{cannot}: the AWS credentials have expired ({name})", hint=ACCOUNT_HINT)
    if name in BAD_CREDENTIALS:
        return HomeError(
            f"{cannot}: AWS rejected these credentials, or the clock of this machine is wrong "
            f"({name})",
            hint=ACCOUNT_HINT,
        )
    if name in THROTTLED:
        return HomeError(
            f"{cannot}: AWS throttled the request after many attempts ({name}): {message}",
            hint="wait a minute; then hundredfold resume",
        )
    return HomeError(f"{cannot}: {name}: {message}")


def _missing_permission(operation: str, message: str) -> str:
    """Return the missing permission, as named in the message or implied by the operation."""
    match = re.search(r"not authorized to perform: ([\w-]+:\w+)", message)
    return match[1] if match else PERMISSIONS.get(operation, operation)
