"""What a person's other feeds say of a feed, taken out of what it brought.

People differ more in how much they do than policies do in what they show. The odds of a feed have nothing to do with
what the person did with others; so a weighed difference stays what it is when something is taken from the rewards that
only these say, and its noise is less (CUPED: Deng, Xu, Kohavi, Walker 2013, "Improving the sensitivity of online
controlled experiments by utilizing pre-experiment data", WSDM).
"""

from dataclasses import replace

import numpy as np

from recommendation_service.estimates.logged import LoggedFeeds

# Of somebody's other feeds, so many more are thought of that are like everybody's.
ORDINARY = 2.0


def without_habits(feeds: LoggedFeeds) -> LoggedFeeds:
    """The same feeds, with rewards that are beside what is usual of the person; in the mean they are about the same.

    From each feed goes β times the mean excess of the person's others, in the shares in which slots bring rewards. β is
    fitted: where people do not differ it is about 0.
    """
    rewards = feeds.rewards
    has = ~np.isnan(rewards)
    counts = has.sum(axis=0)
    means = np.where(has, rewards, 0.0).sum(axis=0) / np.maximum(counts, 1)
    shares = np.where(has, np.abs(means), 0.0)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    excess = np.where(has, rewards - means, 0.0).sum(axis=1)
    _, of = np.unique(feeds.users, return_inverse=True)
    together, several = np.bincount(of, excess), np.bincount(of)
    others = (together[of] - excess) / (several[of] - 1 + ORDINARY)
    spread = float(np.square(others).sum())
    if not spread > 0.0:
        return feeds
    beta = min(1.0, max(0.0, float((others * excess).sum()) / spread))
    return replace(feeds, rewards=rewards - beta * others[:, np.newaxis] * shares)
