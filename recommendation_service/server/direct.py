"""What the protocol keeps of a request that it answers itself (docs/decisions/0039)."""

from typing import Any

from recommendation_service.api.calls import Headers


def client_address(client: tuple[str, int] | None, headers: Headers, trusted: Any) -> str:
    """Of a request's client, as Uvicorn's layer puts it into a scope. ``trusted``: that layer's proxies."""
    if client is None:
        return "unknown"
    if client[0] in trusted:
        forwarded = b", ".join([value for name, value in headers if name == b"x-forwarded-for"])
        if forwarded:
            host: str = trusted.get_trusted_client_address(forwarded.decode("latin1"))[0]
            return host or client[0]
    return client[0]


class _Unheard:
    """An event for which nobody waits."""

    def set(self) -> None:
        pass


class DirectCycle:
    """A request that is answered without ASGI: as much of Uvicorn's RequestResponseCycle as a connection asks for."""

    __slots__ = ("body", "disconnected", "keep_alive", "more_body", "response_complete", "response_started", "scope")

    message_event = _Unheard()

    def __init__(self, scope: object) -> None:
        self.scope = scope
        self.body = b""
        self.keep_alive = self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False
