"""What was read of feeds and of what people did, in columns that grow: as there may be a million feeds, a Python object
for each would take gigabytes."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from recommendation_service.evaluation.attribution import Deeds, Shown, attribute, blocks, latest_that_showed
from recommendation_service.flush.rows import WeighedRow, weighed_row
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.row_notes import ToldByRow
from recommendation_service.model.item_keys import item_keys
from recommendation_service.model.words import Words
from recommendation_service.ranking.packed_slots import pinned_of_each, unpack_propensities_of_each

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Row = TypeVar("Row")

_REQUEST_BYTES = 16
_NO_NUMBER = np.float32(np.nan).tobytes()


class Recorded(NamedTuple):
    """n feeds in the order in which they were made, of s slots at most; what a feed does not have is 0, or NaN."""

    requests: npt.NDArray[np.uint64]  # (n, 2) two halves of the id
    users: Int64  # (n,) of an anonymous one a number of the session, or of the feed, below 0
    happened_ms: Int64  # (n,)
    names: list[str]  # of these feeds, as `total`
    name: npt.NDArray[np.uint16]  # (n,) index into these
    policies: list[str]  # that served one of the feeds
    policy: npt.NDArray[np.uint16]  # (n,) index into these
    propensities: Float32  # (n, s)
    shadow: Float32  # (n, s) of the policy that is asked for; NaN: it was no shadow then
    rewards: Float32  # (n, s)
    unread: int  # rows that no release of this service has written so

    def place_of(self, requests: npt.NDArray[np.uint64]) -> Int64:
        """(m, 2) to (m,) the feed's place; -1: there is none."""
        return _places(self.requests, requests)


class FeedRow(NamedTuple):
    """Of a row of ``recs_events`` that is a feed, what is read here."""

    user_id: int
    request_id: str
    session_id: str | None
    endpoint: str
    properties: str
    slots: bytes
    happened: str


class DeedRow(NamedTuple):
    """Of one that says what somebody did."""

    event: str
    user_id: int | None
    item_type: str
    item_id: int
    request_id: str | None
    session_id: str | None
    value: float | None
    watch_seconds: float | None
    happened: str


# What a row raises that no release of this service has written so.
_UNREAD = (ValueError, TypeError, OverflowError, AttributeError)


