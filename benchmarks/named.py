"""What an operator's own mapping adds to a feed, in processor time of one thread: its route, text ids, a filter.

Pairs in turn on one catalog, as a machine that others use drifts; each figure is the median of the pairs.
"""

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.worlds import make_catalog
from recommendation_service.api.named_feeds import IdForms, NamedFeed, read_named_body
from recommendation_service.catalog.filter_columns import FilterColumn, Listed, ordered, value_number
from recommendation_service.catalog.store import Catalog
from recommendation_service.catalog.texts import Texts
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.feed.request import FeedFields, FeedRequest
from recommendation_service.mappings.interacpedia.feed_body import read_feed_body
from recommendation_service.policies.policy import Policy

FEEDS = 200  # of a run
PAIRS = 15
SIZE = 24
TOWNS = 200  # of which a filter wants two: 1 % of the items pass
NUMBERS, TEXTS = IdForms(), IdForms(users_are_text=True, items_are_text=True, items_are_numbers=False)
Feed = Callable[[int], None]  # of the user in a place


@dataclass
class NamedFigures:
    search_us: float  # search/total, from its body to its bytes
    named_us: float  # feeds/total, likewise
    named_ratio: float
    text_us: float  # that text ids cost more


@dataclass
class FilterFigures:
    items: int
    plain_us: float
    kept_us: float  # with a filter that was asked for before
    own_us: float  # with one that a user's own two values ask for, which hardly anybody's did before
    p99_us: float  # of the latter


def measure_named(videos: int, folder: Path, policy: Policy) -> NamedFigures:
    catalog = make_catalog(videos, folder, policy)
    numbers = FeedPipeline(Generation(catalog, policy))
    texts = FeedPipeline(Generation(_with_texts(catalog), policy))
    users = np.random.default_rng(3).choice(catalog.arrays.user_id, FEEDS).tolist()
    search = [b'{"SELF_ID": %d, "N_VIDEOS": %d}' % (user, SIZE) for user in users]
    named = [b'{"user": %d, "size": %d}' % (user, SIZE) for user in users]
    feed = NamedFeed("total", SIZE)
    # Read and dropped: of whom the text is, the catalog does not know, and both are to be ranked for the same.
    by_text = [b'{"user": "%s", "size": %d}' % (str(uuid.UUID(int=user)).encode(), SIZE) for user in users]

    def of_search(place: int) -> None:
        _answer(numbers, read_feed_body(search[place]), users[place])

    def of_named(place: int) -> None:
        _answer(numbers, read_named_body(named[place], feed, NUMBERS), users[place])

    def of_text(place: int) -> None:
        _answer(texts, read_named_body(by_text[place], feed, TEXTS), users[place])

    there, here = _pairs(of_search, of_named)
    numbered, texted = _pairs(of_named, of_text)
    return NamedFigures(
        statistics.median(there),
        statistics.median(here),
        statistics.median(b / a for a, b in zip(there, here, strict=True)),
        statistics.median(b - a for a, b in zip(numbered, texted, strict=True)),
    )


def measure_filters(videos: int, folder: Path, policy: Policy) -> FilterFigures:
    catalog = make_catalog(videos, folder, policy)
    rng, users = np.random.default_rng(3), len(catalog.arrays.user_id)
    towns = np.array([value_number(f"town {town}") for town in range(TOWNS)])
    of_items = Listed(np.arange(len(catalog.arrays.item_id) + 1), rng.choice(towns, len(catalog.arrays.item_id)))
    of_users = Listed(np.arange(users + 1) * 2, rng.choice(towns, (users, 2)).ravel())
    rows = [(0, len(catalog.arrays.item_id))]
    column = FilterColumn("town", "contained", False, rows, of_items, of_users, ordered(of_items))
    plain = FeedPipeline(Generation(catalog, policy))
    filtered = FeedPipeline(Generation(replace(catalog, filters=(column,)), policy))
    asked = (("town", (int(towns[7]), int(towns[9]))),)
    people = rng.permutation(catalog.arrays.user_id).tolist()
    requests = [FeedRequest("total", user, SIZE, f"bench-{place}") for place, user in enumerate(people)]
    wanted = [request.but(filters=asked) for request in requests]
    one, kept = _pairs(lambda place: _made(plain, requests[place]), lambda place: _made(filtered, wanted[place]))
    own = _each(lambda place: _made(filtered, requests[place]), range(FEEDS, len(people)))
    median = statistics.median
    return FilterFigures(videos, median(one), median(kept), median(own), float(np.percentile(own, 99)))


def _with_texts(catalog: Catalog) -> Catalog:
    """The same items, with UUIDs as their ids."""
    ids = [str(uuid.UUID(int=int(number) << 64 | int(number))) for number in catalog.arrays.item_id]
    bodies = [
        b'{"type":"video","id":"%b",%b' % (one.encode(), catalog.item_json(row)[1:]) for row, one in enumerate(ids)
    ]
    offsets = np.cumsum([0, *map(len, bodies)], dtype=np.int64)
    offsets.flags.writeable = False
    return replace(catalog, item_texts=Texts.of(ids), item_offsets=offsets, item_bytes=memoryview(b"".join(bodies)))


def _answer(pipeline: FeedPipeline, fields: FeedFields, user: int) -> None:
    request = FeedRequest(
        "total", user, fields.size, f"bench-{user}", fields.excluded, filters=fields.filters, by_name=fields.by_name
    )
    _made(pipeline, request)


def _made(pipeline: FeedPipeline, request: FeedRequest) -> None:
    slate = pipeline.rank(request)
    if len(slate.items) != SIZE:
        raise RuntimeError("a feed is short")
    pipeline.render(slate)


def _pairs(first: Feed, second: Feed) -> tuple[list[float], list[float]]:
    """Microseconds a feed, of each run of FEEDS."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(PAIRS + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            took = statistics.fmean(_each((first, second)[side], range(FEEDS)))
            if number:  # the first is to warm up
                found[side].append(took)
    return found


def _each(feed: Feed, places: Sequence[int]) -> list[float]:
    took = []
    for place in places:
        started = time.thread_time()
        feed(place)
        took.append((time.thread_time() - started) * 1e6)
    return took
