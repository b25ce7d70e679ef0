"""What a connection is told whose request does not come as far as the application."""

from recommendation_service.core.errors import ServiceError


class BadRequest(ServiceError):
    status = 400
    code = "bad_request"


class RequestTimeout(ServiceError):
    status = 408
    code = "request_timeout"


class UriTooLong(ServiceError):
    status = 414
    code = "uri_too_long"


class HeadersTooLarge(ServiceError):
    status = 431
    code = "headers_too_large"


class TunnelRefused(ServiceError):
    status = 501
    code = "not_implemented"


class TooManyConnections(ServiceError):
    status = 503
    code = "too_many_connections"


class VersionNotSupported(ServiceError):
    status = 505
    code = "http_version_not_supported"
