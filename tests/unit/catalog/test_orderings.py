"""Orderings and inverted lists hold every video that they should, best first."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recommendation_service.catalog.orderings import kind_orderings, pair_lists, token_lists
from recommendation_service.catalog.vocabulary import Vocabulary
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import load_policy

POLICY = load_policy().file

words = st.lists(st.sampled_from("abcdefgh"), max_size=5, unique=True)
few = st.lists(st.sampled_from("abc"), max_size=3, unique=True)
videos = st.lists(st.tuples(words, few, few, few), max_size=12)


@settings(deadline=None)
@given(videos, st.integers(0, 99))
def test_each_token_lists_the_videos_that_bear_it_best_first(
    lists: list[tuple[list[str], list[str], list[str], list[str]]], seed: int
) -> None:
    vocabulary = Vocabulary()
    tokens = vocabulary.fill_absent(vocabulary.rows(lists))
    score = np.random.default_rng(seed).integers(0, 4, len(lists)).astype(np.float32)

    offsets, items = token_lists(tokens, len(vocabulary), score)

    assert len(offsets) == len(vocabulary) + 1
    for token, (kind, text) in enumerate(vocabulary.names()):
        kind_number = ("skill", "knowledge", "tool", "language").index(kind)
        bearers = [video for video, entries in enumerate(lists) if text in entries[kind_number]]
        assert items[offsets[token] : offsets[token + 1]].tolist() == best_first(bearers, score)


@settings(deadline=None)
@given(videos, st.integers(0, 99))
def test_each_pair_of_skills_lists_the_videos_that_bear_both_best_first(
    lists: list[tuple[list[str], list[str], list[str], list[str]]], seed: int
) -> None:
    vocabulary = Vocabulary()
    tokens = vocabulary.fill_absent(vocabulary.rows(lists))
    absent = len(vocabulary)
    score = np.random.default_rng(seed).integers(0, 4, len(lists)).astype(np.float32)

    keys, offsets, items = pair_lists(tokens, absent, score)

    names = [text for _, text in vocabulary.names()]
    expected = {}
    for one, other in combinations(range(absent), 2):
        kinds = {vocabulary.names()[one][0], vocabulary.names()[other][0]}
        bearers = [v for v, (skills, *_) in enumerate(lists) if {names[one], names[other]} <= {*skills}]
        if kinds == {"skill"} and bearers:
            expected[one * absent + other] = best_first(bearers, score)
    found = {
        int(key): items[start:end].tolist() for key, start, end in zip(keys, offsets[:-1], offsets[1:], strict=True)
    }
    assert found == expected
    assert keys.tolist() == sorted(keys.tolist())


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))
def test_each_kind_orders_the_items_that_it_may_hold_best_first(
    video_count: int, challenge_count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count = video_count + challenge_count
    hand = rng.integers(0, 4, (count, len(KINDS))).astype(np.float32)
    gate = rng.integers(0, 2, count).astype(np.float64)
    age = rng.choice([0.0, 44.9, 45.0, 45.1, 200.0], count)
    rows = {"resume": (0, video_count), "challenge": (video_count, count)}

    offsets, items = kind_orderings(hand, gate, age, rows, POLICY)

    for number, name in enumerate(KINDS):
        allowed = [
            item
            for item in range(count)
            if (item < video_count) == (name in {"VMP", "AU", "NU"})
            and (name != "VMP" or gate[item] > 0)
            and (name != "NU" or age[item] <= 45.0)
        ]
        found = items[offsets[number] : offsets[number + 1]].tolist()
        assert found == best_first(allowed, hand[:, number])


def test_tokens_of_one_text_and_several_kinds_are_different() -> None:
    vocabulary = Vocabulary()
    rows = vocabulary.rows([(["x"], ["x"], ["x"], ["x"]), (["x", "y"], [], [], [])])

    assert rows[0, [0, 5, 8, 11]].tolist() == [0, 1, 2, 3]
    assert rows[1, :2].tolist() == [0, 4]
    assert vocabulary.fill_absent(rows)[1, 2] == len(vocabulary) == 5
    assert vocabulary.kinds().tolist() == [0, 1, 2, 3, 0, 255]
    assert vocabulary.numbers((["y", "z"], ["x"], [], [])) == [4, 5, 1]


def best_first(items: list[int], score: np.ndarray) -> list[int]:
    return sorted(items, key=lambda item: (-score[item], item))
