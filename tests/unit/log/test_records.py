"""Records of the event log: what is written is what is read, in few bytes, and older or foreign bytes are refused."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.log.records import (
    STATE_OF,
    FeedbackRecord,
    FeedRecord,
    ShadowRecord,
    decode,
    encode,
    encode_feeds,
    endpoint_name,
)
from recommendation_service.model.item_keys import ITEM_TYPES, item_key
from recommendation_service.model.kinds import ENDPOINTS, KINDS
from recommendation_service.model.words import EVENT_NAMES
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.ranking.packed_columns import RELATIVE_ERROR
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED
from recommendation_service.ranking.slate import RULES
from recommendation_service.serving.recording import record_of
from tests.support.catalogs import Challenge, World, make_catalog
from tests.support.older_records import AS_READ, IN_THE_LOG
from tests.support.slates import Slot, request_for, slots_of
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(5, videos=200, challenges=40, users=8)
REQUEST_ID = "a34246688d6df53e320a194b06d8ae3a"
# What docs/events.md says of it.
MOST_BYTES_OF_24_SLOTS = 1_000

SESSION_ID = "5d41402a-bc4b-4a76-b971-9d911017c592"
VERSION = "20261129T201054.333484Z-004e70bdbd62eaab"

TEXT = st.none() | st.text(max_size=130)


class Recorded:
    """Makes feeds, and records them as a worker does: what it keeps of one must not be in the record of the next."""

    def __init__(self) -> None:
        policy = load_policy()
        self.pipelines = [FeedPipeline(Generation(make_catalog(WORLD, policy), policy), seed=11) for _ in range(2)]
        self.turns = itertools.count()

    @property
    def pipeline(self) -> FeedPipeline:
        """Of the last feed."""
        return self._pipeline

    def record(self, request: FeedRequest, pipeline: FeedPipeline | None = None) -> FeedRecord:
        """The record of a feed, as a reader of the log finds it."""
        self._pipeline = pipeline or self.pipelines[next(self.turns) % 2]  # as another catalog is taken up
        unwritten = record_of(self._pipeline.rank(request))
        [written] = encode_feeds([unwritten])
        read = decode(written)
        assert isinstance(read, FeedRecord)
        assert decode(encode(read)) == read
        return read


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


@given(
    record=st.builds(
        FeedbackRecord,
        event_id=st.text(min_size=1, max_size=130),
        event=st.sampled_from(EVENT_NAMES),
        user_id=st.integers(0, 2**63 - 1),
        item_type=st.integers(0, len(ITEM_TYPES) - 1),
        item_id=st.integers(1, 2**63 - 1),
        happened_ms=st.integers(0, 2**50),
        received_ms=st.integers(0, 2**50),
        request_id=TEXT,
        session_id=TEXT,
        position=st.none() | st.integers(0, 10_000),
        value=st.none() | st.floats(0, 5),
        watch_seconds=st.none() | st.floats(0, 86_400),
        slot_kind=st.integers(0, len(KINDS)),
        flags=st.integers(0, 7),
    )
)
def test_feedback_is_read_as_it_was_written(record: FeedbackRecord) -> None:
    assert decode(encode(record)) == record
    assert decode(memoryview(encode(record))) == record


def as_recorded(slots: list[Slot]) -> dict[str, list[object]]:
    """The columns of a record that holds these slots."""
    pools = {**{name: place for place, name in enumerate(KINDS)}, "exploration": 100, "seen": 101}
    return {
        "items": [item_key(int(isinstance(slot.item, Challenge)), slot.item.id) for slot in slots],
        "kinds": [KINDS.index(slot.kind) for slot in slots],
        "pools": [pools[slot.pool] for slot in slots],
        "relaxed": [sum(1 << RULES.index(rule) for rule in slot.relaxed) for slot in slots],
        "propensities": [np.float32(slot.propensity) for slot in slots],
    }


@settings(max_examples=60, deadline=None)
@given(
    user=st.sampled_from([0, 1, *range(FIRST_USER, FIRST_USER + 8), 2**63 - 1]),
    endpoint=st.sampled_from(ENDPOINTS),
    size=st.integers(1, 100),
    session_id=TEXT,
)
def test_a_feeds_record_has_just_what_the_feed_was_made_of(
    recorded: Recorded, user: int, endpoint: str, size: int, session_id: str | None
) -> None:
    request = request_for(user, endpoint, size, REQUEST_ID)
    record = recorded.record(request.but(session_id=session_id, happened_ms=1_795_000_000_123))
    slots = slots_of(recorded.pipeline, WORLD)
    columns = record.slots()._asdict()
    features = columns.pop("features")
    assert {name: values.tolist() for name, values in columns.items()} == as_recorded(slots)
    assert features == pytest.approx(np.array([slot.features for slot in slots]), rel=RELATIVE_ERROR, abs=0)
    assert list(record.shown()) == list(zip(columns["items"].tolist(), columns["kinds"].tolist(), strict=True))
    assert (record.user_id, record.session_id, endpoint_name(record.endpoint)) == (user, session_id, endpoint)
    assert record.request_id.hex() == REQUEST_ID
    assert record.happened_ms == 1_795_000_000_123
    assert (record.catalog_version, record.policy_version) == (
        recorded.pipeline.catalog.version,
        recorded.pipeline.policy.version,
    )


def test_a_record_has_the_shadows_propensities(recorded: Recorded) -> None:
    policy = load_policy()
    shadow = Policy(policy.file, version="20261129T101500.000000Z-5d41402abc4b2a76")
    pipeline = FeedPipeline(Generation(make_catalog(WORLD, policy), policy, (shadow,) * 4), seed=11)
    record = recorded.record(request_for(FIRST_USER, "total", 24, REQUEST_ID), pipeline)
    served = record.slots().propensities.tolist()
    assert [found.policy_version for found in record.shadows] == [shadow.version] * 4
    assert [found.values().tolist() for found in record.shadows] == [served] * 4
    assert [len(found.propensities) for found in record.shadows] == [4 * 24] * 4


class FeedOfTheReleaseBefore(msgspec.Struct, array_like=True, tag="feed2"):
    event_id: bytes
    request_id: bytes
    user_id: int
    session_id: str | None
    endpoint: int
    happened_ms: int
    catalog_version: str
    policy_version: str
    seed: int
    packed: bytes


@pytest.mark.parametrize("has_shadow", [False, True])
def test_a_record_says_that_a_feed_was_not_personal(recorded: Recorded, has_shadow: bool) -> None:
    request = request_for(FIRST_USER, request_id=REQUEST_ID)
    assert recorded.record(request).personal is True
    assert recorded.record(request.but(personal=False)).personal is False
    unwritten = record_of(recorded.pipeline.rank(request.but(personal=False)))
    shadows = (("p", b"abcd"),) if has_shadow else ()
    [written] = encode_feeds([msgspec.structs.replace(unwritten, shadows=shadows)])
    read = decode(written)
    assert isinstance(read, FeedRecord)
    assert (read.personal, read.shadows) == (False, tuple(ShadowRecord(*shadow) for shadow in shadows))


@pytest.mark.parametrize("has_shadow", [False, True])
def test_a_record_says_by_which_arm_a_feed_was_made(recorded: Recorded, has_shadow: bool) -> None:
    slate = recorded.pipelines[0].rank(request_for(FIRST_USER, request_id=REQUEST_ID))
    assert decode(encode_feeds([record_of(slate)])[0]).arm == ""  # type: ignore[union-attr]
    shadows = (("p", b"abcd"),) if has_shadow else ()
    [plain] = encode_feeds([record_of(slate)])
    [written] = encode_feeds([msgspec.structs.replace(record_of(slate, "bolder:control"), shadows=shadows)])
    read = decode(written)
    assert isinstance(read, FeedRecord)
    assert (read.arm, read.personal, len(read.shadows)) == ("bolder:control", True, len(shadows))
    assert decode(encode(read)) == read
    if not has_shadow:
        assert len(written) - len(plain) == 2 + 1 + len("bolder:control"), "no more than it takes to say"


def test_records_without_shadows_are_read_and_a_release_before_reads_those_with_them() -> None:
    before = FeedOfTheReleaseBefore(bytes(16), bytes(16), 7, None, 0, 1, "c", "p", 5, b"\x00")
    read = decode(msgspec.msgpack.encode(before))
    assert isinstance(read, FeedRecord)
    assert (read.seed, read.shadows) == (5, ())
    shadowed = msgspec.structs.replace(read, shadows=(ShadowRecord("p", b"abcd"),))
    assert msgspec.msgpack.decode(encode(shadowed), type=FeedOfTheReleaseBefore) == before


def test_a_record_gives_its_feed_again(recorded: Recorded) -> None:
    """Request, user and versions fix the randomness, and the seed says that they are the same."""
    record = recorded.record(request_for(FIRST_USER + 4, size=24, request_id=REQUEST_ID))
    recorded.record(request_for(FIRST_USER + 5, size=24, request_id="0f" * 16))
    again = request_for(record.user_id, endpoint_name(record.endpoint), 24, record.request_id.hex())
    repeated = recorded.record(again)
    assert repeated.seed == record.seed
    assert repeated == msgspec.structs.replace(record, event_id=repeated.event_id)
    assert 0 <= record.seed < 1 << 63


def test_no_two_records_have_one_id(recorded: Recorded) -> None:
    request = request_for(FIRST_USER, request_id=REQUEST_ID)
    assert len({recorded.record(request).event_id for _ in range(50)}) == 50


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_feed_of_24_takes_few_bytes(recorded: Recorded, endpoint: str) -> None:
    request = request_for(2**63 - 1, endpoint, 24, REQUEST_ID).but(session_id=SESSION_ID)
    feed = record_of(recorded.pipelines[0].rank(request))
    written = [msgspec.structs.replace(feed, catalog_version=VERSION, policy_version=VERSION)]
    shadowed = msgspec.structs.replace(written[0], shadows=[(VERSION, bytes(4 * 24))])
    alone, beside_a_shadow = encode_feeds([*written, shadowed])
    assert decode(alone).size == 24
    assert len(alone) <= MOST_BYTES_OF_24_SLOTS
    assert len(beside_a_shadow) - len(alone) <= 5 * 24


def test_a_feed_without_items_has_a_record_too(recorded: Recorded) -> None:
    empty = World()
    policy = load_policy()
    pipeline = FeedPipeline(Generation(make_catalog(empty, policy), policy))
    record = recorded.record(request_for(5, request_id=REQUEST_ID), pipeline)
    slots = record.slots()
    assert len(slots.items) == len(slots.propensities) == 0
    assert slots.features.shape == (0, 20)


def test_one_event_takes_few_bytes() -> None:
    record = FeedbackRecord("0f" * 16, "view", 4711, 0, 812, 1_795_000_000_000, 1_795_000_000_000, "0f" * 16)
    assert len(encode(record)) < 150


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x00", encode(FeedbackRecord("a", "view", 1, 0, 1, 0, 0))[:-3], b"\x92\xa6event1\x01"],
    ids=repr,
)
def test_what_is_no_record_is_refused(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(payload)


def test_a_record_of_a_kind_that_this_release_does_not_know_is_refused() -> None:
    unknown = msgspec.msgpack.encode(["event2", "an id", "view", 1, 0, 1, 0, 0])
    with pytest.raises(msgspec.ValidationError, match="event2"):
        decode(unknown)


def test_a_record_written_before_fields_were_added_is_read_with_their_defaults() -> None:
    short = msgspec.msgpack.encode(["event1", "an id", "view", 1, 0, 1, 5, 6])
    assert decode(short) == FeedbackRecord("an id", "view", 1, 0, 1, 5, 6)


def test_a_feed_that_an_older_release_wrote_is_read() -> None:
    assert decode(IN_THE_LOG) == AS_READ
    slots = AS_READ.slots()
    assert slots.features.tolist() == (np.arange(54) / 7).astype(np.float32).reshape(3, 18).tolist()
    assert decode(encode(AS_READ)) == AS_READ


def test_a_feed_of_an_older_release_whose_columns_do_not_fit_together_is_refused() -> None:
    *fields, kinds, pools, relaxed, propensities, features = msgspec.msgpack.decode(IN_THE_LOG)
    for damaged in (
        [*fields, kinds[:2], pools, relaxed, propensities, features],
        [*fields, kinds, pools, relaxed, b"abc", features],
    ):
        with pytest.raises(msgspec.ValidationError):
            decode(msgspec.msgpack.encode(damaged))


def test_every_event_has_its_state() -> None:
    assert STATE_OF.keys() == set(EVENT_NAMES)
    assert {name: state for name, state in STATE_OF.items() if state != ACTED} == {
        "impression": IMPRESSED,
        "skip": IMPRESSED,
        "hide": HIDDEN,
    }
