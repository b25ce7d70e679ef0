"""At which stage an item fell that a feed did not show, and why.

Of a feed's decision everything follows but what the catalog alone knows: whose the item is, its skills, and whether it
is there at all. That catalog is the feed's while it is kept, and else today's.
"""

import itertools
from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np

from recommendation_service.catalog.store import Catalog
from recommendation_service.core.local_time import utc_text
from recommendation_service.editors.rulings import BURY, TAKEDOWN, Ruling
from recommendation_service.feed.sentences import Sentence, say
from recommendation_service.feed.withheld import Withheld
from recommendation_service.model.features import FEATURE_NAMES
from recommendation_service.model.item_keys import NamedItem, pack, type_name, unpack
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import DecidedSlot, Decision, Pool
from recommendation_service.ranking.seen import ACTED, HIDDEN, IMPRESSED, SERVED, Lifetimes
from recommendation_service.ranking.slate import EXPLORATION, RULES
from recommendation_service.ranking.slate_withheld import BY_REQUEST, CREATOR_HIDDEN, TAKEN

CREATOR_RULE, SKILL_RULE, OTHER_RULE = "creator", "skill", "limits"
_GATE = FEATURE_NAMES.index("quality_gate")


def name_of(catalog: Catalog, item_type: int) -> str:
    """A type's name in a catalog; of one that it has not, as records have it."""
    return next((name for name, number in catalog.item_types.items() if number == item_type), type_name(item_type))


class Place(msgspec.Struct):
    """Of the feed, which was drawn from a pool that had the item."""

    position: int
    odds: float  # that it would be drawn there, given the places before
    barred_by: list[str]  # limits that left it out: creator, skill, or just limits where it cannot be told which


class InPool(msgspec.Struct):
    pool: str
    candidates: int
    places: list[Place]


class Missing(msgspec.Struct):
    """Why an item was not shown; ``origin``: of what that was told (serving/explanation.py)."""

    type: str
    id: int | str
    stage: str
    origin: str
    odds: float | None  # that it would have been shown, given what was; of an item that was in a pool
    pools: list[InPool]
    sentences: list[Sentence]


class Scene(NamedTuple):
    """What is known of a feed that did not show an item."""

    shown: list[int]  # keys of its items, in order
    shown_origin: str
    decision: Decision  # where it was made again, of that
    withheld: Withheld | None  # None: that was not recorded
    catalog: Catalog
    policy: Policy
    endpoint: str
    lifetimes: Lifetimes
    origin: str  # of the decision
    withheld_origin: str
    catalog_origin: str
    built: float | None  # when the feed's catalog was, in seconds since 1970
    rulings: tuple[Ruling, ...] = ()  # of editors, that held then


def missing_of(scene: Scene, item: NamedItem, language: str) -> Missing:
    item_type, key = item.type, pack(item.type, item.number)
    stage, odds, pools, sentences, origin = "", None, [], [], scene.origin
    if key in scene.shown:
        origin = scene.shown_origin
        stage, sentences = "shown", [say(language, "shown", place=scene.shown.index(key) + 1)]
    elif (ruling := _ruling_of(scene, key)) is not None:
        origin = "recorded"  # in the editors' history
        stage = "taken_down" if ruling.action == TAKEDOWN else "buried"
        sentences = [say(language, stage, since=utc_text(ruling.when, "seconds"))]
    elif pools := _pools_with(scene, key):
        odds = 1.0 - float(np.prod([1.0 - place.odds for pool in pools for place in pool.places]))
        stage, sentences = _of_pools(pools, language)
    elif scene.withheld is not None and (found := scene.withheld.of(key)) is not None:
        origin = scene.withheld_origin
        stage, sentences = _of_withheld(*found, scene.lifetimes, language)
    else:
        origin = scene.catalog_origin
        stage, sentences = _of_catalog(scene, key, item_type, language)
    return Missing(name_of(scene.catalog, item_type), item.id, stage, origin, odds, pools, sentences)


def _ruling_of(scene: Scene, key: int) -> Ruling | None:
    """Of an editor who had the feed not show it."""
    of_item = (one for one in scene.rulings if one.key == key and one.action in (BURY, TAKEDOWN))
    return next((one for one in of_item if one.is_in(scene.endpoint)), None)


def _pools_with(scene: Scene, key: int) -> list[InPool]:
    decision, found = scene.decision, []
    for kind, pool in enumerate(decision.pools):
        members = np.flatnonzero(decision.items[pool.members] == key)
        if len(members):
            member = int(members[0])
            places = [
                _place(scene, position, slot, pool, member)
                for position, slot in enumerate(decision.slots)
                if slot.pool == kind
            ]
            found.append(InPool(scene.policy.label(kind), len(pool.members), places))
    return found


def _place(scene: Scene, position: int, slot: DecidedSlot, pool: Pool, member: int) -> Place:
    if slot.eligible[member]:
        return Place(position, odds_of(slot, pool, member, scene.decision.floor), [])
    key = int(scene.decision.items[pool.members[member]])
    return Place(position, 0.0, _barred_by(scene, position, slot, key))


def odds_of(slot: DecidedSlot, pool: Pool, member: int, floor: float) -> float:
    """That the slot, which could hold ``member`` of the pool, is given to it: its part of the softmax, over the floor
    (ranking/decisions.py)."""
    left = pool.below[slot.eligible]
    least = left.min()
    part = np.exp(least - pool.below[member]) / np.exp(least - left).sum()
    return float((1.0 - floor) * part + floor / len(left))


