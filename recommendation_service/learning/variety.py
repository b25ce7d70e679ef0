"""How evenly a kind's items are drawn: a policy that was learned must not draw more evenly than the one it is of.

The starting policy's widths are wide, and part of what sets its items apart. As they shrink, the same temperature would
draw ever more evenly, and what was learned would be lost in the draw. So a temperature is lowered to where the draws of
the slots whose decisions were recorded are as even as before; it is never raised. And as drawing is how one tries what
is not known, draws become somewhat less even as less of that is left.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recommendation_service.log.decisions import latest_drawn
from recommendation_service.model.kinds import MOST_KINDS
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.decisions import unpack_decision

Floats = npt.NDArray[np.float64]

DECISIONS = 40  # that are looked at
LEAST_SLOTS, MOST_SLOTS = 20, 80  # of a kind
STEPS = 30  # of the search; each halves what is uncertain
LEAST_SHARE = 1e-3  # of the temperature that a policy file gives


class Slots:
    """What each of so many slots could hold, one after the other: so many slots are one column."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """``sizes``: of each, 1 at least."""
        self.sizes = np.asarray(sizes, np.int64)
        self._begins = np.cumsum(self.sizes) - self.sizes

    def sums(self, values: Floats) -> Floats:
        """(slots,) of ``values`` (n,)."""
        return np.asarray(np.add.reduceat(values, self._begins))

    def drawn(self, scores: Floats, temperature: float) -> Floats:
        """(n,) with what probability the slot would hold each."""
        largest = np.maximum.reduceat(scores, self._begins)
        weights = np.exp((scores - np.repeat(largest, self.sizes)) / temperature)
        return np.asarray(weights / np.repeat(self.sums(weights), self.sizes))


def evenness(scores: Sequence[Floats], temperature: float) -> float:
    """Mean entropy of the draws for so many slots, in nats."""
    return _evenness(Slots(list(map(len, scores))), np.concatenate(scores), temperature)


def _evenness(slots: Slots, scores: Floats, temperature: float) -> float:
    shares = slots.drawn(scores, temperature)
    return -float(shares @ np.log(np.maximum(shares, 1e-300))) / len(slots.sizes)


def unknown(slots: Sequence[Floats], A: Floats, precision: float) -> float:
    """What is left, 0 to 1, of the prior's variance of the differences between items of one slot. ``A``: of what is
    believed now; ``precision``: the prior's."""
    centered = np.concatenate([X - X.mean(axis=0) for X in slots])
    scatter = centered.T @ centered
    before = float(np.trace(scatter)) / precision
    return min(1.0, float(np.trace(np.linalg.solve(A, scatter))) / before) if before > 0 else 1.0


def as_varied(before: Sequence[Floats], after: Sequence[Floats], temperature: float, share: float = 1.0) -> float:
    """The temperature, or the highest below it, at which draws by ``after`` have at most that share of the evenness of
    those by ``before``; each the scores of what the same slots could hold."""
    if not before:
        return temperature
    wanted = share * evenness(before, temperature)
    slots, scores = Slots(list(map(len, after))), np.concatenate(after)
    if _evenness(slots, scores, temperature) <= wanted:
        return temperature
    low, high = np.log(LEAST_SHARE * temperature), np.log(temperature)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _evenness(slots, scores, float(np.exp(middle))) > wanted:
            high = middle
        else:
            low = middle
    return float(np.exp(low))


def temperatures(before: Policy, after: Policy, slots: Sequence[Sequence[Floats]], shares: Floats) -> Floats:
    """(K,) of a learned policy; ``slots``: by kind, of each slot the features of what it could hold (m, d). Fewer than
    LEAST_SLOTS say nothing, and the temperature stays. ``shares`` (K,): as ``as_varied`` has them."""
    found = before.arrays.temperature.copy()
    for kind, some in enumerate(slots):
        if len(some) >= LEAST_SLOTS:
            one, other = ([scores_of(policy, kind, X) for X in some] for policy in (before, after))
            found[kind] = as_varied(one, other, float(found[kind]), float(shares[kind]))
    return found


def shares(slots: Sequence[Sequence[Floats]], A: Floats, precision: float, least: float) -> Floats:
    """(K,) how evenly each kind is drawn beside before: ``least`` once all is known of it, 1 while nothing is."""
    left = [unknown(some, one, precision) if some else 1.0 for some, one in zip(slots, A, strict=True)]
    return np.asarray(least + (1.0 - least) * np.array(left))


def recorded_feeds(folder: Path, features: int) -> list[list[tuple[int, Floats]]]:
    """Of the latest decisions, of each slot that was drawn from a pool: whose, and what it could hold (m, d). Raises
    OSError."""
    found = []
    for record in latest_drawn(folder, DECISIONS):
        try:
            decision = unpack_decision(record.packed)
        except ValueError:
            continue  # of another release
        feed = []
        for slot in decision.slots:
            if slot.chosen < 0 or slot.pool >= MOST_KINDS:
                continue
            X = decision.pools[slot.pool].X[slot.eligible].astype(np.float64)
            if X.shape[1] == features and np.isfinite(X).all():
                feed.append((slot.pool, X))
        found.append(feed)
    return found


def slots_by_kind(feeds: Sequence[Sequence[tuple[int, Floats]]], kinds: int) -> list[list[Floats]]:
    """Of each of so many kinds, what so many slots could hold that left something to choose."""
    found: list[list[Floats]] = [[] for _ in range(kinds)]
    for feed in feeds:
        for pool, X in feed:
            if pool < kinds and len(X) > 1 and len(found[pool]) < MOST_SLOTS:
                found[pool].append(X)
    return found


def scores_of(policy: Policy, kind: int, X: Floats) -> Floats:
    """(m,) of items with the features X (m, d)."""
    arrays = policy.arrays
    widths = np.linalg.norm(X @ arrays.precision_root[kind], axis=1)
    return np.asarray(X @ arrays.theta[kind] + arrays.alpha[kind] * widths)
