"""What a build measures of the data, so that a ranking fits them that nobody tuned: how quickly what people take fades,
and how much what is taken together, and what an item is about, tell beside that.

The latest part of what people did is held back, and looked for in the orders that what was before it gives: of each
person who took something anew, whether it is among the first 24, and NDCG@10. Both say what is counted over people and
not over events, since few do most of what is done. What is measured on some hundred people is measured roughly: so of
all values that are nearly as good as the best, the one closest to the middle of them is taken.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from recommendation_service.catalog.collaborative import NeighbourLists
from recommendation_service.catalog.people import Interactions, places
from recommendation_service.catalog.report import Measured
from recommendation_service.model.columns import SKILL_PLACES, Bytes, Float64, Int32, Int64
from recommendation_service.policies.format import Measuring

DAY_SECONDS = 86400.0
PLACES, FIRST_PLACES = 24, 10
DEPTH = 8.0  # natural logarithms from the most liked item down to where nothing counts
POPULARITY_SCALE = 10.0  # the feature is so many of them
PEOPLE = 300  # of whom is looked at what tells of each
PEOPLE_OF_ORDERS = 2_000  # and at what is the same for all
CANDIDATES = 5_000
LEAST_EXPOSURE = 0.3  # what was there for no time counts as if for this share: else one taking is a rate without end
_SEED = 0
_GAINS = 1.0 / np.log2(np.arange(2, FIRST_PLACES + 2))
_IDEAL = np.concatenate([[0.0], np.cumsum(_GAINS)])


class Traits(NamedTuple):
    """Of M items, beside what people did with them, and how much it counts when nothing is measured."""

    settings: Measuring
    created: Float64  # (M,) seconds since 1970; 0 of what has no time
    creator: Int64  # (M,)
    tokens: Int32  # (M, 14)
    token_kind: Bytes  # (T + 1,) the last is the absent one's
    similarity: float  # weights of the hand-set sum
    match: float
    match_weight: Float64  # (4,) of a shared term by its kind
    match_cap: float
    similarity_of: Float64  # of cosine and share
    together: float
    latest_weight: Float64  # (L,)


class Popularity(NamedTuple):
    """``by_exposure``: over the share of the half-life's window in which an item was there, so that what is new is not
    behind for that alone. ``evergreen``: the share that what was ever taken has beside what was taken lately, as where
    most of what is taken fades in days, and the rest is old and read for ever."""

    half_life_days: float
    by_exposure: bool
    evergreen: float


class Held(NamedTuple):
    """A cut: what was before it, and what p people took anew after it."""

    moment: float
    before: Interactions
    had_person: Int64
    had_item: Int64
    taken_person: Int64
    taken_item: Int64
    people: int


def measure(
    interactions: Interactions, traits: Traits, lists_of: Callable[[Interactions, float], NeighbourLists]
) -> Measured:
    """``lists_of``: what people take together, of what they did until a moment."""
    settings = traits.settings
    form, people = measure_popularity(interactions, traits.created, settings)
    held = hold_back(interactions, traits.created, settings.weights_cut, PEOPLE, with_past=True)
    together, closeness = 1.0, 1.0
    if held.people >= settings.least_people:
        taken = liked(held.before, traits.created, held.moment, form)
        together, closeness = measure_weights(held, lists_of(held.before, held.moment), taken, traits)
    creators = creators_taken(interactions, traits.creator)
    window = max(1, int(creators / settings.creators_each)) if settings.creators_each is not None else None
    return Measured(*form, together, closeness, round(creators, 1), window, people, held.people)


def hold_back(interactions: Interactions, created: Float64, share: float, most: int, *, with_past: bool) -> Held:
    """The latest of the interactions after ``share`` of them, by up to ``most`` people; ``with_past``: of those alone
    who did something before. Items that were not there then are nobody's to find."""
    when = interactions.when
    ordered = np.sort(when)
    moment = float(ordered[min(int(len(when) * share), len(when) - 1)]) if len(when) else 0.0
    is_before = when < moment
    item = interactions.item.astype(np.int64)
    is_after = ~is_before & (created[item] < moment)
    chosen = np.unique(interactions.user[is_after])
    if with_past:
        chosen = np.intersect1d(chosen, interactions.user[is_before])
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, most, replace=False))
    place = places(chosen, interactions.user)
    known = place >= 0
    had, taken = known & is_before, known & is_after
    before = Interactions(
        interactions.user[is_before], interactions.item[is_before], interactions.weight[is_before], when[is_before], 0
    )
    return Held(moment, before, place[had], item[had], place[taken], item[taken], len(chosen))


