"""How far a policy that only stands beside would make the feeds that are served.

What serves drew an item with probability p, a shadow would have with q. Two draws can be made alike with a probability
of Σ min(p, q) over the items, 1 less their distance in total variation; of draws by p that is the mean of min(1, q/p).
"""

import numpy as np

from recommendation_service.log.records import FeedRecord
from recommendation_service.model.kinds import KINDS


def agreement(record: FeedRecord) -> list[tuple[str, int, float]]:
    """Of each shadow its version, how many draws from pools the feed has, and how many of them would be alike.

    Exploration, and what was seen before, is drawn by all policies alike and says nothing; nor does a feed that the
    shadow itself made, as an arm of an experiment. Raises ValueError.
    """
    if not record.shadows:
        return []
    slots = record.slots()
    drawn = (slots.pools < len(KINDS)) & (slots.propensities > 0)
    served = slots.propensities[drawn].astype(np.float64)
    return [
        (shadow.policy_version, len(served), float(np.minimum(1.0, shadow.values()[drawn] / served).sum()))
        for shadow in record.shadows
        if shadow.policy_version != record.policy_version and len(shadow.propensities) == 4 * len(drawn)
    ]


def in_words(draws: int, alike: float, version: str) -> str:
    share = alike / draws if draws else 0.0
    how = "agrees with what serves" if share >= 0.95 else "agrees in part" if share >= 0.5 else "goes its own way"
    return f"{version} {how}: of {draws:,} draws {100 * share:.0f} % would be the same"