class Feeds:
    """Columns that grow."""

    def __init__(self, shadow: str | None) -> None:
        self._version = shadow
        self._requests, self._users, self._happened = bytearray(), array("q"), array("q")
        self._name, self._policy, self._lengths = array("H"), array("H"), array("H")
        self._items, self._propensities, self._shadow = _few_bytes([]), array("f"), array("f")
        self._pinned = array("q")  # places in the columns of slots
        self._policies: dict[str, int] = {}
        self._names: dict[str, int] = {}

    def add(self, rows: Sequence[FeedRow]) -> int:
        """But for those without any fact of the user, of which nothing is learned; how many cannot be read."""
        return _in_halves(self._add, rows)

    def _add(self, rows: Sequence[FeedRow]) -> None:
        weighed = [weighed_row(row.properties, row.slots) for row in rows]
        personal = [at for at, feed in enumerate(weighed) if feed.is_personal and feed.items]
        if not personal:
            return
        feeds, some = [weighed[at] for at in personal], [rows[at] for at in personal]
        lengths = [len(feed.items) for feed in feeds]
        others = [feed.others for feed in feeds]
        propensities = np.concatenate(unpack_propensities_of_each(others, lengths))
        of, slots = np.nonzero(pinned_of_each(others, lengths))
        pinned = (len(self._items) + np.cumsum(lengths) - lengths)[of] + slots
        happened = _milliseconds([row.happened for row in some])
        users = [row.user_id or _number_of((row.session_id or row.request_id).encode()) for row in some]
        requests = b"".join([bytes.fromhex(row.request_id) for row in some])
        if len(requests) != _REQUEST_BYTES * len(some):
            raise ValueError("a feed's request is of another length")
        self._requests += requests
        self._users.extend(users)
        self._happened.frombytes(happened)
        self._name.extend([self._names.setdefault(row.endpoint, len(self._names)) for row in some])
        self._policy.extend([self._policies.setdefault(feed.policy, len(self._policies)) for feed in feeds])
        self._lengths.extend(lengths)
        self._pinned.frombytes(pinned.astype(np.int64).tobytes())
        self._items = _extended(self._items, [item for feed in feeds for item in feed.items])
        self._propensities.frombytes(propensities.tobytes())
        self._shadow.frombytes(b"".join(map(self._shadow_of, feeds)))

    def extend(self, later: "Feeds") -> None:
        """By those of a later part."""
        names = [self._names.setdefault(name, len(self._names)) for name in later._names]
        policies = [self._policies.setdefault(name, len(self._policies)) for name in later._policies]
        self._name.extend([names[code] for code in later._name])
        self._policy.extend([policies[code] for code in later._policy])
        self._requests += later._requests
        self._users.extend(later._users)
        self._happened.extend(later._happened)
        self._lengths.extend(later._lengths)
        self._pinned.extend([len(self._items) + place for place in later._pinned])
        self._items = _extended(self._items, later._items)
        self._propensities.extend(later._propensities)
        self._shadow.extend(later._shadow)

    def _shadow_of(self, feed: WeighedRow) -> bytes:
        size = 4 * len(feed.items)
        for shadow in feed.shadows:
            if shadow.policy_version == self._version and len(shadow.propensities) == size:
                return shadow.propensities
        return _NO_NUMBER * len(feed.items)

    def with_rewards(self, told: "Told", file: LearningFile, unread: int) -> Recorded:
        happened, lengths = np.array(self._happened, np.int64), np.array(self._lengths, np.int64)
        order = np.argsort(happened, kind="stable")
        requests = np.frombuffer(self._requests, np.uint64).reshape(-1, 2)[order]
        users, happened = np.array(self._users, np.int64)[order], happened[order]
        has = np.arange(lengths.max(initial=0)) < lengths[order, np.newaxis]
        begins = (np.cumsum(lengths) - lengths)[order]
        rewards = np.where(has, np.float32(0), np.float32(np.nan))
        told.bring(requests, users, happened, Shown(self._items, begins, lengths[order]), rewards, file)
        self._leave_out_pinned(rewards, lengths, order)
        # A column is let go once it is a table, or not wanted any more: of a million feeds it is up to 0.2 GB.
        self._items = _few_bytes([])
        propensities, self._propensities = _table(self._propensities, np.float32, begins, has, np.nan), array("f")
        shadow, self._shadow = _table(self._shadow, np.float32, begins, has, np.nan), array("f")
        return Recorded(
            requests,
            users,
            happened,
            list(self._names),
            np.array(self._name, np.uint16)[order],
            list(self._policies),
            np.array(self._policy, np.uint16)[order],
            propensities,
            shadow,
            rewards,
            unread,
        )

    def _leave_out_pinned(self, rewards: Float32, lengths: Int64, order: Int64) -> None:
        """What editors pinned brought nothing that a policy could be weighed by."""
        places, starts = np.array(self._pinned, np.int64), np.cumsum(lengths) - lengths
        feeds = np.searchsorted(starts, places, "right") - 1
        rewards[np.argsort(order)[feeds], places - starts[feeds]] = 0.0


def _few_bytes(keys: "Sequence[int] | array[int]") -> "array[int]":
    """Of items, which a million feeds have 24 million of: 4 bytes a key, but where one does not fit."""
    try:
        return array("I", keys)
    except OverflowError:
        return array("q", keys)


def _extended(keys: "array[int]", more: "Sequence[int] | array[int]") -> "array[int]":
    others = _few_bytes(more)
    if others.typecode != keys.typecode:
        keys, others = (one if one.typecode == "q" else array("q", one) for one in (keys, others))
    keys.extend(others)
    return keys


def _table(column: "array[Any]", kind: Any, begins: Int64, has: npt.NDArray[np.bool_], absent: float) -> Any:
    """(n, s) of the values of each feed, which begin in the column at ``begins``."""
    found = np.full(has.shape, absent, kind)
    values = np.frombuffer(column, kind) if len(column) else np.zeros(0, kind)
    for slot in range(has.shape[1]):
        rows = has[:, slot]
        found[rows, slot] = values[begins[rows] + slot]
    return found


