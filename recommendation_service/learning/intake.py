"""From the log into the ledger, and from there into the sums: which feed an event belongs to, and what it is worth."""

import contextlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import structlog

from recommendation_service.learning.abroad import HandedOver, Received
from recommendation_service.learning.apprentice import agreement
from recommendation_service.learning.format import EventReward, LearningFile
from recommendation_service.learning.ledger import Added, Event, Feed, Happened, Ledger, Owed
from recommendation_service.learning.operator_rows import Look
from recommendation_service.learning.rewards import Happening, observed, rewards_of
from recommendation_service.learning.row_notes import BY_ROW
from recommendation_service.learning.status import Totals
from recommendation_service.log.marks import UNREAD
from recommendation_service.log.reader import Batch
from recommendation_service.log.records import FeedbackRecord, FeedRecord
from recommendation_service.model.features import COLLABORATIVE_NAMES, FEATURES
from recommendation_service.model.item_keys import CREATOR, item_key
from recommendation_service.model.kinds import MOST_KINDS, PINNED
from recommendation_service.policies.experiment import LIVE
from recommendation_service.ranking.packed_slots import Draws, Slots, unpack_draws, unpack_shown, unpack_slots
from recommendation_service.sources.rows import OperatorRow

log = structlog.get_logger(__name__)

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

# How an event was brought together with the feed that showed its item; BY_ROW and a table: a row of that told it.
BY_REQUEST, BY_USER = "request", "user"
# Tables have whole seconds: what happened in one may have been after a feed that is later by less.
SECOND_MS = 999
# A row that is further ahead than that is one of a clock that is wrong.
AHEAD_MS = 300_000
# Of a user's feeds, how many are looked through for an item whose event names none.
LATEST_FEEDS = 20
# Feeds that are settled in one step.
MOST_DUE = 1_000


