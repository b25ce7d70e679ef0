"""What was read of feeds and of what people did, in columns that grow: as there may be a million feeds, a Python object
for each would take gigabytes."""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.evaluation.attribution import Deeds, Shown, attribute, latest_that_showed
from recommendation_service.flush.rows import WeighedRow, milliseconds_of
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.row_notes import ToldByRow
from recommendation_service.model.item_keys import item_key, type_of_name
from recommendation_service.ranking.packed_slots import pinned_of_each, unpack_propensities_of_each

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_REQUEST_BYTES = 16


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

    def add(self, rows: Sequence[tuple[Mapping[Any, Any], WeighedRow]]) -> int:
        """But for those without any fact of the user, of which nothing is learned; how many cannot be read."""
        unread = 0
        personal = [(row, feed) for row, feed in rows if feed.is_personal and feed.items]
        try:
            found = unpack_propensities_of_each(
                [feed.others for _, feed in personal], [len(f.items) for _, f in personal]
            )
        except ValueError:
            found, some = [], personal
            personal = []
            for row, feed in some:
                try:
                    found += unpack_propensities_of_each([feed.others], [len(feed.items)])
                    personal.append((row, feed))
                except ValueError:
                    unread += 1
        are_pinned = pinned_of_each([feed.others for _, feed in personal], [len(feed.items) for _, feed in personal])
        for (row, feed), propensities, pinned in zip(personal, found, are_pinned, strict=True):
            request = bytes.fromhex(row["request_id"])
            user = row["user_id"] or _number_of((row["session_id"] or row["request_id"]).encode())
            self._requests += request
            self._users.append(user)
            self._happened.append(milliseconds_of(row["happened"]))
            self._name.append(self._names.setdefault(row["endpoint"], len(self._names)))
            self._policy.append(self._policies.setdefault(feed.policy, len(self._policies)))
            self._lengths.append(len(feed.items))
            if pinned.any():
                self._pinned.extend((len(self._items) + np.flatnonzero(pinned)).tolist())
            self._items = _extended(self._items, feed.items)
            self._propensities.frombytes(propensities.tobytes())
            self._shadow.frombytes(self._shadow_of(feed, len(propensities)).tobytes())
        return unread

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

    def _shadow_of(self, feed: WeighedRow, slots: int) -> Float32:
        for shadow in feed.shadows:
            if shadow.policy_version == self._version and len(shadow.propensities) == 4 * slots:
                return shadow.values()
        return np.full(slots, np.nan, np.float32)

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

    def add(self, row: Mapping[Any, Any], file: LearningFile) -> None:
        """Raises ValueError for what names no item."""
        item, happened = item_key(type_of_name(row["item_type"]), row["item_id"]), milliseconds_of(row["happened"])
        reward = file.rules[row["event"]].amount(row["value"], row["watch_seconds"])
        session = row["session_id"]
        self._requests += _request_of(row["request_id"])
        self._users.append(row["user_id"] or (_number_of(session.encode()) if session else 0))
        self._happened.append(happened)
        self._items.append(item)
        self._rewards.append(reward)
        self._name.append(self._names.setdefault(row["event"], len(self._names)))

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
    if not len(requests):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(requests[:, 0])
    found = order[np.minimum(np.searchsorted(requests[order, 0], wanted[:, 0]), len(order) - 1)]
    is_there = (requests[found, 0] == wanted[:, 0]) & (requests[found, 1] == wanted[:, 1])
    return np.where(is_there, found, -1)


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
