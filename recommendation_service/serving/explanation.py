"""Why a feed was as it was: from its record and its decision, and what neither holds from today's catalog.

Each part says where it is from (``origins``, and of an item that is missing ``origin``):

- ``recorded``: written when the feed was made;
- ``recomputed``: computed now from what was recorded, by the feed's own policy or catalog version, and so equal to
  what was served as far as the digits of the record go; of candidates, by making the whole feed again, which gave the
  same items;
- ``today``: as the catalog, the memory of users or the tables are now, which may differ from what was served;
- ``unknown``: it is not kept, and so left out.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sqlalchemy.engine import Engine

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import CatalogError, NotFound, PolicyError, SourceError
from recommendation_service.editors.rulings import Ruling, held_at
from recommendation_service.editors.store import RulingsStore
from recommendation_service.feed.explain import DAY_SECONDS, Choice, unweighed_why, why
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.missing import Missing, Scene, missing_of, name_of, not_eligible
from recommendation_service.feed.pipeline import Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.feed.sentences import say
from recommendation_service.feed.withheld import Withheld, unpack_withheld
from recommendation_service.flush.lookup import find_feed
from recommendation_service.log.decisions import DecisionRecord, UnknownDecision, find_decision
from recommendation_service.log.records import FeedRecord, endpoint_name
from recommendation_service.mappings.opening import row_in_tables
from recommendation_service.memory.entries import as_entries
from recommendation_service.memory.user_memory import lifetimes_of
from recommendation_service.model.item_keys import NamedItem, unpack
from recommendation_service.model.words import Words
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import unpack_decision
from recommendation_service.ranking.packed_slots import Slots, unpack_slots
from recommendation_service.ranking.seen import EPOCH, session_number
from recommendation_service.serving.preview import Preview
from recommendation_service.sources.item_row import ItemRow
from recommendation_service.sources.users import User, UserFacts

RECORDED, RECOMPUTED, TODAY, UNKNOWN = "recorded", "recomputed", "today", "unknown"


class Recorded(NamedTuple):
    """What there is of a feed; one of the first two at least."""

    feed: FeedRecord | None
    decision: DecisionRecord | None
    refused: str  # why a decision that is there is not read; empty where none is

    @property
    def either(self) -> FeedRecord | DecisionRecord:
        found = self.feed or self.decision
        assert found is not None  # noqa: S101
        return found

    @property
    def session_id(self) -> str | None:
        return self.feed.session_id if self.feed is not None else None

    @property
    def personal(self) -> bool:
        """Of a feed that is not there is no decision."""
        return self.feed.personal if self.feed is not None else True


def find_recorded(engine: Engine, events: Path, decisions: Path, request_id: str) -> Recorded:
    """In this machine's log and decisions, and in the database. Blocks.

    Raises NotFound where none has it, or its user was forgotten; SourceError; OSError.
    """
    feed, failure = None, None
    try:
        feed = find_feed(engine, events, request_id)
    except SourceError as error:
        failure = error
    decision, refused = None, ""
    try:
        happened_ms = feed.happened_ms if feed is not None else None
        decision = find_decision(decisions, bytes.fromhex(request_id), happened_ms)
    except UnknownDecision as error:
        refused = str(error)
    if feed is None and decision is None:
        if failure is not None:
            raise failure
        because = f", and its decision cannot be read: {refused}" if refused else ""
        raise NotFound(
            f"No feed of that request_id is recorded here{because}. It never was, is older than what is kept, waits in "
            "the log of another machine, or its user was forgotten."
        )
    return Recorded(feed, decision, refused)


class Versions(NamedTuple):
    """What a feed was made of, as far as it is kept, and what serves now."""

    today: Generation
    policy: Policy | None
    catalog: Catalog | None

    @property
    def made(self) -> Generation:
        """The feed's own, as far as it is kept."""
        return Generation(self.catalog or self.today.catalog, self.policy or self.today.policy)


def versions_of(recorded: Recorded, today: Generation, catalogs: CatalogStore, policy: Policy | None) -> Versions:
    """``policy``: the feed's, where it is kept."""
    version = recorded.either.catalog_version
    if version == today.catalog.version:
        return Versions(today, policy, today.catalog)
    try:
        return Versions(today, policy, catalogs.open(version, verify=False))
    except CatalogError:
        return Versions(today, policy, None)


