"""What a store's refusal means to the user: for each thing that can be done about it, one error of our own.

Pure: an error code and an HTTP status in, an error out. The store's own words reach the user only where
no row of the table knows the code, and never a header or a key.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.errors import (
    ConflictError,
    IntegrityError,
    ResourceError,
    StorageError,
    TransientError,
    TunelineError,
)

MISSING = frozenset({"NoSuchKey", "NotFound", "404"})
"""Codes of an object that is not there; a HEAD answer has no body, so its code is its status."""

LOST = frozenset({"PreconditionFailed", "412", "NoSuchKey"})
"""Codes of a condition that no longer holds; what should be replaced may be gone altogether."""

UPLOAD_GONE = "NoSuchUpload"


@dataclass(frozen=True)
class Refusal:
    """A store's answer other than success."""

    code: str
    status: int
    message: str


@dataclass(frozen=True)
class Row:
    """What some codes mean, and what to do about it."""

    kind: type[TunelineError]
    codes: frozenset[str]
    advice: str


def row(kind: type[TunelineError], codes: str, advice: str) -> Row:
    return Row(kind, frozenset(codes.split()), advice)


@dataclass(frozen=True)
class Service:
    """Who answers: its name, the variable that says where it is, and what means something else than from a store."""

    name: str
    address: str
    refusals: tuple[Row, ...] = ()
    unanswered: tuple[Row, ...] = ()


STORE = Service("store", "AWS_ENDPOINT_URL")


REFUSALS = (
    row(
        StorageError,
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidClientTokenId UnrecognizedClientException",
        "the store does not accept the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "(and AWS_SESSION_TOKEN, if they are temporary)",
    ),
    row(
        StorageError,
        "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired",
        "the temporary credentials have expired: get new ones (log in again for AWS_PROFILE, or set AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN), then run the same command again; what was sent is kept",
    ),
    row(
        StorageError,
        "AccessDenied AccessDeniedException AllAccessDisabled AccountProblem Forbidden",
        "access denied: the store knows the credentials, but they do not permit this. Allow it for the "
        "identity of AWS_ACCESS_KEY_ID, or set TUNELINE_REGISTRY to a bucket that it may use",
    ),
    row(
        StorageError,
        "403 400",  # a HEAD answer says no more; Amazon's to expired credentials is 400
        "access denied, without a reason: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, whether they have "
        "expired, and what that identity may do with this bucket",
    ),
    row(
        StorageError,
        "NoSuchBucket",
        "there is no such bucket: create it, or set TUNELINE_REGISTRY to one that exists",
    ),
    row(
        StorageError,
        "InvalidBucketName",
        "the store does not accept the bucket's name: mend TUNELINE_REGISTRY",
    ),
    row(
        StorageError,
        "BucketAlreadyExists",
        "the bucket belongs to somebody else: set TUNELINE_REGISTRY to another name",
    ),
    row(
        StorageError,
        "AuthorizationHeaderMalformed PermanentRedirect TemporaryRedirect IllegalLocationConstraintException 301 307",
        "the bucket lies in another region: set AWS_REGION to the bucket's region",
    ),
    row(
        StorageError,
        "RequestTimeTooSkewed RequestInTheFuture RequestNotYetValid",
        "this machine's clock differs too much from the store's: set the clock, for instance with "
        "`timedatectl set-ntp true`",
    ),
    row(
        StorageError,
        "NotImplemented 501 MethodNotAllowed 405",
        "the store cannot do this: `tuneline doctor` says what tuneline needs of a store",
    ),
    row(
        TransientError,
        "SlowDown Throttling ThrottlingException ThrottledException RequestThrottled RequestLimitExceeded "
        "TooManyRequests TooManyRequestsException BandwidthLimitExceeded ServiceUnavailable 429 503",
        "the store asks for fewer requests: wait, then run the same command again",
    ),
    row(
        TransientError,
        "ConditionalRequestConflict OperationAborted",
        "another writer was at work on the same object: run the same command again",
    ),
    row(
        ConflictError,
        "PreconditionFailed 412",
        "somebody else wrote it first: read it again, then decide",
    ),
    row(
        ConflictError,
        "NoSuchKey",
        "it was removed meanwhile: list again, then decide",
    ),
    row(
        ResourceError,
        "QuotaExceeded InsufficientStorage InsufficientCapacity XMinioStorageFull 507",
        "the store is full: free some space there, then run the same command again",
    ),
    row(
        IntegrityError,
        "BadDigest InvalidDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch",
        "the bytes changed on their way: run the same command again; if it repeats, suspect a proxy or memory",
    ),
)

UNANSWERED = (
    row(StorageError, "ProfileNotFound", "there is no such profile: mend AWS_PROFILE"),
    row(
        StorageError,
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError NoAuthTokenError "
        "SSOError LoginError",
        "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    row(
        StorageError,
        "SSLError",
        "the server's certificate is not trusted, or it speaks no TLS: check the scheme in AWS_ENDPOINT_URL, "
        "or set AWS_CA_BUNDLE to the certificate of its authority",
    ),
    row(
        StorageError,
        "ConnectionError ValueError",  # boto3 calls a malformed endpoint a ValueError
        "nothing answers there: check AWS_ENDPOINT_URL, and that the store is running",
    ),
    row(
        TransientError,
        # HTTPError is urllib3's: botocore lets it through where an answer breaks off that should be read at once.
        "HTTPClientError IncompleteReadError ChecksumError FlexibleChecksumError HTTPError",
        "the connection broke: run the same command again; if it repeats, check AWS_ENDPOINT_URL",
    ),
    row(
        StorageError,
        "ResponseParserError",
        "what answers there is no S3 store: check AWS_ENDPOINT_URL",
    ),
)


def meaning(refusal: Refusal, where: str, by: Service = STORE) -> TunelineError:
    """The error for a refusal met while doing `where`.

    Law: the message begins with `where` and names the code; an unknown code of 500 or more is transient.
    """
    for known in (*by.refusals, *REFUSALS):
        if refusal.code in known.codes:
            return known.kind(f"{where}: {known.advice} ({refusal.code})")
    if refusal.status >= 500:
        again = f"run the same command again; if it repeats, check {by.address}"
        return TransientError(f"{where}: the {by.name} failed: {again} ({refusal.code})")
    said = " ".join(refusal.message.split())[:200]
    return StorageError(f"{where}: the {by.name} refused, saying {said!r} ({refusal.code}): check {by.address}")


def unanswered(error: Exception, where: str, by: Service = STORE) -> TunelineError:
    """The error for a request that got no answer: `error` is botocore's, known by its class or a parent's name."""
    names = {kind.__name__ for kind in type(error).__mro__}
    for known in (*by.unanswered, *UNANSWERED):
        if known.codes & names:
            return known.kind(f"{where}: {known.advice} ({type(error).__name__})")
    return StorageError(f"{where}: {error}: check the AWS_* variables ({type(error).__name__})")
