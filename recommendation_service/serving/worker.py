"""What the routes call: one worker's objects, made in its lifespan and complete before its first request."""

from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

from recommendation_service.serving.condition import Condition
from recommendation_service.serving.editors_watch import EditorsWatch
from recommendation_service.serving.feedback import Feedback
from recommendation_service.serving.feeds import Feeds
from recommendation_service.serving.forgetting import Forgetting
from recommendation_service.serving.seen_store import SeenStore
from recommendation_service.sources.users import ReadsUsers, Users

STATE_KEY = "worker"  # of the lifespan's state, which each request's scope has


@dataclass(frozen=True)
class Worker:
    feeds: Feeds
    feedback: Feedback
    forgetting: Forgetting
    condition: Condition
    store: SeenStore
    reader: ReadsUsers
    users: Users
    editors: EditorsWatch


def worker_of(scope: Scope) -> Worker:
    return cast(Worker, scope["state"][STATE_KEY])
