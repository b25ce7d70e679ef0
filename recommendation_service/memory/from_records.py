"""What a record says that a user has seen."""

import contextlib
from collections.abc import Iterable, Iterator

from recommendation_service.log.records import FeedRecord
from recommendation_service.model.item_keys import item_key
from recommendation_service.ranking.seen import EPOCH, SERVED, session_number

Entry = tuple[int, int]


def entries_of_feed(record: FeedRecord, now: int) -> Iterator[Entry]:
    """A time in the future is now."""
    return entries_of_shown(record.shown(), record.session_id, min(record.happened_ms // 1000, now))


def entries_of_shown(shown: Iterable[tuple[int, int]], session_id: str | None, seconds: int) -> Iterator[Entry]:
    """``shown``: key of the item and kind of each slot of a feed."""
    session = session_number(session_id)
    for item, kind in shown:
        yield item, _detail(seconds, session, kind + 1, SERVED)


def entries_of_event(
    state: int, item_type: int, item_id: int, kind: int, session_id: str | None, seconds: int
) -> Iterator[Entry]:
    """``kind``: 1 + index into KINDS, or 0. Nothing of an item that no key can hold."""
    with contextlib.suppress(ValueError):
        yield item_key(item_type, item_id), _detail(seconds, session_number(session_id), kind, state)


def _detail(seconds: int, session: int, kind: int, state: int) -> int:
    return max(0, seconds - EPOCH) << 32 | session << 8 | kind << 4 | state