class Told:
    """What people did, in columns that grow."""

    def __init__(self) -> None:
        self._requests, self._users, self._happened = bytearray(), array("q"), array("q")
        self._items, self._rewards = array("q"), array("d")
        self._name = array("H")
        self._names: dict[str, int] = {}

    def add(self, rows: Sequence[DeedRow], file: LearningFile, words: Words) -> int:
        """How many cannot be read, or name no item. ``words``: in which rows name types."""
        return _in_halves(lambda some: self._add(some, file, words), rows)

    def _add(self, rows: Sequence[DeedRow], file: LearningFile, words: Words) -> None:
        if not rows:
            return
        columns: Iterator[tuple[Any, ...]] = zip(*rows, strict=True)
        events, users, types, numbers, requests, sessions, values, watched, moments = columns
        rules = file.rules
        always = {name: rule.reward for name, rule in rules.items() if rule.by is None}
        rewards = [
            always[name] if name in always else rules[name].amount(value, seconds)
            for name, value, seconds in zip(events, values, watched, strict=True)
        ]
        items = np.array(array("q", numbers))  # which, other than NumPy, takes integers alone
        for name in set(types):
            own = np.array([each == name for each in types])
            items[own] = item_keys(words.type_number(name), items[own])
        people = [
            user or (_number_of(session.encode()) if session else 0)
            for user, session in zip(users, sessions, strict=True)
        ]
        happened = _milliseconds(moments)
        self._requests += _requests_of(requests)
        self._users.extend(people)
        self._happened.frombytes(happened)
        self._items.frombytes(items.tobytes())
        self._rewards.extend(rewards)
        self._name.extend([self._names.setdefault(name, len(self._names)) for name in events])

    def add_rows(self, rows: Iterable[ToldByRow], file: LearningFile) -> None:
        """What the operator's rows told of feeds, as the learner noted it."""
        for row in rows:
            if row.event in file.rules:
                self._requests += row.request
                self._users.append(0)
                self._happened.append(row.happened_ms)
                self._items.append(row.item)
                self._rewards.append(row.reward)
                self._name.append(self._names.setdefault(row.event, len(self._names)))

    def extend(self, later: "Told") -> None:
        names = [self._names.setdefault(name, len(self._names)) for name in later._names]
        self._name.extend([names[code] for code in later._name])
        self._requests += later._requests
        self._users.extend(later._users)
        self._happened.extend(later._happened)
        self._items.extend(later._items)
        self._rewards.extend(later._rewards)

    def bring(
        self,
        requests: npt.NDArray[np.uint64],
        users: Int64,
        happened_ms: Int64,
        shown: Shown,
        rewards: Float32,
        file: LearningFile,
    ) -> None:
        """To their feeds, whose ``rewards`` (n, s) have 0 in each slot before."""
        own = np.frombuffer(self._requests, np.uint64).reshape(-1, 2)
        feeds = _places(requests, own)
        nameless = np.flatnonzero(~own.any(axis=1))
        del own  # as of feeds, what is not wanted any more is let go
        self._requests = bytearray()
        whose, items = np.frombuffer(self._users, np.int64), np.frombuffer(self._items, np.int64)
        happened, worth = np.frombuffer(self._happened, np.int64), np.frombuffer(self._rewards, np.float64)
        told = whose[nameless], items[nameless], happened[nameless]
        feeds[nameless] = latest_that_showed(users, happened_ms, shown, *told)
        name = np.frombuffer(self._name, np.uint16)
        attribute(rewards, shown, happened_ms, Deeds(feeds, items, happened, worth, name), list(self._names), file)


def _places(requests: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> Int64:
    """(n, 2), (m, 2) to (m,): where each is among the first; -1: nowhere. Halves of ids are as good as random."""
    places = np.full(len(wanted), -1, np.int64)
    if not len(requests):
        return places
    order = np.argsort(requests[:, 0])
    first = requests[order, 0]
    for some in blocks(len(wanted)):
        found = order[np.minimum(np.searchsorted(first, wanted[some, 0]), len(order) - 1)]
        is_there = (requests[found] == wanted[some]).all(axis=1)
        places[some] = np.where(is_there, found, -1)
    return places


def _in_halves(add: Callable[[Sequence[Row]], None], rows: Sequence[Row]) -> int:
    """Rows are added together; where one cannot be read, all but that one. How many cannot."""
    try:
        add(rows)
    except _UNREAD:
        if len(rows) == 1:
            return 1
        middle = len(rows) // 2
        return _in_halves(add, rows[:middle]) + _in_halves(add, rows[middle:])
    return 0


def _milliseconds(moments: Sequence[str]) -> bytes:
    """Of each moment as ``flush.rows.text_of`` has it, 8 bytes."""
    return np.array(moments, "datetime64[ms]").tobytes()


def _requests_of(names: Sequence[str | None]) -> bytes:
    """16 bytes each: 0 where no feed is named, -1 where what is named is none."""
    try:
        found = bytes.fromhex("".join(names))  # type: ignore[arg-type]  # TypeError where one is None
        if len(found) == _REQUEST_BYTES * len(names) and all(len(name) == 2 * _REQUEST_BYTES for name in names if name):
            return found
    except (ValueError, TypeError):
        pass
    return b"".join(map(_request_of, names))


def _request_of(request_id: str | None) -> bytes:
    """16 bytes: 0 where no feed is named, -1 where what is named is none."""
    if request_id is None:
        return bytes(_REQUEST_BYTES)
    try:
        found = bytes.fromhex(request_id)
    except ValueError:
        found = b""
    return found if len(found) == _REQUEST_BYTES else b"\xff" * _REQUEST_BYTES


def _number_of(name: bytes) -> int:
    """Below 0, where no user's is."""
    return -1 - int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")
