"""Among the few items that pass a filter the kinds' orderings are the catalog's, without what does not pass."""

from dataclasses import replace

import numpy as np
import pytest

from recommendation_service.catalog.filter_columns import FilterColumn, Listed, ordered
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.pipeline import FeedPipeline
from recommendation_service.policies.policy import load_policy
from tests.support.catalogs import Challenge, Video, World, make_catalog

VIDEOS, CHALLENGES, TOWNS = 90, 20, 5
CATALOG = make_catalog(
    World(
        [Video(n, n % 30 + 1, views=n * 7 % 11) for n in range(1, VIDEOS + 1)],
        [Challenge(n, 200 + n) for n in range(1, CHALLENGES + 1)],
        [],
    )
)


def columns() -> tuple[FilterColumn, FilterColumn]:
    """Each video has one town, two or none, and a price or none; challenges are asked for neither."""
    rng, items = np.random.default_rng(4), len(CATALOG.arrays.item_id)
    start, end = CATALOG.rows_of_type["resume"]
    own = [
        rng.choice(TOWNS, rng.integers(0, 3), replace=False).tolist() if start <= row < end else []
        for row in range(items)
    ]
    towns = Listed(np.cumsum([0, *map(len, own)]), np.array([town for each in own for town in each], np.int64))
    prices = np.where(rng.random(items) < 0.3, np.nan, rng.uniform(0, 9, items))
    applies = [(start, end)]
    return (
        FilterColumn("town", "contained", False, applies, towns, None, ordered(towns)),
        FilterColumn("price", "at_most", True, applies, prices, None, ordered(prices)),
    )


@pytest.mark.parametrize("towns", [(0,), (1, 3), (0, 1, 2, 3, 4), (77,)])
@pytest.mark.parametrize("price", [None, 4.5])
def test_what_passes_is_in_the_catalogs_order(towns: tuple[int, ...], price: float | None) -> None:
    town, at_most = columns()
    pipeline = FeedPipeline(Generation(replace(CATALOG, filters=(town, at_most)), load_policy()))
    start, end = CATALOG.rows_of_type["resume"]
    assert isinstance(town.items, Listed)
    assert isinstance(at_most.items, np.ndarray)
    passes = []
    for row in range(len(CATALOG.arrays.item_id)):
        own = town.items.values[town.items.offsets[row] : town.items.offsets[row + 1]]
        fits = price is None or not at_most.items[row] > price
        passes.append(not start <= row < end or (bool(set(own.tolist()) & set(towns)) and fits))

    asked = {"town": towns} | ({} if price is None else {"price": price})
    assert pipeline._filters is not None
    found = pipeline._filters.passing(asked, -1)

    assert found is not None
    assert found.rows is not None
    assert found.rows.tolist() == np.flatnonzero(passes).tolist()
    arrays, few = CATALOG.arrays, found.frames.personal.catalog
    for kind in range(len(arrays.order_offsets) - 1):
        whole = arrays.order_items[arrays.order_offsets[kind] : arrays.order_offsets[kind + 1]].tolist()
        own_order = few.order_items[few.order_offsets[kind] : few.order_offsets[kind + 1]].tolist()
        assert own_order == [row for row in whole if passes[row]]