def liked(interactions: Interactions, created: Float64, now: float, form: Popularity) -> Float64:
    """(M,) how often each item was taken, what is a half-life ago counting half."""
    days = np.maximum(0.0, now - interactions.when) / DAY_SECONDS
    taken: Float64 = np.bincount(interactions.item, 0.5 ** (days / form.half_life_days), len(created)).astype(float)
    if form.by_exposure:
        age = np.where(created > 0, np.maximum(0.0, now - created) / DAY_SECONDS, np.inf)
        there = 1.0 - 0.5 ** (age / form.half_life_days)
        taken = taken / (LEAST_EXPOSURE + (1.0 - LEAST_EXPOSURE) * there)
    if form.evergreen:
        ever = np.bincount(interactions.item, minlength=len(created))
        shares = (1.0 - form.evergreen) * taken / max(float(taken.sum()), 1e-300)
        taken = shares + form.evergreen * ever / max(int(ever.sum()), 1)
    return np.asarray(taken)


def logarithmic(taken: Float64) -> Float64:
    """(M,) natural logarithms above a depth below the most taken, so that sums with them are products of chances and a
    draw's temperature is a share of the chance whatever the numbers; 0 of what nobody took."""
    most = taken.max(initial=0.0)
    return np.log1p(taken / most * np.exp(DEPTH)) if most > 0 else np.zeros(len(taken))


def measure_popularity(interactions: Interactions, created: Float64, settings: Measuring) -> tuple[Popularity, int]:
    """What foretells best what is taken, and by how many people it was told. Anything but a half-life alone has to be
    better by so much as its setting says."""
    lives = settings.half_lives_days
    forms = [
        [Popularity(life, by_exposure, evergreen) for life in lives]
        for by_exposure, evergreen in ((False, 0.0), (True, 0.0), (False, settings.evergreen))
    ]
    gains, people = np.zeros((len(forms), len(lives))), 0
    for share in settings.cuts:
        held = hold_back(interactions, created, share, PEOPLE_OF_ORDERS, with_past=False)
        people = max(people, held.people)
        there = created < held.moment
        for row, of_lives in enumerate(forms):
            for column, form in enumerate(of_lives):
                score = liked(held.before, created, held.moment, form)
                gains[row, column] += _gain_of_order(np.where(there, score, -1.0), held)
    if people < settings.least_people:
        return Popularity(settings.middle_half_life_days, False, 0.0), people
    least = 1.0 + np.array([0.0, settings.least_gain, settings.evergreen_gain])
    best = int(np.argmax(gains.max(axis=1) / least))
    distance = np.abs(np.log(np.array(lives) / settings.middle_half_life_days))
    good = gains[best] >= gains[best].max() * (1.0 - settings.tolerance)
    return forms[best][int(np.argmin(np.where(good, distance, np.inf)))], people


def _gain_of_order(score: Float64, held: Held) -> float:
    """Of one order for all: the place of each item taken, less the items before it that the person had."""
    if not held.people:
        return 0.0
    items = len(score)
    place = np.empty(items, np.int64)
    place[np.argsort(-score, kind="stable")] = np.arange(items)
    had = np.sort(held.had_person * items + place[held.had_item])
    starts = np.searchsorted(had, held.taken_person * items)
    ahead = np.searchsorted(had, held.taken_person * items + place[held.taken_item]) - starts
    rank = place[held.taken_item] - ahead
    hits = np.unique(held.taken_person[rank < PLACES])
    first = rank < FIRST_PLACES
    gains = np.bincount(held.taken_person[first], _GAINS[rank[first]], held.people)
    return len(hits) / held.people + 2.0 * float((gains / _ideal(held)).mean())


def _ideal(held: Held) -> Float64:
    counts = np.bincount(held.taken_person, minlength=held.people)
    return np.asarray(_IDEAL[np.clip(counts, 1, FIRST_PLACES)])


