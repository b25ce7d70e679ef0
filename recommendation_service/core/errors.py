"""The service's errors: one base with a status and a code, so that one handler answers them all."""

from collections.abc import Sequence
from typing import ClassVar


class ServiceError(Exception):
    """What a client may be told: ``message`` and ``details`` are safe to send."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    always: ClassVar[dict[str, str]] = {}  # headers of each such answer

    def __init__(
        self,
        message: str,
        details: Sequence[dict[str, str]] = (),
        *,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        if self.retry_after_seconds is None:
            return self.always
        return {**self.always, "retry-after": str(self.retry_after_seconds)}


class NotJson(ServiceError):
    status = 400
    code = "not_json"


class NotDecodable(ServiceError):
    status = 400
    code = "not_decodable"


class BodyIncomplete(ServiceError):
    """Its client has left, so nobody is told; what came is not the request, even where it is JSON."""

    status = 400
    code = "body_incomplete"


class Unauthorized(ServiceError):
    status = 401
    code = "unauthorized"
    always: ClassVar[dict[str, str]] = {"www-authenticate": "Bearer"}


class Forbidden(ServiceError):
    status = 403
    code = "forbidden"


class NotFound(ServiceError):
    status = 404
    code = "not_found"


class Conflict(ServiceError):
    """It cannot be beside what is there."""

    status = 409
    code = "conflict"


class IdempotencyConflict(ServiceError):
    status = 409
    code = "idempotency_conflict"


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"


class UnsupportedMediaType(ServiceError):
    status = 415
    code = "unsupported_media_type"


class UnsupportedCoding(UnsupportedMediaType):
    always: ClassVar[dict[str, str]] = {"accept-encoding": "gzip, deflate"}


class InvalidRequest(ServiceError):
    status = 422
    code = "invalid_request"


class TooManyRequests(ServiceError):
    status = 429
    code = "too_many_requests"


class Overloaded(ServiceError):
    status = 503
    code = "overloaded"


class NotReady(ServiceError):
    status = 503
    code = "not_ready"


class ConfigurationError(Exception):
    """Settings or a policy file that cannot be used; ``problems`` names all of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class VersionError(Exception):
    """A version on disk that is missing, damaged, or of another layout, or that cannot be written."""


class CatalogError(VersionError):
    """Of a catalog."""


class PolicyError(VersionError):
    """Of a policy; or a change of what is served that may not be made."""


class SourceError(Exception):
    """The operator's database could not be read; the message names what failed, never a secret."""