class Intake:
    """``now_ms``: milliseconds since 1970; ``has_fleet``: what is of none of this machine's feeds is handed over;
    ``weighs``: what shadows made of feeds is kept with what these brought.

    Everything here is done within a step of the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        totals: Totals,
        file: LearningFile,
        now_ms: Callable[[], int],
        *,
        has_fleet: bool = False,
        weighs: bool = False,
    ) -> None:
        self._has_fleet = has_fleet
        self._weighs = weighs
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
                else:
                    touched += self._event(record)
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
        if record.shadows:
            with contextlib.suppress(ValueError):  # it is counted once its rewards are looked at
                self._compare(record, unpack_draws(record.packed), happened_ms)
        who = record.user_id, record.session_id
        arm = record.arm if record.arm != LIVE else ""
        return Feed(record.request_id, happened_ms, *who, record.packed, record.personal, arm)

    def _compare(self, record: FeedRecord, draws: Draws, happened_ms: int) -> None:
        """With what its shadows would have drawn."""
        for found in agreement(record, draws):
            self._totals.agree(*found)
        if self._weighs:
            self._ledger.weighed.add(record, draws.propensities, happened_ms)

    def _event(self, record: FeedbackRecord) -> list[bytes]:
        """Note it; feeds whose rewards may be others now."""
        rule = self._file.rules.get(record.own_name)
        if rule is None or record.item_type == CREATOR:
            self._totals.leave("unlisted" if rule is None else "creator")
            return []
        event = Event(
            item_key(record.item_type, record.item_id),
            record.own_name,
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
            return []
        request = _request_of(record.request_id)
        if request is None:
            self._totals.leave("no_feed")
            return []
        if self._has_fleet and not self._ledger.has_feed(request):
            self._ledger.abroad.add(HandedOver(request, record.user_id, record.session_id, *event))
            return []
        return self._add(request, record.user_id, event, BY_REQUEST)

    def _add(self, request: bytes, user_id: int, event: Event, source: str) -> list[bytes]:
        """Feeds whose rewards may be others now."""
        added, before = self._ledger.add_event(request, event, source)
        if added is not Added.NEW:
            self._totals.leave("again")
        if added is Added.NOTHING:
            return []
        if before is None or before.startswith(BY_ROW) != source.startswith(BY_ROW):
            self._totals.count_event(event.name, source)
        if self._file.rows and user_id and not source.startswith(BY_ROW):
            return [request, *self._ledger.rows.feeds_told_of(user_id, event.item, event.name)]
        return [request]

    def match(self) -> None:
        """Find the feeds of events that name none: the user's latest before it that showed the item. Every segment
        has to be read to its end before, as the feed may be in another one."""
        touched = []
        for user_id, session_id, event in self._ledger.unmatched():
            request = self._showed(user_id, session_id, event.item, 0, event.received_ms)
            if request is not None:
                touched += self._add(request, user_id, event, BY_USER)
            elif self._has_fleet:
                self._ledger.abroad.add(HandedOver(None, user_id, session_id, *event))
            else:
                self._totals.leave("no_feed")
        touched += self._of_feeds_here(self._ledger.abroad.take_back())
        self._ledger.touch(touched, self._now_ms())

    def take_handed_over(self, received: Received) -> None:
        """Of what other machines were told, what is of feeds of this one. It has to be from before the log was read to
        its end: then that has all feeds that it can be of."""
        self._ledger.touch(self._of_feeds_here(received.events), self._now_ms())
        self._ledger.abroad.keep_place(received.place)

    def _of_feeds_here(self, events: list[HandedOver]) -> list[bytes]:
        """Note those that are; feeds whose rewards may be others now."""
        touched = []
        for one in events:
            event, source = Event(*one[3:]), BY_REQUEST
            request = one.request if one.request is not None and self._ledger.has_feed(one.request) else None
            if one.request is None:
                source = BY_USER
                request = self._showed(one.user_id, one.session_id, event.item, 0, event.received_ms)
            if request is not None:
                touched += self._add(request, one.user_id, event, source)
        return touched

    def _showed(self, user_id: int, session_id: str | None, item: int, since_ms: int, until_ms: int) -> bytes | None:
        """The latest feed that did, of those by then."""
        for feed in self._ledger.feeds_of(user_id, session_id, since_ms, until_ms, LATEST_FEEDS):
            try:
                items, _, _ = unpack_shown(feed.packed)
            except ValueError:
                continue
            if item in items:
                return feed.request
        return None

    def match_rows(self, look: Look, settled_ms: int) -> None:
        """The same of the operator's rows that were seen in a look, which has to be from before the log was read to its
        end: then that has all feeds that a row can be of."""
        notes, now_ms = self._ledger.rows, self._now_ms()
        touched: list[bytes] = []
        for row_id, row in look.again.items():
            notes.unwatch(look.table, row_id)
            if row is not None:
                touched += self._row(look, row)
        for row in look.page.rows:
            if notes.take(look.table, row):
                touched += self._row(look, row)
        notes.keep(look.table, look.before.looked(look.seen, look.read_to, settled_ms))
        notes.drop_watched(now_ms)
        self._ledger.touch(touched, now_ms)

    def _row(self, look: Look, row: OperatorRow) -> list[bytes]:
        """Note what it tells of the latest feed in whose hours it is; feeds whose rewards may be others now."""
        if row.says is None:
            return []
        event, now_ms = self._file.rows[look.table].get(row.says), self._now_ms()
        rule = self._file.rules[event] if event is not None else None
        happened_ms = row.happened_ms or look.before.first_seen_ms(row.id, look.seen)
        has_value = rule is None or rule.by != "value" or (row.value or 0) > 0
        if row.user_id is None or row.item is None or happened_ms is None or not has_value:
            if rule is not None:
                self._totals.leave("row_incomplete")
            return []
        if rule is not None and happened_ms > now_ms + AHEAD_MS:
            self._totals.leave("row_clock")
        happened_ms = min(happened_ms, now_ms)
        since_ms = happened_ms - (self._file.longest_ms if rule is None else rule.hours_ms)
        request = self._showed(row.user_id, None, row.item, since_ms, happened_ms + SECOND_MS)
        if rule is None or event is None:
            if request is not None:  # it may say another thing later, as a match that is accepted
                self._ledger.rows.watch(look.table, row.id, happened_ms + self._file.longest_ms, now_ms)
            return []
        if request is None:
            self._totals.leave("row_no_feed")
            return []
        told = Event(row.item, event, rule.amount(row.value, None), rule.shows, happened_ms, now_ms)
        if self._is_told_by_feedback(request, row.user_id, told, rule):
            self._totals.leave("again")
            return []
        return self._add(request, row.user_id, told, f"{BY_ROW}{look.table}")

    def _is_told_by_feedback(self, request: bytes, user_id: int, event: Event, rule: EventReward) -> bool:
        return self._ledger.rows.is_told_by_feedback(
            request, user_id, event.item, event.name, happened_ms=event.happened_ms, hours_ms=rule.hours_ms
        )

    def settle(self) -> bool:
        """Bring the rewards of feeds that are due into the sums; whether more are due. Every segment has to be read to
        its end before, as what is owed may be in another one."""
        owed = self._ledger.due(self._now_ms(), MOST_DUE)
        happened = self._ledger.happened([one.feed.request for one in owed])
        rows = []
        settled = []
        brought = []
        for one in owed:
            within = self._within(one.feed, happened[one.feed.request])
            slots = self._slots(one) if within or one.rewards is not None else None
            if slots is None:
                settled.append((one.feed.request, np.zeros(0)))
                brought.append(settled[-1])
                continue
            rewards = rewards_of(slots.items.tolist(), within, self._file)
            rewards[slots.pools == PINNED] = np.nan  # an editor chose them, and no policy
            brought.append((one.feed.request, rewards.copy()))
            if one.feed.arm:
                self._ledger.count_for_arm(one.feed, float(np.nansum(rewards)))
            rewards[~_teaches(slots)] = np.nan
            before = one.rewards if one.rewards is not None and len(one.rewards) == len(rewards) else rewards * np.nan
            new, gone = self._admitted(one.feed, rewards, before)
            for places, values, sign in ((new, rewards, 1.0), (gone, before, -1.0)):
                rows += [(slots.kinds[at], slots.features[at], values[at], one.feed.happened_ms, sign) for at in places]
                for at in places:
                    self._totals.count(self._ledger.sums.kinds[slots.kinds[at]], int(sign))
            settled.append((one.feed.request, rewards))
        if rows:
            kinds, X, rewards, times, signs = (np.array(column) for column in zip(*rows, strict=True))
            self._ledger.sums.add(kinds, X.astype(float), rewards, times / 1000, signs)
        self._ledger.settle(settled)
        if self._weighs:
            self._ledger.weighed.settle(brought)
        return len(owed) == MOST_DUE

    def _admitted(self, feed: Feed, rewards: Floats, before: Floats) -> tuple[Places, Places]:
        """As ``observed``, within the person's part: what is beyond it becomes infinite in ``rewards``, and stays so
        whatever happens later, or who does something late would count for more."""
        rewards[np.isinf(before)] = np.inf
        new, gone = observed(rewards, before)
        more, fewer = _without(new, gone), _without(gone, new)
        happened = feed.happened_ms / 1000
        admitted = self._ledger.persons.admit(feed.user_id, feed.session_id, happened, len(more), len(fewer))
        beyond = more[admitted:]
        rewards[beyond] = np.inf
        self._totals.leave("person", len(beyond))
        new = _without(new, beyond)
        brought = float(rewards[new].sum() - before[gone].sum())
        self._ledger.persons.reward(feed.user_id, feed.session_id, happened, brought)
        return new, gone

    def _within(self, feed: Feed, happened: list[Happened]) -> list[Happening]:
        """What counts for a feed. The rest is dropped: what came too late, and what a row tells where feedback tells
        the same of another feed, as that knows which feed it was."""
        within = []
        for one in happened:
            event, rule = one.event, self._file.rules.get(one.event.name)
            if not feed.personal:
                self._totals.leave("not_personal")
            elif rule is None or event.happened_ms - feed.happened_ms > rule.hours_ms:
                self._totals.leave("late")
            elif one.is_by_row and self._is_told_by_feedback(feed.request, feed.user_id, event, rule):
                self._totals.leave("again")
            else:
                within.append(one.what)
                continue
            self._ledger.drop_event(feed.request, event.item, event.name)
        return within

    def _slots(self, owed: Owed) -> Slots | None:
        """None: nothing can be learned from the feed."""
        try:
            slots = unpack_slots(owed.feed.packed)
        except ValueError as error:
            log.warning("a feed's record cannot be read", reason=str(error))
            self._totals.leave("unreadable")
            return None
        slots = self._with_collaborative(slots)
        if slots.features.shape[1] != len(self._ledger.sums.features) or max(slots.kinds, default=0) >= len(
            self._ledger.sums.kinds
        ):
            self._totals.leave("dimensions")
            return None
        return slots

    def _with_collaborative(self, slots: Slots) -> Slots:
        """A feed of before there were collaborative features was ranked as if they were 0."""
        names, d = self._ledger.sums.features, slots.features.shape[1]
        if d != FEATURES or names[FEATURES:] != COLLABORATIVE_NAMES:
            return slots
        return slots._replace(features=np.pad(slots.features, ((0, 0), (0, len(COLLABORATIVE_NAMES)))))

    def drop_old(self, most_feeds: int) -> None:
        """What nothing can come for any more, and beyond ``most_feeds`` the oldest."""
        now_ms = self._now_ms()
        before_ms = now_ms - self._file.longest_ms
        self._ledger.persons.drop_old(now_ms / 1000)
        self._ledger.arms.drop_old()
        self._totals.leave("no_feed", self._ledger.abroad.drop_before(before_ms))
        self._totals.leave("no_feed", self._ledger.drop_before(before_ms, before_ms))
        self._totals.leave("crowded", self._ledger.drop_oldest(most_feeds))


def _without(places: Places, others: Places) -> Places:
    """As ``np.setdiff1d`` gives, of places in order that are few; by sorting both it takes twenty times as long."""
    left_out = set(others.tolist())
    return np.array([place for place in places.tolist() if place not in left_out], places.dtype)


def _teaches(slots: Slots) -> npt.NDArray[np.bool_]:
    """An item that stands in for one of another kind was chosen by that kind's model."""
    own = (slots.pools == slots.kinds) | (slots.pools >= MOST_KINDS)
    return np.asarray(own & np.isfinite(slots.features).all(axis=1))


def _request_of(request_id: str) -> bytes | None:
    """As a feed's record has it; None: no feed of this service is called so."""
    try:
        request = bytes.fromhex(request_id)
    except ValueError:
        return None
    return request if len(request) == 16 else None
