"""Five feeds as people would see them: ranked as the service would, on a catalog that is removed again."""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from recommendation_service.catalog.mapped import build_mapped, numbers_of
from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.loading import load_kernels
from recommendation_service.feed.request import NO_IDS, FeedRequest
from recommendation_service.model.text_ids import USER_BITS
from recommendation_service.policies.mapped import starting_policy
from recommendation_service.serving.preview import Preview
from recommendation_service.sources.mapping.mapping import Mapping
from recommendation_service.sources.mapping.tables import Tables

SHOWN = 8  # items of a feed
LATEST = 4  # items that somebody took
ANONYMOUS = 0


@dataclass(frozen=True, slots=True)
class ShownFeed:
    """``user``: None of somebody unknown. ``latest``: what the user took last. ``items``: as answers bear them."""

    feed: str
    user: int | str | None
    latest: list[dict[str, Any]]
    items: list[dict[str, Any]]


def shown_feeds(mapping: Mapping, tables: Tables, settings: Settings, now: datetime) -> list[ShownFeed]:
    """By the policy that the mapping begins with. Raises SourceError, CatalogError, ConfigurationError."""
    policy = starting_policy(mapping)
    with TemporaryDirectory() as folder:
        store = CatalogStore(Path(folder), 1, settings.item_time_zone)
        catalog = store.open(store.publish(build_mapped(mapping, tables, settings, policy, now)))
        load_kernels()
        preview = Preview(Generation(catalog, policy), settings)
        names = list(mapping.feeds)
        shown = []
        for place, user in enumerate(_people(tables)):
            name = names[place % len(names)]
            number = (
                ANONYMOUS if user is None else int(numbers_of(np.array([user], tables.users.ids.dtype), USER_BITS)[0])
            )
            request = FeedRequest(name, number, mapping.feeds[name].size, f"check-{place}", NO_IDS, by_name=True)
            items = json.loads(preview.feed(request))["items"]
            shown.append(ShownFeed(name, user, _latest(tables, user), items[:SHOWN]))
        return shown


def _people(tables: Tables) -> list[int | str | None]:
    """Who did most, who did something, two who did nothing where there are such, and somebody unknown."""
    did = Counter(user for events in tables.events.values() for user in events.users.tolist())
    there = tables.users.ids.tolist()
    active = sorted((user for user in there if did[user]), key=lambda user: -did[user])
    idle = [user for user in there if not did[user]][:2]
    chosen = active[:1] + active[len(active) // 2 :][: 3 - len(idle)] + idle
    known = list(dict.fromkeys([*chosen, *active, *there]))
    return [*known[:4], None]


def _latest(tables: Tables, user: int | str | None) -> list[dict[str, Any]]:
    """As far as the items are there to be shown."""
    types = list(tables.items)
    took: dict[tuple[str, Any], float] = {}
    for events in tables.events.values():
        for row in np.flatnonzero(events.users == user).tolist() if user is not None else ():
            key = types[int(events.types[row])], events.items[row]
            when = float(np.nan_to_num(events.times[row], nan=0.0))
            took[key] = max(when, took.get(key, 0.0))
    found = []
    for item_type, item in sorted(took, key=lambda key: -took[key]):
        table = tables.items[item_type]
        rows = np.flatnonzero(table.ids == item)
        if len(rows):
            fields = {name: table.columns[name][int(rows[0])] for name in table.fields}
            found.append({"type": item_type, "id": item if isinstance(item, str) else int(item), **fields})
        if len(found) == LATEST:
            break
    return found
