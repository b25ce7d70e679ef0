"""Who may call: API keys of clients, and the administrators' token."""

import hmac

from starlette.types import Scope

from recommendation_service.api.calls import Headers
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import Forbidden, Unauthorized


class Access:
    """Compares in constant time and never logs what it compares."""

    def __init__(self, settings: Settings) -> None:
        self._api_keys = [key.encode() for key in settings.api_keys]
        token = settings.admin_token
        self._admin_token = token.get_secret_value().encode() if token else None

    @property
    def keys_required(self) -> bool:
        return bool(self._api_keys)

    def check_api_key(self, headers: Headers) -> str:
        """Where API_KEYS is set, the call must bear one: ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

        Gives the key, or nothing where none is needed. Raises Unauthorized without a key, Forbidden with
        a wrong one.
        """
        if not self._api_keys:
            return ""
        given = _header(headers, b"x-api-key") or _bearer(headers)
        if not given:
            raise Unauthorized("Send an API key: Authorization: Bearer KEY, or X-API-Key: KEY.")
        # All keys are compared, so that the time tells nothing of which one nearly fits.
        matches = [hmac.compare_digest(given, key) for key in self._api_keys]
        if not any(matches):
            raise Forbidden("The API key is not valid.")
        return given.decode("latin-1")

    def check_administrator(self, scope: Scope) -> None:
        """Raises Forbidden where ADMIN_TOKEN is unset or another, Unauthorized without a token."""
        if self._admin_token is None:
            raise Forbidden("Administrators' endpoints are closed: ADMIN_TOKEN is not set.")
        given = _bearer(scope["headers"])
        if not given:
            raise Unauthorized("Send the administrators' token: Authorization: Bearer TOKEN.")
        if not hmac.compare_digest(given, self._admin_token):
            raise Forbidden("The token is not valid.")


def _header(headers: Headers, name: bytes) -> bytes:
    for key, value in headers:
        if key == name:
            return bytes(value).strip()
    return b""


def _bearer(headers: Headers) -> bytes:
    scheme, _, token = _header(headers, b"authorization").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
