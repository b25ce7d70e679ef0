"""Where the catalog has what a number names."""

import numpy as np

from recommendation_service.model import item_keys
from recommendation_service.model.columns import EMPTY, HASH_FACTOR, HASH_SHIFT, CatalogArrays, Int64
from recommendation_service.ranking.compiled import compiled, inlined

pack_key = inlined(item_keys.pack)
is_creator = inlined(item_keys.is_creator)


@compiled
def find(sorted_ids: Int64, number: int, start: int, end: int) -> int:
    """Place of ``number`` in ``sorted_ids[start:end]``, or -1."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        if sorted_ids[middle] < number:
            low = middle + 1
        else:
            high = middle
    return low if low < end and sorted_ids[low] == number else -1


@inlined
def find_item(catalog: CatalogArrays, key: int) -> int:
    """Place of an item by its key, or -1. Never for a creator's: one of those says "empty" here."""
    keys = catalog.hash_key
    mask = len(keys) - 1
    place = int(np.uint64(key) * HASH_FACTOR >> HASH_SHIFT) & mask
    while keys[place] != key:
        if keys[place] == EMPTY:
            return -1
        place = (place + 1) & mask
    return catalog.hash_item[place]


@inlined
def key_at(catalog: CatalogArrays, item: int) -> int:
    """The key of the item at a place."""
    place = 0
    while item >= catalog.type_offsets[place + 1]:
        place += 1
    return pack_key(catalog.type_number[place], catalog.item_id[item])
