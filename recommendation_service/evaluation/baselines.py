"""Rankings that the service is held against, in twenty lines each or from a library that is kept well.

EASE: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019. SLIST: Choi, Kim, Lee, Lee & Lee, Session-
aware Linear Item-Item Models for Session-based Recommendation, WWW 2021 (arXiv 2103.16104). ALS and item-kNN are those
of ``implicit``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from recommendation_service.evaluation.interaction_log import Float64, Int64
from recommendation_service.evaluation.protocol import DAY_SECONDS, LIST_LENGTH, Past, Question


def best(scores: npt.NDArray[Any], past: Past, history: Int64) -> Int64:
    """The candidates by their scores (M,), the best first; of equal ones that which more users had had, as where
    a method knows nothing of a user."""
    scores = scores[past.candidates]
    scores[np.isin(past.candidates, history)] = -np.inf
    order = np.argsort(-scores, kind="stable")[:LIST_LENGTH]
    return past.candidates[order[scores[order] > -np.inf]]


def user_items(past: Past) -> "scipy.sparse.csr_matrix":
    """(U, M) ones."""
    had = past.consumptions
    return scipy.sparse.csr_matrix((np.ones(len(had)), (had.user, had.item)), shape=(past.users, past.items))


class Random:
    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def fit(self, past: Past) -> None:
        self._past = past

    def rank(self, question: Question) -> Int64:
        return best(self._rng.random(self._past.items), self._past, question.history)


class Popularity:
    """By how many users have had an item."""

    name = "popularity"

    def fit(self, past: Past) -> None:
        self._past = past
        had = past.consumptions
        self._scores = np.bincount(had.item, weights=np.ones(len(had)), minlength=past.items)

    def rank(self, question: Question) -> Int64:
        return best(self._scores, self._past, question.history)


class PopularityDecayed:
    """The same, where what is ``half_life_days`` ago counts half."""

    name = "popularity_decayed"

    def __init__(self, half_life_days: float = 30.0) -> None:
        self._half_life_days = half_life_days

    def fit(self, past: Past) -> None:
        self._past = past
        days = (past.moment - past.consumptions.when) / DAY_SECONDS
        weights = 0.5 ** (days / self._half_life_days)
        self._scores = np.bincount(past.consumptions.item, weights=weights, minlength=past.items)

    def rank(self, question: Question) -> Int64:
        return best(self._scores, self._past, question.history)


class ItemKNN:
    """Items like those that the user had: the ``neighbours`` most alike of each by the cosine of their users, of whom
    who had fewer items counts more (``idf``: log(1 + U/(1 + items))).

    The search is ``implicit``'s, and its matrix is what is used: its ``recommend`` gives items that the user had back
    at 0 where it has nothing better.
    """

    name = "item_knn"

    def __init__(self, neighbours: int = 200, *, idf: bool = True) -> None:
        self._neighbours, self._idf = neighbours, idf

    def fit(self, past: Past) -> None:
        from implicit.nearest_neighbours import ItemItemRecommender

        self._past = past
        had = past.consumptions
        weight = np.ones(past.users)
        if self._idf:
            weight = np.log1p(past.users / (1.0 + np.bincount(had.user, minlength=past.users)))
        norms = np.sqrt(np.bincount(had.item, weights=weight[had.user] ** 2, minlength=past.items))
        weighted = (weight[had.user] / norms[had.item], (had.user, had.item))
        model = ItemItemRecommender(K=self._neighbours + 1, num_threads=1)  # an item is its own nearest neighbour
        model.fit(scipy.sparse.csr_matrix(weighted, shape=(past.users, past.items)), show_progress=False)
        self._similarity = model.similarity

    def rank(self, question: Question) -> Int64:
        scores = np.asarray(self._similarity[question.history].sum(axis=0), np.float64).ravel()
        return best(scores, self._past, question.history)


class ALS:
    """Implicit matrix factorization (Hu, Koren & Volinsky 2008) by ``implicit``; a user's factors are computed from the
    history at each question. Factors and not ``recommend``, which pads with item 0."""

    name = "als"

    def __init__(self, factors: int = 64, regularization: float = 5.0, alpha: float = 2.0, seed: int = 0) -> None:
        self._factors, self._regularization, self._alpha, self._seed = factors, regularization, alpha, seed

    def fit(self, past: Past) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        self._past = past
        model = AlternatingLeastSquares(
            factors=self._factors,
            regularization=self._regularization,
            alpha=self._alpha,
            iterations=15,
            num_threads=1,
            random_state=self._seed,
        )
        model.fit(user_items(past), show_progress=False)
        self._items = np.asarray(model.item_factors, np.float64)
        self._gram = self._items.T @ self._items + self._regularization * np.eye(self._factors)

    def rank(self, question: Question) -> Int64:
        # x = (YᵀY + λI + Yᵀ(C − I)Y)⁻¹ YᵀC p, with C = α for what the user had (Hu et al., equation 4).
        had = self._items[question.history]
        left = self._gram + (self._alpha - 1.0) * had.T @ had
        user = scipy.linalg.solve(left, self._alpha * had.sum(axis=0), assume_a="pos")
        return best(self._items @ user, self._past, question.history)


class EASE:
    """B = I − P diagMat(1 ⊘ diag P), with P = (XᵀX + λI)⁻¹ (Steck 2019, equation 8); scores are xB."""

    name = "ease"

    def __init__(self, regularization: float = 200.0) -> None:
        self._regularization = regularization

    def fit(self, past: Past) -> None:
        self._past = past
        X = user_items(past)
        B = -_inverse((X.T @ X).toarray(), self._regularization)
        B /= -np.diag(B).copy()
        np.fill_diagonal(B, 0.0)
        self._B = B

    def rank(self, question: Question) -> Int64:
        return best(self._B[question.history].sum(axis=0), self._past, question.history)


class SLIST:
    """SLIS and SLIT as one least-squares problem (Choi et al. 2021, section 3.4):

    min α ‖W(X − XB)‖² + (1 − α) ‖W(T − SB)‖² + λ ‖B‖², whose solution is (αXᵀW²X + (1 − α)SᵀW²S + λI)⁻¹ (αXᵀW²X +
    (1 − α)SᵀW²T).

    A user's whole history is the session. S and T have a row for each of its places: the items up to there and those
    after, weighted by exp(−distance/``position``). W² weights a session by the age of its end: exp(−age/``age_days``).
    At a question an item counts exp(−items since/``recency``).

    Later fits of one object replace only the sessions that went on. So sums are kept with ages as of the first one's
    moment, of which later ones are a multiple.
    """

    name = "slist"

    def __init__(
        self,
        regularization: float = 100.0,
        alpha: float = 0.5,
        position: float = 2.0,
        recency: float = 8.0,
        age_days: float = 120.0,
    ) -> None:
        self._regularization, self._alpha = regularization, alpha
        self._position, self._recency, self._age_days = position, recency, age_days
        self._lengths: dict[int, int] = {}

    def fit(self, past: Past) -> None:
        had = past.consumptions
        if not self._lengths:
            self._first_moment = past.moment
            self._left, self._right = np.zeros((past.items, past.items)), np.zeros((past.items, past.items))
            self._within, self._towards, self._ends, self._later = _divisions(past.items, self._position)
        self._past = past
        order = np.argsort(had.user, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(had.user[order])) + 1):
            user = int(had.user[places[0]])
            known = self._lengths.get(user, 0)
            if known < len(places):
                if known:
                    self._add(had.item[places[:known]], int(had.when[places[known - 1]]), -1.0)
                self._add(had.item[places], int(had.when[places[-1]]), 1.0)
                self._lengths[user] = len(places)
        aged = self._age(past.moment)
        left = self._left / aged
        left[np.diag_indices_from(left)] += self._regularization
        factor = scipy.linalg.cho_factor(left, overwrite_a=True, check_finite=False)
        self._B = scipy.linalg.cho_solve(factor, self._right / aged, overwrite_b=True, check_finite=False)

    def rank(self, question: Question) -> Int64:
        since = np.arange(len(question.history))[::-1]
        weights = np.exp(-since / self._recency)
        return best(weights @ self._B[question.history], self._past, question.history)

    def _age(self, moment: int) -> float:
        return float(np.exp((moment - self._first_moment) / DAY_SECONDS / self._age_days))

    def _add(self, session: Int64, ended: int, sign: float) -> None:
        n, share = len(session), 1.0 - self._alpha
        place, weight = np.ix_(session, session), sign * self._age(ended)
        # The last place is no division: nothing comes after it.
        within = self._within[:n, :n] * (1.0 - self._ends[n - 1 - self._later[:n, :n]])
        self._left[place] += weight * (self._alpha + share * within)
        self._right[place] += weight * (self._alpha + share * self._towards[:n, :n])


def _divisions(longest: int, position: float) -> tuple[Float64, Float64, Float64, Int64]:
    """What SᵀS and SᵀT of any session are made of, in closed form.

    With d the distance of two places and q = e^(−1/position): SᵀS sums q^d q^2t over the t from 0 at the later of the
    two to the last place but one, which is q^d (1 − q^2(places after the later one))/(1 − q²); in SᵀT each of the d
    divisions between an earlier and a later item gives q^(d − 1).

    q^d/(1 − q²) and d q^(d − 1), each (longest, longest); q^2n (longest,); the later of two places (longest, longest).
    """
    q, place = np.exp(-1.0 / position), np.arange(longest)
    distance = place[None, :] - place[:, None]
    within = q ** np.abs(distance) / (1.0 - q**2)
    towards = np.where(distance > 0, distance * q ** np.maximum(distance - 1.0, 0.0), 0.0)
    return within, towards, q ** (2.0 * place), np.maximum(place[None, :], place[:, None])


def _inverse(gram: Float64, regularization: float) -> Float64:
    gram[np.diag_indices_from(gram)] += regularization
    factor, info = scipy.linalg.lapack.dpotrf(gram, lower=0, overwrite_a=1)
    inverse, info = scipy.linalg.lapack.dpotri(factor, lower=0, overwrite_c=1)
    del info
    inverse = np.triu(inverse)
    return np.asarray(inverse + np.triu(inverse, 1).T)
