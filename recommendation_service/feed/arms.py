"""Which feeds are made by another policy than the one that serves: of the people of an experiment's arm, or, by the
feed, those of a live shadow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recommendation_service.experiments.assignment import Assignment
from recommendation_service.feed.generation import Generation
from recommendation_service.policies.experiment import Experiment

if TYPE_CHECKING:
    from recommendation_service.feed.pipeline import FeedPipeline


class Arms:
    """A pipeline for each arm."""

    def __init__(self, experiment: Experiment, pipelines: "Sequence[FeedPipeline]") -> None:
        self.pipelines = pipelines
        self._place_of = Assignment(experiment.salt, experiment.shares).of
        self._arms = list(zip(pipelines, experiment.labels, strict=True))

    def of(self, user_id: int, session: int, request_id: str) -> "tuple[FeedPipeline, str]":
        """What makes a person's feed, and what its record says of that."""
        return self._arms[self._place_of(user_id, session, request_id)]


class Live:
    """A pipeline for each live shadow. Which feeds it makes says chance by the request, so that what one person is
    shown differs, and no person's feeds are all of one policy: they are compared on the same people."""

    def __init__(self, generation: Generation, pipelines: "Sequence[FeedPipeline]") -> None:
        self.pipelines = pipelines
        shares = [generation.live_share] * len(pipelines)
        versions = " ".join(policy.version for policy in generation.live)
        self._place_of = Assignment(versions, [*shares, 1.0 - sum(shares)]).of

    def of(self, request_id: str) -> "FeedPipeline | None":
        """What makes a feed; None: what serves."""
        place = self._place_of(0, 0, request_id)
        return self.pipelines[place] if place < len(self.pipelines) else None
