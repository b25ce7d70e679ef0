#!/usr/bin/env bash
# uvicorn with httptools hands an application an empty body where a POST offers to switch to HTTP/2.
#
# Versions:  uvicorn 0.54.0, httptools 0.9.0; with h11 0.16.0 instead of httptools the body is whole.
# One would guess: an offer that a server does not take is ignored (RFC 9110, section 7.8), and the request read as any other.
# What happens: with `Connection: Upgrade, HTTP2-Settings` and `Upgrade: h2c`, which Java's HttpClient and curl --http2
#   send by themselves on plain HTTP, the application gets 0 of the body's 11 bytes, and no error. The log has a warning.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat >offer.py <<'PYTHON'
import asyncio

import uvicorn

REQUEST = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nhello world"
)


async def body_length(scope: dict, receive: object, send: object) -> None:
    """Answers with the length of the request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = str(len(body)).encode()
    headers = [(b"connection", b"close"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def received(protocol: str) -> str:
    server = uvicorn.Server(uvicorn.Config(body_length, port=0, http=protocol, lifespan="off", log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    writer.write(REQUEST)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    server.should_exit = True
    await serving
    return answer.partition(b"\r\n\r\n")[2].decode().strip()


for protocol in ("httptools", "h11"):
    print(f"{protocol}: the application got a body of {asyncio.run(received(protocol))} bytes")
PYTHON
output=$(venv/bin/python offer.py)
printf '%s\n' "$output"
grep -q '^httptools: the application got a body of 0 bytes$' <<<"$output"
grep -q '^h11: the application got a body of 11 bytes$' <<<"$output"
