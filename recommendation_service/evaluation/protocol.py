"""What is asked of every method, and when: the log replayed, so that each is asked before it is told.

A **consumption** is a user's first event with an item. All consumptions of a user in one second are a **basket**:
nobody knows in what order they came (in MovieLens-100K three ratings of four share user and second with another), so
the user is asked for once, with what was before that second, and within it the order is drawn by the seed. Of an item
that was not there at the last refit no method can know; such consumptions are counted and left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recommendation_service.evaluation.errors import EvaluationError
from recommendation_service.evaluation.interaction_log import Int64, InteractionLog

DAY_SECONDS = 86_400
PREQUENTIAL, LAST_ITEM = "prequential", "last_item"
LIST_LENGTH = 24  # of a feed, and what is measured of a ranking


@dataclass(frozen=True)
class Consumptions:
    """(n,) in the order of their seconds; within a second and user in random order."""

    user: Int64
    item: Int64
    when: Int64

    def before(self, moment: int) -> "Consumptions":
        """A view."""
        end = int(np.searchsorted(self.when, moment))
        return Consumptions(self.user[:end], self.item[:end], self.when[:end])

    def __len__(self) -> int:
        return len(self.when)


@dataclass(frozen=True)
class Past:
    """What there is to learn from: all that was before ``moment``, the refit's."""

    moment: int
    consumptions: Consumptions
    candidates: Int64  # items that were there, those that most users had had first
    users: int  # of the whole log, as the next
    items: int


@dataclass(frozen=True)
class Question:
    """Which candidates does this user take next? Items that the user had are none."""

    user: int
    when: int
    history: Int64  # (h,) items, the latest last: all before ``when``
    history_when: Int64  # (h,)


@dataclass(frozen=True)
class Basket:
    """A question, and what the user took: candidates of that refit, one or more."""

    question: Question
    taken: Int64


@dataclass(frozen=True)
class Stretch:
    """Baskets between a refit and the next."""

    past: Past
    baskets: list[Basket]


class Method(Protocol):
    """A ranking. It is given no more than what it may know."""

    name: str

    def fit(self, past: Past) -> None: ...

    def rank(self, question: Question) -> Int64:
        """Up to LIST_LENGTH items, the best first: candidates alone, none twice, none of the history."""
        ...


@dataclass(frozen=True)
class Plan:
    """A protocol on a log: all stretches, and how many consumptions could not be asked for."""

    protocol: str
    stretches: list[Stretch]
    unknown_items: int

    @property
    def baskets(self) -> int:
        return sum(len(stretch.baskets) for stretch in self.stretches)

    @property
    def taken(self) -> int:
        return sum(len(basket.taken) for stretch in self.stretches for basket in stretch.baskets)


def consumptions_of(log: InteractionLog, seed: int) -> Consumptions:
    shuffled = np.random.default_rng(seed).permutation(len(log.when))
    order = shuffled[np.argsort(log.when[shuffled], kind="stable")]
    pairs = log.user[order] * log.items + log.item[order]
    first = np.sort(np.unique(pairs, return_index=True)[1])
    order = order[first]
    return Consumptions(log.user[order], log.item[order], log.when[order])


