"""What a person's earlier feeds say of a feed, taken out of what it brought.

People differ more in how much they do than policies do in what they show. The odds of a feed have nothing to do with
what the person did before; so a weighed difference stays what it is when something is taken from the rewards that only
this says, and its noise is less (CUPED: Deng, Xu, Kohavi, Walker 2013, "Improving the sensitivity of online controlled
experiments by utilizing pre-experiment data", WSDM). Of later feeds it is not true: what one feed shows, the next does
not, so these say what the feed itself did.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.logged import LoggedFeeds

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Of somebody's earlier feeds, so many more are thought of that are like everybody's.
ORDINARY = 2.0


def without_habits(feeds: LoggedFeeds) -> LoggedFeeds:
    """The same feeds, with rewards that are beside what is usual of the person; in the mean they are about the same.
    ``feeds``: in the order in which they were made.

    From each feed goes β times the mean excess of the person's earlier ones, in the shares in which slots bring
    rewards. β is fitted: where people do not differ it is about 0.
    """
    rewards = feeds.rewards
    has = ~np.isnan(rewards)
    counts = has.sum(axis=0)
    means = np.where(has, rewards, 0.0).sum(axis=0) / np.maximum(counts, 1)
    shares = np.where(has, np.abs(means), 0.0)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    excess = np.where(has, rewards - means, 0.0).sum(axis=1)
    earlier = _mean_of_earlier(excess, feeds.users)
    spread = float(np.square(earlier).sum())
    if not spread > 0.0:
        return feeds
    beta = min(1.0, max(0.0, float((earlier * excess).sum()) / spread))
    return replace(feeds, rewards=rewards - beta * earlier[:, np.newaxis] * shares)


def _mean_of_earlier(excess: Floats, users: Integers) -> Floats:
    """(n,) of each feed, of those that the user had before."""
    order = np.argsort(users, kind="stable")
    own = excess[order]
    begins = (
        np.flatnonzero(np.diff(users[order], prepend=users[order][:1] - 1)) if len(users) else np.zeros(0, np.int64)
    )
    sizes = np.diff(begins, append=len(users))
    before = np.cumsum(own) - own
    before -= np.repeat(before[begins], sizes)
    place = np.arange(len(users)) - np.repeat(begins, sizes)
    earlier = np.empty(len(users))
    earlier[order] = before / (place + ORDINARY)
    return earlier
