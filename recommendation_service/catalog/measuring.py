"""What a build measures of the data, so that a ranking fits them that nobody tuned: how quickly what people take fades,
and how much what is taken together, and what an item is about, tell beside that.

The latest part of what people did is held back, and looked for in the orders that what was before it gives: of each
person who took something anew, whether it is among the first 24, and NDCG@10. Both say what is counted over people and
not over events, since few do most of what is done. What is measured on some hundred people is measured roughly, and of
dozens of values one is the best by chance: so each has to be better than the plainest by more than that.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from recommendation_service.catalog.collaborative import NeighbourLists
from recommendation_service.catalog.people import UNTIMED, Interactions, People, places
from recommendation_service.catalog.report import Measured
from recommendation_service.model.columns import SKILL_PLACES, Bytes, Float64, Int32, Int64
from recommendation_service.policies.format import Measuring

DAY_SECONDS = 86400.0
PLACES, FIRST_PLACES = 24, 10
DEPTH = 8.0  # natural logarithms from the most liked item down to where nothing counts
POPULARITY_SCALE = 10.0  # the feature is so many of them
PEOPLE = 500  # of whom is looked at what tells of each
PEOPLE_OF_ORDERS = 2_000  # and at what is the same for all
CANDIDATES = 5_000
LEAST_EXPOSURE = 0.3  # what was there for no time counts as if for this share: else one taking is a rate without end
ALL, WITH_PAST, WITHOUT_PAST = "all", "with a past", "without a past"
WORTH_OF_MORE = 0.2  # of a share found beyond what plain popularity finds, beside one that is lost against it
ERRORS_OF_WEIGHTS = 0.25  # standard errors of their worth by which weights have to be better than the least
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
    people: People  # of whom some say what they are about


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
    person: Int64  # (p,) who they are
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
    held = hold_back(interactions, traits.created, settings.weights_cut, PEOPLE, WITH_PAST)
    together, closeness = settings.untold_weights
    if held.people >= settings.least_people:
        taken = liked(held.before, traits.created, held.moment, form)
        together, closeness = measure_weights(held, lists_of(held.before, held.moment), taken, traits)
    profile, newcomers = measure_profile(interactions, traits, form)
    creators = creators_taken(interactions, traits.creator)
    window = max(1, int(creators / settings.creators_each)) if settings.creators_each is not None else None
    return Measured(
        *form, together, closeness, profile / closeness, round(creators, 1), window, people, held.people, newcomers
    )


def hold_back(
    interactions: Interactions, created: Float64, share: float, most: int, who: str = ALL, *, until: float = 1.0
) -> Held:
    """The interactions after ``share`` of them and up to ``until``, by up to ``most`` people: all, or those alone who
    did something before, or who did not. Nobody is asked for items that were not there then, or for what has no
    time."""
    when = interactions.when
    has_time = when != UNTIMED
    ordered = np.sort(when[has_time])
    moment = float(ordered[min(int(len(ordered) * share), len(ordered) - 1)]) if len(ordered) else 0.0
    is_before = when < moment
    item = interactions.item.astype(np.int64)
    is_after = ~is_before & has_time & (created[item] < moment)
    if until < 1.0 and len(ordered):
        is_after &= when < ordered[int(len(ordered) * until)]
    chosen = np.unique(interactions.user[is_after])
    if who != ALL:
        chosen = chosen[np.isin(chosen, interactions.user[is_before], invert=who == WITHOUT_PAST)]
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, most, replace=False))
    place = places(chosen, interactions.user)
    known = place >= 0
    had, taken = known & is_before, known & is_after
    before = Interactions(
        interactions.user[is_before], interactions.item[is_before], interactions.weight[is_before], when[is_before], 0
    )
    return Held(moment, before, chosen, place[had], item[had], place[taken], item[taken], len(chosen))


def liked(interactions: Interactions, created: Float64, now: float, form: Popularity) -> Float64:
    """(M,) how often each item was taken, what is a half-life ago counting half."""
    return _Taken(interactions, created, now).by(form)


def last(interactions: Interactions, now: float) -> float:
    """When something was done last. Ages are as of then: so a copy of tables that nobody writes any more ranks as on
    its last day, and no weight becomes 0."""
    return min(now, float(interactions.when.max(initial=UNTIMED)))


class _Taken:
    """What people did until a moment, counted in several ways."""

    def __init__(self, interactions: Interactions, created: Float64, now: float) -> None:
        now = last(interactions, now)
        self._item, self._days = interactions.item, np.maximum(0.0, now - interactions.when) / DAY_SECONDS
        self._age = np.where(created > 0, np.maximum(0.0, now - created) / DAY_SECONDS, np.inf)
        self._ever = np.bincount(self._item, minlength=len(created))
        self._lately: dict[float, Float64] = {}

    def by(self, form: Popularity) -> Float64:
        """(M,)"""
        life = form.half_life_days
        if life not in self._lately:
            self._lately[life] = np.bincount(self._item, 0.5 ** (self._days / life), len(self._ever)).astype(float)
        taken = self._lately[life]
        if form.by_exposure:
            there = 1.0 - 0.5 ** (self._age / life)
            taken = taken / (LEAST_EXPOSURE + (1.0 - LEAST_EXPOSURE) * there)
        if form.evergreen:
            shares = (1.0 - form.evergreen) * taken / max(float(taken.sum()), 1e-300)
            taken = shares + form.evergreen * self._ever / max(int(self._ever.sum()), 1)
        return np.asarray(taken)


def logarithmic(taken: Float64) -> Float64:
    """(M,) natural logarithms above a depth below the most taken, so that sums with them are products of chances and a
    draw's temperature is a share of the chance whatever the numbers; 0 of what nobody took."""
    most = taken.max(initial=0.0)
    return np.log1p(taken / most * np.exp(DEPTH)) if most > 0 else np.zeros(len(taken))