def _barred_by(scene: Scene, position: int, slot: DecidedSlot, key: int) -> list[str]:
    """Limits that were in force at a place, and that the item would have broken there, by what the catalog has."""
    arrays, limits = scene.catalog.arrays, scene.policy.file.limits
    item = scene.catalog.row_of(key)
    if item < 0:
        return [OTHER_RULE]
    rows = [scene.catalog.row_of(before.item) for before in scene.decision.slots[:position]]
    in_force = {rule for bit, rule in enumerate(RULES) if not slot.relaxed >> bit & 1}
    barred = []
    near = [row for row in rows[max(0, position - limits.creator_window + 1) :] if row >= 0]
    if "creator_window" in in_force and any(arrays.creator[row] == arrays.creator[item] for row in near):
        barred.append(CREATOR_RULE)
    if "skill_novelty" in in_force and item < arrays.worded:
        of_feed = set(itertools.chain.from_iterable(_skills(scene.catalog, row) for row in rows if row >= 0))
        if len(of_feed) >= limits.novelty_after_skills and of_feed.issuperset(_skills(scene.catalog, item)):
            barred.append(SKILL_RULE)
    return barred or [OTHER_RULE]


def _skills(catalog: Catalog, row: int) -> list[int]:
    skills: list[int] = catalog.arrays.tokens[row, : catalog.arrays.skill_count[row]].tolist()
    return skills


def _of_pools(pools: list[InPool], language: str) -> tuple[str, list[Sentence]]:
    sentences, barred, open_places = [], Counter[str](), 0
    for pool in pools:
        could = [place for place in pool.places if not place.barred_by]
        barred.update(rule for place in pool.places for rule in place.barred_by)
        open_places += len(could)
        if could:
            chance = 1.0 - float(np.prod([1.0 - place.odds for place in could]))
            sentences.append(say(language, "in_pool", pool=pool.pool, places=len(could), odds=chance))
        else:
            code = "in_pool_barred" if pool.places else "in_pool_no_place"
            sentences.append(say(language, code, pool=pool.pool))
    for rule, code in ((CREATOR_RULE, "barred_creator"), (SKILL_RULE, "barred_skill"), (OTHER_RULE, "barred")):
        if barred[rule]:
            sentences.append(say(language, code, places=barred[rule]))
    if open_places:
        return "in_pool", sentences
    return ("barred" if barred else "in_pool_no_place"), sentences


def _of_withheld(why: int, when: int, lifetimes: Lifetimes, language: str) -> tuple[str, list[Sentence]]:
    if why == BY_REQUEST:
        return "excluded", [say(language, "excluded")]
    if why == CREATOR_HIDDEN:
        return "hidden", [say(language, "creator_hidden")]
    since = utc_text(when, "seconds")
    if why == HIDDEN:
        return "hidden", [say(language, "hidden", since=since)]
    if why == TAKEN:
        told = say(language, "seen_taken", since=since) if when else say(language, "seen_taken_some_time")
        return "seen", [told]
    code, lifetime = {
        SERVED: ("seen_served", lifetimes.served),
        IMPRESSED: ("seen_impressed", lifetimes.impressed),
        ACTED: ("seen_acted", lifetimes.acted),
    }[why]
    return "seen", [say(language, code, since=since, until=utc_text(when + lifetime, "seconds"))]


def _of_catalog(scene: Scene, key: int, item_type: int, language: str) -> tuple[str, list[Sentence]]:
    """Of an item that was in no pool, and that nothing withheld."""
    catalog, endpoint = scene.catalog, scene.endpoint
    row = catalog.row_of(key)
    if row < 0:
        rule = catalog.rejected.rule_of(key) if catalog.rejected is not None else None
        return ("not_read", [say(language, "not_read")]) if rule is None else not_eligible(rule, language)
    pattern = scene.policy.file.feeds[endpoint]
    kinds = [
        name
        for name in dict.fromkeys(pattern)
        if scene.policy.file.kind(name).item in (None, name_of(catalog, item_type))
    ]
    if not kinds:
        return "wrong_type", [say(language, "wrong_type", endpoint=endpoint)]
    if scene.built is not None and float(catalog.arrays.created[row]) > scene.built:
        return "not_yet", [say(language, "not_yet")]
    sentences = [_no_pool(scene, name, row, language) for name in kinds]
    explored = sum(slot.pool == EXPLORATION and unpack(slot.item)[0] == item_type for slot in scene.decision.slots)
    if explored:
        sentences.append(say(language, "explorable", places=explored))
    return "in_no_pool", sentences


def _no_pool(scene: Scene, name: str, row: int, language: str) -> Sentence:
    """Why a kind's pool had not an item that it may have at all, or may not."""
    arrays, kind = scene.catalog.arrays, scene.policy.file.kind(name)
    number = scene.policy.file.kind_names.index(name)
    order = arrays.order_items[int(arrays.order_offsets[number]) : int(arrays.order_offsets[number + 1])]
    place = np.flatnonzero(order == row)
    if len(place):
        return say(language, "no_pool_outranked", pool=kind.label, place=int(place[0]) + 1, size=kind.pool)
    if kind.gate and arrays.features[row, _GATE] == 0:
        return say(language, "no_pool_gate", pool=kind.label)
    return say(language, "no_pool_age", pool=kind.label, days=kind.max_age_days or 0.0)


def not_eligible(rule: str, language: str, **values: str) -> tuple[str, list[Sentence]]:
    """``rule``: of catalog/rejections.py or of the tables; of another release it may be any."""
    try:
        return "not_eligible", [say(language, f"not_eligible_{rule}", **values)]
    except KeyError:
        return "not_eligible", [say(language, "not_eligible_other", rule=rule)]
