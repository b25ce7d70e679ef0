"""Which of a feed's slots were seen, and what each was worth."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recommendation_service.learning.format import LearningFile

Floats = npt.NDArray[np.float64]


class Happening(NamedTuple):
    """Something that a person did with an item of a feed."""

    item: int  # key
    reward: float
    shows: bool  # it says no more than that the item was seen


def rewards_of(items: Sequence[int], happened: Sequence[Happening], file: LearningFile) -> Floats:
    """(n,) of each slot; not a number: nobody has seen it, so it teaches nothing.

    Where a client says which items were seen, those were, and those that something was done with. Where it does not,
    whoever did something with an item has seen those before it, too, and none after it.
    """
    rewards = np.full(len(items), np.nan)
    places = {item: place for place, item in enumerate(items)}
    here = [(places[one.item], one) for one in happened if one.item in places]
    if not here:
        return rewards
    if any(one.shows for _, one in here):
        rewards[[place for place, _ in here]] = file.default
    else:
        rewards[: max(place for place, _ in here) + 1] = file.default
    acted = {place for place, one in here if not one.shows}
    rewards[list(acted)] = 0.0
    for place, one in here:
        if not one.shows:
            rewards[place] += one.reward
    return np.asarray(np.clip(rewards, file.least, file.most))


def observed(rewards: Floats, before: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Places whose reward is new, and places of those whose earlier one does not hold any more."""
    changed = ~((rewards == before) | (np.isnan(rewards) & np.isnan(before)))
    return np.flatnonzero(changed & ~np.isnan(rewards)), np.flatnonzero(changed & ~np.isnan(before))
