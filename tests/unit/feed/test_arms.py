"""While an experiment runs, a person's feed is what the arm's policy makes, as if it alone served."""

from __future__ import annotations

import numpy as np
import pytest

from recommendation_service.core.errors import NotReady
from recommendation_service.experiments.assignment import Assignment
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import NO_IDS, FeedFields
from recommendation_service.policies.experiment import LIVE, Arm, Experiment
from recommendation_service.policies.policy import Policy
from recommendation_service.serving.feeds import asked_feed
from tests.support.catalogs import make_catalog
from tests.support.policies import policy_file
from tests.support.slates import request_for
from tests.support.worlds import FIRST_USER, random_world

WORLD = random_world(5, videos=300, challenges=40, users=40)
SERVED = Policy(policy_file(), version="served")
BOLD = Policy(policy_file(kinds__AU__temperature=2.0, kinds__VMP__alpha=3.0), version="bold")
WIDE = Policy(policy_file(kinds__AU__pool=300, kinds__VMP__pool=200), version="wide")  # pools of its own
CATALOG = make_catalog(WORLD, SERVED)


def pipeline_of(*arms: tuple[Policy, float], shadows: tuple[Policy, ...] = ()) -> FeedPipeline:
    policies = tuple(policy for policy, _ in arms)
    named = tuple(Arm(f"arm{place}", policy.version, share) for place, (policy, share) in enumerate(arms))
    experiment = Experiment("test", "salt", named, "2026-11-29T10:00:00+00:00", "ana", "")
    return FeedPipeline(Generation(CATALOG, SERVED, shadows, experiment, policies), seed=11)


def test_a_persons_feed_is_what_the_arms_policy_makes_alone() -> None:
    arms = pipeline_of((SERVED, 0.4), (BOLD, 0.3), (WIDE, 0.3)).arms
    assert arms is not None
    alone = {policy.version: FeedPipeline(Generation(CATALOG, policy), seed=11) for policy in (SERVED, BOLD, WIDE)}
    assignment = Assignment("salt", [0.4, 0.3, 0.3])
    drawn = set()
    for user in range(FIRST_USER, FIRST_USER + 40):
        request = request_for(user, "total", 24, f"{user:032x}")
        pipeline, label = arms.of(user, 0, request.request_id)
        place = assignment.of(user, 0, "")
        assert (label, pipeline.policy) == (f"test:arm{place}", (SERVED, BOLD, WIDE)[place])
        slate = pipeline.rank(request)
        assert slate.policy_version == pipeline.policy.version
        assert pipeline.render(slate) == alone[pipeline.policy.version].feed(request)
        drawn.add(label)
    assert drawn == {"test:arm0", "test:arm1", "test:arm2"}


def test_what_serves_is_not_made_twice_and_arms_of_one_version_are_told_apart() -> None:
    pipeline = pipeline_of((SERVED, 0.5), (SERVED, 0.5))
    assert pipeline.arms is not None
    assert set(pipeline.arms.pipelines) == {pipeline}
    labels = {pipeline.arms.of(user, 0, "")[1] for user in range(1, 40)}
    assert labels == {"test:arm0", "test:arm1"}


def test_shadows_are_of_the_arms_that_have_their_pools() -> None:
    arms = pipeline_of((SERVED, 0.4), (BOLD, 0.3), (WIDE, 0.3), shadows=(SERVED,)).arms
    assert arms is not None
    request = request_for(FIRST_USER, "total", 24, "0" * 32)
    served, bold, wide = (pipeline.rank(request).shadows for pipeline in arms.pipelines)
    assert [version for version, _ in (*served, *bold)] == ["served", "served"]
    assert wide == ()
    slate = arms.pipelines[0].rank(request)
    assert np.frombuffer(served[0][1], "<f4").size == len(slate.items)


def test_a_live_shadow_makes_its_share_of_feeds_whoever_asks_with_what_serves_beside_it() -> None:
    pipeline = FeedPipeline(Generation(CATALOG, SERVED, (BOLD,), live=(BOLD,), live_share=0.25), seed=11)
    assert pipeline.live is not None
    requests = [request_for(FIRST_USER, "total", 24, f"{number:032x}") for number in range(2_000)]
    made = [pipeline.live.of(request.request_id) for request in requests]
    assert 0.2 < sum(other is not None for other in made) / len(made) < 0.3
    request, other = next((request, other) for request, other in zip(requests, made, strict=True) if other is not None)
    assert other is pipeline.live.of(request.request_id)
    slate = other.rank(request)
    assert (slate.policy_version, [version for version, _ in slate.shadows]) == ("bold", ["served"])
    assert other.render(slate) == FeedPipeline(Generation(CATALOG, BOLD), seed=11).feed(request)


def test_while_an_experiment_runs_no_shadow_is_live() -> None:
    experiment = pipeline_of((SERVED, 0.5), (BOLD, 0.5)).generation
    pipeline = FeedPipeline(experiment._replace(shadows=(BOLD,), live=(BOLD,), live_share=0.25), seed=11)
    assert pipeline.live is None
    assert pipeline.arms is not None


def test_without_an_experiment_there_are_no_arms() -> None:
    assert FeedPipeline(Generation(CATALOG, SERVED)).arms is None


@pytest.mark.parametrize("policy", [BOLD, WIDE])
def test_arms_need_no_other_catalog(policy: Policy) -> None:
    assert policy.catalog_digest == SERVED.catalog_digest


def test_whoever_asks_for_a_feed_is_given_the_arm_that_makes_it() -> None:
    """Of a batch as of one request."""
    experiment = pipeline_of((SERVED, 0.5), (BOLD, 0.5))
    live = FeedPipeline(Generation(CATALOG, SERVED, (BOLD,), live=(BOLD,), live_share=0.5), seed=11)
    assert experiment.arms is not None
    assert live.live is not None
    for user in range(FIRST_USER, FIRST_USER + 20):
        fields, name = FeedFields(user, 5, NO_IDS, None, False), f"{user:032x}"
        pipeline, arm, request = asked_feed(experiment, "total", fields, name, 1_795_000_000.5)
        assert (pipeline, arm) == experiment.arms.of(user, 0, name)
        assert (request.user_id, request.size, request.now) == (user, 5, 1_795_000_000)
        pipeline, arm, _ = asked_feed(live, "total", fields, name, 1_795_000_000.5)
        other = live.live.of(name)
        assert (pipeline, arm) == ((live, "") if other is None else (other, LIVE))
        pipeline, arm, _ = asked_feed(experiment, "total", fields.but(personal=False), name, 1_795_000_000.5)
        assert (pipeline, arm) == (experiment, "")
    with pytest.raises(NotReady, match="has no feed shop"):
        asked_feed(experiment, "shop", fields, name, 0.0)
