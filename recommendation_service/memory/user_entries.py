"""Where LMDB has the entries of users, in two tables.

Most have theirs as one value. Of who scrolls on, the earlier entries are settled (ranking/settled.py): they, in pieces
as they settled, and their summary stand in a table of their own, and the value is a mark and what came since. So a feed
reads the summary and the last entries, and writes the last entries alone.

A mark has 8 bytes: how many pieces there are (2), and 6 that are drawn whenever entries settle. Who finds the mark that
was read finds what had settled then.

Each call is part of the caller's transaction.
"""

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from recommendation_service.ranking.seen import ENTRY_BYTES

if TYPE_CHECKING:
    import lmdb
    from lmdb import _Database as Database

    Transaction = lmdb.Transaction[bytes]

MARK_BYTES = 8
# Where so much came since, as it would not settle, a feed reads all.
MOST_SINCE = 240 * ENTRY_BYTES
_PIECE, _SUMMARY = b"e", b"s"  # what keys of the settled table end with; a piece's then has its number
_COUNT = struct.Struct(">H")


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A user's entries as a feed takes them."""

    value: bytes  # all of them; or a mark, and what came since they settled
    summary: bytes = b""  # of those that have settled, where that is so

    @property
    def recent(self) -> bytes:
        return self.value[MARK_BYTES:]


def has_mark(value: bytes) -> bool:
    return len(value) % ENTRY_BYTES == MARK_BYTES


class UserEntries:
    def __init__(self, database: "Database", settled: "Database | None") -> None:
        """``settled``: None where there is no such table yet, and no room for one: then nothing has settled."""
        self.database = database
        self.settled = settled

    @property
    def tables(self) -> "list[Database]":
        return [self.database] if self.settled is None else [self.database, self.settled]

    def read(self, transaction: "Transaction", key: bytes) -> bytes:
        """All of them."""
        value: bytes = transaction.get(key, db=self.database) or b""
        return self.whole(transaction, key, value)

    def whole(self, transaction: "Transaction", key: bytes, value: bytes) -> bytes:
        """All of them, where that is the value."""
        return self.settled_of(transaction, key, value) + value[MARK_BYTES:] if has_mark(value) else value

    def stored(self, transaction: "Transaction", key: bytes, value: bytes) -> Stored:
        """The same, as a feed takes them."""
        if MARK_BYTES <= len(value) <= MARK_BYTES + MOST_SINCE and has_mark(value):
            summary = transaction.get(key + _SUMMARY, db=self.settled)
            if summary:
                return Stored(value, summary)
        return Stored(self.whole(transaction, key, value))

    def settled_of(self, transaction: "Transaction", key: bytes, value: bytes) -> bytes:
        """What has settled, where ``value`` is what is stored, or is about to be."""
        return b"".join([transaction.get(piece, db=self.settled) or b"" for piece in _pieces(key, value)])

    def put(self, transaction: "Transaction", key: bytes, new: bytes) -> None:
        """``new``: all of them; or the mark that is there, and what came since. What has settled stays so where all of
        them begin with it."""
        if not has_mark(new):
            value: bytes = transaction.get(key, db=self.database) or b""
            if has_mark(value):
                settled = self.settled_of(transaction, key, value)
                if new.startswith(settled):
                    new = value[:MARK_BYTES] + new[len(settled) :]
                else:
                    self._unsettle(transaction, key, value)
        transaction.put(key, new, db=self.database)

    def settle(
        self, transaction: "Transaction", key: bytes, stored: bytes, old: bytes, summary: bytes, recent: bytes
    ) -> None:
        """Have ``old`` settle, all of the entries or the value that is ``stored``, with the summary of all of them."""
        pieces = 0
        if has_mark(old):
            [pieces] = _COUNT.unpack_from(old)
            old = old[MARK_BYTES:]
        elif has_mark(stored):
            self._unsettle(transaction, key, stored)
        transaction.put(_piece(key, pieces), old, db=self.settled)
        transaction.put(key + _SUMMARY, summary, db=self.settled)
        mark = _COUNT.pack(pieces + 1) + os.urandom(MARK_BYTES - _COUNT.size)
        transaction.put(key, mark + recent, db=self.database)

    def delete(self, transaction: "Transaction", key: bytes) -> None:
        value: bytes = transaction.pop(key, db=self.database) or b""
        if has_mark(value):
            self._unsettle(transaction, key, value)

    def _unsettle(self, transaction: "Transaction", key: bytes, value: bytes) -> None:
        for each in (*_pieces(key, value), key + _SUMMARY):
            transaction.delete(each, db=self.settled)

    def users_from(self, transaction: "Transaction", after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and entries of users, from a key on. What is changed meanwhile is not the users that are still to
        come."""
        cursor = transaction.cursor(self.database)
        more = cursor.set_range(after)
        while more:
            key = bytes(cursor.key())
            yield key, self.whole(transaction, key, bytes(cursor.value()))
            more = cursor.set_range(key + b"\0")


def _pieces(key: bytes, value: bytes) -> list[bytes]:
    """Under which keys they stand."""
    return [_piece(key, number) for number in range(_COUNT.unpack_from(value)[0])]


def _piece(key: bytes, number: int) -> bytes:
    return key + _PIECE + _COUNT.pack(number)
