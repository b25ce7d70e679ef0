"""What people take together: for each item those that are to be expected after it, and how much each trends.

The catalog's interactions are read as one sequence a person: each item once, at its latest time. What one person did in
one second has no order, and is shuffled. Nothing here is of a person: lists say of items what many did.

- While the items are few, SLIST (Choi, Kim, Lee, Lee & Lee, Session-aware Linear Item-Item Models for Session-based
  Recommendation, WWW 2021, arXiv 2103.16104) in closed form: a person's sequence is the session, the last item the end
  of its past and the beginning of its future at each place, and what is further away counts less.
- Beyond, nearest neighbours by how often two items are taken within some places of each other, nearer and forward
  counting more, over the root of how often each is taken.

docs/decisions/0033 says why, and has what both cost.
"""

from typing import NamedTuple

import numpy as np

from recommendation_service.catalog.people import Interactions
from recommendation_service.model.columns import Float32, Float64, Int32, Int64
from recommendation_service.policies.format import ClosedForm, Collaborative, Neighbourhood

DAY_SECONDS = 86400.0
PAIRS_AT_ONCE = 2_000_000
FORETOLD = 0.05  # the share of the interactions, the latest, by which a half-life is chosen, ...
FORETOLD_PLACES = 24  # ... and how much of the list by each is looked at
_SEED = 0  # of the order within a second


class NeighbourLists(NamedTuple):
    """For each of M items those that people take after it, the likeliest first; all weights are more than 0."""

    offsets: Int64  # (M + 1,)
    items: Int32
    weight: Float32


class Sequences(NamedTuple):
    """Interactions of people who have two or more, by person and in their order."""

    person: Int64  # (n,) numbered from 0
    item: Int64  # (n,) index in the catalog
    starts: Int64  # (people + 1,) where each person's are
    ended: Int64  # (people,) when each person's last was, in seconds since 1970

    @property
    def lengths(self) -> Int64:
        return np.diff(self.starts)


def no_lists(items: int) -> NeighbourLists:
    return NeighbourLists(np.zeros(items + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def sequences_of(interactions: Interactions, settings: Collaborative) -> Sequences:
    """The latest ``most_interactions``, and of each person the latest ``most_items_of_user``."""
    user, item, when = interactions.user, interactions.item.astype(np.int64), interactions.when
    if len(when) > settings.most_interactions:
        latest = np.sort(np.argpartition(when, -settings.most_interactions)[-settings.most_interactions :])
        user, item, when = user[latest], item[latest], when[latest]
    order = np.lexsort((np.random.default_rng(_SEED).random(len(when)), when, user))
    user, item, when = user[order], item[order], when[order]
    ends = np.flatnonzero(np.r_[user[1:] != user[:-1], True]) + 1 if len(user) else np.zeros(0, np.int64)
    lengths = np.diff(ends, prepend=0)
    from_last = np.repeat(ends, lengths) - np.arange(len(user))
    kept = (from_last <= settings.most_items_of_user) & (np.repeat(lengths, lengths) > 1)
    ended = when[ends[lengths > 1] - 1]
    lengths = np.minimum(lengths[lengths > 1], settings.most_items_of_user)
    person = np.repeat(np.arange(len(lengths)), lengths)
    return Sequences(person, item[kept], np.concatenate([[0], np.cumsum(lengths)]), ended)


def closed_form(sequences: Sequences, items: int, now: float, settings: ClosedForm, neighbours: int) -> NeighbourLists:
    """SLIST: (αXᵀW²X + (1 − α)SᵀW²S + λI)⁻¹ (αXᵀW²X + (1 − α)SᵀW²T), with α ``whole_history``; S and T have a row for
    each place of a sequence: the items up to there, and those after, weighted by q^distance. W² weights a sequence by
    the age of its end."""
    known, item = np.unique(sequences.item, return_inverse=True)
    m = len(known)
    left, right = np.zeros(m * m), np.zeros(m * m)
    days = np.maximum(0.0, now - sequences.ended) / DAY_SECONDS
    weight_of = np.exp(-days / settings.age_days) if settings.age_days is not None else np.ones(len(days))
    for n in np.unique(sequences.lengths).tolist():
        within, towards = _divisions(n, settings)
        people = np.flatnonzero(sequences.lengths == n)
        for some in np.array_split(people, len(people) * n * n // PAIRS_AT_ONCE + 1):
            taken = item[sequences.starts[some][:, None] + np.arange(n)]
            pairs = (taken[:, :, None] * m + taken[:, None, :]).ravel()
            aged = weight_of[some][:, None, None]
            np.add.at(left, pairs, (aged * within).ravel())
            np.add.at(right, pairs, (aged * towards).ravel())
    # In single precision: half the time, and λ keeps the matrix far from singular.
    ridge = left.reshape(m, m).astype(np.float32)
    ridge[np.diag_indices(m)] += np.float32(settings.regularization)
    B = np.linalg.solve(ridge, right.reshape(m, m).astype(np.float32))
    B[np.diag_indices(m)] = 0.0
    kept = min(neighbours, m - 1)
    best = np.argpartition(-B, kept, axis=1)[:, :kept] if kept < m - 1 else np.argsort(-B, axis=1)[:, :kept]
    source = np.repeat(np.arange(m), kept)
    weight = np.take_along_axis(B, best, axis=1).ravel()
    positive = weight > 0
    return _lists(known[source[positive]], known[best.ravel()[positive]], weight[positive], items, neighbours)


def _divisions(n: int, settings: ClosedForm) -> tuple[Float64, Float64]:
    """What a sequence of n items adds to the left and to the right side, each (n, n).

    With d the distance of two places and q = e^(−1/position): SᵀS sums q^d q^2t over the t from 0 at the later of the
    two to the last place but one; in SᵀT each of the d divisions between an earlier and a later item gives q^(d − 1).
    """
    q, place = np.exp(-1.0 / settings.position_items), np.arange(n)
    distance = place[None, :] - place[:, None]
    after_later = n - 1 - np.maximum(place[None, :], place[:, None])
    within = q ** np.abs(distance) * (1.0 - q ** (2.0 * after_later)) / (1.0 - q**2)
    towards = np.where(distance > 0, distance * q ** np.maximum(distance - 1.0, 0.0), 0.0)
    alpha = settings.whole_history
    return alpha + (1.0 - alpha) * within, alpha + (1.0 - alpha) * towards


def nearest_neighbours(sequences: Sequences, items: int, settings: Neighbourhood, neighbours: int) -> NeighbourLists:
    """How often b comes after a, and by ``backward`` before it, within the window, over √(times a · times b); of who
    took much each counts less."""
    person, item = sequences.person, sequences.item
    of_person = 1.0 / np.log2(2.0 + sequences.lengths)
    times = np.bincount(item, weights=of_person[person], minlength=items)
    pair, weight = np.zeros(0, np.int64), np.zeros(0)
    for lag in range(1, settings.window_items + 1):
        same = person[:-lag] == person[lag:]
        later = of_person[person[lag:][same]] * np.exp(-(lag - 1) / settings.position_items)
        pair = np.concatenate([pair, item[:-lag][same] * items + item[lag:][same]])
        weight = np.concatenate([weight, later])
        pair, weight = _summed(pair, weight)  # at once, so that no more is held than there are pairs
    source, other = np.divmod(pair, items)
    pair = np.concatenate([pair, other * items + source])
    pair, weight = _summed(pair, np.concatenate([weight, settings.backward * weight]))
    source, other = np.divmod(pair, items)
    apart = settings.shrink * of_person.mean() if len(of_person) else 1.0
    weight = settings.scale * weight / (np.sqrt(times[source] * times[other]) + apart)
    positive = (source != other) & (weight > 0)
    return _lists(source[positive], other[positive], weight[positive], items, neighbours)


def _summed(pair: Int64, weight: Float64) -> tuple[Int64, Float64]:
    order = np.argsort(pair, kind="stable")
    pair, weight = pair[order], weight[order]
    first = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]]) if len(pair) else np.zeros(0, np.int64)
    return pair[first], np.add.reduceat(weight, first) if len(pair) else weight


