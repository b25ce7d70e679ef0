"""Where LMDB has the entries of users, in two tables.

Most have theirs as one value. Of who scrolls on, the earlier entries are settled (ranking/settled.py): they and their
summary stand in a table of their own, and the value is a mark of 8 bytes, which is drawn whenever entries settle, and
what came since. So a feed reads the summary and the last entries, and writes the last entries alone; and who finds the
mark that was read finds what had settled then.

Each call is part of the caller's transaction.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from recommendation_service.ranking.seen import ENTRY_BYTES

if TYPE_CHECKING:
    import lmdb
    from lmdb import _Database as Database

    Transaction = lmdb.Transaction[bytes]

MARK_BYTES = 8
# As many as ten feeds bring: then all is read, and settles anew.
MOST_SINCE = 240 * ENTRY_BYTES
_ENTRIES, _SUMMARY = b"e", b"s"  # what keys of the settled table end with


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
        return self.settled_of(transaction, key) + value[MARK_BYTES:] if has_mark(value) else value

    def stored(self, transaction: "Transaction", key: bytes, value: bytes) -> Stored:
        """The same, as a feed takes them."""
        if MARK_BYTES <= len(value) <= MARK_BYTES + MOST_SINCE and has_mark(value):
            summary = transaction.get(key + _SUMMARY, db=self.settled)
            if summary:
                return Stored(value, summary)
        return Stored(self.whole(transaction, key, value))

    def settled_of(self, transaction: "Transaction", key: bytes) -> bytes:
        settled: bytes = transaction.get(key + _ENTRIES, db=self.settled) or b""
        return settled

    def put(self, transaction: "Transaction", key: bytes, new: bytes) -> None:
        """``new``: all of them; or the mark that is there, and what came since. What has settled stays so where all of
        them begin with it."""
        if not has_mark(new):
            value: bytes = transaction.get(key, db=self.database) or b""
            if has_mark(value):
                settled = self.settled_of(transaction, key)
                if new.startswith(settled):
                    new = value[:MARK_BYTES] + new[len(settled) :]
                else:
                    self._unsettle(transaction, key)
        transaction.put(key, new, db=self.database)

    def settle(self, transaction: "Transaction", key: bytes, settled: bytes, summary: bytes, recent: bytes) -> None:
        transaction.put(key + _ENTRIES, settled, db=self.settled)
        transaction.put(key + _SUMMARY, summary, db=self.settled)
        transaction.put(key, os.urandom(MARK_BYTES) + recent, db=self.database)

    def delete(self, transaction: "Transaction", key: bytes) -> None:
        if has_mark(transaction.pop(key, db=self.database) or b""):
            self._unsettle(transaction, key)

    def _unsettle(self, transaction: "Transaction", key: bytes) -> None:
        for which in (_ENTRIES, _SUMMARY):
            transaction.delete(key + which, db=self.settled)

    def users_from(self, transaction: "Transaction", after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and entries of users, from a key on. What is changed meanwhile is not the users that are still to
        come."""
        cursor = transaction.cursor(self.database)
        more = cursor.set_range(after)
        while more:
            key = bytes(cursor.key())
            yield key, self.whole(transaction, key, bytes(cursor.value()))
            more = cursor.set_range(key + b"\0")
