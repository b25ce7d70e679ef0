"""Whose feed is made by which arm of the experiment that a generation serves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recommendation_service.experiments.assignment import Assignment
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