class Explanation:
    """Of one feed. Raises SourceError where its record is none that this release can read."""

    def __init__(self, recorded: Recorded, versions: Versions, words: Words, language: str) -> None:
        self._recorded = recorded
        self._versions = versions
        self._ids = Dictionary(words, (versions.made.catalog, versions.today.catalog))
        self._language = language
        try:
            feed, decision = recorded.feed, recorded.decision
            self._slots = feed.slots() if feed is not None else None
            self._decision = unpack_decision(decision.packed) if decision is not None else None
        except ValueError as error:
            raise SourceError(f"The record of that feed cannot be read: {error}.") from None

    def told(self) -> dict[str, Any]:
        """The feed, and of each item why it was there."""
        record, recorded = self._recorded.either, self._recorded
        policy = self._versions.policy
        return {
            "request_id": record.request_id.hex(),
            "user_id": self._user(),
            "session_id": recorded.session_id,
            "endpoint": endpoint_name(record.endpoint),
            "happened_at": datetime.fromtimestamp(record.happened_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            "catalog": record.catalog_version,
            "policy": record.policy_version,
            "seed": record.seed,
            "personal": recorded.personal,
            "arm": recorded.feed.arm if recorded.feed is not None else "",
            "language": self._language,
            "decision": {"recorded": self._decision is not None, "refused": recorded.refused},
            "origins": {
                "slots": RECORDED,
                "propensities": RECORDED,
                "features": RECORDED,
                "estimates": RECOMPUTED if policy is not None else UNKNOWN,
                "terms": UNKNOWN if policy is None else RECOMPUTED if self._versions.catalog is not None else TODAY,
            },
            "items": [self._item(place, key) for place, key in enumerate(self._keys())],
        }

    def _user(self) -> User | None:
        """As the operator has it, which the feed's record says of ids that are text."""
        feed = self._recorded.feed
        text = feed.user_text if feed is not None else ""
        return text or self._ids.user(self._recorded.either.user_id)

    def _keys(self) -> list[int]:
        if self._decision is not None:
            return [slot.item for slot in self._decision.slots]
        return self._slots.items.tolist() if self._slots is not None else []

    def _item(self, place: int, key: int) -> dict[str, Any]:
        policy, choice, is_mapped = self._versions.policy, self._choice(place), self._ids.words.is_mapped
        if policy is not None and len(choice.x) == len(policy.feature_names):
            reason: Any = why(policy, choice, place, self._age_days(key), self._language, is_mapped=is_mapped)
        else:
            today = self._versions.today.policy
            reason = unweighed_why(policy or today, choice, place, self._language, is_mapped=is_mapped)
        return {
            "type": name_of(self._versions.made.catalog, unpack(key)[0]),
            "id": self._ids.item(key),
            "why": msgspec.to_builtins(reason),
        }

    def _choice(self, place: int) -> Choice:
        """By the decision, which has more digits; features of what is from no pool are in the feed's record alone."""
        slots, decision = self._slots, self._decision
        x = slots.features[place] if slots is not None else np.zeros(0, np.float32)
        if decision is None:
            assert slots is not None  # noqa: S101
            numbers = int(slots.kinds[place]), int(slots.pools[place]), int(slots.relaxed[place])
            return Choice(*numbers, float(slots.propensities[place]), x)
        slot = decision.slots[place]
        if slot.chosen >= 0 and slot.pool == slot.kind:  # else the hand-set score is another kind's
            x = decision.pools[slot.pool].X[slot.chosen]
        return Choice(slot.kind, slot.pool, slot.relaxed, slot.propensity, x)

    def _age_days(self, key: int) -> float | None:
        """Of the item when the feed's catalog was built; None: that catalog and today's have it no more."""
        catalog, built = self._versions.made.catalog, self._built()
        row = catalog.row_of(key)
        if row < 0 or built is None:
            return None
        return (built - float(catalog.arrays.created[row])) / DAY_SECONDS

    def _built(self) -> float | None:
        """When the feed's catalog was, in seconds since 1970: its version begins with it."""
        catalog = self._versions.catalog
        if catalog is not None:
            return catalog.built_at
        stamp = self._recorded.either.catalog_version.split("Z-")[0]
        try:
            return datetime.strptime(stamp, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC).timestamp()
        except ValueError:
            return None

    def missing(
        self,
        wanted: Sequence[NamedItem],
        settings: Settings,
        seen: bytes,
        facts_of: Callable[[User], UserFacts | None],
        row_in_tables: Callable[[int, int], ItemRow | None],
    ) -> list[Missing]:
        """Why items were not shown. ``seen``: what is remembered of the user now; ``facts_of``: of a user who is not
        in the catalog; ``row_in_tables``: of an item. Blocks. Raises SourceError."""
        scene = self._scene(settings, seen, facts_of)
        found = [missing_of(scene, item, self._language) for item in wanted]
        if settings.mapping_file is not None:
            return found  # the query of one row is of the first operator's tables
        return [
            by_tables(one, row_in_tables(item.type, item.number), self._language) if one.stage == "not_read" else one
            for one, item in zip(found, wanted, strict=True)
        ]

    def _scene(self, settings: Settings, seen: bytes, facts_of: Callable[[User], UserFacts | None]) -> Scene:
        recorded, versions = self._recorded, self._versions
        decision, withheld, origin, withheld_origin = self._decision, self._withheld(), RECORDED, RECORDED
        history = RulingsStore(settings.editors_dir).history()
        rulings = held_at(history, recorded.either.happened_ms / 1000)
        if decision is None or withheld is None:
            slate, generation = self._made_again(settings, seen, facts_of, rulings)
            withheld, withheld_origin = unpack_withheld(slate.withheld), TODAY
            if decision is None:
                decision, origin = unpack_decision(slate.decision), TODAY
                is_own = generation.catalog is versions.catalog and generation.policy is versions.policy
                if is_own and self._is(unpack_slots(slate.packed)):
                    origin = withheld_origin = RECOMPUTED
        return Scene(
            self._keys(),
            RECORDED,
            decision,
            withheld,
            versions.made.catalog,
            versions.policy or versions.today.policy,
            endpoint_name(recorded.either.endpoint),
            lifetimes_of(settings),
            origin,
            withheld_origin,
            RECOMPUTED if versions.catalog is not None else TODAY,
            self._built(),
            rulings,
        )

    def _is(self, again: Slots) -> bool:
        """Whether a feed that was made again is the one that was recorded."""
        then = self._slots
        if then is None or not np.array_equal(then.items, again.items):
            return False
        return bool(np.allclose(then.propensities, again.propensities, rtol=1e-4, atol=0.0))

    def _withheld(self) -> Withheld | None:
        decision = self._recorded.decision
        try:
            return unpack_withheld(decision.withheld) if decision is not None else None
        except ValueError:
            return None  # of an older release, or too much to be kept

    def _made_again(
        self,
        settings: Settings,
        seen: bytes,
        facts_of: Callable[[User], UserFacts | None],
        rulings: tuple[Ruling, ...],
    ) -> tuple[Slate, Generation]:
        """The feed made once more, of its own versions where they are kept, without what came after it."""
        record, generation = self._recorded.either, self._versions.made._replace(rulings=rulings)
        try:
            preview = Preview(generation, settings)
        except PolicyError:
            generation = Generation(self._versions.today.catalog, self._versions.today.policy, rulings=rulings)
            preview = Preview(generation, settings)
        now = record.happened_ms // 1000
        request = FeedRequest(
            endpoint_name(record.endpoint),
            record.user_id,
            max(1, record.size),
            record.request_id.hex(),
            now=now,
            session=session_number(self._recorded.session_id),
            personal=self._recorded.personal,
        )
        entries = as_entries(seen)
        before = np.ascontiguousarray(entries[(entries[:, 1] >> 32) + EPOCH < now]).tobytes()
        unknown = record.user_id and request.personal and not preview.knows(record.user_id)
        user = self._user() if unknown else None
        return preview.slate(request, before, facts_of(user) if user is not None else None), generation


def by_tables(missing: Missing, row: ItemRow | None, language: str) -> Missing:
    """The same of an item that the build of the catalog did not read. ``row``: in the tables; None: it is not there."""
    if row is None:
        stage, sentences = "not_in_tables", [say(language, "not_in_tables")]
    elif not row.broken:
        stage, sentences = "not_yet", [say(language, "eligible_now")]
    else:
        values = {"unpublished": {"status": row.status}}
        stage = "not_eligible"
        sentences = [not_eligible(rule, language, **values.get(rule, {}))[1][0] for rule in row.broken]
    return msgspec.structs.replace(missing, stage=stage, origin=TODAY, sentences=sentences)


def missing_now(
    slate: Slate, generation: Generation, settings: Settings, wanted: Sequence[NamedItem], language: str
) -> list[Missing]:
    """Why items are not in a feed that was made just now, and recorded nowhere. Raises SourceError."""
    if not wanted:
        return []
    decision = unpack_decision(slate.decision)
    scene = Scene(
        [slot.item for slot in decision.slots],
        TODAY,
        decision,
        unpack_withheld(slate.withheld),
        generation.catalog,
        generation.policy,
        slate.request.endpoint,
        lifetimes_of(settings),
        TODAY,
        TODAY,
        TODAY,
        None,
        generation.rulings,
    )
    found = [missing_of(scene, item, language) for item in wanted]
    if settings.mapping_file is not None:
        return found
    return [
        by_tables(one, row_in_tables(settings, datetime.now(UTC), item.type, item.number), language)
        if one.stage == "not_read"
        else one
        for one, item in zip(found, wanted, strict=True)
    ]
