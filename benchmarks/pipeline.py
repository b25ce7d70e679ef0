"""One feed inside the process, from user to bytes, on catalogs of several sizes; and how well pruned
pools agree with scoring everything."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.worlds import make_catalog
from recommendation_service.catalog.store import Catalog
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.candidates import candidate_pools
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.request import RankingRequest
from recommendation_service.ranking.user import load_user
from recommendation_service.ranking.working_memory import SCANNED

FEEDS = 2_000
COMPARED_USERS = 100
BEST = 24


@dataclass
class PipelineFigures:
    videos: int
    median_us: float
    p99_us: float
    scored: float  # items that retrieval scored, mean
    overlap: float  # of the best 24 of AU with scoring everything, mean
    least_overlap: float


def measure_pipeline(videos: int, folder: Path, policy: Policy, **world: float) -> PipelineFigures:
    """Median and tail over 2,000 feeds of as many different users as there are."""
    catalog = make_catalog(videos, folder, policy, **world)  # type: ignore[arg-type]
    pipeline = FeedPipeline(Generation(catalog, policy))
    rng = np.random.default_rng(3)
    users = rng.choice(catalog.arrays.user_id, FEEDS).tolist()
    requests = [FeedRequest("total", user, 24, f"bench-{turn}") for turn, user in enumerate(users)]
    for request in requests[:50]:
        pipeline.feed(request)
    seconds, scored = [], []
    for request in requests:
        started = time.perf_counter()
        pipeline.feed(request)
        seconds.append(time.perf_counter() - started)
        scored.append(int(pipeline.memory.counts[SCANNED]))
    overlaps = compare_retrieval(catalog, policy, users[:COMPARED_USERS])
    return PipelineFigures(
        videos,
        statistics.median(seconds) * 1e6,
        float(np.percentile(seconds, 99)) * 1e6,
        statistics.mean(scored),
        statistics.mean(overlaps),
        min(overlaps),
    )


def compare_retrieval(catalog: Catalog, policy: Policy, users: list[int]) -> list[float]:
    """For each user the share of the best 24 of AU, by scoring everything, that retrieval finds too."""
    everything = policy.file.pruning.model_copy(update={"exact_up_to_videos": len(catalog.arrays.item_id)})
    exact = FeedPipeline(Generation(catalog, Policy(policy.file.model_copy(update={"pruning": everything}))))
    pruned = FeedPipeline(Generation(catalog, policy))
    return [len(_best(pruned, user) & _best(exact, user)) / BEST for user in users]


def _best(pipeline: FeedPipeline, user: int) -> set[int]:
    kind = KINDS.index("AU")
    memory = pipeline.memory
    frame = Frame(pipeline.catalog.arrays, pipeline.policy.arrays, memory)
    request = RankingRequest(pipeline.user_row(user), BEST, 0, 0, np.zeros(0, np.int64))
    load_user(frame, request)
    candidate_pools(frame, request)
    start, end = int(memory.pool_offsets[kind]), int(memory.pool_offsets[kind + 1])
    order = np.argsort(-memory.heap_scores[: end - start], kind="stable")[:BEST]
    return {int(item) for item in memory.pool_items[start:end][order]}