def prequential(log: InteractionLog, seed: int, begin: float = 0.8, end: float = 1.0, refit_days: int = 1) -> Plan:
    """Test, then train: the consumptions from the share ``begin`` to ``end`` of the log are asked for in their order,
    with a refit before the first, and then at each midnight (UTC) that ends ``refit_days``.

    A question has all that the user did before its second, on the same day too: only what is fitted waits for the
    refit. Raises EvaluationError where there is nothing to train on or to ask for.
    """
    all_of_them = consumptions_of(log, seed)
    first = _moment_at(all_of_them, begin)
    last = int(all_of_them.when[-1]) + 1 if end >= 1 else _moment_at(all_of_them, end)
    days = (all_of_them.when - first // DAY_SECONDS * DAY_SECONDS) // (refit_days * DAY_SECONDS)
    stretches, unknown = [], 0
    histories = _Histories(log, all_of_them)
    places = np.arange(np.searchsorted(all_of_them.when, first), np.searchsorted(all_of_them.when, last))
    for day in np.unique(days[places]).tolist():
        midnight = first // DAY_SECONDS * DAY_SECONDS + day * refit_days * DAY_SECONDS
        past = _past(log, all_of_them, max(first, midnight))
        baskets = []
        for basket in _baskets(all_of_them, places[days[places] == day]):
            known = basket[np.isin(all_of_them.item[basket], past.candidates)]
            unknown += len(basket) - len(known)
            if len(known):
                baskets.append(Basket(histories.question(int(known[0])), all_of_them.item[known]))
        if baskets:
            stretches.append(Stretch(past, baskets))
    return _checked(Plan(PREQUENTIAL, stretches, unknown))


def last_item(log: InteractionLog, seed: int, split: float = 0.9, end: float = 1.0) -> Plan:
    """One fit at the share ``split`` of the log, and one question for each user who comes after it: for the last item
    (up to the share ``end``), with all that was before its second."""
    all_of_them = consumptions_of(log, seed)
    moment = _moment_at(all_of_them, split)
    last = int(all_of_them.when[-1]) + 1 if end >= 1 else _moment_at(all_of_them, end)
    past, histories = _past(log, all_of_them, moment), _Histories(log, all_of_them)
    after = np.arange(np.searchsorted(all_of_them.when, moment), np.searchsorted(all_of_them.when, last))
    last_places = dict(zip(all_of_them.user[after].tolist(), after.tolist(), strict=True))
    baskets, unknown = [], 0
    for place in sorted(last_places.values()):
        if all_of_them.item[place] in past.candidates:
            baskets.append(Basket(histories.question(place), all_of_them.item[place : place + 1]))
        else:
            unknown += 1
    return _checked(Plan(LAST_ITEM, [Stretch(past, baskets)], unknown))


def _moment_at(consumptions: Consumptions, share: float) -> int:
    """The second of the first consumption after that share: a second is not divided."""
    return int(consumptions.when[min(int(len(consumptions) * share), len(consumptions) - 1)])


def _past(log: InteractionLog, consumptions: Consumptions, moment: int) -> Past:
    before = consumptions.before(moment)
    there = np.flatnonzero(log.created < moment)
    popularity = np.bincount(before.item, minlength=log.items)
    return Past(moment, before, there[np.argsort(-popularity[there], kind="stable")], log.users, log.items)


def _baskets(consumptions: Consumptions, places: Int64) -> Iterator[Int64]:
    """Places of each user and second, in the order of the seconds."""
    order = places[np.lexsort((consumptions.user[places], consumptions.when[places]))]
    changes = (np.diff(consumptions.user[order]) != 0) | (np.diff(consumptions.when[order]) != 0)
    yield from np.split(order, np.flatnonzero(changes) + 1)


def _checked(plan: Plan) -> Plan:
    problems = []
    if not plan.baskets:
        problems.append(f"{plan.protocol}: no consumption of the test part can be asked for; the log is too short.")
    elif not len(plan.stretches[0].past.consumptions):
        problems.append(f"{plan.protocol}: nothing was before the test part; the log is too short.")
    if problems:
        raise EvaluationError(problems)
    return plan


class _Histories:
    """What each user had, in order."""

    def __init__(self, log: InteractionLog, consumptions: Consumptions) -> None:
        order = np.argsort(consumptions.user, kind="stable")
        self._consumptions = consumptions
        self._items, self._when = consumptions.item[order], consumptions.when[order]
        self._starts = np.searchsorted(consumptions.user[order], np.arange(log.users + 1))

    def question(self, place: int) -> Question:
        user, when = int(self._consumptions.user[place]), int(self._consumptions.when[place])
        start, end = self._starts[user], self._starts[user + 1]
        end = start + int(np.searchsorted(self._when[start:end], when))
        return Question(user, when, self._items[start:end], self._when[start:end])
