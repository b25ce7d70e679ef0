"""Events in batches, each of which is written in one transaction, and their rows in statements."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import add, attrgetter
from typing import NamedTuple

from recommendation_service.flush.rows import Event
from recommendation_service.log.records import FeedbackRecord, FeedRecord, received_ms_of

FEEDBACK_ROWS = 1_000
FEED_SLOTS = 8_000  # in the feeds of a batch: a statement of some 400 kB


class Left(NamedTuple):
    """Of the records of a flush, what is still to be written."""

    records: int
    oldest_ms: int  # when the oldest of them was accepted


def batches(records: Sequence[Event]) -> Iterator[list[Event]]:
    """Of one kind each, as they fill up, and each sorted by its ids, so that all transactions lock in one order: they
    cannot deadlock.

    What came in together stays together: its rows are neighbours in the indices of requests, users and time, which
    costs the server less than a batch from all over them does.
    """
    feedback: list[FeedbackRecord] = []
    feeds: list[FeedRecord] = []
    slots = 0
    for record in records:
        if isinstance(record, FeedbackRecord):
            feedback.append(record)
            if len(feedback) == FEEDBACK_ROWS:
                yield _sorted(feedback)
                feedback = []
        else:
            feeds.append(record)
            slots += 10 + record.size
            if slots >= FEED_SLOTS:
                yield _sorted(feeds)
                feeds, slots = [], 0
    for rest in (feedback, feeds):
        if rest:
            yield _sorted(rest)


def _sorted(records: Sequence[Event]) -> list[Event]:
    return sorted(records, key=attrgetter("event_id"))


def left_after_each(found: Sequence[Sequence[Event]]) -> list[Left]:
    """What is left after each batch but the last one."""
    counts = accumulate(map(len, reversed(found)), add)
    oldest = accumulate((min(map(received_ms_of, batch)) for batch in reversed(found)), min)
    return [Left(*left) for left in zip(counts, oldest, strict=True)][-2::-1]


def statements(literals: Sequence[str], sizes: Sequence[int], most: int) -> Iterator[Sequence[str]]:
    """Rows for a statement each, of so many bytes at most, unless one alone has more."""
    part: list[str] = []
    filled = 0
    for literal, size in zip(literals, sizes, strict=True):
        if part and filled + size > most:
            yield part
            part, filled = [], 0
        part.append(literal)
        filled += size
    yield part
