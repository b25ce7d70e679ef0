"""The estimates, slowly and obviously: one feed, one slot, one user after another."""

import math

import numpy as np

from recommendation_service.estimates.logged import LoggedFeeds


def present(feeds: LoggedFeeds, feed: int, slot: int) -> bool:
    return not math.isnan(feeds.rewards[feed, slot])


def product(feeds: LoggedFeeds, feed: int, slot: int) -> float:
    found = 1.0
    for place in range(slot + 1):
        if present(feeds, feed, place):
            found *= feeds.target[feed, place] / feeds.logged[feed, place]
    return found


def weight_of(feeds: LoggedFeeds, name: str, feed: int, slot: int) -> float:
    if name == "estimate":
        return product(feeds, feed, slot)
    if name == "guardrail":
        return min(10.0, product(feeds, feed, slot))
    if name == "whole_feed":
        return product(feeds, feed, feeds.slots - 1)
    assert name == "single"
    return float(feeds.target[feed, slot] / feeds.logged[feed, slot])


def difference(feeds: LoggedFeeds, name: str, but_user: int | None = None) -> float:
    """Of the self-normalised estimate of that name to what was logged; without a user, with all slots' shares as they
    are with all."""
    found = 0.0
    for slot in range(feeds.slots):
        rows = [n for n in range(feeds.feeds) if present(feeds, n, slot)]
        share = sum(feeds.weights[rows]) / sum(feeds.weights)
        rows = [n for n in rows if feeds.users[n] != but_user]
        base = [feeds.weights[n] for n in rows]
        rewards = [feeds.rewards[n, slot] for n in rows]
        weights = [feeds.weights[n] * weight_of(feeds, name, n, slot) for n in rows]
        found += share * (np.average(rewards, weights=weights) - np.average(rewards, weights=base))
    return found


def standard_error(feeds: LoggedFeeds, name: str) -> float:
    users = sorted(set(feeds.users.tolist()))
    without = [difference(feeds, name, user) for user in users]
    mean = sum(without) / len(users)
    return math.sqrt((len(users) - 1) / len(users) * sum((each - mean) ** 2 for each in without))