def _lists(source: Int64, other: Int64, weight: Float64 | Float32, items: int, neighbours: int) -> NeighbourLists:
    """The heaviest ``neighbours`` of each source, the heaviest first."""
    order = np.lexsort((other, -weight, source))
    source, other, weight = source[order], other[order], weight[order]
    starts = np.searchsorted(source, np.arange(items + 1))
    kept = np.arange(len(source)) - starts[source] < neighbours
    offsets = np.concatenate([[0], np.cumsum(np.bincount(source[kept], minlength=items))])
    return NeighbourLists(offsets.astype(np.int64), other[kept].astype(np.int32), weight[kept].astype(np.float32))


def taken_lately(interactions: Interactions, items: int, now: float, half_life_days: float) -> Float64:
    """(M,) how often each was taken, what is a half-life ago counting half."""
    days = np.maximum(0.0, now - interactions.when) / DAY_SECONDS
    return np.bincount(interactions.item, 0.5 ** (days / half_life_days), items).astype(np.float64, copy=False)


def best_half_life(interactions: Interactions, items: int, half_lives_days: tuple[float, ...]) -> float:
    """That whose order has what was taken lately highest: by NDCG of the latest interactions, as seen from before."""
    order = np.argsort(interactions.when, kind="stable")
    cut = int(len(order) * (1.0 - FORETOLD))
    before, after = order[:cut], order[cut:]
    if not len(before) or not len(after):
        return half_lives_days[0]
    known = Interactions(
        interactions.user[before], interactions.item[before], interactions.weight[before], interactions.when[before], 0
    )
    moment = float(interactions.when[after[0]])

    def gain(half_life_days: float) -> float:
        gains, first = np.zeros(items), np.argsort(-taken_lately(known, items, moment, half_life_days), kind="stable")
        first = first[:FORETOLD_PLACES]
        gains[first] = 1.0 / np.log2(np.arange(2, len(first) + 2))
        return float(gains[interactions.item[after]].sum())

    return max(half_lives_days, key=gain)