def measure_popularity(interactions: Interactions, created: Float64, settings: Measuring) -> tuple[Popularity, int]:
    """What foretells best what is taken, and by how many people it was told.

    It is the better of the plain half-lives, unless another form is better by more than chance may make it: of each
    form counts the mean advantage over that, over people and windows, less its standard error."""
    forms = _forms(settings)
    plain = [place for place, form in enumerate(forms) if form in _plain(settings)]
    means, advantages, people = np.zeros(len(forms)), [], 0
    for share in settings.windows:
        until = min(share + settings.window, 1.0)
        held = hold_back(interactions, created, share, PEOPLE_OF_ORDERS, until=until)
        if held.people:
            people = max(people, held.people)
            taken, there = _Taken(held.before, created, held.moment), created < held.moment
            gains = np.array([_gains_of_order(np.where(there, taken.by(form), -1.0), held) for form in forms])
            means += gains.mean(axis=1)
            advantages.append(gains)
    if people < settings.least_people:
        return Popularity(settings.untold_half_life_days, False, 0.0), people
    best = max(plain, key=lambda place: means[place])
    apart = [gains - gains[best] for gains in advantages]
    of_windows = np.array([each.mean(axis=1) for each in apart])
    of_people = np.mean([each.var(axis=1) / each.shape[1] for each in apart], axis=0)
    # Of windows each has half in common with the next: so they tell half as much as so many apart.
    error = np.sqrt((of_people + of_windows.var(axis=0)) * 2.0 / len(apart))
    advantage = of_windows.mean(axis=0) - error
    advantage[best] = 0.0
    return forms[int(np.argmax(advantage))], people


def _plain(settings: Measuring) -> list[Popularity]:
    return [Popularity(life, False, 0.0) for life in settings.plain_half_lives_days]


def _forms(settings: Measuring) -> list[Popularity]:
    """Plain ones first, so that of equal ones the plainer counts."""
    lives = settings.half_lives_days
    forms = [*_plain(settings), *(Popularity(life, False, 0.0) for life in lives)]
    forms += [Popularity(life, True, 0.0) for life in lives]
    forms += [Popularity(life, False, share) for share in settings.evergreen for life in lives]
    return list(dict.fromkeys(forms))


