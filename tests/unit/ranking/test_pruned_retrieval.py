"""In a large catalog only the heads of lists are scored, and the best are found all the same."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.policies.policy import Policy
from tests.support.catalogs import Interaction, Key, User, World, make_catalog
from tests.support.policies import policy_file
from tests.support.slates import candidate_features, items_scored, pool_of, ranked, request_for
from tests.support.worlds import FIRST_USER, random_world

VIDEOS, BEST = 5000, 24
READERS = 40


@pytest.fixture(scope="module")
def world() -> World:
    """Readers whose histories follow a taste: mostly videos with one of a few favourite skills."""
    made = random_world(31, videos=VIDEOS, creators=2500, skills=80)
    draw = random.Random(31)
    users = []
    for number in range(READERS):
        favourites = {f"skill {draw.randrange(80)}" for _ in range(4)}
        liked = [video.id for video in made.videos if favourites & set(video.skills)]
        history = draw.sample(liked, min(len(liked), draw.randint(2, 40))) + draw.sample(range(1, VIDEOS), 3)
        users.append(User(FIRST_USER + number, tuple(Interaction(n, draw.uniform(0, 80)) for n in history)))
    return World(made.videos, users=users)


@pytest.fixture(scope="module")
def pipelines(world: World) -> tuple[FeedPipeline, FeedPipeline]:
    """One that searches the catalog exactly, and one that prunes."""
    pruned = Policy(policy_file(pruning__exact_up_to_videos=1000))
    exact = Policy(policy_file(pruning__exact_up_to_videos=VIDEOS))
    catalog = make_catalog(world, pruned)
    assert len(catalog.arrays.pair_key) > 0
    return FeedPipeline(Generation(catalog, exact)), FeedPipeline(Generation(catalog, pruned))


def best_of_au(pipeline: FeedPipeline, world: World, user_id: int) -> tuple[list[Key], list[float]]:
    """The best of AU's pool by hand-set sum, and their sums."""
    ranked(pipeline, world, request_for(user_id))
    sums = 10 * candidate_features(pipeline, "AU")[:, 17]
    order = (-sums).argsort(kind="stable")[:BEST]
    pool = pool_of(pipeline, world, "AU")
    return [pool[place].key for place in order], sums[order].tolist()


def test_pruned_retrieval_finds_the_best_of_exact_search(
    world: World, pipelines: tuple[FeedPipeline, FeedPipeline]
) -> None:
    exact, pruned = pipelines
    overlaps = []
    for user in world.users:
        found, expected = best_of_au(pruned, world, user.id)[0], best_of_au(exact, world, user.id)[0]
        overlaps.append(len(set(found) & set(expected)) / BEST)
    assert mean(overlaps) >= 0.95
    assert min(overlaps) >= 0.75


def test_pruned_retrieval_scores_only_a_part_of_the_catalog(
    world: World, pipelines: tuple[FeedPipeline, FeedPipeline]
) -> None:
    _, pruned = pipelines
    scanned = []
    for user in world.users:
        pruned.rank(request_for(user.id, "discover"))
        scanned.append(items_scored(pruned))
    assert mean(scanned) < 0.8 * VIDEOS


def test_pruned_retrieval_holds_nothing_twice_seen_or_excluded(
    world: World, pipelines: tuple[FeedPipeline, FeedPipeline]
) -> None:
    _, pruned = pipelines
    excluded = range(1, 2500)
    for user in world.users:
        ranked(pruned, world, request_for(user.id, "discover", excluded=excluded))
        pool = [item.id for item in pool_of(pruned, world, "AU")]
        assert len(set(pool)) == len(pool) == 170
        assert not set(pool) & {*excluded, *(interaction.item_id for interaction in user.history)}


def test_an_anonymous_feed_needs_no_search(world: World, pipelines: tuple[FeedPipeline, FeedPipeline]) -> None:
    exact, pruned = pipelines
    assert best_of_au(exact, world, 0) == best_of_au(pruned, world, 0)
    assert items_scored(pruned) == 0
