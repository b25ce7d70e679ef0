"""Who is in which arm of an experiment.

A person's arm is a hash of the person and of the experiment's salt: nothing is kept of it, every worker and machine
comes to the same, and with another salt arms are drawn anew, whatever others were.

The hash is a multiply-xorshift mixer, as splitmix64 ends with (Steele, Lea, Flood 2014), of the person's number and a
key that a cryptographic hash makes of the salt: of each feed that takes 0.3 µs, and the latter alone twice as much.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

_BITS = 1 << 64
_MASK = _BITS - 1


class Assignment:
    """``shares``: of each arm, together 1."""

    def __init__(self, salt: str, shares: Sequence[float]) -> None:
        self._user_key, self._session_key, self._request_key = (
            _number(f"{kind}:{salt}") for kind in ("user", "session", "request")
        )
        parts = [Fraction(share) for share in shares]
        total = sum(parts)
        # The last reaches to the end, whatever the rounding.
        self._edges = [int(sum(parts[: place + 1]) / total * _BITS) for place in range(len(parts) - 1)]

    def of(self, user_id: int, session: int, request_id: str) -> int:
        """The place of the arm of a user, of an anonymous person's session (``seen.session_number``), or, where there
        is none, of the request."""
        if user_id:
            mixed = user_id ^ self._user_key
        elif session:
            mixed = session ^ self._session_key
        else:
            mixed = _number(request_id) ^ self._request_key
        mixed = (mixed * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 31) * 0x94D049BB133111EB) & _MASK
        return bisect_right(self._edges, mixed ^ mixed >> 32)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
