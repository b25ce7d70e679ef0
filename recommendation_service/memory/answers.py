"""Answers that may be asked for again under the same Idempotency-Key, for a minute or two, in the memory's file.

Their keys begin with the minute in which they were given, so that the oldest stand first.
"""

import hashlib
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import lmdb
    from lmdb import _Database as Database

ANSWER_SECONDS = 60
_MINUTE = struct.Struct(">I")


class StoredAnswer(NamedTuple):
    """An answer given before under the same Idempotency-Key."""

    request: bytes  # 16 bytes that tell requests apart
    body: bytes


class Asked(NamedTuple):
    """What a request with an Idempotency-Key wants again."""

    name: bytes  # 16 bytes, of ``answer_key``, under which the answer is kept
    request: bytes  # 16 bytes that tell requests apart


class Answers:
    """Each call is part of the caller's transaction. ``now``: seconds since 1970."""

    def __init__(self, database: "Database") -> None:
        self.database = database

    def find(self, transaction: "lmdb.Transaction[bytes]", key: bytes, now: float) -> StoredAnswer | None:
        """What was answered under this key in the last minute."""
        for minute in (int(now) // 60, int(now) // 60 - 1):
            value = transaction.get(_MINUTE.pack(minute) + key, db=self.database)
            if value is not None:
                return StoredAnswer(bytes(value[:16]), bytes(value[16:]))
        return None

    def put(self, transaction: "lmdb.Transaction[bytes]", key: bytes, answer: StoredAnswer, now: float) -> None:
        self.delete_old(transaction, now, most=2)  # so that those kept are bounded at any rate
        transaction.put(_MINUTE.pack(int(now) // 60) + key, answer.request + answer.body, db=self.database)

    def delete_old(self, transaction: "lmdb.Transaction[bytes]", now: float, most: int) -> None:
        """Those that nobody may ask for any more, the oldest first."""
        before = _MINUTE.pack(int(now - ANSWER_SECONDS) // 60)
        cursor = transaction.cursor(self.database)
        for _ in range(most):
            if not cursor.first() or bytes(cursor.key()) >= before:
                break
            cursor.delete()


def answer_key(*parts: str) -> bytes:
    """16 bytes for what an Idempotency-Key stands for: caller, endpoint, key."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def under(asked: Asked, takedowns: bytes) -> Asked:
    """The same, of which no answer is given that was given under other ``takedowns``; empty: of all that are kept."""
    if not takedowns:
        return asked
    return asked._replace(name=hashlib.blake2b(asked.name + takedowns, digest_size=16).digest())
