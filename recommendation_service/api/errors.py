"""The form in which errors are answered, whoever answers."""

import msgspec

from recommendation_service.api.calls import JSON, Reply
from recommendation_service.core.errors import ServiceError


def error_body(error: ServiceError) -> bytes:
    return _body(error.status, error.code, error.message, error.details)


def failure_body(request_id: str) -> bytes:
    return _body(500, "internal_error", f"The service failed; its logs know {request_id}.", [])


def _body(status: int, code: str, message: str, details: list[dict[str, str]]) -> bytes:
    return msgspec.json.encode({"statusCode": status, "error": {"code": code, "message": message, "details": details}})


def refusal(error: ServiceError) -> Reply:
    headers = tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in error.headers.items())
    return Reply(error.status, error_body(error), JSON + headers, error.code)


def failure(request_id: str) -> Reply:
    return Reply(500, failure_body(request_id), JSON, "internal_error")


def http_error_body(status: int) -> tuple[str, bytes]:
    """Code and body for what the router itself refuses."""
    code, message = {
        404: ("not_found", "There is nothing at this address."),
        405: ("method_not_allowed", "This address does not take that method."),
    }.get(status, ("http_error", f"Refused with status {status}."))
    return code, _body(status, code, message, [])
