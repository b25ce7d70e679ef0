from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.estimates.logged import LoggedFeeds, Modelled, UnusableLog

NAN = np.nan


def two_feeds(**others: object) -> LoggedFeeds:
    given: dict[str, object] = {
        "rewards": np.array([[1.0, 0.0], [0.5, NAN]]),
        "logged": np.array([[0.5, 0.2], [1.0, NAN]]),
        "target": np.array([[0.4, 0.0], [1.0, NAN]]),
        "users": np.array([1, 2]),
        "weights": np.ones(2),
    }
    return LoggedFeeds(**(given | others))  # type: ignore[arg-type]


def test_feeds_of_different_lengths_are_taken() -> None:
    assert (two_feeds().feeds, two_feeds().slots) == (2, 2)


def test_no_feed_at_all_is_a_log_too() -> None:
    none = np.zeros((0, 3))
    empty = two_feeds(rewards=none, logged=none, target=none, users=np.zeros(0, np.int64), weights=np.zeros(0))
    assert empty.feeds == 0


def test_all_that_is_wrong_is_said_at_once_with_place_and_value() -> None:
    with pytest.raises(UnusableLog) as refused:
        two_feeds(
            rewards=np.array([[NAN, 0.0], [np.inf, NAN]]),
            logged=np.array([[NAN, 0.0], [1.5, NAN]]),
            target=np.array([[NAN, -0.1], [0.5, 0.5]]),
            weights=np.array([1.0, 0.0]),
        )
    assert refused.value.problems == [
        "rewards of feed 0, slot 0 is nan: it is missing before the feed's end",
        "rewards of feed 1, slot 0 is inf: it must be finite",
        "target of feed 1, slot 1 is 0.5: it must be missing where the reward is, and only there",
        "logged of feed 0, slot 1 is 0: it must be above 0, 1 at most (and 1 more)",
        "target of feed 0, slot 1 is -0.1: it must be between 0 and 1",
        "weights of feed 1 is 0: it must be finite and above 0",
    ]


def test_shapes_and_types_that_do_not_fit_are_named() -> None:
    with pytest.raises(UnusableLog) as refused:
        two_feeds(target=np.ones((2, 3)), users=np.array([1.0, 2.0]), weights=np.ones(3))
    assert refused.value.problems == [
        "target: must be (2, 2) of float64, as rewards are, and is (2, 3) of float64",
        "users: must be (2,) of int64, and is (2,) of float64",
        "weights: must be (2,) of float64, and is (3,) of float64",
    ]


def test_a_model_has_to_say_something_of_each_slot_and_of_no_other() -> None:
    with pytest.raises(UnusableLog, match=r"modelled.expected of feed 1, slot 1 is 0.3"):
        two_feeds(modelled=Modelled(np.array([[0.1, 0.1], [0.1, NAN]]), np.full((2, 2), 0.3)))
