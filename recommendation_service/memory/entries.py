"""A user's entries as they are stored (ranking/seen.py says what they mean), and the key they are stored under."""

import struct

import numpy as np
import numpy.typing as npt

from recommendation_service.model.kinds import MOST_KINDS
from recommendation_service.ranking.seen import ENTRY_BYTES, HIDDEN, SERVED
from recommendation_service.ranking.working_memory import SEEN_CAPACITY

Entries = npt.NDArray[np.int64]  # (n, 2)

NOTHING: Entries = np.zeros((0, 2), np.int64)
USER, SESSION = b"u", b"s"  # what keys begin with
_KEY = struct.Struct(">cQ")
_KINDS_AND_STATES = bytes(kind << 4 | state for kind in range(MOST_KINDS + 1) for state in range(SERVED, HIDDEN + 1))
_STATES = bytes(number & 15 for number in range(256))
_POSITIVE = bytes(range(128))


def user_key(user_id: int, session: int) -> bytes | None:
    """Under which a requester is remembered: the user, or an anonymous one's session; None for neither."""
    if user_id:
        return _KEY.pack(USER, user_id)
    return _KEY.pack(SESSION, session) if session else None


def user_of(key: bytes) -> int:
    """0: an anonymous one's session."""
    return int.from_bytes(key[1:], "big") if key.startswith(USER) else 0


def as_entries(stored: bytes) -> Entries:
    return np.frombuffer(stored, "<i8").reshape(-1, 2)


def has_hidden(stored: bytes) -> bool:
    """Whether the user has hidden anything of what is stored."""
    return HIDDEN in stored[8::ENTRY_BYTES].translate(_STATES)  # the lowest byte of each second number


def are_entries(stored: bytes) -> bool:
    """Whether bytes that anybody may have put where a user's entries are can be entries."""
    return (
        len(stored) % ENTRY_BYTES == 0
        and len(stored) <= SEEN_CAPACITY * ENTRY_BYTES
        and not stored[8::ENTRY_BYTES].translate(None, _KINDS_AND_STATES)  # the lowest byte of each second number
        and not stored[15::ENTRY_BYTES].translate(None, _POSITIVE)
    )
