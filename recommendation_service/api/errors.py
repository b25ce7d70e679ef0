"""The form in which errors are answered, whoever answers."""

from collections.abc import Mapping

import msgspec
from starlette.types import Send

from recommendation_service.core.errors import ServiceError

NO_HEADERS: Mapping[str, str] = {}


def error_body(error: ServiceError) -> bytes:
    return _body(error.status, error.code, error.message, error.details)


def failure_body(request_id: str) -> bytes:
    return _body(500, "internal_error", f"The service failed; its logs know {request_id}.", [])


def _body(status: int, code: str, message: str, details: list[dict[str, str]]) -> bytes:
    return msgspec.json.encode({"statusCode": status, "error": {"code": code, "message": message, "details": details}})


async def send_error(send: Send, status: int, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    raw += [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def http_error_body(status: int) -> tuple[str, bytes]:
    """Code and body for what the router itself refuses."""
    code, message = {
        404: ("not_found", "There is nothing at this address."),
        405: ("method_not_allowed", "This address does not take that method."),
    }.get(status, ("http_error", f"Refused with status {status}."))
    return code, _body(status, code, message, [])
