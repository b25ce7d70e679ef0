"""How far a policy that only stands beside would make the feeds that are served.

What serves drew an item with probability p, a shadow would have with q. Two draws can be made alike with a probability
of Σ min(p, q) over the items, 1 less their distance in total variation; of draws by p that is the mean of min(1, q/p).
"""

from collections.abc import Sequence

import numpy as np

from recommendation_service.log.records import FeedRecord
from recommendation_service.model.kinds import MOST_KINDS
from recommendation_service.policies.evidence import BETTER, OPEN, REFUSED, WORSE, Look
from recommendation_service.policies.experiment import LIVE
from recommendation_service.ranking.packed_slots import Draws

_WOULD = {
    BETTER: "It would win, by the evidence",
    WORSE: "It would lose, by the evidence",
    OPEN: "Whether it would win cannot be told from the evidence",
    REFUSED: "Whether it would win can never be told from the evidence",
}


def agreement(record: FeedRecord, draws: Draws) -> list[tuple[str, int, float]]:
    """Of each shadow its version, how many draws from pools the feed has, and how many of them would be alike.

    Exploration, and what was seen before, is drawn by all policies alike and says nothing; nor does a feed that the
    shadow itself made, as an arm of an experiment or for the gate. ``draws``: the record's.
    """
    if not record.shadows or record.arm == LIVE:
        return []
    drawn = (draws.pools < MOST_KINDS) & (draws.propensities > 0)
    served = draws.propensities[drawn].astype(np.float64)
    return [
        (shadow.policy_version, len(served), float(np.minimum(1.0, shadow.values()[drawn] / served).sum()))
        for shadow in record.shadows
        if shadow.policy_version != record.policy_version and len(shadow.propensities) == 4 * len(drawn)
    ]


def in_words(version: str, draws: int, alike: float, looks: Sequence[Look]) -> str:
    """``looks``: at its evidence, oldest first."""
    share = alike / draws if draws else 0.0
    how = "agrees with what serves" if share >= 0.95 else "agrees in part" if share >= 0.5 else "goes its own way"
    agrees = f"{version} {how}: of {draws:,} draws {100 * share:.0f} % would be the same"
    if not looks:
        return f"{agrees}. Whether it would win was not weighed yet"
    last = looks[-1]
    return f"{agrees}. {_WOULD[last.verdict]} of {last.feeds:,} feeds. {last.words}"
