"""A model of what slots bring, for the doubly robust estimate: linear in the features of what a slot holds.

What it expects of the target's draw at a slot is then the model at the mean of what the target draws there, which is
exact however many candidates there are.
"""

import numpy as np
import numpy.typing as npt

from recommendation_service.estimates.logged import Floats, Integers, Modelled

Float32 = npt.NDArray[np.float32]

# As many slots without a reward as the model takes for granted.
RIDGE = 100.0


class Draws:
    """Of n feeds of up to s slots: the d features of what each slot holds, and their mean over the target's draw."""

    def __init__(self, feeds: int, slots: int, features: int) -> None:
        self.features = features
        self._pools = np.full((feeds, slots), -1, np.int16)
        self._chosen = np.zeros((feeds, slots, features), np.float32)
        self._expected = np.zeros((feeds, slots, features), np.float32)

    def note(self, feed: int, slot: int, pool: int, chosen: Float32, expected: Floats) -> None:
        self._pools[feed, slot] = pool
        self._chosen[feed, slot] = np.nan_to_num(chosen, posinf=0, neginf=0)
        self._expected[feed, slot] = np.nan_to_num(expected, posinf=0, neginf=0)

    def of(self, kept: npt.NDArray[np.bool_]) -> "Draws":
        found = Draws(0, 0, self.features)
        found._pools, found._chosen, found._expected = self._pools[kept], self._chosen[kept], self._expected[kept]
        return found

    def tables(self) -> tuple[npt.NDArray[np.int16], Float32, Float32]:
        """(n, s) index of the pool, -1: drawn without regard to scores; (n, s, d) twice."""
        return self._pools, self._chosen, self._expected


def model_rewards(rewards: Floats, users: Integers, draws: Draws) -> Modelled:
    """Fitted twice, on half of the users each, for the other half. A slot that no policy chooses by its scores has the
    mean of its half."""
    pools, chosen, expected = draws.tables()
    there = ~np.isnan(rewards)
    of_chosen, of_expected = np.full(rewards.shape, np.nan), np.full(rewards.shape, np.nan)
    _, number = np.unique(users, return_inverse=True)
    for half in (0, 1):
        own = (number % 2 == half)[:, np.newaxis] & there
        other = (number % 2 != half)[:, np.newaxis] & there
        mean = float(rewards[other].mean()) if other.any() else 0.0
        of_chosen[own] = of_expected[own] = mean
        for pool in np.unique(pools[own & (pools >= 0)]).tolist():
            theirs, ours = other & (pools == pool), own & (pools == pool)
            X = chosen[theirs].astype(np.float64)
            if not len(X):
                continue
            middle, around = X.mean(axis=0), float(rewards[theirs].mean())
            scale = X.std(axis=0)
            scale[scale == 0.0] = 1.0
            X = (X - middle) / scale
            A = X.T @ X + RIDGE * np.eye(X.shape[1])
            theta = np.linalg.solve(A, X.T @ (rewards[theirs] - around))
            of_chosen[ours] = around + (chosen[ours] - middle) / scale @ theta
            of_expected[ours] = around + (expected[ours] - middle) / scale @ theta
    return Modelled(of_chosen, of_expected)
