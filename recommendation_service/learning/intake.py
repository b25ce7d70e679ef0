"""From the log into the ledger, and from there into the sums: which feed an event belongs to, and what it is worth."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import structlog

from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.ledger import Added, Event, Feed, Ledger, Owed
from recommendation_service.learning.rewards import observed, rewards_of
from recommendation_service.learning.status import Totals
from recommendation_service.log.marks import UNREAD
from recommendation_service.log.reader import Batch
from recommendation_service.log.records import FeedbackRecord, FeedRecord
from recommendation_service.model.item_keys import CREATOR, item_key
from recommendation_service.model.kinds import KINDS
from recommendation_service.ranking.packed_slots import Slots, unpack_shown, unpack_slots

log = structlog.get_logger(__name__)

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

# How an event was brought together with the feed that showed its item.
BY_REQUEST, BY_USER = "request", "user"
# Of a user's feeds, how many are looked through for an item whose event names none.
LATEST_FEEDS = 20
# Feeds that are settled in one step.
MOST_DUE = 1_000


class Intake:
    """``now_ms``: milliseconds since 1970. Everything here is done within a step of the ledger."""

    def __init__(self, ledger: Ledger, totals: Totals, file: LearningFile, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._totals = totals
        self._file = file
        self._now_ms = now_ms

    def take(self, batch: Batch) -> None:
        """What was read. Raises nothing for what is no feed of this release's."""
        feeds: list[Feed] = []
        touched: list[bytes] = []
        taken_before = self._taken_before(batch)
        for stretch in batch.stretches:
            taken = taken_before.get(stretch.segment, 0)
            self._totals.leave("undecodable", len(stretch.undecodable))
            for record, begin in zip(stretch.records, stretch.begins, strict=True):
                if begin < taken:
                    continue
                if isinstance(record, FeedRecord):
                    feeds.append(self._feed(record))
                elif (request := self._event(record)) is not None:
                    touched.append(request)
        now_ms = self._now_ms()
        self._ledger.add_feeds(feeds, self._file.settle_ms)
        self._ledger.touch(touched, now_ms)

    def _taken_before(self, batch: Batch) -> dict[str, int]:
        """A segment whose place was lost is given once more: up to where its records were taken up already."""
        ledger, places = self._ledger, batch.mark.places
        for name in batch.restarted:
            ledger.taken.setdefault(name, ledger.mark.places.get(name, UNREAD).position)
        before = ledger.taken
        ledger.taken = {
            name: position
            for name, position in before.items()
            if name in places and not places[name].finished and places[name].position < position
        }
        return before

    def _feed(self, record: FeedRecord) -> Feed:
        """A clock that was ahead must not make all others old."""
        now_ms = self._now_ms()
        if record.happened_ms > now_ms:
            self._totals.leave("clock")
        if not record.personal:
            self._totals.leave("not_personal")
        happened_ms = min(record.happened_ms, now_ms)
        return Feed(record.request_id, happened_ms, record.user_id, record.session_id, record.packed, record.personal)

    def _event(self, record: FeedbackRecord) -> bytes | None:
        """Note it; the feed that it names, where it counts there."""
        rule = self._file.rules.get(record.event)
        if rule is None or record.item_type == CREATOR:
            self._totals.leave("unlisted" if rule is None else "creator")
            return None
        event = Event(
            item_key(record.item_type, record.item_id),
            record.event,
            rule.amount(record.value, record.watch_seconds),
            rule.shows,
            min(record.happened_ms, record.received_ms),
            record.received_ms,
        )
        if record.request_id is None:
            if record.user_id or record.session_id:
                self._ledger.add_unmatched(record.user_id, record.session_id, event)
            else:
                self._totals.leave("no_feed")
            return None
        request = _request_of(record.request_id)
        if request is None:
            self._totals.leave("no_feed")
            return None
        return request if self._add(request, event, BY_REQUEST) else None

    def _add(self, request: bytes, event: Event, source: str) -> bool:
        """Whether the feed's rewards may be others now."""
        added = self._ledger.add_event(request, event, source)
        if added is Added.NEW:
            self._totals.count_event(event.name, source)
        else:
            self._totals.leave("again")
        return added is not Added.NOTHING

    def match(self) -> None:
        """Find the feeds of events that name none: the user's latest before it that showed the item. Every segment
        has to be read to its end before, as the feed may be in another one."""
        touched = []
        for user_id, session_id, event in self._ledger.unmatched():
            request = self._showed(user_id, session_id, event)
            if request is None:
                self._totals.leave("no_feed")
            elif self._add(request, event, BY_USER):
                touched.append(request)
        self._ledger.touch(touched, self._now_ms())

    def _showed(self, user_id: int, session_id: str | None, event: Event) -> bytes | None:
        for feed in self._ledger.feeds_of(user_id, session_id, event.received_ms, LATEST_FEEDS):
            try:
                items, _, _ = unpack_shown(feed.packed)
            except ValueError:
                continue
            if event.item in items:
                return feed.request
        return None

    def settle(self) -> bool:
        """Bring the rewards of feeds that are due into the sums; whether more are due. Every segment has to be read to
        its end before, as what is owed may be in another one."""
        owed = self._ledger.due(self._now_ms(), MOST_DUE)
        happened = self._ledger.happened([one.feed.request for one in owed])
        rows = []
        settled = []
        for one in owed:
            within = []
            for happening, happened_ms, event in happened[one.feed.request]:
                rule = self._file.rules.get(event)
                if not one.feed.personal:
                    self._ledger.drop_event(one.feed.request, happening.item, event)
                    self._totals.leave("not_personal")
                elif rule is not None and happened_ms - one.feed.happened_ms <= rule.hours * 3_600_000:
                    within.append(happening)
                else:
                    self._ledger.drop_event(one.feed.request, happening.item, event)
                    self._totals.leave("late")
            slots = self._slots(one) if within or one.rewards is not None else None
            if slots is None:
                settled.append((one.feed.request, np.zeros(0)))
                continue
            rewards = rewards_of(slots.items.tolist(), within, self._file)
            rewards[~_teaches(slots)] = np.nan
            before = one.rewards if one.rewards is not None and len(one.rewards) == len(rewards) else rewards * np.nan
            new, gone = self._admitted(one.feed, rewards, before)
            for places, values, sign in ((new, rewards, 1.0), (gone, before, -1.0)):
                rows += [(slots.kinds[at], slots.features[at], values[at], one.feed.happened_ms, sign) for at in places]
                for at in places:
                    self._totals.count(KINDS[slots.kinds[at]], int(sign))
            settled.append((one.feed.request, rewards))
        if rows:
            kinds, X, rewards, times, signs = (np.array(column) for column in zip(*rows, strict=True))
            self._ledger.sums.add(kinds, X.astype(float), rewards, times / 1000, signs)
        self._ledger.settle(settled)
        return len(owed) == MOST_DUE

    def _admitted(self, feed: Feed, rewards: Floats, before: Floats) -> tuple[Places, Places]:
        """As ``observed``, within the person's part: what is beyond it becomes infinite in ``rewards``, and stays so
        whatever happens later, or who does something late would count for more."""
        rewards[np.isinf(before)] = np.inf
        new, gone = observed(rewards, before)
        more, fewer = np.setdiff1d(new, gone), np.setdiff1d(gone, new)
        happened = feed.happened_ms / 1000
        admitted = self._ledger.persons.admit(feed.user_id, feed.session_id, happened, len(more), len(fewer))
        beyond = more[admitted:]
        rewards[beyond] = np.inf
        self._totals.leave("person", len(beyond))
        return np.setdiff1d(new, beyond), gone

    def _slots(self, owed: Owed) -> Slots | None:
        """None: nothing can be learned from the feed."""
        try:
            slots = unpack_slots(owed.feed.packed)
        except ValueError as error:
            log.warning("a feed's record cannot be read", reason=str(error))
            self._totals.leave("unreadable")
            return None
        if slots.features.shape[1] != len(self._ledger.sums.features) or max(slots.kinds, default=0) >= len(KINDS):
            self._totals.leave("dimensions")
            return None
        return slots

    def drop_old(self, most_feeds: int) -> None:
        """What nothing can come for any more, and beyond ``most_feeds`` the oldest."""
        now_ms = self._now_ms()
        before_ms = now_ms - self._file.longest_ms
        self._ledger.persons.drop_old(now_ms / 1000)
        self._totals.leave("no_feed", self._ledger.drop_before(before_ms, before_ms))
        self._totals.leave("crowded", self._ledger.drop_oldest(most_feeds))


def _teaches(slots: Slots) -> npt.NDArray[np.bool_]:
    """An item that stands in for one of another kind was chosen by that kind's model."""
    own = (slots.pools == slots.kinds) | (slots.pools >= len(KINDS))
    return np.asarray(own & np.isfinite(slots.features).all(axis=1))


def _request_of(request_id: str) -> bytes | None:
    """As a feed's record has it; None: no feed of this service is called so."""
    try:
        request = bytes.fromhex(request_id)
    except ValueError:
        return None
    return request if len(request) == 16 else None