def measure_weights(held: Held, lists: NeighbourLists, taken: Float64, traits: Traits) -> tuple[float, float]:
    """How much lists, and closeness, should count. ``lists``, ``taken``: of what was before the cut."""
    settings = traits.settings
    candidates = np.sort(np.argsort(-np.where(traits.created < held.moment, taken, -1.0), kind="stable")[:CANDIDATES])
    expected, close, wanted, hidden = _signals(held, lists, traits, candidates)
    popular = logarithmic(taken)[candidates].astype(np.float32)
    ideal = _ideal(held)
    best, found = -1.0, []
    for together in settings.together:
        for closeness in settings.closeness:
            scores = popular + np.float32(together) * expected + np.float32(closeness) * close
            scores[hidden] = -np.inf
            gain = _gain_of_scores(scores, wanted, ideal)
            best = max(best, gain)
            found.append((gain, together, closeness))
    good = [one for one in found if one[0] >= best * (1.0 - settings.tolerance)]
    _, together, closeness = min(good, key=lambda one: abs(np.log(one[1])) + abs(np.log(one[2])))
    return together, closeness


def _gain_of_scores(scores: Any, wanted: Any, ideal: Float64) -> float:
    """``scores``, ``wanted``: (p, candidates)."""
    count = min(PLACES, scores.shape[1])
    top = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable"), 1)
    is_wanted = np.take_along_axis(wanted, top, 1)
    gains = is_wanted[:, :FIRST_PLACES] @ _GAINS[: min(count, FIRST_PLACES)]
    return float(is_wanted.any(axis=1).mean() + 2.0 * (gains / ideal).mean())


def _signals(held: Held, lists: NeighbourLists, traits: Traits, candidates: Int64) -> tuple[Any, Any, Any, Any]:
    """(p, candidates) each, of p people: the sums of lists and of closeness with their weights, what is looked for, and
    what the person had; as the kernels compute the two (ranking/collaborative.py, ranking/features.py)."""
    items, count = len(traits.created), len(candidates)
    place = np.full(items, -1, np.int64)
    place[candidates] = np.arange(count)
    expected, close = np.zeros((held.people, count), np.float32), np.zeros((held.people, count), np.float32)
    wanted, hidden = np.zeros((held.people, count), bool), np.zeros((held.people, count), bool)
    for matrix, who, taken in (
        (wanted, held.taken_person, held.taken_item),
        (hidden, held.had_person, held.had_item),
    ):
        known = place[taken] >= 0
        matrix[who[known], place[taken[known]]] = True
    # Interactions are by person, the latest first.
    starts = np.searchsorted(held.had_person, np.arange(held.people + 1))
    absent = len(traits.token_kind) - 1
    tokens = traits.tokens[candidates]
    skills = (tokens[:, :SKILL_PLACES] != absent).sum(axis=1)
    latest = (traits.together * traits.latest_weight).tolist()
    for person in range(held.people):
        had = held.had_item[starts[person] : starts[person + 1]]
        for weight, item in zip(latest, had[: len(latest)].tolist(), strict=False):
            own = slice(lists.offsets[item], lists.offsets[item + 1])
            at = place[lists.items[own]]
            expected[person, at[at >= 0]] += weight * lists.weight[own][at >= 0]
        close[person] = _closeness(traits, tokens, skills, had, absent)
    return expected, close, wanted, hidden


def _closeness(traits: Traits, tokens: Int32, skills: Int64, had: Int64, absent: int) -> Float64:
    counts = np.bincount(traits.tokens[had].ravel(), minlength=absent + 1).astype(np.float64)
    counts[absent] = 0.0
    kind = np.minimum(traits.token_kind, 3)
    shared = np.where(counts > 0, traits.match_weight[kind], 0.0)
    match = np.minimum(traits.match_cap, shared[tokens].sum(axis=1))
    of_skills = np.where(traits.token_kind == 0, counts, 0.0)
    total = of_skills.sum()
    if total == 0:
        return np.asarray(traits.match * match)
    cosine, share = traits.similarity_of[0] / np.sqrt((of_skills**2).sum()), traits.similarity_of[1] / total
    similar = of_skills[tokens[:, :SKILL_PLACES]].sum(axis=1) * (cosine / np.sqrt(np.maximum(skills, 1)) + share)
    return np.asarray(traits.similarity * similar + traits.match * match)


def creators_taken(interactions: Interactions, creator: Int64) -> float:
    """Among how many creators what people take is spread: the inverse of Simpson's index, which is about one where one
    has nearly all."""
    if not len(interactions.item):
        return 1.0
    _, number = np.unique(creator, return_inverse=True)
    shares = np.bincount(number[interactions.item]) / len(interactions.item)
    return float(1.0 / (shares**2).sum())