def _gains_of_order(score: Float64, held: Held) -> Float64:
    """(p,) of one order for all: the place of each item taken, less the items before it that the person had."""
    items = len(score)
    place = np.empty(items, np.int64)
    place[np.argsort(-score, kind="stable")] = np.arange(items)
    had = np.sort(held.had_person * items + place[held.had_item])
    starts = np.searchsorted(had, held.taken_person * items)
    ahead = np.searchsorted(had, held.taken_person * items + place[held.taken_item]) - starts
    rank = place[held.taken_item] - ahead
    hits = np.bincount(held.taken_person, rank < PLACES, held.people) > 0
    first = rank < FIRST_PLACES
    gains = np.bincount(held.taken_person[first], _GAINS[rank[first]], held.people)
    return np.asarray(hits + 2.0 * gains / _ideal(held))


def _ideal(held: Held) -> Float64:
    counts = np.bincount(held.taken_person, minlength=held.people)
    return np.asarray(_IDEAL[np.clip(counts, 1, FIRST_PLACES)])


def measure_weights(held: Held, lists: NeighbourLists, taken: Float64, traits: Traits) -> tuple[float, float]:
    """How much lists, and closeness, should count: the least, unless other weights are better by their ``_worth`` less
    a part of a standard error. ``lists``, ``taken``: of what was before the cut."""
    settings = traits.settings
    candidates = _candidates(held, taken, traits)
    expected, close, wanted, hidden = _signals(held, lists, traits, candidates)
    ideal, before = _ideal(held), _Taken(held.before, traits.created, held.moment)
    popular = logarithmic(taken)[candidates].astype(np.float32)
    weights = list(product(sorted(settings.together), sorted(settings.closeness)))
    scores = [np.where(hidden, -np.inf, before.by(form)[candidates]) for form in _plain(settings)]
    found = [_found_by_scores(each, wanted, ideal) for each in scores]
    plain, least = list(range(len(found))), len(found)
    for together, closeness in weights:
        each = popular + np.float32(together) * expected + np.float32(closeness) * close
        each[hidden] = -np.inf
        found.append(_found_by_scores(each, wanted, ideal))
    told, variances = [], []
    for figure in np.array(found).swapaxes(0, 1):
        if figure[plain].any():
            worth, better = _worth(figure, plain)
            told.append(worth)
            variances.append(_variance(figure, least, figure[better].mean()))
    if not told:
        return settings.untold_weights
    values, error = np.mean(told, axis=0), np.sqrt(np.mean(variances, axis=0) / len(told))
    return weights[int(np.argmax((values - ERRORS_OF_WEIGHTS * error)[least:]))]


def _worth(found: Float64, plain: list[int]) -> tuple[Float64, int]:
    """(F,) of (F, p) figures of people: each order's mean as a share of the better plain one's, less 1, and which one
    that is. What is more than that counts a fifth of what is less: who follows what happened to fit some people best
    loses by it with the next."""
    means = found.mean(axis=1)
    better = max(plain, key=lambda place: means[place])
    shares = means / means[better] - 1.0
    return np.where(shares > 0, WORTH_OF_MORE * shares, shares), better


def _variance(found: Float64, beside: int, unit: float) -> Float64:
    """(F,) of the means' differences from that of the order ``beside``, in units of ``unit``."""
    return np.asarray((found - found[beside]).var(axis=1) / found.shape[1] / unit**2)


