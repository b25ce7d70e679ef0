"""What never changes under its name: the name holds a hash of the content, so any cache may keep it for ever.

A page that names such assets must itself be asked for each time, or it would go on naming old ones.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOR_EVER = "public, max-age=31536000, immutable"
ASK_EACH_TIME = "no-cache"  # it may be kept, but not used before the service was asked whether it still holds

# 64 bits: names are unlike where contents are, and nobody who could choose contents is kept out by them.
_DIGITS = 16


class Asset(NamedTuple):
    """One content, ready to be sent."""

    content: bytes
    media_type: str
    digest: str

    def answer(self, request: Request, cache_control: str) -> Response:
        """The content, or 304 where the client says that it has it."""
        etag = f'"{self.digest}"'
        headers = {"Cache-Control": cache_control, "ETag": etag}
        if _names(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def make_asset(content: bytes, media_type: str) -> Asset:
    """An asset of this content."""
    return Asset(content, media_type, hashlib.sha256(content).hexdigest()[:_DIGITS])


class HashedAssets:
    """Assets by their hashed names: ``swagger-ui.css`` is sent as ``swagger-ui-0123456789abcdef.css``.

    ``sources`` makes each asset by its plain name. None is made before the first of them is asked for, since
    most workers never are: nothing is read at import or at start. Contents then stay in memory, 2 MB.
    The first call reads files: make it off the event loop.
    """

    def __init__(self, sources: Mapping[str, Callable[[], Asset]]) -> None:
        self._sources = sources

    def name(self, plain: str) -> str:
        """The hashed name of an asset."""
        return self._names[plain]

    def answer(self, name: str, request: Request) -> Response:
        """The asset of a hashed name. Raises HTTPException 404, not to be kept: while a new version is put in
        place, an old worker is asked for names that only the new ones know."""
        asset = self._assets.get(name)
        if asset is None:
            raise HTTPException(404, headers={"Cache-Control": "no-store"})
        return asset.answer(request, FOR_EVER)

    @functools.cached_property
    def _made(self) -> dict[str, Asset]:
        return {plain: make() for plain, make in self._sources.items()}

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return {plain: _hashed_name(plain, asset.digest) for plain, asset in self._made.items()}

    @functools.cached_property
    def _assets(self) -> dict[str, Asset]:
        return {self._names[plain]: asset for plain, asset in self._made.items()}


def _hashed_name(plain: str, digest: str) -> str:
    stem, dot, suffix = plain.rpartition(".")
    return f"{stem}-{digest}{dot}{suffix}"


def _names(if_none_match: str, etag: str) -> bool:
    """Whether If-None-Match covers ``etag``, by the weak comparison that RFC 9110 (13.1.2) asks for: a proxy that
    compresses an answer makes its ETag a weak one."""
    if if_none_match.strip() == "*":
        return True
    return etag in {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
