"""Which temperatures make a user's consecutive feeds vary as much as those of today's ranking.

    python -m benchmarks.temperature CATALOG_FOLDER

Today's ranking is played as it was described to us, noise and all, and the share of a kind's items that
two consecutive feeds have in common is measured; then each kind's temperature is searched for at which
this service's feeds have as much in common. The result goes into the policy file by hand.
"""

import sys
from pathlib import Path

import numpy as np

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import Policy, load_policy
from recommendation_service.ranking.working_memory import SLOTS

USERS = 150
TODAY_DRAWN = {"VMP": 110, "NU": 95}
SLOTS_OF = {"VMP": 8, "AU": 8, "NU": 4, "FW": 4, "FLOW": 24}
Feed = dict[str, set[int]]


def todays_feed(pipeline: FeedPipeline, endpoint: str, rng: np.random.Generator) -> Feed:
    """Today's feed for the user whose pools are in memory: ordered candidates, taken under the limits."""
    memory, arrays = pipeline.memory, pipeline.catalog.arrays
    limits = pipeline.policy.file.limits
    ordered: dict[int, list[int]] = {}
    for kind, name in enumerate(KINDS):
        pool = slice(int(memory.pool_offsets[kind]), int(memory.pool_offsets[kind + 1]))
        items, X = memory.pool_items[pool].copy(), memory.X.T[pool].copy()
        hand = X[:, 17] * pipeline.policy.file.features.hand_scale
        if len(items) == 0:
            continue
        X[:, 17] = rng.uniform(0, 0.3, len(items))
        if name == "NU":
            hand = hand + rng.uniform(0, 0.6, len(items))
        elif name == "FW":
            hand = hand + rng.uniform(0, 40, len(items))
        elif name == "FLOW":
            hand = hand + np.where(X[:, 8] > 0, 0, rng.uniform(0, 20, len(items)))
        chosen = np.arange(len(items))
        if name in TODAY_DRAWN and len(items) > TODAY_DRAWN[name]:
            weights = np.maximum(hand, 1e-9) if name == "VMP" else np.ones(len(items))
            chosen = rng.choice(len(items), TODAY_DRAWN[name], replace=False, p=weights / weights.sum())
        score = hand + pipeline.policy.arrays.alpha[kind] * np.linalg.norm(X, axis=1)
        ordered[kind] = items[chosen[np.argsort(-score[chosen])]].tolist()
    pattern = [KINDS.index(name) for name in pipeline.policy.file.feeds[endpoint]]
    feed: Feed = {name: set() for name in KINDS}
    used: set[int] = set()
    skills: set[int] = set()
    creators: list[int] = []
    for slot in range(24):
        kind = pattern[slot % len(pattern)]
        for item in ordered.get(kind, []):
            own = {int(token) for token in arrays.tokens[item, : int(arrays.skill_count[item])]}
            is_new = item >= arrays.worded or len(skills) < limits.novelty_after_skills or bool(own - skills)
            creator = int(arrays.creator[item])
            if item in used or not is_new or creator in creators[-(limits.creator_window - 1) :]:
                continue
            used.add(item)
            skills |= own
            creators.append(creator)
            feed[KINDS[kind]].add(item)
            break
    return feed


def our_feed(pipeline: FeedPipeline) -> Feed:
    memory = pipeline.memory
    feed: Feed = {name: set() for name in KINDS}
    for slot in range(int(memory.counts[SLOTS])):
        feed[KINDS[int(memory.slot_kind[slot])]].add(int(memory.slot_item[slot]))
    return feed


def overlap(pairs: list[tuple[Feed, Feed]], kind: str) -> float:
    """Share of a kind's items that two consecutive feeds have in common."""
    shares = [len(a[kind] & b[kind]) / len(a[kind]) for a, b in pairs if a[kind]]
    return float(np.mean(shares)) if shares else float("nan")


def measure(pipeline: FeedPipeline, users: list[int], endpoint: str) -> list[tuple[Feed, Feed]]:
    pairs = []
    for user in users:
        feeds = []
        for turn in range(2):
            pipeline.rank(FeedRequest(endpoint, user, 24, f"turn-{turn}"))
            feeds.append(our_feed(pipeline))
        pairs.append((feeds[0], feeds[1]))
    return pairs


def at_temperature(policy: Policy, name: str, temperature: float) -> Policy:
    kind = policy.file.kind(name).model_copy(update={"temperature": temperature})
    return Policy(policy.file.model_copy(update={"kinds": policy.file.kinds | {name: kind}}))


def main(folder: Path) -> None:
    store = CatalogStore(folder, 3)
    catalog = store.open(str(store.current()))
    policy = load_policy()
    arrays = catalog.arrays
    rng = np.random.default_rng(11)
    sizes = np.diff(arrays.history_offsets)
    users = rng.choice(arrays.user_id[sizes >= 3], USERS, replace=False).tolist()
    print(f"{'kind':5} {'today':>7} {'ours':>7} {'temperature':>12}")
    for name in KINDS:
        endpoint = "flow" if name == "FLOW" else "total"
        pipeline = FeedPipeline(Generation(catalog, policy))
        today = []
        for user in users:
            pipeline.rank(FeedRequest(endpoint, user, 24, "today"))
            today.append((todays_feed(pipeline, endpoint, rng), todays_feed(pipeline, endpoint, rng)))
        target = overlap(today, name)
        low, high = np.log(0.002), np.log(60.0)
        for _ in range(14):
            middle = (low + high) / 2
            tried = Generation(catalog, at_temperature(policy, name, float(np.exp(middle))))
            ours = overlap(measure(FeedPipeline(tried), users, endpoint), name)
            if ours > target:
                low = middle
            else:
                high = middle
        print(f"{name:5} {target:7.3f} {ours:7.3f} {np.exp(middle):12.4f}")
        policy = at_temperature(policy, name, float(np.exp(middle)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
