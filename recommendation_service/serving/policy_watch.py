"""A machine's look at which policy the fleet serves."""

import time

from recommendation_service.core.blocking_redis import BlockingRedis
from recommendation_service.core.config import Settings
from recommendation_service.policies.fleet import FleetPolicies
from recommendation_service.policies.store import PolicyStore
from recommendation_service.serving.fleet_watch import FleetWatch
from recommendation_service.serving.generation import Serving

LOOK_SECONDS = 2.0
RENEW_SECONDS = 60.0


def watch_fleet_policy(settings: Settings, serving: Serving, redis: BlockingRedis) -> FleetWatch:
    fleet = FleetPolicies(redis)
    store = PolicyStore(settings.policy_dir, settings.policy_keep, fleet)
    renew_at = 0.0

    def follow() -> None:
        nonlocal renew_at
        store.follow()
        if time.monotonic() >= renew_at:
            fleet.renew(store)
            renew_at = time.monotonic() + RENEW_SECONDS

    return FleetWatch(serving, redis, store.folder, follow, "the fleet's policy", LOOK_SECONDS)
