"""What people take together, against the papers' definitions computed row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from recommendation_service.catalog.collaborative import (
    NeighbourLists,
    Sequences,
    best_half_life,
    closed_form,
    nearest_neighbours,
    sequences_of,
)
from recommendation_service.catalog.kept_lists import KeptLists, moved
from recommendation_service.catalog.people import Interactions
from recommendation_service.policies.format import Collaborative
from tests.support.policies import policy_file

SHIPPED = policy_file().collaborative
assert SHIPPED is not None
SETTINGS = SHIPPED.model_copy(update={"least_interactions": 20})
ITEMS = 30
NOW, DAY = 1_790_000_000, 86_400


def interactions(seed: int = 1, people: int = 40, longest: int = 12) -> Interactions:
    """Each item at most once a person; some in the same second."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(1, people + 1):
        items = draw.permutation(ITEMS - 3)[: draw.integers(1, longest)]
        times = np.sort(NOW - draw.integers(0, 60 * DAY, len(items)) // DAY * DAY)
        rows += [(user, item, when) for item, when in zip(items.tolist(), times.tolist(), strict=True)]
    return of_rows(rows)


def of_rows(rows: Sequence[tuple[int, int, int]]) -> Interactions:
    user, item, when = np.array(rows, np.int64).T
    return Interactions(user, item.astype(np.int32), np.ones(len(user), np.float32), when, len(user))


def by_person(sequences: Sequences) -> list[list[int]]:
    return [part.tolist() for part in np.split(sequences.item, sequences.starts[1:-1])]


def as_matrix(lists: NeighbourLists, items: int = ITEMS) -> np.ndarray:
    found = np.zeros((items, items))
    for item in range(items):
        start, end = lists.offsets[item], lists.offsets[item + 1]
        found[item, lists.items[start:end]] = lists.weight[start:end]
        assert (np.diff(lists.weight[start:end]) <= 0).all(), "the likeliest first"
    return found


def heaviest(B: np.ndarray, kept: int) -> np.ndarray:
    B = np.where(np.eye(len(B)) > 0, 0.0, np.maximum(B, 0.0))
    least = -np.sort(-B, axis=1)[:, kept - 1 : kept]
    return np.where(least <= B, B, 0.0)


@pytest.mark.parametrize("age_days", [None, 20.0])
@pytest.mark.parametrize("kept", [4, ITEMS])
def test_the_closed_form_is_the_papers(kept: int, age_days: float | None) -> None:
    had = interactions()
    sequences, settings = sequences_of(had, SETTINGS), SETTINGS.closed_form
    settings = settings.model_copy(update={"regularization": 3.0, "age_days": age_days})
    X, S, T = [], [], []
    users = [user for user in np.unique(had.user).tolist() if (had.user == user).sum() > 1]
    for user, items in zip(users, by_person(sequences), strict=True):
        ended = had.when[had.user == user].max()
        root = np.exp(-(NOW - ended) / DAY / age_days / 2) if age_days else 1.0  # W, of which there are two
        X.append(root * np.isin(np.arange(ITEMS), items).astype(float))
        for cut in range(1, len(items)):
            past, future = np.zeros(ITEMS), np.zeros(ITEMS)
            for place, item in enumerate(items):
                distance = cut - 1 - place if place < cut else place - cut
                (past if place < cut else future)[item] = np.exp(-distance / settings.position_items)
            S.append(root * past)
            T.append(root * future)
    x, s, t, alpha = np.array(X), np.array(S), np.array(T), settings.whole_history
    left = alpha * x.T @ x + (1 - alpha) * s.T @ s + settings.regularization * np.eye(ITEMS)
    B = np.linalg.solve(left, alpha * x.T @ x + (1 - alpha) * s.T @ t)
    found = as_matrix(closed_form(sequences, ITEMS, NOW, settings, kept))
    np.testing.assert_allclose(found, heaviest(B, min(kept, ITEMS)), atol=2e-6)


def test_nearest_neighbours_are_who_is_taken_close_by() -> None:
    sequences, settings = sequences_of(interactions(), SETTINGS), SETTINGS.neighbourhood
    settings = settings.model_copy(update={"window_items": 3})
    together, times = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    weights = []
    for items in by_person(sequences):
        weight = 1 / np.log2(2 + len(items))
        weights.append(weight)
        for place, item in enumerate(items):
            times[item] += weight
            for later in range(place + 1, min(place + 4, len(items))):
                near = weight * np.exp(-(later - place - 1) / settings.position_items)
                together[item, items[later]] += near
                together[items[later], item] += settings.backward * near
    apart = settings.shrink * np.mean(weights)
    expected = heaviest(settings.scale * together / (np.sqrt(np.outer(times, times)) + apart), 5)
    np.testing.assert_allclose(as_matrix(nearest_neighbours(sequences, ITEMS, settings, 5)), expected, rtol=1e-5)


def test_sequences_are_of_people_with_two_or_more_and_end_with_the_latest() -> None:
    rows = [(1, 5, NOW), (2, 3, NOW), (2, 4, NOW - 9), (3, 1, NOW - 3), (3, 2, NOW - 2), (3, 0, NOW - 1)]
    assert by_person(sequences_of(of_rows(rows), SETTINGS)) == [[4, 3], [1, 2, 0]]
    two = SETTINGS.model_copy(update={"most_items_of_user": 2})
    assert by_person(sequences_of(of_rows(rows), two)) == [[4, 3], [2, 0]]
    latest = SETTINGS.model_copy(update={"most_interactions": 4})
    assert by_person(sequences_of(of_rows(rows), latest)) == [[2, 0]]


def test_what_was_done_in_one_second_is_in_no_order() -> None:
    rows = [(user, item, NOW) for user in range(400) for item in (1, 2)]
    firsts = Counter(items[0] for items in by_person(sequences_of(of_rows(rows), SETTINGS)))
    assert 140 < firsts[1] < 260


def test_the_half_life_that_foretells_best_is_taken() -> None:
    half_lives = (1.0, 30.0)
    # What moves from day to day, and what is the same for ever, but for some that were of one evening alone.
    moving = [(user, day % ITEMS, NOW - (60 - day) * DAY + user) for day in range(60) for user in range(40)]
    moving += [(user, (day + 1) % ITEMS, NOW - (60 - day) * DAY + user) for day in range(60) for user in range(20)]
    lasting = [(user, user, NOW - day * DAY) for day in range(60) for user in range(24)]
    lasting += [(user, 24 + user % 6, NOW - 7 * DAY // 2) for user in range(120)]
    assert best_half_life(of_rows(moving), ITEMS, half_lives) == 1.0
    assert best_half_life(of_rows(lasting), ITEMS, half_lives) == 30.0
    assert best_half_life(of_rows(moving[:1]), ITEMS, half_lives) == 1.0


def test_lists_follow_their_items_into_another_catalog() -> None:
    lists = closed_form(sequences_of(interactions(), SETTINGS), ITEMS, NOW, SETTINGS.closed_form, 6)
    keys = np.arange(ITEMS) * 10
    new_keys = np.concatenate([keys[::-2], [7, 8]])  # half of them, the other way round, and two new ones
    found, place = as_matrix(moved(lists, keys, new_keys), len(new_keys)), {int(key): i for i, key in enumerate(keys)}
    whole, known = as_matrix(lists), [place[int(key)] for key in new_keys[:-2]]
    np.testing.assert_array_equal(found[:-2, :-2], whole[np.ix_(known, known)])
    assert not found[-2:].any()
    assert not found[:, -2:].any()


KEYS = np.arange(ITEMS) * 2


def test_lists_are_taken_over_until_they_are_old_or_the_policy_has_others() -> None:
    kept, first = KeptLists(refresh_seconds=600), interactions(1)
    one = kept.of(first, KEYS, NOW, SETTINGS, wanted=True)
    assert one.report.method == "slist"
    assert one.trending.max() == 1
    other = interactions(2)
    again = kept.of(other, KEYS, NOW + 599, SETTINGS, wanted=True)
    np.testing.assert_array_equal(again.lists.weight, one.lists.weight)
    assert again.report.computed_seconds_ago == 599
    assert (again.trending != one.trending).any(), "a trend is of the moment"
    anew = kept.of(other, KEYS, NOW + 600, SETTINGS, wanted=True)
    assert as_matrix(anew.lists).tolist() != as_matrix(one.lists).tolist()
    fewer: Collaborative = SETTINGS.model_copy(update={"neighbours": 2})
    assert np.diff(kept.of(other, KEYS, NOW + 601, fewer, wanted=True).lists.offsets).max() == 2


def test_beyond_so_many_items_neighbours_are_the_nearest() -> None:
    few = SETTINGS.closed_form.model_copy(update={"most_items": ITEMS - 4})
    settings = SETTINGS.model_copy(update={"closed_form": few})
    found = KeptLists().of(interactions(), KEYS, NOW, settings, wanted=True)
    assert (found.report.method, found.report.reason) == ("item_knn", f"more than {ITEMS - 4} items")
    expected = nearest_neighbours(
        sequences_of(interactions(), settings), ITEMS, settings.neighbourhood, settings.neighbours
    )
    np.testing.assert_array_equal(found.lists.weight, expected.weight)


@pytest.mark.parametrize("case", ["too little", "COLLABORATIVE is false", "no section", "nothing"])
def test_where_it_is_not_known_it_is_said_why(case: str) -> None:
    settings = None if case == "no section" else SETTINGS.model_copy(update={"least_interactions": 2000})
    wanted = case != "COLLABORATIVE is false"
    done = of_rows([(1, 1, NOW)]) if case == "nothing" else interactions()
    found = KeptLists().of(done, KEYS, NOW, settings, wanted=wanted)
    assert found.report.method == "none"
    assert (case if case != "nothing" else "too little: 0 interactions") in found.report.reason
    assert len(found.lists.items) == 0
    assert not found.trending.any()
