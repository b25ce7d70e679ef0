"""What a pipeline's working memory says of its last feed, in terms of items instead of places in arrays.

The one place of the tests that knows the memory's fields.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recommendation_service.feed.pipeline import FeedPipeline, Slate
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.columns import Bytes
from recommendation_service.model.kinds import KINDS
from recommendation_service.ranking.seen import SEEN_POOL
from recommendation_service.ranking.slate import EXPLORATION, RULES
from recommendation_service.ranking.working_memory import SCANNED, SLOTS, TOUCHED_TOKENS
from tests.support.catalogs import Item, ItemType, World

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slot:
    item: Item
    kind: str  # what the pattern asks for
    pool: str  # a kind, "exploration" or "seen"
    relaxed: frozenset[str]
    propensity: float
    features: Floats
    score: float


class Slots(list[Slot]):
    """Of a feed, with the slate that they are from."""

    slate: Slate


def request_for(
    user_id: int = 0,
    endpoint: str = "total",
    size: int = 24,
    request_id: str = "request",
    excluded: Sequence[int] = (),
    *,
    explain: bool = False,
) -> FeedRequest:
    return FeedRequest(endpoint, user_id, size, request_id, np.array(excluded, np.int64), explain)


def ranked(pipeline: FeedPipeline, world: World, request: FeedRequest, seen: bytes = b"") -> Slots:
    """Run the feed and read its slots."""
    slate = pipeline.rank(request, seen)
    slots = Slots(slots_of(pipeline, world))
    slots.slate = slate
    return slots


def slots_of(pipeline: FeedPipeline, world: World) -> list[Slot]:
    memory, items = pipeline.memory, world.items
    n = memory.counts[SLOTS]
    kinds, X = memory.slot_kind[:n], memory.slot_X[:, :n].T.copy()
    columns = (
        *(memory.slot_item[:n], kinds, memory.slot_pool[:n], memory.slot_relaxed[:n]),
        *(memory.slot_propensity[:n], _scores(pipeline, kinds, X)),
    )
    return [
        Slot(items[item], KINDS[kind], _pool_name(pool), _rules(relaxed), propensity, features, score)
        for features, (item, kind, pool, relaxed, propensity, score) in zip(
            X, zip(*(column.tolist() for column in columns), strict=True), strict=True
        )
    ]


def _scores(pipeline: FeedPipeline, kinds: Bytes, X: Floats) -> Floats:
    """Of rows of ``X`` (n, d)."""
    policy = pipeline.policy.arrays
    with np.errstate(invalid="ignore"):  # a policy of a test may have weights that are none
        widths = np.linalg.norm(np.einsum("nd,nde->ne", X, policy.precision_root[kinds]), axis=1)
        return np.asarray(np.einsum("nd,nd->n", policy.theta[kinds], X) + policy.alpha[kinds] * widths)


@functools.cache
def _rules(relaxed: int) -> frozenset[str]:
    return frozenset(rule for bit, rule in enumerate(RULES) if relaxed >> bit & 1)


def _pool_name(pool: int) -> str:
    return {EXPLORATION: "exploration", SEEN_POOL: "seen"}.get(pool) or KINDS[pool]


def pool_places(pipeline: FeedPipeline, kind: str) -> range:
    """Places of a kind's candidates in the arrays that are as long as all pools together."""
    offsets, number = pipeline.memory.pool_offsets, KINDS.index(kind)
    return range(int(offsets[number]), int(offsets[number + 1]))


def pool_of(pipeline: FeedPipeline, world: World, kind: str) -> list[Item]:
    """The candidates of a kind in the last feed."""
    items = world.items
    return [items[pipeline.memory.pool_items[place]] for place in pool_places(pipeline, kind)]


def candidate_features(pipeline: FeedPipeline, kind: str) -> Floats:
    """Rows in the order of ``pool_of``."""
    places = pool_places(pipeline, kind)
    return pipeline.memory.X[:, places.start : places.stop].T.copy()


def candidate_scores(pipeline: FeedPipeline, kind: str) -> Floats:
    """In the order of ``pool_of``."""
    places = pool_places(pipeline, kind)
    return pipeline.memory.scoring.score[places.start : places.stop].copy()


def exploration_sample(pipeline: FeedPipeline, world: World, item_type: ItemType) -> list[Item] | None:
    """The sample that exploration drew from in the last feed; None where it needed none."""
    row = ("resume", "challenge").index(item_type)
    taken = int(pipeline.memory.explore_count[row])
    if taken < 0:
        return None
    return [world.items[item] for item in pipeline.memory.explore[row, :taken]]


def tokens_noted(pipeline: FeedPipeline) -> list[int]:
    """Numbers of the tokens that the last feed's user has, as the memory lists them for its clearing."""
    memory = pipeline.memory
    tokens: list[int] = memory.touched_tokens[: memory.counts[TOUCHED_TOKENS]].tolist()
    return tokens


def items_scored(pipeline: FeedPipeline) -> int:
    """How many items retrieval scored for the last feed."""
    return int(pipeline.memory.counts[SCANNED])
