"""A request for a feed, as it goes down: what its caller asks, and that with what is known of the user."""

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from recommendation_service.feed.sentences import DEFAULT_LANGUAGE

NO_IDS: npt.NDArray[np.int64] = np.zeros(0, np.int64)
# By a filter's name what it asks, see feed/filters.py.
AskedFilters = tuple[tuple[str, float | tuple[int, ...]], ...]


class FeedFields(msgspec.Struct, frozen=True, gc=False):
    """What the body of a request says, and is valid."""

    user_id: int
    size: int
    excluded: npt.NDArray[np.int64]
    session_id: str | None
    explain: bool
    personal: bool = True  # False: without any fact of the user, and nothing is learned from it
    language: str = DEFAULT_LANGUAGE  # of the explanation's sentences
    filters: AskedFilters = ()
    by_name: bool = False  # answered as feeds by name are, and not as the contract's three endpoints
    user_text: str = ""  # the user's id where that is text, of which ``user_id`` is a hash

    def but(self, **changes: Any) -> "FeedFields":
        return msgspec.structs.replace(self, **changes)


class Outsider(NamedTuple):
    """What the operator's tables say of a user who is not in the catalog."""

    history: npt.NDArray[np.int64]  # (h, 2) item key, seconds since 1970; latest first
    network: npt.NDArray[np.int64]  # (n,) numbers of connected users
    connections: int
    tokens: npt.NDArray[np.int32]  # (t,) the profile's, as the catalog numbers them
    filters: AskedFilters = ()  # what the user's own row asks for


class FeedRequest(msgspec.Struct, frozen=True, gc=False):
    """A valid request. ``request_id`` and ``user_id`` fix all randomness of the feed."""

    endpoint: str
    user_id: int
    size: int
    request_id: str
    excluded: npt.NDArray[np.int64] = NO_IDS
    explain: bool = False
    now: int = 0  # seconds since 1970
    session: int = 0  # seen.session_number
    outsider: Outsider | None = None
    session_id: str | None = None  # as its client gave it, for the record
    happened_ms: int = 0  # since 1970, for the record
    personal: bool = True  # False: ranked as for an unknown user; what was seen stays away all the same
    language: str = DEFAULT_LANGUAGE  # of the explanation's sentences
    filters: AskedFilters = ()
    by_name: bool = False
    user_text: str = ""  # for the record

    def but(self, **changes: Any) -> "FeedRequest":
        return msgspec.structs.replace(self, **changes)
