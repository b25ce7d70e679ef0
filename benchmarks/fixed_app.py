"""The service, and beside its feeds a route that returns one body of a feed's size: what the server alone costs."""

import os

from starlette.requests import Request
from starlette.responses import Response

from recommendation_service.api.bodies import read_body
from recommendation_service.bootstrap import create_app

app = create_app()
_BODY = b'{"statusCode":200,"body":"' + b"x" * (int(os.environ.get("FIXED_BODY_BYTES", "16384")) - 28) + b'"}'


class _Fixed:
    """Plain ASGI like the feeds, and on the same short cut: it reads the body and answers."""

    async def __call__(self, _scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await read_body(receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})


async def _declared(request: Request) -> Response:
    await request.body()
    return Response(_BODY, media_type="application/json")


app.hot["/bench/fixed"] = _Fixed()
app.add_api_route("/bench/declared", _declared, methods=["POST"], include_in_schema=False)