def measure_profile(interactions: Interactions, traits: Traits, form: Popularity) -> tuple[float, int]:
    """How much closeness counts by what people say of themselves who did nothing yet, beside popularity, and how many
    newcomers there were to tell: nothing, unless some weight is better by more than two standard errors. Where
    newcomers are too few to tell, all people tell, as if they had done nothing yet."""
    settings, people = traits.settings, traits.people
    newcomers = 0
    for who in (WITHOUT_PAST, ALL):
        held = hold_back(interactions, traits.created, settings.profile_cut, PEOPLE_OF_ORDERS, who)
        rows = places(people.user_id, held.person)
        says = np.flatnonzero(np.diff(people.profile_offsets)[rows] > 0)[:PEOPLE]
        newcomers = len(says) if who == WITHOUT_PAST else newcomers
        if len(says) >= settings.least_people:
            break
    else:
        return settings.untold_profile, newcomers
    taken = liked(held.before, traits.created, held.moment, form)
    candidates = _candidates(held, taken, traits)
    wanted = _marked(held.people, len(traits.created), candidates, held.taken_person, held.taken_item)[says]
    tokens = traits.tokens[candidates]
    skills = (tokens[:, :SKILL_PLACES] != len(traits.token_kind) - 1).sum(axis=1)
    offsets = people.profile_offsets
    close = np.stack(
        [
            _closeness(traits, tokens, skills, people.profile_tokens[offsets[row] : offsets[row + 1]])
            for row in rows[says].tolist()
        ]
    ).astype(np.float32)
    popular, ideal = logarithmic(taken)[candidates].astype(np.float32), _ideal(held)[says]
    weights = (0.0, *settings.profile)
    found = [_found_by_scores(popular + np.float32(weight) * close, wanted, ideal) for weight in weights]
    gains = np.array([hits + 2.0 * ndcg for hits, ndcg in found])
    best = _better_than_the_first(gains)
    return weights[best] if _better_than_the_first(gains, errors=2.0) else 0.0, newcomers


def _better_than_the_first(gains: Float64, errors: float = 1.0) -> int:
    """Of (n, p) gains the row that is the best by its advantage over the first, less so many standard errors."""
    apart = gains - gains[0]
    return int(np.argmax(apart.mean(axis=1) - errors * apart.std(axis=1) / np.sqrt(apart.shape[1])))


def _found_by_scores(scores: Any, wanted: Any, ideal: Float64) -> Float64:
    """(2, p) hits and NDCG. ``scores``, ``wanted``: (p, candidates)."""
    count = min(PLACES, scores.shape[1])
    top = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable"), 1)
    is_wanted = np.take_along_axis(wanted, top, 1)
    gains = is_wanted[:, :FIRST_PLACES] @ _GAINS[: min(count, FIRST_PLACES)]
    return np.array([is_wanted.any(axis=1), gains / ideal])


def _candidates(held: Held, taken: Float64, traits: Traits) -> Int64:
    """Those that were there and are liked most, ascending."""
    there = np.where(traits.created < held.moment, taken, -1.0)
    return np.sort(np.argsort(-there, kind="stable")[:CANDIDATES])


def _marked(people: int, items: int, candidates: Int64, person: Int64, item: Int64) -> Any:
    """(p, candidates) whether each is of the pairs."""
    place = np.full(items, -1, np.int64)
    place[candidates] = np.arange(len(candidates))
    known, marked = place[item] >= 0, np.zeros((people, len(candidates)), bool)
    marked[person[known], place[item[known]]] = True
    return marked


def _signals(held: Held, lists: NeighbourLists, traits: Traits, candidates: Int64) -> tuple[Any, Any, Any, Any]:
    """(p, candidates) each, of p people: the sums of lists and of closeness with their weights, what is looked for, and
    what the person had; as the kernels compute the two (ranking/collaborative.py, ranking/features.py)."""
    items, count = len(traits.created), len(candidates)
    place = np.full(items, -1, np.int64)
    place[candidates] = np.arange(count)
    expected, close = np.zeros((held.people, count), np.float32), np.zeros((held.people, count), np.float32)
    wanted = _marked(held.people, items, candidates, held.taken_person, held.taken_item)
    hidden = _marked(held.people, items, candidates, held.had_person, held.had_item)
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
        close[person] = _closeness(traits, tokens, skills, traits.tokens[had])
    return expected, close, wanted, hidden


def _closeness(traits: Traits, tokens: Int32, skills: Int64, own: Int32) -> Float64:
    """(candidates,). ``tokens``, ``skills``: of those; ``own``: tokens of what a person had, or says."""
    absent = len(traits.token_kind) - 1
    counts = np.bincount(own.ravel(), minlength=absent + 1).astype(np.float64)
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
