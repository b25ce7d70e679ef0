"""What requests want to be written of users, and in how many transactions that is."""

from collections.abc import Iterator, Sequence

import msgspec

from recommendation_service.memory.answers import StoredAnswer

# The most that a transaction adds to the file: a user's entries, an answer, and the pages on the way to them.
TRANSACTION_BYTES = 1 << 19
CHANGE_BYTES = 1 << 14  # of these: pages on the way to a user's entries and to an answer


class Change(msgspec.Struct, frozen=True, gc=False):
    """What a request wants to be written, see UserMemory.replace."""

    key: bytes
    old: bytes  # as it was read
    new: bytes  # as UserEntries.put takes it; or with a summary what comes after ``old``
    answer: tuple[bytes, StoredAnswer] | None = None
    is_deed: bool = False  # what a person did, for which there is room when feeds find none
    summary: bytes = b""  # of ``old``, which settles


def transactions(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """The changes, in parts that add no more than TRANSACTION_BYTES to the file."""
    start = added = 0
    for place, change in enumerate(changes):
        adds = len(change.new) + CHANGE_BYTES + (len(change.answer[1].body) if change.answer is not None else 0)
        if change.summary:
            adds += CHANGE_BYTES + len(change.old) + len(change.summary)
        if added + adds > TRANSACTION_BYTES and place > start:
            yield changes[start:place]
            start, added = place, 0
        added += adds
    if start < len(changes):
        yield changes[start:]
